"""How the process that learns begins: ``python -m stmixer.service.teaching.begin PARENT MODULE arguments…``.

It makes itself one that gives way to all that serves, ends with its parent, heeds Ctrl-C, and writes no file past a
bound; then it is ``python -m MODULE arguments…``. Its environment and folder are those that it was started with.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

from stmixer.service.ipc.child import die_with_parent, more_expendable

NICENESS = 10
EXPENDABLE = 900
"""Where memory runs out it goes before decoders and workers."""
MOST_FILE_BYTES = 4 * 2**30


def main(arguments: list[str]) -> None:
    """Become it."""
    parent, module, *rest = arguments
    die_with_parent()
    if os.getppid() != int(parent):  # it has ended already
        raise SystemExit(1)
    os.nice(NICENESS)
    more_expendable(EXPENDABLE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    if hard == resource.RLIM_INFINITY or hard > MOST_FILE_BYTES:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_FILE_BYTES, MOST_FILE_BYTES))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *rest])


if __name__ == "__main__":
    main(sys.argv[1:])
