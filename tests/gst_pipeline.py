"""GStreamer's pipelines, run by the system's Python, which has its bindings (``gstreamer.run``).

``python3 gst_pipeline.py PIPELINE``: runs it to its end; exit code 1 and a line where it fails.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402


def main() -> None:
    """Run what is asked for."""
    Gst.init(None)
    pipeline = Gst.parse_launch(sys.argv[1])
    pipeline.set_state(Gst.State.PLAYING)
    message = pipeline.get_bus().timed_pop_filtered(Gst.CLOCK_TIME_NONE, Gst.MessageType.EOS | Gst.MessageType.ERROR)
    pipeline.set_state(Gst.State.NULL)
    if message.type == Gst.MessageType.ERROR:
        sys.exit(f"{message.parse_error()}")


if __name__ == "__main__":
    main()
