"""The command ``stmixer`` as it is started: Ctrl-C is no traceback, though modules are still being imported."""

from __future__ import annotations

import sys

EXIT_STOPPED = 130


def main() -> None:
    """Entry point."""
    try:
        from stmixer.commands import main as run

        run()
    except KeyboardInterrupt:
        print("stmixer: stopped", file=sys.stderr)
        raise SystemExit(EXIT_STOPPED) from None


if __name__ == "__main__":
    main()
