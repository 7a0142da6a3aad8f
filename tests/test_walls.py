"""Imports run one way (docs/architecture.md): the walls between the rooms, held by reading every module.

An import inside a function and one for type checkers alone count like any other: they couple two rooms as well. A
module is heavy where importing it, and nothing more, imports PyTorch.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("model", "media", "service", "trainer")

LEAVES = {
    "model.backbone_config", "model.boxes", "model.bundled", "model.clip", "model.config", "model.config_reading",
    "model.labels", "model.linking", "model.query_bank", "model.runtimes", "model.smoothing", "model.tracks",
    "model.named", "model.pulled", "model.zoo",
    "media.errors", "media.grid", "media.limits", "media.pace", "media.timeline",
}  # fmt: skip
"""Single modules that every room may import. They import leaves alone; no PyTorch, no PyAV. ``model.runtimes`` is the
package's own file, which holds the runtimes' names; ``model.backbone_config`` and ``model.config_reading`` are parts of
``model.config``."""

_BELOW = {
    "service.errors", "service.schemas", "service.settings", "service.metrics", "service.logs",
    "service.stream_messages", "service.event_schemas", "service.teach_schemas", "service.places", "service.wire",
}  # fmt: skip
_SESSIONS = {"service.sessions", "service.sources", "service.engine", "service.events", "service.ipc"}

MAY_IMPORT: dict[str, set[str]] = {
    "model": set(),
    "media": set(),
    "trainer": {"model", "media"},
    # the rooms of the service, innermost first; a source hands its frames to a stream, which is the engine's
    "service.ipc": set(),
    "service.decoder": {"service.ipc", "media"},
    "service.worker": {"service.ipc", "model", "service.errors"},
    "service.engine": {"service.ipc", *_BELOW},
    "service.events": {"service.ipc", *_BELOW},
    "service.teaching": {"service.ipc", *_BELOW},
    "service.sources": {"service.ipc", "service.engine", "service.pulled_url", *_BELOW},
    "service.sessions": {"service.access", "service.streams_file", *_SESSIONS, *_BELOW},
    "service.api": {
        "service.access", "service.key_file", "service.pulled_url", "service.teaching", "model.extras",
        *_SESSIONS, *_BELOW,
    },
    "service.cluster": {
        "service.api", "service.access", "service.pulled_url", "service.streams_file", *_SESSIONS, *_BELOW,
    },
    # offline drives the stream, the sampler, the worker's reading of a ring and its runner in one process
    "service.offline": {
        "service.engine", "service.ipc", "service.decoder.sampling", "service.worker.process", "service.worker.runner",
        "service.errors", "service.pulled_url", "service.schemas", "media", "model",
    },
    # what stands at the top of the service
    "service": set(),
    "service.errors": set(),
    "service.places": set(),
    "service.settings": {"service.places"},
    "service.wire": set(),
    "service.event_schemas": {"service.wire"},
    "service.teach_schemas": {"service.wire"},
    "service.schemas": {
        "service.ipc.messages", "service.errors", "service.plotting", "service.event_schemas", "service.wire",
    },
    "service.plotting": {"media", "service.errors"},
    "service.metrics": {"service.ipc.messages", "service.schemas"},
    "service.logs": {"service.settings"},
    "service.key_file": {"service.errors"},
    "service.pulled_url": {"service.errors"},
    "service.access": {"service.errors", "service.key_file"},
    "service.streams_file": {"service.errors", "service.schemas", "service.wire"},
    "service.stream_messages": {"service.schemas", "service.event_schemas", "service.wire"},
    "service.client": {"service.schemas", "service.stream_messages", "service.event_schemas"},
    "service.keys_cli": {"service.key_file", "service.errors"},
    "service.bench": {"service.client", "service.errors", "service.schemas", "service.settings", "media"},
    "service.bench.faulty_service": {
        "service.api.server", "service.engine.worker", "service.sources.decoder_pool", "service.teaching.teaching",
        "service.logs", "service.settings",
    },
    "service.cli": {
        "service.api.server", "service.bench.cli", "service.keys_cli", "service.offline", "service.worker.runner",
        "media", "model", *_BELOW,
    },
    # the one command above all rooms: it joins them where it is asked for one
    "cli": {"commands"},
    "commands": {"service.cli", "trainer.teach.command", "model.extras"},
    # the public face
    "": {"service.offline", "service.errors", "service.schemas", "model", "media"},
}  # fmt: skip
"""What each room imports besides itself and the leaves. The longest row that a module's name begins with is its own; a
module without one is a breach. Names are dotted, without ``stmixer.``, which is the face."""

ALONE = {"", "service"}
"""Rows of a package's own file, and of nothing in the package."""

