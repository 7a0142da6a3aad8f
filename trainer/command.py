"""The command ``stmixer-train`` as it is started: without what it needs it says so, before anything begins."""

from __future__ import annotations

import sys

from stmixer.model.extras import TRAIN, brought_by, missing


def main() -> None:
    """Entry point; exit code 2 where the extra ``train`` is not installed."""
    if absent := missing(TRAIN):
        print(f"stmixer-train: {brought_by('train', absent)}", file=sys.stderr)
        raise SystemExit(2)
    from stmixer.trainer.cli import main as run

    run()


if __name__ == "__main__":
    main()
