"""What the package's programs have in common: help that looks alike, and `--version`."""

from __future__ import annotations

from importlib import metadata

import typer


def program(name: str, about: str) -> typer.Typer:
    """A command of that name, to which others are added.

    Its help and what it says of a misspelt option are plain text, alike in a window, a pipe and a log; an exception
    that nobody foresaw is Python's own.
    """
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=about
    )

    def tell(wanted: bool) -> None:
        if wanted:
            typer.echo(f"{name} {metadata.version('stmixer')}")
            raise typer.Exit

    option = typer.Option(False, "--version", help="say it and end", callback=tell, is_eager=True)

    @app.callback()
    def root(version: bool = option) -> None:
        """What stands before a command's name."""

    return app
