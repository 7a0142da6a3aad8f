"""The repository explains itself: what it cites lies in it, and it knows no place outside.

Each rule is a function from a tree to a list of faults, so that it can be shown a fault. Strings that a rule looks for
are put together here, lest this file be one.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = "../" + "shared"
"""Where optional clips and data lie by default; named by one file."""
NAMES_OUTSIDE = "tests/conftest.py"
PLANS = tuple(f"{name}.{'md'}" for name in ("DETECTOR", "SERVICE", "DATA", "HOUSE"))
"""Papers that a reader of the repository does not have."""

NAVIGATION = "docs/site/mkdocs.yml"
MADE = {f"reference/{name}.{'md'}" for name in ("rest", "websocket", "cli", "settings", "python")}
"""What the site's navigation names and is in no checkout: pages made of the code (`tests/test_site.py`)."""

_NUL_WITHIN = 8192
_DOCUMENT = re.compile(r"(?<![\w./#-])((?:[\w.-]+/)*[\w-]+\.md)\b(?:#([\w-]+))?")
_SECTION = re.compile(r", (?=[A-Z]|\w+/(?!\w))([^.,:;()\[\]`\"\n]+)")
_LINK = re.compile(r"(?<!!)\]\(([^()\s]+)\)|!\[[^\]]*\]\(([^()\s]+)\)")
_QUOTED_PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*)`")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_CLIMBS_OUT = re.compile(r"/\s*[\"']shared[\"']")
_MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|root|tmp/wt)/[\w.-]")
_RESULT_PATH = re.compile(r"(?<![\w.~:/-])/(?:home|mnt|root|srv|tmp|var|work)/[\w.-]")


@dataclass(frozen=True)
class Tree:
    """Files of a repository by their paths from its root."""

    root: Path
    files: frozenset[str]

    def texts(self) -> Iterator[tuple[str, str]]:
        """Every text file: its path and what stands in it."""
        for name in sorted(self.files):
            raw = (self.root / name).read_bytes()
            if b"\0" not in raw[:_NUL_WITHIN]:
                yield name, raw.decode(errors="replace")

    def holds(self, path: str) -> bool:
        """Whether this is a file of the tree, or a folder that has one."""
        folder = path.rstrip("/") + "/"
        return path in self.files or any(name.startswith(folder) for name in self.files)

    def resolve(self, cited: str, by: str) -> str | None:
        """A path as it is cited in a file, from the root or from that file's folder: from the root. None: not there.

        Code may name a document without its folder.
        """
        if self.holds(cited):
            return cited.rstrip("/")
        if "/" not in cited and not by.endswith(".md"):
            return next((name for name in self.files if name.endswith(f"/{cited}")), None)
        target = (self.root / by).parent / cited
        try:
            path = str(Path(*_without_dots(target)).relative_to(self.root))
        except ValueError:
            return None
        return path if self.holds(path) else None

    def headings(self, document: str) -> list[str]:
        """Of a Markdown file, without marks."""
        text = _FENCE.sub("", (self.root / document).read_text())
        return [heading.replace("`", "") for heading in _HEADING.findall(text)]


def _without_dots(path: Path) -> list[str]:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return parts


