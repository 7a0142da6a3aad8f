"""A phone, by docs/operate.md: a certificate of one's own, a key, and the page gives it its cameras by the network."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from blocks import blocks
from playwright.sync_api import Browser, expect
from serving import running_server
from webpage import PATIENCE_MS, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAGES = "192.168.1.10"


def address() -> str:
    """One by which the network knows this machine."""
    found = [
        each.address
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family == socket.AF_INET and not each.address.startswith("127.")
    ]
    if not found:
        pytest.skip("this machine has no address but its own loop")
    return found[0]


def test_the_page_gives_a_phone_its_cameras(chromium: Browser, tiny_weights: Path, tmp_path: Path) -> None:
    here = address()
    (block,) = [text for kind, text in blocks("docs/operate.md") if text.startswith("openssl req -x509")]
    certificate, key, serve = block.replace(PAGES, here).splitlines()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", f"{certificate}\n{key}"], cwd=tmp_path, env={**os.environ, "PATH": path}, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    (secret,) = re.findall(r"stm_\S+", done.stdout)
    words = shlex.split(serve)
    assert words[:2] == ["stmixer", "serve"]
    given = {
        name.removeprefix("--").replace("-", "_"): value for name, value in zip(words[2::2], words[3::2], strict=True)
    }
    files = {name: tmp_path / given.pop(name) for name in ("keys", "ssl_certfile", "ssl_keyfile")}
    assert given == {"host": "0.0.0.0"}
    with running_server(weights=tiny_weights, **given, **files) as server:
        port = server.url.rpartition(":")[2]
        # who calls is asked about the certificate once, and takes it
        context = chromium.new_context(ignore_https_errors=True, viewport={"width": 390, "height": 844})
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto(f"https://{here}:{port}/")
        page.wait_for_selector("body[data-loaded]")
        page.locator("#key").fill(secret)
        page.locator("#key").press("Enter")
        page.get_by_role("button", name="Start camera").click()
        wait_for(page, "__stmixer.state === 'live' && __stmixer.results.length > 0")
        expect(page.get_by_label("Camera", exact=True).locator("option")).to_have_count(2)
        context.close()
