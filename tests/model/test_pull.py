"""``stmixer-weights pull`` and ``list``: what is fetched, what is refused, what goes on, and what a name then means."""

from __future__ import annotations

import hashlib
import http.server
import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import stmixer
from stmixer.model.bundled import bundled, published
from stmixer.model.card import CheckpointError, read_header
from stmixer.model.cli import main
from stmixer.model.named import weights_named
from stmixer.model.pull import PullError, pull
from stmixer.model.pulled import PulledWeights, cache_folder, pulled
from stmixer.model.runtimes.choose import open_runtime
from stmixer.model.runtimes.device import named_device
from stmixer.service.errors import StmixerError
from stmixer.trainer.config.file import load_config


@dataclass
class Shelf:
    """What a server has, by path, and how it behaves; ``asked``: path and Range of every request.

    Without an ``etag`` it does not say which version a file is; ``sure_of_none``: it sends any part that is asked for,
    whatever the version.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    etag: str | None = '"one"'
    sure_of_none: bool = False
    cut_at: int | None = None
    claims: int | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "chain.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", chain],
        check=True, capture_output=True,
    )  # fmt: skip
    return chain, key


@pytest.fixture
def shelf(certificate: tuple[Path, Path]) -> Iterator[Shelf]:
    """An https server on this machine."""
    held = Shelf()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            held.asked.append((self.path, wanted))
            if (there := held.redirects.get(self.path)) is not None:
                self.send_response(302)
                self.send_header("Location", there)
                self.end_headers()
                return
            data = held.files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            start = 0
            if wanted is not None and (held.sure_of_none or self.headers.get("If-Range") == held.etag):
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data) > 0:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(held.claims or len(data) - start))
            if held.etag is not None:
                self.send_header("ETag", held.etag)
            self.end_headers()
            self.wfile.write(data[start : held.cut_at])

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Who does not trust us hangs up."""

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    held.url = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield held
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = cache_folder()
    assert folder == tmp_path / "cache" / "stmixer" / "weights"
    return folder


Fetch = Callable[..., PulledWeights]


@pytest.fixture
def fetch(shelf: Shelf, cache: Path, certificate: tuple[Path, Path]) -> Fetch:
    context = ssl.create_default_context(cafile=str(certificate[0]))
    return lambda path, **more: pull(shelf.url + path, cache, context=context, **more)


@pytest.fixture(scope="module")
def weights() -> bytes:
    return bundled()["stmixer-rt"].file.read_bytes()


