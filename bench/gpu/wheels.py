"""What a machine with PyTorch, timm, OpenCV and pytest lacks to run all of this: fetched where a network is.

    python -m bench.gpu.wheels .wheels

Wheels for Python 3.12 on x86-64, of the versions in constraints.txt, into a folder that git does not know.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LACKING = (
    "aiomqtt", "annotated-doc", "annotated-types", "anyio", "av", "certifi", "click", "fastapi", "h11", "httpcore",
    "httpx", "idna", "markdown-it-py", "mdurl", "opentelemetry-api", "paho-mqtt", "prometheus-client", "psutil",
    "pydantic", "pydantic-core", "pydantic-settings", "pytest-timeout", "python-dotenv", "python-multipart", "rich",
    "shellingham", "starlette", "typer", "typing-inspection", "uvicorn", "websockets",
)  # fmt: skip
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MAX_BYTES = 60 * 2**20
"""Of the tracked files and the wheels together: what is carried to such a machine."""
WHEELS_BYTES = 40_900_000
"""What the wheels take, as fetched last; the largest is PyAV's, 35.8 MB."""
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def pinned() -> list[str]:
    """NAME==VERSION of each. Raises KeyError for one that constraints.txt does not have."""
    lines = (line.partition(";")[0].strip() for line in CONSTRAINTS.read_text().splitlines())
    versions = dict(line.split("==") for line in lines if "==" in line)
    return [f"{name}=={versions[name]}" for name in LACKING]


def command(folder: Path) -> list[str]:
    """pip's, without what each needs: the list is complete."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    kind = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", *platforms]
    return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *kind, "-d", str(folder), *pinned()]


def main() -> None:
    """Fetch, and say how much it is."""
    folder = Path(sys.argv[1])
    subprocess.run(command(folder), check=True)
    total = sum(path.stat().st_size for path in folder.glob("*.whl"))
    print(f"{len(list(folder.glob('*.whl')))} wheels, {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
