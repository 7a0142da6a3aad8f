"""What is on the site: documents where they lie in the repository, so that their links are right in both places.

A link to a file of the repository that is no page of the site, code or a folder, is shown as its name. A link to a film
that has a line for itself is shown as the film.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("*.md", "docs/*.md", "weights/README.md", "tests/clips/README.md")
MEDIA = ("docs/images/*", "weights/images/*", "docs/notebook.ipynb")
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^()\s]+)\)")
_FILM = re.compile(r"^\[([^\]]+)\]\(([^()\s]+\.webm)\)$", re.MULTILINE)
_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The repository's documents and their pictures, by their paths from its root, beside the theme's own files; and
    the reference, made of the code."""
    ours = [file for file in files if file.src_dir == config.docs_dir]
    paths = sorted(path for pattern in (*DOCUMENTS, *MEDIA) for path in ROOT.glob(pattern))
    given = [File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)) for path in paths]
    given += [File.generated(config, path, content=text) for path, text in reference.pages().items()]
    return Files([*(file for file in files if file not in ours), *given])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that lead off the site, inside the repository, as plain names; films as films."""
    folder = PurePosixPath(page.file.src_uri).parent

    def film(link: re.Match[str]) -> str:
        file = files.get_file_from_path(_joined(folder, link[2]))
        if file is None:
            return link.group()  # for --strict to say
        source = file.url_relative_to(page.file)
        return f'<video src="{source}" aria-label="{link[1]}" controls loop muted playsinline width="100%"></video>'

    markdown = _FILM.sub(film, markdown)
    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(_name_of(page, files), part) for part in parts)


def _name_of(page: Page, files: Files):  # type: ignore[no-untyped-def]
    folder = PurePosixPath(page.file.src_uri).parent

    def name(link: re.Match[str]) -> str:
        text, target = link.groups()
        path = target.partition("#")[0]
        if not path or ":" in path or files.get_file_from_path(_joined(folder, path)) is not None:
            return link.group()
        if not (ROOT / _joined(folder, path)).exists():
            return link.group()  # for --strict to say
        return text

    return name


def _joined(folder: PurePosixPath, path: str) -> str:
    parts: list[str] = []
    for part in (folder / path).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)