def call(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def test_what_was_fetched_goes_by_its_name(
    shelf: Shelf, fetch: Fetch, cache: Path, weights: bytes, tmp_path: Path
) -> None:
    """Everywhere: in Python, for serving, to start training from; offline, and it is not fetched twice."""
    shelf.files["/a/mine.safetensors"] = weights
    found = fetch("/a/mine.safetensors", sha256=hashlib.sha256(weights).hexdigest())
    assert found == PulledWeights(
        "mine", cache / "mine.safetensors", f"{shelf.url}/a/mine.safetensors", hashlib.sha256(weights).hexdigest(),
        len(weights),
    )  # fmt: skip
    assert sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") == ["mine.json", "mine.safetensors"]
    shelf.files.clear()
    assert fetch("/a/mine.safetensors") == found
    assert len(shelf.asked) == 1
    named = weights_named("mine")
    assert named is not None
    assert (named.file, read_header(Path("mine"))[0].name) == (found.file, "mine")
    assert open_runtime(None, Path("mine"), named_device("cpu"), runtime="eager").card.name == "mine"
    (tmp_path / "run.yaml").write_text("{run_dir: run, model: rt_nano, init: {weights: mine}, sets: [{kind: custom}]}")
    assert load_config(tmp_path / "run.yaml").init.weights == found.file
    assert stmixer.load("mine").name == "mine"


def test_what_was_cut_off_goes_on(shelf: Shelf, fetch: Fetch, cache: Path, weights: bytes) -> None:
    shelf.files["/mine.safetensors"] = weights
    shelf.cut_at = 100_000
    with pytest.raises(PullError, match=r"ended at 100,000 of .* bytes; what came is kept, the same command goes on"):
        fetch("/mine.safetensors")
    assert (cache / ".mine.partial").stat().st_size == 100_000
    assert pulled(cache) == {}
    shelf.cut_at = None
    assert fetch("/mine.safetensors").bytes == len(weights)
    assert [asked for _, asked in shelf.asked] == [None, "bytes=100000-"]
    assert (cache / "mine.safetensors").read_bytes() == weights


def test_what_was_changed_meanwhile_begins_anew(shelf: Shelf, fetch: Fetch, cache: Path, weights: bytes) -> None:
    shelf.files["/mine.safetensors"] = b"\0" * len(weights)
    shelf.cut_at = 100_000
    with pytest.raises(PullError, match="goes on"):
        fetch("/mine.safetensors")
    shelf.files["/mine.safetensors"], shelf.etag, shelf.cut_at = weights, '"two"', None
    fetch("/mine.safetensors")
    assert (cache / "mine.safetensors").read_bytes() == weights


def test_a_part_of_another_version_is_not_put_behind_what_is_there(
    shelf: Shelf, fetch: Fetch, cache: Path, weights: bytes
) -> None:
    """By a server that does not mind which version it is asked for."""
    shelf.files["/mine.safetensors"], shelf.cut_at, shelf.sure_of_none = weights, 100_000, True
    with pytest.raises(PullError, match="goes on"):
        fetch("/mine.safetensors")
    other = weights[:-1000] + bytes(1000)
    shelf.files["/mine.safetensors"], shelf.etag, shelf.cut_at = other, '"two"', None
    with pytest.raises(PullError, match="sends a part of another version than was begun with; the same command begins"):
        fetch("/mine.safetensors")
    assert not (cache / ".mine.partial").exists()
    assert fetch("/mine.safetensors").sha256 == hashlib.sha256(other).hexdigest()


def test_a_part_that_does_not_say_its_version_goes_on(shelf: Shelf, fetch: Fetch, weights: bytes) -> None:
    """Nor has it to: whoever goes on knows it. Cut off once more it goes on still."""
    shelf.files["/mine.safetensors"], shelf.cut_at = weights, 100_000
    with pytest.raises(PullError, match="goes on"):
        fetch("/mine.safetensors")
    shelf.etag, shelf.sure_of_none, shelf.cut_at = None, True, 200_000
    with pytest.raises(PullError, match=r"ended at 200,000 of .* goes on"):
        fetch("/mine.safetensors")
    shelf.cut_at = None
    assert fetch("/mine.safetensors").sha256 == hashlib.sha256(weights).hexdigest()
    assert [asked for _, asked in shelf.asked] == [None, "bytes=100000-", "bytes=200000-"]


def test_nobody_is_promised_that_it_goes_on_where_it_cannot(
    shelf: Shelf, fetch: Fetch, cache: Path, weights: bytes
) -> None:
    """Without a version nobody knows of what it would go on with."""
    shelf.files["/mine.safetensors"], shelf.cut_at, shelf.etag = weights, 100_000, None
    with pytest.raises(PullError, match=r"ended at 100,000 of [\d,]+ bytes$"):
        fetch("/mine.safetensors")
    shelf.cut_at = None
    assert fetch("/mine.safetensors").sha256 == hashlib.sha256(weights).hexdigest()
    assert [asked for _, asked in shelf.asked] == [None, None]


@pytest.mark.parametrize("etag", ['"one"', None])
def test_what_was_whole_and_not_looked_at_is_not_fetched_again(
    shelf: Shelf, fetch: Fetch, cache: Path, weights: bytes, etag: str | None
) -> None:
    """The process ended between the last byte and the name."""
    shelf.files["/mine.safetensors"], shelf.etag = weights, etag
    with pytest.MonkeyPatch.context() as patch:

        def ended(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("stmixer.model.pull._kept", ended)
        with pytest.raises(KeyboardInterrupt):
            fetch("/mine.safetensors")
    assert fetch("/mine.safetensors").sha256 == hashlib.sha256(weights).hexdigest()
    assert len(shelf.asked) == 1
    assert sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") == ["mine.json", "mine.safetensors"]


NO_WEIGHTS = {
    "a page": (b"<!DOCTYPE html><html><body>Sign in</body></html>", r"is a web page \(a sign-in or an error"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer that Git LFS leaves"),
    "an archive": (b"\x1f\x8b" + b"\1" * 50, "what comes is compressed with gzip"),
    "nothing": (b"", r"what comes is empty \(0 bytes\)"),
    "anything": (b"\x08\x0a" * 90, "what comes is neither a safetensors file nor one of PyTorch's"),
    "other weights": (
        (18).to_bytes(8, "little") + b'{"__metadata__":{}', "does not describe itself|is not a safetensors file"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_WEIGHTS)
def test_what_is_no_weights_is_said_and_thrown_away(shelf: Shelf, fetch: Fetch, cache: Path, case: str) -> None:
    data, says = NO_WEIGHTS[case]
    shelf.files["/mine.safetensors"] = data
    with pytest.raises(PullError, match=says):
        fetch("/mine.safetensors")
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_another_file_than_was_asked_for(shelf: Shelf, fetch: Fetch, cache: Path, weights: bytes) -> None:
    shelf.files["/mine.safetensors"] = weights
    with pytest.raises(PullError, match=f"has the SHA-256 {hashlib.sha256(weights).hexdigest()}, not 0000"):
        fetch("/mine.safetensors", sha256="0" * 64)
    assert pulled(cache) == {}
    digest = hashlib.sha256(weights).hexdigest()
    assert fetch(f"/mine.safetensors#sha256={digest}").sha256 == digest
    with pytest.raises(PullError, match="delete it to fetch it anew"):
        fetch("/mine.safetensors", sha256="0" * 64)


def test_redirects_are_followed_a_few_times_and_to_https_alone(shelf: Shelf, fetch: Fetch, weights: bytes) -> None:
    shelf.files["/far.safetensors"] = weights
    shelf.redirects = {"/mine.safetensors": f"{shelf.url}/far.safetensors", "/loop.safetensors": "/loop2.safetensors"}
    shelf.redirects |= {"/loop2.safetensors": "/loop.safetensors", "/plain.safetensors": "http://127.0.0.1/x"}
    assert fetch("/mine.safetensors").name == "mine"
    with pytest.raises(PullError, match=r"leads to http://127\.0\.0\.1/x, which is no https address"):
        fetch("/plain.safetensors")
    with pytest.raises(PullError, match=r"infinite loop|answers with 302"):
        fetch("/loop.safetensors")
    assert len(shelf.asked) < 15


def test_what_is_too_large_is_not_begun(shelf: Shelf, fetch: Fetch, cache: Path, weights: bytes) -> None:
    shelf.files["/mine.safetensors"], shelf.claims = weights, 5 << 30
    with pytest.raises(PullError, match="is larger than 4 GiB, the most that is fetched"):
        fetch("/mine.safetensors")
    assert not (cache / ".mine.partial").exists()


def test_more_than_was_said_ends_it(
    shelf: Shelf, fetch: Fetch, cache: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stmixer.model.pull.MOST_BYTES", len(weights) - 1)
    shelf.files["/mine.safetensors"] = weights
    with pytest.raises(PullError, match="the most that is fetched"):
        fetch("/mine.safetensors")
    assert not (cache / ".mine.partial").exists()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1/mine.safetensors", "is no https address; only those are fetched"),
        ("file:///etc/passwd", "is no https address"),
        ("https://me:secret@127.0.0.1/mine.safetensors", "with a user or password in it is not fetched"),
        ("https://127.0.0.1/", "'' is no name for weights; give one with --name"),
        ("https://127.0.0.1/a%2F..%2F..%2Fx", None),
        ("https://127.0.0.1/mine.safetensors#sha256=12", "12 is no SHA-256"),
        ("https://127.0.0.1:1/mine.safetensors", "cannot be fetched: "),
    ],
)
def test_addresses_that_are_not_fetched(cache: Path, url: str, says: str | None) -> None:
    with pytest.raises(PullError, match=says or "."):
        pull(url, cache)
    assert pulled(cache) == {}
    assert not [path for path in cache.parent.parent.rglob("*") if path.is_file() and cache not in path.parents]


def test_who_is_not_trusted(shelf: Shelf, cache: Path) -> None:
    with pytest.raises(PullError, match=r"cannot be fetched: .*certificate"):
        pull(f"{shelf.url}/mine.safetensors", cache)
    assert shelf.asked == []


def test_a_name_that_is_taken(shelf: Shelf, fetch: Fetch, weights: bytes) -> None:
    shelf.files = {"/a/mine.safetensors": weights, "/b/mine.safetensors": weights}
    fetch("/a/mine.safetensors")
    with pytest.raises(PullError, match=r"the name mine is taken: .* is from .*/a/mine.safetensors; give another"):
        fetch("/b/mine.safetensors")
    assert fetch("/b/mine.safetensors", name="other").name == "other"


def test_a_file_that_is_not_there(fetch: Fetch) -> None:
    with pytest.raises(PullError, match=r"/no.safetensors is not there"):
        fetch("/no.safetensors")


def test_one_of_pytorchs_is_to_be_converted(shelf: Shelf, fetch: Fetch, cache: Path) -> None:
    """It has no name yet: what is to be done is told, and it is not taken for weights."""
    shelf.files["/slow.pth"] = b"\x80\x02" + b"}q\0." * 30
    found = fetch("/slow.pth")
    assert found.file == cache / "slow.pth"
    assert weights_named("slow") is None
    told = call("pull", "slow")
    assert told.exit_code == 0, told.output
    command = f"stmixer-weights convert {cache / 'slow.pth'} -o {cache / 'slow.safetensors'}"
    assert command in " ".join(told.stdout.split())
    with pytest.raises(CheckpointError, match="slow does not exist; `stmixer-weights pull slow` says how to get it"):
        read_header(Path("slow"))


def test_the_list_knows_what_was_converted(shelf: Shelf, fetch: Fetch, cache: Path, weights: bytes) -> None:
    shelf.files["/slow.pth"] = b"\x80\x02" + b"}q\0." * 30
    fetch("/slow.pth")

    def row() -> str:
        (found,) = [line for line in call("list").stdout.splitlines() if " slow " in line]
        return found

    assert "to be converted" in row()
    (cache / "slow.safetensors").write_bytes(weights)
    assert "to be converted" not in row()
    assert hashlib.sha256(weights).hexdigest() in row()
    assert f"fetched from {shelf.url}/slow.pth" in row()


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x" * 5000, "x" * 300 + ".safetensors"])
def test_a_name_that_no_file_can_have(cache: Path, tmp_path: Path, name: str) -> None:
    """Is said not to be there, wherever weights may be named, not told as the system's error."""
    assert weights_named(name) is None
    with pytest.raises(CheckpointError, match="does not exist"):
        read_header(Path(name))
    with pytest.raises(StmixerError, match=r"is neither a .safetensors|there is no file"):
        stmixer.load(name)
    run = {"run_dir": "run", "model": "rt_nano", "init": {"weights": name}, "sets": [{"kind": "custom"}]}
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    assert load_config(tmp_path / "run.yaml").init.weights == tmp_path / name
    told = call("info", name)
    assert (told.exit_code, type(told.exception)) == (2, SystemExit)


# -- the commands


def test_the_list_says_what_is_known_and_no_more(cache: Path, weights: bytes) -> None:
    cache.mkdir(parents=True)
    (cache / "by-hand.safetensors").write_bytes(weights)
    listed = call("list")
    assert listed.exit_code == 0, listed.output
    (mine,) = [line for line in listed.stdout.splitlines() if line.split()[:1] == ["│"] and " by-hand " in line]
    assert "put there by hand" in mine
    assert hashlib.sha256(weights).hexdigest() in mine
    (vit,) = [line for line in listed.stdout.splitlines() if " stmixer-vit-b-v2 " in line]
    assert "36.1 (AVA v2.2)" in vit
    assert vit.count("unknown") == 2


def test_nobody_invents_an_address_or_a_hash() -> None:
    """What is published has an address or a hash only together, and mAP as docs/paper.md has it."""
    paper = (Path(__file__).resolve().parents[2] / "docs" / "paper.md").read_text()
    assert len(published()) == 5
    for one in published().values():
        assert (one.url is None) == (one.sha256 is None)
        (row,) = [line for line in paper.splitlines() if line.startswith(f"| `{one.variant}` |")]
        assert f"{one.map_percent:.1f}" in row


def test_how_a_published_one_is_to_be_had(cache: Path) -> None:
    result = call("pull", "stmixer-slowonly-r50")
    assert result.exit_code == 2
    says = " ".join(result.stderr.split())
    assert "its authors publish it on Google Drive" in says
    assert f"convert FILE.pth -o {cache / 'stmixer-slowonly-r50'}.safetensors --variant slowonly_r50" in says
    assert "Its size and SHA-256 are unknown" in says
    there = cache.parent.parent.parent / "FILE.pth"
    there.write_bytes(b"no checkpoint")
    done = call("convert", str(there), "-o", f"{cache / 'stmixer-slowonly-r50'}.safetensors")
    assert (done.exit_code, "is not a folder" in done.stderr) == (2, False), done.stderr
    assert str(there) in "".join(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["pull", "stmixer-rt"], 0, "comes with the package: there is nothing to fetch"),
        (["pull", "nobody-knows"], 2, "nobody-knows is no https address, and none of the names that are known"),
        (["pull", "https://127.0.0.1/x.safetensors", "--name", "tiny"], 2, "is the name of something that is bundled"),
        (["pull", "https://127.0.0.1/stmixer-rt.safetensors"], 2, "stmixer-rt is the name of something"),
        (["pull", "https://127.0.0.1/a/vit_b.pth"], 2, "vit_b is the name of something"),
    ],
)
def test_names_of_the_command(cache: Path, words: list[str], code: int, says: str) -> None:
    result = call(*words)
    assert (result.exit_code, says in " ".join(result.output.split())) == (code, True), result.output


def test_without_a_home_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert (cache_folder(), pulled(), weights_named("mine")) == (None, {}, None)
    assert "there is no home folder to keep weights in" in call("pull", "https://h/x.safetensors").stderr


def test_what_is_not_ready_is_said_in_python(cache: Path) -> None:
    with pytest.raises(StmixerError, match="is not ready to be used: `stmixer-weights pull stmixer-vit-b` says"):
        stmixer.load("stmixer-vit-b")


def test_a_record_that_is_none_is_passed_over(cache: Path, weights: bytes) -> None:
    cache.mkdir(parents=True)
    for name, text in {"a": "{", "b": "[]", "c": json.dumps({"file": "../../c.pth", "source": "x"})}.items():
        (cache / f"{name}.json").write_text(text)
    assert pulled() == {}