TORCH = {"torch", "torchvision", "timm", "lightning", "safetensors.torch"}
RUNTIMES = {*TORCH, "onnxruntime"}
WEB = {"fastapi", "starlette", "uvicorn", "ray"}
PYAV = {"av"}
ONLY_IN = (
    (TORCH, {"model", "trainer", "service.offline.explain", "service.worker.runner"}),
    ({"onnxruntime"}, {"model", "trainer"}),
    (WEB, {"service.api", "service.cluster"}),
    (PYAV, {"media", "trainer"}),
)
"""Other people's packages and the rooms that may import them, anywhere in a file."""

LIGHT = {
    "",
    "cli",
    "commands",
    "media",
    "service",
    "model.preprocess",
    "model.postprocess",
    "model.runtimes.choose",
} | LEAVES
HEAVY = {"service.offline.explain"}
"""Importing a module of ``LIGHT``, but not one of ``HEAVY``, imports no PyTorch by any way, nor ONNX Runtime."""

ARRAYS = ("stmixer.model.preprocess", "stmixer.model.postprocess", "stmixer.media.draw", "stmixer.media.encode")
"""In numpy alone, so that a worker that runs ONNX needs no PyTorch."""

FORBIDDEN = re.compile(r"poison|4242", re.IGNORECASE)
"""Test hooks that once stood in the product."""

When = Literal["import", "later", "typing"]


# -- reading


@dataclass(frozen=True)
class Imported:
    """``name``: dotted, ours without ``stmixer.`` and down to the module; ``own``: whether it is ours."""

    name: str
    own: bool
    when: When


class Tree:
    """The modules below a root, and what each imports."""

    def __init__(self, root: Path) -> None:
        self.root = root
        files = [path for room in ROOMS for path in sorted((root / room).rglob("*.py"))]
        self.paths = {_dotted(path.relative_to(root)): path for path in files}
        self.paths |= {_dotted(path.relative_to(root / "stmixer")): path for path in (root / "stmixer").glob("*.py")}
        self.imports = {name: list(self._imports(path)) for name, path in self.paths.items()}

    def _imports(self, path: Path) -> Iterator[Imported]:
        for node, when in _nodes(path):
            for name in _names(node):
                own = _in(name, "stmixer")
                if isinstance(node, ast.Constant) and self._module(name) not in self.paths:
                    continue  # some other dotted text: a logger's name
                yield Imported(self._module(name) if own else name, own, when)

    def _module(self, name: str) -> str:
        """The module that ``name`` is, or lies in: ``stmixer.media.grid.TimeGrid`` is ``media.grid``."""
        short = name.removeprefix("stmixer").removeprefix(".")
        while short not in self.paths and "." in short:
            short = short.rpartition(".")[0]
        return short if short in self.paths else name.removeprefix("stmixer.")

    def reached(self, name: str) -> set[str]:
        """Every module, ours and other people's, that is imported when ``name`` is, packages on the way included."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            module = waiting.pop()
            if module in found:
                continue
            found.add(module)
            if module in self.paths:
                waiting += [i.name for i in self.imports[module] if i.when == "import"]
                waiting += [parent for parent in _parents(module) if parent in self.paths]
        return found


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return ["", *(".".join(parts[:count]) for count in range(1, len(parts)))]


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _nodes(path: Path) -> Iterator[tuple[ast.AST, When]]:
    """Every node of a file, with when it runs. A module that imports by name imports whatever it names."""

    def walk(node: ast.AST, when: When) -> Iterator[tuple[ast.AST, When]]:
        yield node, when
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.body:
                yield from walk(child, "typing")
            for child in node.orelse:
                yield from walk(child, when)
            return
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from walk(child, "later" if inside and when == "import" else when)

    nodes = list(walk(_parsed(path), "import"))
    by_name = any(isinstance(n, (ast.Name, ast.Attribute)) and _last(n) in BY_NAME for n, _ in nodes)
    for node, when in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, when
        elif by_name and isinstance(node, ast.Constant):
            yield node, "later"


BY_NAME = {"import_module", "__import__", "find_spec"}


def _last(node: ast.Name | ast.Attribute) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr


def _names(node: ast.AST) -> list[str]:
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            return [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
        case ast.Constant(value=str(text)) if re.fullmatch(r"stmixer(\.\w+)+", text):
            return [text]
    return []


def _in(name: str, room: str) -> bool:
    """Whether a module lies in a room, or is it."""
    return name == room or name.startswith(f"{room}.")


def _of_packages(name: str, packages: set[str]) -> bool:
    return any(_in(name, package) for package in packages)


# -- walls: each gives the breaches of a tree, in words


def wrong_way(tree: Tree) -> Iterator[str]:
    """Imports that no row allows, modules that have no row, relative imports."""
    for name, imports in tree.imports.items():
        rows = [row for row in MAY_IMPORT if (name == row if row in ALONE else _in(name, row))]
        if not rows:
            yield f"{name}: no row says what it may import"
            continue
        row = max(rows, key=len)
        for imported in imports:
            if imported.name.startswith("."):
                yield f"{name}: a relative import of {imported.name}"
            allowed = set() if name in LEAVES else {*MAY_IMPORT[row], *({row} - ALONE)}
            if imported.own and imported.name not in LEAVES and not any(_in(imported.name, room) for room in allowed):
                yield f"{name} imports {imported.name}"


def wrong_room(tree: Tree) -> Iterator[str]:
    """Other people's packages where they do not belong."""
    for name, imports in tree.imports.items():
        for imported in imports:
            for packages, rooms in ONLY_IN:
                allowed = any(_in(name, room) for room in rooms) and name not in LEAVES
                if not imported.own and _of_packages(imported.name, packages) and not allowed:
                    yield f"{name} imports {imported.name}"


