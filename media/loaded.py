"""What PyAV and Pillow import only when it is first needed.

A process that gives up its access to files before it reads its first byte has to have all of that by then.
"""

import importlib

_NEEDED_LATER = ("av.subtitles.codeccontext", "av.subtitles.stream", "PIL.ImageFile")


def load_all() -> None:
    """Import it now."""
    for name in _NEEDED_LATER:
        importlib.import_module(name)