def repository() -> Tree:
    """What git tracks here, links left out: they lead to files that are in it themselves."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    names = [name for name in listed.split("\0") if name]
    return Tree(ROOT, frozenset(n for n in names if (ROOT / n).is_file() and not (ROOT / n).is_symlink()))


def planted(root: Path, **files: str) -> Tree:
    """A tree with these files; ``__`` in a name is a slash, and what has no ending is Markdown."""
    names = set()
    for key, text in files.items():
        name = key.replace("__", "/")
        name = name.replace("_py", ".py") if name.endswith("_py") else f"{name}.{'md'}"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        names.add(name)
    return Tree(root, frozenset(names))


def unwrapped(text: str) -> str:
    """Lines joined to paragraphs, comments among themselves: a citation may be broken where a line ends."""
    joined, in_comment = [], False
    for line in map(str.strip, text.splitlines()):
        comment = line.startswith("#")
        if comment and in_comment:
            joined.append(" " + line.lstrip("# "))
        else:
            joined.append(("\n" if comment or in_comment else " ") + line)
        in_comment = comment
    return "".join(joined)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# -- the rules


def absent_documents(tree: Tree) -> list[str]:
    """Documents, anchors and sections that a file cites and that are not there."""
    faults = []
    for name, raw in tree.texts():
        text = unwrapped(raw)
        for cited in _DOCUMENT.finditer(text):
            document, anchor = cited.groups()
            if name == NAVIGATION and document in MADE:
                continue
            found = tree.resolve(document, name)
            if found is None:
                faults.append(f"{name}: {document} is not there")
                continue
            headings = tree.headings(found)
            if anchor is not None and anchor not in map(slug, headings):
                faults.append(f"{name}: {document} has no #{anchor}")
            faults += [
                f"{name}: {document} has no section {section!r}"
                for section in _sections(text, cited.end())
                if not any(heading.startswith(section) for heading in headings)
            ]
    return faults


def _sections(text: str, at: int) -> Iterator[str]:
    """What follows a document's name: ", Section", ", Section and Section", ", Section, Part"."""
    while (part := _SECTION.match(text, at)) is not None:
        yield from (section.strip() for section in part.group(1).split(" and "))
        at = part.end()


def broken_links(tree: Tree) -> list[str]:
    """Relative links of Markdown files to what is not there, and to their own headings."""
    faults = []
    for name, text in tree.texts():
        if not name.endswith(".md"):
            continue
        for target in (a or b for a, b in _LINK.findall(_FENCE.sub("", text))):
            path, _, anchor = target.partition("#")
            if ":" in path:
                continue
            if path and tree.resolve(path, name) is None:
                faults.append(f"{name}: link to {path}, which is not there")
            elif not path and anchor not in map(slug, tree.headings(name)):
                faults.append(f"{name}: it has no #{anchor}")
    return faults


def absent_paths(tree: Tree) -> list[str]:
    """`folder/file` in Markdown, where the folder is one of the repository's, that is not there."""
    tops = {file.split("/")[0] for file in tree.files if "/" in file}
    return [
        f"{name}: {path} is not there"
        for name, text in tree.texts()
        if name.endswith(".md")
        for path in _QUOTED_PATH.findall(_FENCE.sub("", text))
        if path.split("/")[0] in tops and not tree.holds(path)
    ]


def names_outside(tree: Tree) -> list[str]:
    """Files that name the place of optional clips and data, or a path that climbs out to it."""
    return [name for name, text in tree.texts() if OUTSIDE in text or _CLIMBS_OUT.search(text)]


def plans_and_machines(tree: Tree) -> list[str]:
    """Papers that are not here, and paths of somebody's machine."""
    faults = []
    for name, text in tree.texts():
        faults += [f"{name}: names {plan}" for plan in PLANS if re.search(rf"\b{re.escape(plan)}\b", text)]
        pattern = _RESULT_PATH if name.startswith("bench/results/") else _MACHINE_PATH
        faults += [f"{name}: {found.group()}… is a path of a machine" for found in pattern.finditer(text)]
    return faults


# -- on the repository


def test_cited_documents_are_here() -> None:
    assert absent_documents(repository()) == []


def test_links_lead_somewhere() -> None:
    assert broken_links(repository()) == []


def test_paths_in_documents_exist() -> None:
    assert absent_paths(repository()) == []


def test_one_file_knows_what_lies_outside() -> None:
    assert names_outside(repository()) == [NAMES_OUTSIDE]


def test_no_plans_and_no_machines() -> None:
    assert plans_and_machines(repository()) == []


def test_the_readme_links_every_document() -> None:
    tree = repository()
    linked = {(a or b).partition("#")[0] for a, b in _LINK.findall((ROOT / "README.md").read_text())}
    documents = {file for file in tree.files if re.fullmatch(r"docs/\w+\.md", file)}
    assert documents | {f"{name}.{'md'}" for name in ("CONTRIBUTING", "CHANGELOG", "weights/README")} <= linked


# -- each rule sees a fault


BOOK = "# Book\n\n## Time\n\n### Late `frames`\n\n```\n# no heading\n```\n"
GIVEN = f"docs/given.{'md'}"


