"""``stmixer serve`` with another module in a child's place: a worker or a decoder that fails as a drill wants it.

    python -m stmixer.service.bench.faulty_service [--worker-module N] [--decoder-module N] [--teacher-module N]

Everything else is said by the environment, as for ``stmixer serve``, which itself cannot be told to do this.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

from stmixer.service.api.server import run_server
from stmixer.service.engine.worker import WORKER_MODULE
from stmixer.service.logs import configure
from stmixer.service.settings import Settings
from stmixer.service.sources.decoder_pool import DECODER_MODULE
from stmixer.service.teaching.teaching import TEACHER_MODULE


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="faulty_service")
    parser.add_argument("--worker-module", default=WORKER_MODULE)
    parser.add_argument("--decoder-module", default=DECODER_MODULE)
    parser.add_argument("--teacher-module", default=TEACHER_MODULE)
    modules, given = parser.parse_args(arguments), dict[str, Any]()
    settings = Settings(**given)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    configure(settings)
    run_server(
        settings,
        worker_module=modules.worker_module,
        decoder_module=modules.decoder_module,
        teacher_module=modules.teacher_module,
    )


if __name__ == "__main__":
    main()
