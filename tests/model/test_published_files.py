"""Reading published files: wrappers, old formats, damage, and pickles that would run something."""

from __future__ import annotations

import collections
import io
import os
import pickle
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stmixer.model.card import CheckpointError
from stmixer.model.foreign.published import read_published


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(3), "c": torch.ones(2, dtype=torch.float16)}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        collections.OrderedDict,
        lambda t: {f"module.{k}": v for k, v in t.items()},
        lambda t: {"model": t, "optimizer": {"state": {0: {"step": 3}}}, "iteration": 5},
        lambda t: {"state_dict": {f"module.{k}": v for k, v in t.items()}},
        lambda t: {k: torch.nn.Parameter(v, requires_grad=v.is_floating_point()) for k, v in t.items()},
    ],
)
def test_wrappers(tmp_path: Path, wrap: Callable[[dict[str, Tensor]], object], zipped: bool) -> None:
    """Zip files and those of before 2020, bare or wrapped."""
    torch.save(wrap(TENSORS), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    read = read_published(tmp_path / "w.pth")
    assert same(read, TENSORS)
    assert not any(t.requires_grad for t in read.values())


class Hostile:
    """Pickles as a call of anything."""

    def __init__(self, *reduced: object) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[object, ...]:
        return self.reduced

    def __call__(self) -> None:
        """Only what is callable may stand in the place of a callable."""


class ForeignList(list):
    pass


class ForeignDict(dict):
    pass


class ForeignSet(set):
    pass


class Stateful:
    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["path"]).touch()

    def __getstate__(self) -> dict[str, str]:
        return self.__dict__


def stateful(path: str) -> Stateful:
    made = Stateful()
    made.path = path
    return made


def hostile_objects(path: str) -> dict[str, object]:
    code = f"open({path!r}, 'w').close()"
    return {
        "system": Hostile(os.system, (f"touch {path}",)),
        "eval": Hostile(eval, (code,)),
        "exec": Hostile(exec, (code,)),
        "open": Hostile(open, (path, "w")),
        "called result": Hostile(Hostile(getattr, (Path(path), "touch")), ()),
        "state": Hostile(Stateful, (), {"path": path}),
        "setstate": stateful(path),
        "list items": Hostile(ForeignList, (), None, iter([1, 2, 3])),
        "dict items": Hostile(ForeignDict, (), None, None, iter([("a", 1), ("b", 2)])),
        "list": ForeignList([1, 2]),
        "dict": ForeignDict(a=1),
        "set": ForeignSet({1, 2}),
        "as a key": {Hostile(Stateful, (), {"path": path}): 1},
        "in a set": frozenset({1, 2}),
        "counter": collections.Counter("abc"),
        "ordered": collections.OrderedDict(a=1),
        "default": collections.defaultdict(list, a=[1]),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("which", list(hostile_objects("")))
def test_nothing_is_executed(tmp_path: Path, which: str, protocol: int, zipped: bool) -> None:
    """A hostile object beside intact tensors runs nothing and costs nothing."""
    trace = tmp_path / "executed"
    content = {"model": TENSORS, "junk": hostile_objects(str(trace))[which], "after": [1]}
    torch.save(content, tmp_path / "w.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert same(read_published(tmp_path / "w.pth"), TENSORS)
    assert not trace.exists()


@pytest.mark.parametrize("which", ["system", "eval", "open", "called result", "setstate"])
def test_the_hostile_files_are_hostile(tmp_path: Path, which: str) -> None:
    """The proof above is worth something: plain unpickling does create the file."""
    trace = tmp_path / "executed"
    pickled = pickle.dumps(hostile_objects(str(trace))[which])
    made = pickle.loads(pickled)
    if hasattr(made, "close"):
        made.close()
    assert trace.exists()


def test_hostile_value_among_the_tensors_is_listed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    torch.save({"model": {**TENSORS, "evil": Hostile(os.system, (f"touch {trace}",))}}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="not used: evil"):
        read_published(tmp_path / "w.pth")
    assert not trace.exists()


def test_torch_itself_cannot_be_altered(tmp_path: Path) -> None:
    """BUILD may set attributes of what a pickle names; torch's own functions must not be within its reach."""
    before = dict(vars(torch._utils._rebuild_tensor_v2)), torch._utils._rebuild_tensor_v2.__defaults__
    for value in (b"}X\x04\x00\x00\x00evilK\x01sb.", b"N}X\x0c\x00\x00\x00__defaults__)s\x86b."):
        pickled = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + value
        rewrite_pickle(tmp_path / "w.pth", pickled)
        with pytest.raises(CheckpointError):
            read_published(tmp_path / "w.pth")
    after = dict(vars(torch._utils._rebuild_tensor_v2)), torch._utils._rebuild_tensor_v2.__defaults__
    assert after == before


def rewrite_pickle(path: Path, pickled: bytes) -> None:
    """A zip checkpoint whose data.pkl is ``pickled``."""
    writer = torch._C.PyTorchFileWriter(str(path))
    writer.write_record("data.pkl", pickled, len(pickled))
    writer.write_end_of_file()


def test_torchscript_is_refused(tmp_path: Path) -> None:
    writer = torch._C.PyTorchFileWriter(str(tmp_path / "w.pt"))
    for name in ("data.pkl", "constants.pkl"):
        writer.write_record(name, b"\x80\x02}.", 4)
    writer.write_end_of_file()
    with pytest.raises(CheckpointError, match="TorchScript program"):
        read_published(tmp_path / "w.pt")


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_text("hello, I am no checkpoint\n" * 9), "cannot be read"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)), "cannot be read"),
        (write_tar, "tar archive"),
        (lambda path: torch.save([1, 2], path), "no table of tensors"),
        (lambda path: torch.save({"model": {}}, path), "no table of tensors"),
        (lambda path: torch.save(torch.zeros(3), path), "no table of tensors"),
        (lambda path: torch.save({"epoch": 3, **TENSORS}, path), "not used: epoch"),
        (lambda path: torch.save({"b": torch.zeros(1), "module.b": torch.zeros(1)}, path), "with and without"),
    ],
)
def test_unreadable_files(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        read_published(tmp_path / "w.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_raise_one_type(tmp_path: Path, zipped: bool) -> None:
    """Cut or altered anywhere: either the file still reads or it is a CheckpointError."""
    path = tmp_path / "w.pth"
    torch.save({"model": TENSORS, "junk": collections.Counter("abc")}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    draw = random.Random(0)
    outcomes = collections.Counter()
    for trial in range(300):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            damaged = damaged[: draw.randrange(len(whole))]
        else:
            for _ in range(draw.randrange(1, 4)):
                damaged[draw.randrange(len(whole))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_published(path)
            outcomes["read"] += 1
        except CheckpointError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 90
