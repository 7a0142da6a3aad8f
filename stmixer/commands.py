"""The commands of ``stmixer``: they stand above all rooms, and join serving and teaching.

What serves is imported by `stmixer.service.cli`; what trains when it is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stmixer.model.extras import TRAIN, brought_by, missing
from stmixer.service.cli import app, fail
from stmixer.service.cli import main as serve


@app.command()
def teach(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="clips, FOLDER/LABEL/*.mp4 and FOLDER/none/*.mp4")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="the weights file (default: FOLDER.safetensors here)")
    ] = None,
    weights: Annotated[str, typer.Option(help="to start from: a name or a file")] = "stmixer-rt",
    negatives: Annotated[
        list[Path] | None,
        typer.Option("--negatives", metavar="SET", help="a custom set's folder of people who do something else"),
    ] = None,
    detector: Annotated[
        Path | None, typer.Option("--detector", help="a YOLOX file that finds people (default: the weights do)")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="over the preset, for example epochs=4")
    ] = None,
    json_lines: Annotated[bool, typer.Option("--json", help="tell progress as JSON Lines")] = False,
) -> None:
    """Teach it your own actions: from a few clips of each to weights that are served.

    A folder for each label, and one called none for people who do none of it. Clips of one scene lie in a folder of
    their own below their label's, or have names that begin alike before __: they are never split. The same command
    again goes on where it was stopped, and does only what has changed.
    """
    if absent := missing(TRAIN):
        fail(brought_by("train", absent))
    from stmixer.trainer.teach.command import run

    code = run(folder, output, Path(weights), negatives or [], detector, settings or [], json_lines=json_lines)
    raise typer.Exit(code)


def main() -> None:
    """Run the one that is asked for."""
    serve()
