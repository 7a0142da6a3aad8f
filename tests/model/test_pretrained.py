"""Public pre-training: each layout, at toy size, with real names; strict, with a report."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from narrow import narrow
from torch import Tensor

from stmixer.model.card import CheckpointError
from stmixer.model.detector import Detector
from stmixer.model.foreign.caffe2 import is_plain_pickle, read_caffe2
from stmixer.model.foreign.pretrained import Pretrained, read_pretrained
from stmixer.model.foreign.published_names import published_backbone_name
from stmixer.model.foreign.video_pretrained import caffe2_name, read_video_pretrained
from stmixer.model.zoo import VARIANTS


def backbone_state(detector: Detector) -> dict[str, Tensor]:
    return {published_backbone_name(k): v for k, v in detector.backbone.state_dict().items()}


def assert_all_there(read: Pretrained, detector: Detector) -> None:
    wanted = {f"backbone.{k}": v for k, v in detector.backbone.state_dict().items()}
    assert set(read.tensors) == set(wanted)
    for name, tensor in wanted.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(read.tensors[name], tensor.float()), name


# -- PySlowFast


@pytest.mark.parametrize("name", ["slowonly", "slowfast"])
def test_pyslowfast(filled, tmp_path: Path, name: str) -> None:
    """.pyth: under model_state beside the optimizer's, with a classifier."""
    detector = filled(narrow(name))
    state = backbone_state(detector) | {"head.projection.weight": torch.zeros(400, 8)}
    torch.save({"epoch": 3, "model_state": state, "optimizer_state": {}, "cfg": "TEXT"}, tmp_path / "a.pyth")
    read = read_pretrained(tmp_path / "a.pyth", narrow(name))
    assert_all_there(read, detector)
    assert read.left == ("head.projection.weight",)
    assert read.report() == [f"loaded {len(state) - 1}, adapted 0, left 1", "left: head.projection.weight"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [  # names of the model zoo's .pkl files
        ("slow.stem.weight", "conv1_w"),
        ("fast.stem.weight", "t_conv1_w"),
        ("slow.stem_norm.running_var", "res_conv1_bn_riv"),
        ("fast.stem_norm.weight", "t_res_conv1_bn_s"),
        ("fusions.0.conv.weight", "t_pool1_subsample_w"),
        ("fusions.0.norm.bias", "t_pool1_subsample_bn_b"),
        ("fusions.1.conv.weight", "t_res2_2_branch2c_bn_subsample_w"),
        ("fusions.3.norm.running_mean", "t_res4_22_branch2c_bn_subsample_bn_rm"),
        ("slow.stages.0.0.shortcut.weight", "res2_0_branch1_w"),
        ("slow.stages.0.0.shortcut_norm.weight", "res2_0_branch1_bn_s"),
        ("slow.stages.2.22.conv_a.weight", "res4_22_branch2a_w"),
        ("fast.stages.3.1.norm_c.running_mean", "t_res5_1_branch2c_bn_rm"),
        ("slow.stages.2.nonlocal6.theta.weight", "nonlocal_conv4_6_theta_w"),
        ("slow.stages.2.nonlocal20.out.bias", "nonlocal_conv4_20_out_b"),
        ("slow.stages.2.nonlocal13.norm.weight", "nonlocal_conv4_13_bn_s"),
    ],
)
def test_caffe2_names(ours: str, theirs: str) -> None:
    assert caffe2_name(published_backbone_name(ours), (3, 4, 23, 3)) == theirs


def caffe2_blobs(detector: Detector) -> dict[str, np.ndarray]:
    depths = detector.config.backbone.depths
    names = {caffe2_name(theirs, depths): v for theirs, v in backbone_state(detector).items()}
    return {name: v.numpy() for name, v in names.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("protocol", [0, 2])
def test_caffe2(filled, tmp_path: Path, protocol: int) -> None:
    """.pkl: blobs of numpy arrays beside momenta and the learning rate; caffe2 counts no batches."""
    detector = filled(narrow("slowfast"))
    blobs = caffe2_blobs(detector)
    rest = {"pred_w": np.zeros((400, 8), np.float32), "conv1_w_momentum": blobs["conv1_w"], "lr": np.float32(0.1)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"blobs": blobs | rest, "cfg": "x"}, protocol=protocol))
    read = read_pretrained(tmp_path / "a.pkl", narrow("slowfast"))
    assert_all_there(read, detector)
    assert read.left == ("conv1_w_momentum", "pred_w")
    assert set(read.adapted.values()) == {"not in the file: 0"}
    assert all(name.endswith("num_batches_tracked") and int(read.tensors[name]) == 0 for name in read.adapted)
    assert read.report()[0] == f"loaded {len(blobs)}, adapted {len(read.adapted)}, left 2"


def test_arrays_of_a_pickle(tmp_path: Path) -> None:
    """Column-major, big-endian and half-precision arrays arrive as they are; what numpy would compute never runs."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {
        "plain": values,
        "fortran": np.asfortranarray(values),
        "big": values.astype(">f4"),
        "scalar": values[1, 2:],
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"blobs": arrays | {"half": values.astype(np.float16)}}, protocol=2))
    assert is_plain_pickle(path)
    read = read_caffe2(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name].numpy(), array)
    assert read["half"].dtype == torch.float16


def python2_array(values: np.ndarray) -> bytes:
    """What Python 2's pickle wrote of an array: its bytes are a str, which Python 3 reads as Latin-1 text."""
    shape = b"(" + b"".join(b"K" + bytes([n]) for n in values.shape) + b"t"
    raw = values.tobytes()
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01" + shape
        + b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    )  # fmt: skip


