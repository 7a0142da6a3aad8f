"""A real nginx (Debian's package) before a service."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from posting import eventually
from serving import Server
from watching import need

SITE = {"Host": "cam.example", "Origin": "https://cam.example:8443"}
"""What a browser says that has it under its name."""


@contextmanager
def nginx(site: str, server: Server, folder: Path) -> Iterator[Server]:
    """Running with a site of its own; the service as it is seen through it, below /cam."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    site = site.replace("127.0.0.1:8000", server.url.removeprefix("http://")).replace("listen 8080", f"listen {port}")
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""  # its workers write below a folder of ours
    (folder / "nginx.conf").write_text(
        f"{user}daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{site}\n}}\n"
    )
    process = subprocess.Popen([need("nginx", "nginx-light"), "-c", folder / "nginx.conf", "-e", folder / "error.log"])
    try:
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return httpx.get(f"{url}/cam/healthz", headers=SITE).status_code == 200
            except httpx.TransportError:
                return False

        eventually(answers)
        yield Server(f"{url}/cam", server.process)
    finally:
        process.terminate()
        process.wait(10)
