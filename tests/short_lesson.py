"""`stmixer teach` with the settings of a lesson that is over in a minute or two (``tests/trainer/test_teach.py``)."""

from __future__ import annotations

import sys

from stmixer.cli import main

SHORT = {"cached_features.segments": 12, "clips_per_epoch": 48, "batch_size": 8, "epochs": 2, "evaluate.every": 15}

if __name__ == "__main__":
    sys.argv += [f"--set={key}={value}" for key, value in SHORT.items()]
    main()