def test_python_2_wrote_it(tmp_path: Path) -> None:
    values = np.random.RandomState(0).standard_normal((2, 3)).astype(np.float32)
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02}U\x05blobs}U\x07conv1_w" + python2_array(values) + b"ss.")
    np.testing.assert_array_equal(read_caffe2(path)["conv1_w"].numpy(), values)


class Touch:
    """Would make a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        import os

        return os.mkdir, (str(self.path),)


def test_nothing_runs(tmp_path: Path) -> None:
    path, made = tmp_path / "a.pkl", tmp_path / "made"
    path.write_bytes(pickle.dumps({"blobs": {"conv1_w": np.zeros(2, np.float32), "x": Touch(made)}}, protocol=2))
    assert list(read_caffe2(path)) == ["conv1_w"]
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no table of arrays"),
        ({"blobs": 3}, "holds no table of arrays"),
        ({"blobs": {"x": np.array(["a"], object)}}, "cannot be read as a caffe2 pickle"),
        ({"blobs": {"x": np.zeros(2, np.complex64)}}, "cannot be read as a caffe2 pickle: array of type 'c8'"),
    ],
)
def test_other_pickles(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_caffe2(path)


def test_a_cut_pickle(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"conv1_w": np.zeros(200, np.float32)}}, protocol=2)[:-100])
    with pytest.raises(CheckpointError, match="cannot be read as a caffe2 pickle"):
        read_pretrained(path, narrow("slowonly"))


# -- IG-65M


@pytest.mark.parametrize("head", ["fc.weight", "out_fc.weight"])
def test_ig65m(filled, tmp_path: Path, head: str) -> None:
    detector = filled(narrow("csn"))
    state = backbone_state(detector) | {head: torch.zeros(400, 8)}
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "a.pth")
    read = read_pretrained(tmp_path / "a.pth", narrow("csn"))
    assert_all_there(read, detector)
    assert read.left == (head,)


def test_ig65m_names(reference) -> None:
    import json

    from stmixer.model.detector import skeleton

    shapes = json.loads((reference / "csn152_backbone.keys.json").read_text())
    ours = skeleton(VARIANTS["csn_152"]).backbone.state_dict()
    assert {published_backbone_name(k): list(v.shape) for k, v in ours.items()} == shapes


# -- VideoMAE


def test_videomae_pre_training(filled, tmp_path: Path) -> None:
    detector = filled(narrow("vit"))
    state = {f"encoder.{k}": v for k, v in backbone_state(detector).items()}
    state |= {"mask_token": torch.zeros(1, 1, 16), "encoder_to_decoder.weight": torch.zeros(16, 32)}
    torch.save({"model": state | {"decoder.blocks.0.norm1.weight": torch.zeros(16)}}, tmp_path / "a.pth")
    read = read_pretrained(tmp_path / "a.pth", narrow("vit"))
    assert_all_there(read, detector)
    assert read.left == ("decoder.blocks.0.norm1.weight", "encoder_to_decoder.weight", "mask_token")
    assert read.adapted == {}


def test_videomae_fine_tuned(filled, tmp_path: Path) -> None:
    """fc_norm takes the place of norm, half precision is widened, and both are reported."""
    detector = filled(narrow("vit"))
    state = backbone_state(detector)
    state = {k.replace("norm.", "fc_norm.") if k.startswith("norm.") else k: v for k, v in state.items()}
    state["patch_embed.proj.bias"] = state["patch_embed.proj.bias"].half()
    torch.save({"module": state | {"head.weight": torch.zeros(400, 32)}}, tmp_path / "a.pth")
    read = read_pretrained(tmp_path / "a.pth", narrow("vit"))
    assert torch.equal(read.tensors["backbone.norm.weight"], detector.backbone.norm.weight)
    assert read.adapted == {
        "backbone.norm.weight": "fc_norm.weight, the norm of the mean token",
        "backbone.norm.bias": "fc_norm.bias, the norm of the mean token",
        "backbone.patches.bias": "torch.float16 made torch.float32",
    }
    assert read.left == ("head.weight",)


# -- strictness, the same for all


@pytest.mark.parametrize("name", ["slowonly", "slowfast", "csn", "vit"])
def test_strict(filled, tmp_path: Path, name: str) -> None:
    """A missing, a superfluous and a misshapen tensor are all named; so is another kind of number."""
    state = backbone_state(filled(narrow(name)))
    first, second, third, *_ = (k for k in state if k.endswith("weight"))
    changed = state | {"extra.weight": torch.zeros(1), second: torch.zeros(7), third: state[third].long()}
    del changed[first]
    torch.save({"model": changed}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        read_pretrained(tmp_path / "a.pth", narrow(name))
    text = str(caught.value)
    assert f"does not fit the backbone of {name}" in text
    assert f"missing: {first}" in text
    assert "not used: extra.weight [1]" in text
    assert f"{second}: shape [7]" in text
    assert f"{third}: torch.int64 instead of real numbers" in text
    assert len(text.splitlines()) == 5


def test_no_file(tmp_path: Path) -> None:
    for name in ("slowonly", "vit"):
        with pytest.raises(CheckpointError, match="does not exist"):
            read_pretrained(tmp_path / "a.pth", narrow(name))


def test_a_backbone_that_has_no_reader(tmp_path: Path) -> None:
    """Of whoever adds one: not a defect, but a sentence for who wants to start it from a file."""
    with pytest.raises(CheckpointError, match="rt_lite0 has no reader"):
        read_video_pretrained(tmp_path / "a.pth", VARIANTS["rt_lite0"])
