"""The documents as a site: built strictly, with links that are right in the repository and there."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stmixer
from stmixer.service.api.app import openapi
from stmixer.service.settings import Settings

pytest.importorskip("mkdocs", reason="mkdocs is not installed: make check installs it")

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("docs", "weights/README.md", "weights/images", "weights/recipe", "weights/LICENSE", "tests/clips/README.md",
          "bench/results", "LICENSE", "CITATION.cff")  # fmt: skip
"""What documents link to, besides each other."""
ABSENT, LOST = f"absent.{'md'}", f"api.{'md'}#lost"


def build(root: Path, out: Path) -> tuple[int, str]:
    """Exit status and what it says."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    command += ["--config-file", str(root / "docs" / "site" / "mkdocs.yml")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the repository as it is."""
    out = tmp_path_factory.mktemp("site")
    status, said = build(ROOT, out)
    assert status == 0, said
    return out


def test_every_document_is_on_it(site: Path) -> None:
    documents = {str(path.relative_to(ROOT).with_suffix("")) for path in (ROOT / "docs").glob("*.md")}
    documents |= {"CONTRIBUTING", "CHANGELOG", "SECURITY", "weights", "tests/clips"}
    start = (site / "index.html").read_text()
    for name in documents:
        assert (site / name / "index.html").is_file()
        assert f'href="{name}/"' in start, f"{name} is not in the navigation"


def test_the_reference_is_made_of_the_code(site: Path) -> None:
    start = (site / "index.html").read_text()
    pages = {path.parent.name: html.unescape(path.read_text()) for path in (site / "reference").glob("*/index.html")}
    assert set(pages) == {"rest", "websocket", "cli", "settings", "python"}
    for name in pages:
        assert f'href="reference/{name}/"' in start, f"{name} is not in the navigation"
    for path, operations in openapi()["paths"].items():
        assert all(f">{method.upper()} {path}<" in pages["rest"] for method in operations), path
    for name, told in Settings.model_fields.items():
        assert f"<code>STMIXER_{name.upper()}</code>" in pages["settings"]
        assert (told.description or "").split(";")[0].replace("`", "") in re.sub("</?code>", "", pages["settings"])
    assert all(f">stmixer.{name}<" in pages["python"] for name in stmixer.__all__ if name != "__version__")
    assert "<code>int | None</code>" in pages["python"], "a bar in code is no cell"
    for message in ("start", "update", "flush", "stop", "ready", "result", "track", "status", "warning", "goaway",
                    "summary", "error"):  # fmt: skip
        assert f'id="{message}"' in pages["websocket"], message
    for command in ("stmixer serve", "stmixer keys add", "stmixer detect", "stmixer-weights info", "stmixer-train fit"):
        assert f">{command}<" in pages["cli"], command
    assert "<code>--score-threshold</code>" in pages["cli"]


def test_links_between_documents_lead_to_pages(site: Path) -> None:
    assert 'href="../../weights/#data"' in (site / "docs" / "data" / "index.html").read_text()
    assert 'href="docs/protocol/#access-and-limits"' in (site / "index.html").read_text()


def test_what_is_no_page_is_a_name(site: Path) -> None:
    page = (site / "docs" / "train" / "index.html").read_text()
    assert "weights/recipe holds what made the bundled weights" in page


def test_films_and_pictures_of_the_product_are_shown(site: Path) -> None:
    """On the page, and there: in no more than is shown of them at once."""
    page = site / "docs" / "tour" / "index.html"
    (film,) = re.findall(r'<video src="([^"]+)"', page.read_text())
    pictures = re.findall(r'<img alt="[^"]+" src="([^"]+)"', page.read_text())
    assert len(pictures) >= 5
    shown = [(page.parent / name).resolve() for name in (film, *pictures)]
    assert all(path.is_file() and path.stat().st_size < 1_500_000 for path in shown)
    kept = {path.name for path in (ROOT / "docs" / "images").iterdir()}
    elsewhere = re.findall(r"docs/images/([\w.-]+)", (ROOT / "README.md").read_text())
    elsewhere += re.findall(r"\(images/([\w.-]+)\)", (ROOT / "docs" / "scale.md").read_text())
    assert {path.name for path in shown} | set(elsewhere) == kept


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]*)"|<link[^>]*href="([^"]*)"', page.read_text())
        assert not [a or b for a, b in loaded if (a or b).startswith(("http:", "https:", "//"))], page


@pytest.mark.parametrize("link", [ABSENT, LOST, "../service/absent.py"])
def test_a_broken_link_fails(tmp_path: Path, link: str) -> None:
    for name in PLACES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, tmp_path / name)
    for path in ROOT.glob("*.md"):
        shutil.copyfile(path, tmp_path / path.name)
    page = tmp_path / "docs" / "paper.md"
    page.write_text(f"{page.read_text()}\n[a]({link})\n")
    status, said = build(tmp_path, tmp_path / "out")
    assert status != 0
    (warning,) = [line for line in said.splitlines() if line.startswith("WARNING")]
    assert link in warning