def heavy(tree: Tree) -> Iterator[str]:
    """Modules that should be light and import PyTorch, by whatever way."""
    for name in tree.paths:
        light = name in LIGHT or any(_in(name, room) for room in LIGHT - LEAVES)
        if light and not any(_in(name, room) for room in HEAVY):
            for reached in sorted(tree.reached(name)):
                if _of_packages(reached, RUNTIMES) or (name in LEAVES and _of_packages(reached, PYAV)):
                    yield f"{name} comes to import {reached}"


def twice_named(tree: Tree) -> Iterator[str]:
    """Classes that share a name."""
    classes = Counter(
        node.name for path in tree.paths.values() for node in ast.walk(_parsed(path)) if isinstance(node, ast.ClassDef)
    )
    yield from sorted(name for name, count in classes.items() if count > 1)


def untyped_messages(tree: Tree) -> Iterator[str]:
    """Dicts with a key ``t``, made or read."""
    for name, path in tree.paths.items():
        for node in ast.walk(_parsed(path)):
            match node:
                case ast.Dict(keys=keys):
                    found = any(isinstance(key, ast.Constant) and key.value == "t" for key in keys)
                case ast.Subscript(slice=ast.Constant(value="t")):
                    found = True
                case ast.Call(func=ast.Attribute(attr="get" | "pop"), args=[ast.Constant(value="t"), *_]):
                    found = True
                case _:
                    continue
            if found:
                yield f"{name}, line {node.lineno}"


def hooks(tree: Tree) -> Iterator[str]:
    """Test hooks in the product, the page included."""
    files = [*tree.paths.values(), *(path for path in (tree.root / "service" / "web").glob("*") if path.is_file())]
    for path in files:
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):  # the sample clip is no text
            if FORBIDDEN.search(line):
                yield f"{path.relative_to(tree.root)}, line {number}: {line.strip()}"


def second_names(tree: Tree) -> Iterator[str]:
    """Files, tests and benches included, that import a room past ``stmixer``: every class would exist twice."""
    for path in sorted(tree.root.rglob("*.py")):
        if any(part.startswith(".") or part == "site-packages" for part in path.relative_to(tree.root).parts):
            continue
        for node, _ in _nodes(path):
            for name in _names(node):
                if name.split(".")[0] in ROOMS:
                    yield f"{path.relative_to(tree.root)} imports {name}"
        for node in ast.walk(_parsed(path)) if path != Path(__file__) else ():  # its tables name modules
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _names_a_module(tree, node.value):
                yield f"{path.relative_to(tree.root)} names {node.value}"


def _names_a_module(tree: Tree, text: str) -> bool:
    """Whether a string is a dotted name, as ``python -m`` and ``monkeypatch`` take it, of a module or what is in it."""
    if not re.fullmatch(rf"(?:{'|'.join(ROOMS)})(\.\w+)+", text):
        return False
    return text in tree.paths or (text.rpartition(".")[0] in tree.paths and "." in text.rpartition(".")[0])


# -- the walls of this tree


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(ROOT)


