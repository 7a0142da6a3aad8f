"""A release: one version everywhere, and a workflow that builds it from its tag."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ROOT / ".github" / "workflows"
WORKFLOW = WORKFLOWS / "release.yml"


def loaded(name: str) -> ModuleType:
    """A program of CI's."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def release() -> ModuleType:
    return loaded("release")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_this_version_can_be_released(release: ModuleType) -> None:
    notes = release.notes(f"v{release.version()}")
    assert f"\n## {release.version()}\n\n{notes}" in (ROOT / "CHANGELOG.md").read_text()
    assert "\n## " not in notes


def test_notes_are_the_section_of_one_version(release: ModuleType, copy: Path) -> None:
    (copy / "CHANGELOG.md").write_text(
        f"# C\n\n## 9\n\nNew.\n\n## {release.version()}\n\nThis.\n\n### Mended\n- It.\n\n## 0\n\nOld.\n"
    )
    assert release.notes(f"v{release.version()}", copy) == "This.\n\n### Mended\n- It.\n"


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("pyproject.toml", 'version = "', 'version = "9', "the tag is v"),
        ("CITATION.cff", "version: ", "version: 9", "CITATION.cff"),
        ("CHANGELOG.md", "## 0", "## 9", "no section"),
    ],
)
def test_another_version_somewhere_is_no_release(
    release: ModuleType, copy: Path, file: str, old: str, new: str, says: str
) -> None:
    tag = f"v{release.version(copy)}"
    assert release.notes(tag, copy)
    text = (copy / file).read_text()
    (copy / file).write_text(re.sub(f"^{old}", new, text, count=1, flags=re.MULTILINE))
    with pytest.raises(release.NotReleasable, match=says):
        release.notes(tag, copy)


def test_the_command_says_what_differs() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "release.py", "v0.0.0"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "the tag is v0.0.0" in done.stderr


def test_documents_name_this_version(release: ModuleType) -> None:
    named = {
        found
        for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for found in re.findall(r"stmixer-(\d+\.\d+\.\d+)-py3", path.read_text())
    }
    assert named == {release.version()}


def test_the_workflows_are_some() -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    files = sorted(WORKFLOWS.glob("*.yml"))
    assert [file.name for file in files] == ["release.yml", "test.yml"]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_workflow_runs_what_is_here() -> None:
    """Files that it names exist, nothing goes out before the tests have passed, and one job alone may write."""
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    commands = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    for path in re.findall(r"(?:\.ci/[\w.]+|tests/clips/\S+|constraints\.txt)", commands):
        assert (ROOT / path).is_file(), path
    for kind in jobs["image"]["strategy"]["matrix"]["kind"]:
        assert (ROOT / "docker" / f"{kind}.Dockerfile").is_file()
    assert ".ci/run" in "\n".join(step.get("run", "") for step in jobs["check"]["steps"])
    assert {name for name, job in jobs.items() if job.get("needs") == "check"} == {"package", "image"}
    assert [name for name, job in jobs.items() if "permissions" in job] == ["package"]


@pytest.fixture(scope="module")
def addresses() -> ModuleType:
    return loaded("addresses")


def test_a_release_says_where_it_is_from(addresses: ModuleType, release: ModuleType, copy: Path) -> None:
    before = tomllib.loads((copy / "pyproject.toml").read_text())
    addresses.write("https://forge.example/team/stmixer", "v7.0.0", copy)
    project = tomllib.loads((copy / "pyproject.toml").read_text())
    urls = project["project"].pop("urls")
    assert urls == before["project"].pop("urls") | {
        "Source": "https://forge.example/team/stmixer",
        "Issues": "https://forge.example/team/stmixer/issues",
        "Changelog": "https://forge.example/team/stmixer/blob/v7.0.0/CHANGELOG.md",
    }
    assert project == before, "nothing else"
    cited = yaml.safe_load((copy / "CITATION.cff").read_text())
    assert cited["repository-code"] == "https://forge.example/team/stmixer"
    assert release.notes(f"v{release.version(copy)}", copy)
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.citation-file-format"]
    done = subprocess.run([*command, copy / "CITATION.cff"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "url", ["http://forge.example/a/b", "https://forge.example", "https://a b/c", 'https://f.example/"x']
)
def test_what_is_no_address_is_not_written(addresses: ModuleType, copy: Path, url: str) -> None:
    texts = [path.read_text() for path in sorted(copy.iterdir())]
    with pytest.raises(ValueError, match="is no https address"):
        addresses.write(url, "v1", copy)
    assert [path.read_text() for path in sorted(copy.iterdir())] == texts


def test_addresses_are_written_once(addresses: ModuleType, copy: Path) -> None:
    addresses.write("https://forge.example/team/stmixer", "v7.0.0", copy)
    with pytest.raises(ValueError, match=r"pyproject\.toml"):
        addresses.write("https://forge.example/team/stmixer", "v7.0.0", copy)


def test_the_workflow_writes_them_before_it_builds() -> None:
    """A checkout has none: an address that nobody knows is not made up."""
    commands = [step.get("run", "") for step in yaml.safe_load(WORKFLOW.read_text())["jobs"]["package"]["steps"]]
    (written,) = [at for at, command in enumerate(commands) if ".ci/addresses.py" in command]
    (built,) = [at for at, command in enumerate(commands) if "uv build" in command]
    assert written < built
    assert '"$GITHUB_SERVER_URL/$GITHUB_REPOSITORY" "$GITHUB_REF_NAME"' in commands[written]
    assert list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]) == ["Paper"]
