"""A file that names other files gets nothing fetched, neither from this machine nor from another."""

import io
import struct
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import av
import pytest

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.errors import MediaError


@pytest.fixture
def server(make_video):
    """A web server that holds a video, and the list of what was asked of it."""
    video, asked = make_video(5, container="mpegts"), []

    class PageHandler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(video)))
            self.end_headers()
            self.wfile.write(video)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), PageHandler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/secret.ts", asked
        httpd.shutdown()
        thread.join()


def playlists(url):
    return {
        "hls": f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{url}\n#EXT-X-ENDLIST\n",
        "m3u": f"#EXTM3U\n{url}\n",
        "concat": f"ffconcat version 1.0\nfile '{url}'\n",
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><BaseURL>{url}'
        "</BaseURL></Period></MPD>",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "asx": f'<ASX version="3.0"><Entry><Ref href="{url}"/></Entry></ASX>',
        "ref": f"[Reference]\nRef1={url}\n",
    }


def refuse(data):
    with pytest.raises(MediaError) as caught, VideoReader(io.BytesIO(data), limits=Limits()) as reader:
        list(reader)
    return caught.value.code


@pytest.mark.parametrize("kind", list(playlists("")))
@pytest.mark.parametrize("local", [True, False])
def test_playlists_fetch_nothing(server, make_video, tmp_path, kind, local, monkeypatch):
    url, asked = server
    secret = tmp_path / "secret.ts"
    secret.write_bytes(make_video(5, container="mpegts"))
    monkeypatch.chdir(tmp_path)  # relative names would be found too
    for target in [str(secret), "secret.ts", f"file:{secret}"] if local else [url]:
        assert refuse(playlists(target)[kind].encode()) == "external_resource"
    assert asked == []


def test_the_server_would_have_been_asked(server, tmp_path):
    """What the test above refuses does happen when FFmpeg is given the same bytes without these precautions."""
    url, asked = server
    path = tmp_path / "list.m3u8"
    path.write_text(playlists(url)["hls"])
    with av.open(path, options={"protocol_whitelist": "file,http,tcp"}) as container:
        assert next(container.decode(video=0)).width == 96
    assert asked


@pytest.mark.parametrize("as_path", [True, False])
def test_a_file_by_a_misleading_name_is_still_read_as_what_it_is(server, make_video, tmp_path, as_path):
    url, asked = server
    path = tmp_path / "concat:a%03d.m3u8"
    path.write_bytes(make_video(3))
    if as_path:
        with VideoReader(path, limits=Limits()) as reader:
            assert len(list(reader)) == 3
    else:
        path.write_text(playlists(url)["hls"])
        with path.open("rb") as file, pytest.raises(MediaError):
            VideoReader(file, limits=Limits())
    assert asked == []


def with_reference(data, entry):
    """Replaces the data reference of an MP4 whose index comes last; returns the file with its boxes grown to fit."""
    old = b"\x00\x00\x00\x0curl \x00\x00\x00\x01"
    at = data.index(old)
    changed = bytearray(data[:at] + entry + data[at + len(old) :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        box = data.rindex(name, 0, at) - 4
        size = struct.unpack_from(">I", data, box)[0]
        struct.pack_into(">I", changed, box, size + len(entry) - len(old))
    return bytes(changed)


def alias(path):
    """A QuickTime alias record with this absolute path."""
    name = path.encode()
    body = bytes(10) + b"\x01v" + bytes(26) + bytes(12) + b"\x01f" + bytes(62) + bytes(16)
    body += struct.pack(">HH", 1, 1) + bytes(16)
    body += struct.pack(">HH", 2, len(name)) + name + bytes(len(name) % 2) + struct.pack(">HH", 0xFFFF, 0)
    body = bytes(4) + body
    return struct.pack(">I", len(body) + 8) + b"alis" + body


def test_an_mp4_whose_media_lie_elsewhere_opens_nothing(make_video, tmp_path):
    other = tmp_path / "other.mp4"
    data = make_video(5)
    other.write_bytes(data)
    assert refuse(with_reference(data, alias(str(other)))) == "external_resource"


def test_an_mp4_with_an_address_fetches_nothing(server, make_video):
    url, asked = server
    data = make_video(5)
    body = bytes(4) + url.encode() + b"\0"
    entry = struct.pack(">I", len(body) + 8) + b"url " + body
    # FFmpeg knows no addresses in MP4 and reads the file itself: what matters is that nothing is asked for.
    with VideoReader(io.BytesIO(with_reference(data, entry)), limits=Limits()) as reader:
        list(reader)
    assert asked == []