def test_every_module_is_walked(tree: Tree) -> None:
    known = {"", "model.detector", "media.decode", "service.ipc.channel", "service.cli", "trainer.cli"}
    assert known | LEAVES <= set(tree.paths)
    assert len(tree.paths) > 150


def test_imports_run_one_way(tree: Tree) -> None:
    assert list(wrong_way(tree)) == []


def test_packages_stay_in_their_rooms(tree: Tree) -> None:
    assert list(wrong_room(tree)) == []


def test_light_modules_import_no_torch(tree: Tree) -> None:
    assert list(heavy(tree)) == []


def test_a_class_has_a_name_of_its_own(tree: Tree) -> None:
    assert list(twice_named(tree)) == []


def test_messages_are_typed(tree: Tree) -> None:
    assert list(untyped_messages(tree)) == []


def test_no_hook_of_tests_is_left(tree: Tree) -> None:
    assert list(hooks(tree)) == []


def test_everything_is_imported_by_one_name(tree: Tree) -> None:
    assert list(second_names(tree)) == []


@pytest.mark.parametrize(
    "module",
    ["stmixer", "stmixer.cli", "stmixer.commands", "stmixer.service.cli", "stmixer.service.client",
     "stmixer.service.api.app", "stmixer.service.decoder.process", "stmixer.service.worker.process",
     "stmixer.service.offline.command", "leaves", "arrays"],
)  # fmt: skip
def test_light_when_really_imported(module: str) -> None:
    names = {"leaves": [f"stmixer.{leaf}" for leaf in sorted(LEAVES)], "arrays": list(ARRAYS)}.get(module, [module])
    no_video = ("leaves", "stmixer.service.cli", "stmixer.service.client", "stmixer.service.api.app")
    heavy_ones = {"torch", "onnxruntime", *(PYAV if module in no_video else ())}
    code = f"import sys, {', '.join(names)}; print(sorted({heavy_ones} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize("name", ["tiny", "rt_nano"])
