"""FFmpeg as what publishes a film: a process of its own, which encodes nothing anew and keeps the film's pace.

``python ffmpeg_publisher.py FILM URL FORMAT OPTIONS``: OPTIONS is JSON, of FFmpeg's muxer. Whoever is not there yet, or
takes no more, is waited for.
"""

import json
import sys
import time

import av


def main() -> None:
    """Publish once, to its end."""
    film, url, kind, options = sys.argv[1:]
    with av.open(film) as source, av.open(url, "w", format=kind, options=json.loads(options)) as output:
        track = source.streams.video[0]
        copy = output.add_stream_from_template(track)
        output.start_encoding()  # an RTSP server takes it now
        began = time.monotonic()
        for packet in source.demux(track):
            if packet.dts is None or packet.time_base is None:
                continue
            time.sleep(max(0.0, began + float(packet.dts * packet.time_base) - time.monotonic()))
            packet.stream = copy
            given = time.monotonic()
            output.mux(packet)
            began += time.monotonic() - given


if __name__ == "__main__":
    main()
