"""A real RTSP server: GStreamer's, run by the system's Python, which has its bindings (``cameras.running_camera``).

``python3 camera_server.py MOUNTS [basic|digest USER PASSWORD]``: MOUNTS is JSON, ``{"/path": [CODEC, FILE]}``; each
client sees the file from its beginning, with CODEC ``h264``, ``h265`` or ``mjpeg`` as the file is encoded, ``+sound``
behind that for sound besides; ``sound`` is that alone. Prints its port.
"""

import json
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

SOUND = "audiotestsrc is-live=true ! alawenc ! rtppcmapay pt=8 name=pay0"
PICTURES = {
    "h264": "h264parse config-interval=-1 ! rtph264pay pt=96",
    "h265": "h265parse config-interval=-1 ! rtph265pay pt=96",
    "mjpeg": "jpegparse ! rtpjpegpay pt=26",
}


def main() -> None:
    """Serve until it is ended."""
    mounts, *access = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service("0")
    if access:
        server.set_auth(_asks_for(*access))
    for path, (codec, file) in json.loads(mounts).items():
        factory = GstRtspServer.RTSPMediaFactory.new()
        factory.set_launch(f"( {_pipeline(codec, file)} )")
        if access:
            factory.add_role_from_structure(_may())
        server.get_mount_points().add_factory(path, factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


def _pipeline(codec: str, file: str) -> str:
    kind, _, sound = codec.partition("+")
    if kind == "sound":
        return SOUND
    pictures = f"filesrc location={file} ! qtdemux ! {PICTURES[kind]} name=pay{int(bool(sound))}"
    return f"{SOUND} {pictures}" if sound else pictures


def _asks_for(kind: str, user: str, password: str) -> "GstRtspServer.RTSPAuth":
    auth = GstRtspServer.RTSPAuth.new()
    token = GstRtspServer.RTSPToken.new()
    token.set_string("media.factory.role", "user")
    if kind == "basic":
        auth.set_supported_methods(1)
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    else:
        auth.set_supported_methods(2)
        auth.add_digest(user, password, token)
    return auth


def _may() -> "Gst.Structure":
    role = Gst.Structure.new_empty("user")
    role.set_value("media.factory.access", True)
    role.set_value("media.factory.construct", True)
    return role


if __name__ == "__main__":
    main()