def test_a_model_of_our_own_modules_needs_no_model_zoo(name: str) -> None:
    """timm and torchvision take as long to import as PyTorch, and each such worker would wait for them."""
    code = (
        "import sys; from stmixer.service.worker.runner import pick_device, start_runtime; "
        f"start_runtime({name!r}, None, pick_device('cpu')[0], 'eager', 'fp32'); "
        "print(sorted({'timm', 'torchvision'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


# -- a breach of each kind is seen


BREACHES: list[tuple[Callable[[Tree], Iterator[str]], str, str, str]] = [
    (wrong_way, "model/stage.py", "from stmixer.media.decode import VideoReader", "model.stage imports media.decode"),
    (wrong_way, "media/probe.py", "from stmixer.model import labels\nimport stmixer.model.clip, stmixer.model.mix",
     "media.probe imports model.mix"),
    (wrong_way, "trainer/run.py", "def f():\n    from stmixer.service import errors",
     "trainer.run imports service.errors"),
    (wrong_way, "service/errors.py", "import stmixer.trainer.run", "service.errors imports trainer.run"),
    (wrong_way, "service/ipc/ring.py", "from stmixer.service.errors import InputError",
     "service.ipc.ring imports service.errors"),
    (wrong_way, "service/engine/x.py", "if TYPE_CHECKING:\n    from stmixer.service.sources import upload",
     "service.engine.x imports service.sources.upload"),
    (wrong_way, "service/sources/x.py", "import stmixer.service.sessions.session",
     "service.sources.x imports service.sessions.session"),
    (wrong_way, "service/sessions/x.py", "import stmixer.service.api.app",
     "service.sessions.x imports service.api.app"),
    (wrong_way, "service/api/x.py", "import stmixer.service.cluster.x", "service.api.x imports service.cluster.x"),
    (wrong_way, "service/decoder/x.py", "import stmixer.service.schemas", "service.decoder.x imports service.schemas"),
    (wrong_way, "service/worker/x.py", "async def f():\n    import stmixer.media.decode",
     "service.worker.x imports media.decode"),
    (wrong_way, "service/offline/x.py", "from stmixer.service.decoder import sampling, writer",
     "service.offline.x imports service.decoder.writer"),
    (wrong_way, "service/client.py", "import stmixer.service.access", "service.client imports service.access"),
    (wrong_way, "model/zoo.py", "import stmixer.model.stage", "model.zoo imports model.stage"),
    (wrong_way, "service/room/x.py", "", "service.room.x: no row says what it may import"),
    (wrong_way, "service/ipc/x.py", "from .ring import Ring", "service.ipc.x: a relative import of .ring.Ring"),
    (wrong_way, "service/ipc/y.py", "import importlib\nimportlib.import_module('stmixer.service.errors')",
     "service.ipc.y imports service.errors"),
    (wrong_room, "service/engine/x.py", "def f():\n    import torch.cuda", "service.engine.x imports torch.cuda"),
    (wrong_room, "service/sessions/x.py", "from starlette.websockets import WebSocket",
     "service.sessions.x imports starlette.websockets.WebSocket"),
    (wrong_room, "media/probe.py", "import torch", "media.probe imports torch"),
    (wrong_room, "model/clip.py", "import torch", "model.clip imports torch"),
    (wrong_room, "model/stage.py", "import av", "model.stage imports av"),
    (heavy, "service/cli.py", "import stmixer.service.offline.explain", "service.cli comes to import torch.nn"),
    (heavy, "service/worker/runner.py", "import stmixer.model.stage", "service.worker.runner comes to import torch.nn"),
    (heavy, "service/offline/explain.py", "", ""),
    (heavy, "__init__.py", "import stmixer.model.stage", " comes to import torch.nn"),
    (wrong_way, "stmixer/cli.py", "def f():\n    import stmixer.model.stage", "cli imports model.stage"),
    (heavy, "stmixer/cli.py", "import stmixer.model.stage", "cli comes to import torch.nn"),
    (twice_named, "service/engine/x.py", "class A:\n    class _Twice: ...\n\ndef f():\n    class _Twice: ...",
     "_Twice"),
    (twice_named, "trainer/run.py", "class Runner: ...", "Runner"),
    (untyped_messages, "service/ipc/x.py", "send({'t': 'frames'})", "service.ipc.x, line 1"),
    (untyped_messages, "service/ipc/x.py", "\nif header['t'] == 'frames': ...", "service.ipc.x, line 2"),
    (untyped_messages, "service/ipc/x.py", "header.get('t')", "service.ipc.x, line 1"),
    (hooks, "service/worker/x.py", "Poisoned = 1", "service/worker/x.py, line 1: Poisoned = 1"),
    (hooks, "service/web/app.js", "top_k = 4242", "service/web/app.js, line 1: top_k = 4242"),
    (second_names, "tests/test_x.py", "from service.cli import main", "tests/test_x.py imports service.cli.main"),
    (second_names, "tests/test_x.py", "import model", "tests/test_x.py imports model"),
    (second_names, "tests/test_x.py", "run('-m', 'service.cli')", "tests/test_x.py names service.cli"),
    (second_names, "tests/test_x.py", "patch('service.worker.runner.Runner')",
     "tests/test_x.py names service.worker.runner.Runner"),
]  # fmt: skip
SMALL_TREE = {
    "stmixer/__init__.py": "",
    "service/__init__.py": "",
    "service/cli.py": "def f():\n    import stmixer.service.worker.runner",
    "service/errors.py": "from stmixer.media.errors import MediaError",
    "service/schemas.py": "",
    "service/access.py": "",
    "service/api/app.py": "import fastapi",
    "service/cluster/x.py": "",
    "service/decoder/sampling.py": "",
    "service/decoder/writer.py": "",
    "service/ipc/ring.py": "import stmixer.model.clip",
    "service/sessions/session.py": "",
    "service/sources/upload.py": "",
    "service/offline/explain.py": "import stmixer.model.stage",
    "service/worker/runner.py": "def f():\n    import stmixer.model.stage\n\nclass Runner: ...",
    "media/decode.py": "import av",
    "media/errors.py": "",
    "model/clip.py": "",
    "model/labels.py": "",
    "model/mix.py": "",
    "model/stage.py": "import torch.nn",
    "trainer/run.py": "",
    "tests/test_x.py": "import stmixer.service.cli",
}


@pytest.mark.parametrize(
    ("wall", "path", "source", "seen"), BREACHES, ids=lambda p: getattr(p, "__name__", str(p)[:40])
)
def test_the_walls_see_a_breach(
    tmp_path: Path, wall: Callable[[Tree], Iterator[str]], path: str, source: str, seen: str
) -> None:
    for name, text in SMALL_TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(wall(Tree(tmp_path))) == []
    target = tmp_path / ("stmixer/__init__.py" if path == "__init__.py" else path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(source)
    _parsed.cache_clear()
    found = list(wall(Tree(tmp_path)))
    assert seen in found if seen else found == []