@pytest.mark.parametrize(
    ("citation", "fault"),
    [
        (f"see docs/absent.{'md'}", "is not there"),
        (f"see {GIVEN}#lost", "no #lost"),
        (f"({GIVEN}, Space)", "no section 'Space'"),
        (f"({GIVEN},\n    Space), and so on", "no section 'Space'"),
        (f"({GIVEN}, Time and Space)", "no section 'Space'"),
        (f"({GIVEN}, Time, Early)", "no section 'Early'"),
        (f"({GIVEN}, no/)", "no section 'no/'"),
        (f"({GIVEN}, No heading)", "no section 'No heading'"),
    ],
)
def test_an_absent_document_is_seen(tmp_path: Path, citation: str, fault: str) -> None:
    (found,) = absent_documents(planted(tmp_path, docs__given=BOOK, room__code_py=f'"""{citation}."""\n'))
    assert found.startswith("room/code.py: ")
    assert fault in found


def test_pages_made_of_the_code_are_in_the_navigation_alone(tmp_path: Path) -> None:
    assert absent_documents(planted(tmp_path, docs__given=BOOK, room__code_py=f"see {min(MADE)}"))
    (tmp_path / NAVIGATION).parent.mkdir(parents=True)
    (tmp_path / NAVIGATION).write_text(f"{min(MADE)} reference/lost.{'md'}")
    (fault,) = absent_documents(Tree(tmp_path, frozenset([NAVIGATION])))
    assert "reference/lost." in fault


@pytest.mark.parametrize(
    "citation",
    [
        f"see {GIVEN}",
        f"see {GIVEN}#late-frames",
        f"({GIVEN}, Time), without rings",
        f"({GIVEN}, Time and Late frames)",
        f"{GIVEN}, Time, Late frames: one by one",
        f"# {GIVEN},\n# Time\nnow = 1",
        f"{GIVEN}, and {GIVEN}",
        f"https://example.org/absent.{'md'}",
    ],
)
def test_what_is_there_is_no_fault(tmp_path: Path, citation: str) -> None:
    assert absent_documents(planted(tmp_path, docs__given=BOOK, room__code_py=citation)) == []


@pytest.mark.parametrize(
    "link", ["[a](absent.txt)", "[a](../room/absent.py)", "![a](picture.png)", "[a](#lost)", "[a](../../given)"]
)
def test_a_broken_link_is_seen(tmp_path: Path, link: str) -> None:
    assert len(broken_links(planted(tmp_path, docs__given=BOOK + link, room__code_py=""))) == 1
    sound = "[a](#time) [b](../room/code.py) [c](../room) [d](https://example.org/x)"
    assert broken_links(planted(tmp_path, docs__given=BOOK + sound, room__code_py="")) == []


def test_an_absent_path_is_seen(tmp_path: Path) -> None:
    text = "`room/code.py`, `room/`, `other/thing.py`, `application/json`, `room/moved.py`, `room/cellar/`"
    tree = planted(tmp_path, docs__given=text, room__code_py="")
    assert [fault.split()[1] for fault in absent_paths(tree)] == ["room/moved.py", "room/cellar/"]


@pytest.mark.parametrize("place", [OUTSIDE, f"../{OUTSIDE}/clips", "ROOT.parent / 'sha" + "red' / 'clips'"])
def test_a_second_file_that_knows_what_lies_outside_is_seen(tmp_path: Path, place: str) -> None:
    tree = planted(tmp_path, tests__conftest_py=OUTSIDE, room__code_py=place, room__other_py="shared = 1")
    assert names_outside(tree) == ["room/code.py", NAMES_OUTSIDE]


@pytest.mark.parametrize("text", [*PLANS, "see `/wor" + "k/clips`", "data_root: /roo" + "t/data", "/tmp/w" + "t/a"])
def test_a_plan_or_a_machine_is_seen(tmp_path: Path, text: str) -> None:
    (fault,) = plans_and_machines(planted(tmp_path, room__code_py=text, room__other_py="a/work/b, ./root/c, /workers/"))
    assert fault.startswith("room/code.py: ")


def test_results_hold_no_path_at_all(tmp_path: Path) -> None:
    tree = planted(tmp_path, bench__results__run="/tmp/a/clip.mp4", room__code_py="/tmp/upload")
    assert [fault.split(":")[0] for fault in plans_and_machines(tree)] == [f"bench/results/run.{'md'}"]
