"""docker/deploy and .env: what an operator copies, checked by the programs that read it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from watching import need

from stmixer.service.api.draw import MAX_RESULTS_BYTES
from stmixer.service.api.uploads import OVERHEAD_BYTES
from stmixer.service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "docker" / "deploy"
SHUTDOWN_S = Settings.model_fields["shutdown_timeout"].default


def unit() -> dict[str, str]:
    """The unit's settings; each stands there once."""
    lines = (DEPLOY / "stmixer.service").read_text().splitlines()
    pairs = [line.partition("=")[::2] for line in lines if line and line[0] not in "#["]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    analyze = need("systemd-analyze", "systemd")
    text = (DEPLOY / "stmixer.service").read_text()
    # what is installed on the operator's machine is not on this one
    (tmp_path / "stmixer.service").write_text(re.sub(r"/opt/stmixer\S+", "/bin/true", text))
    done = subprocess.run(
        [analyze, "verify", "--man=no", tmp_path / "stmixer.service"], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if "stmixer" in line] == []
    assert done.returncode == 0, done.stderr


def test_the_unit_waits_for_the_drain_and_lets_the_service_end_its_children() -> None:
    settings = unit()
    assert float(settings["TimeoutStopSec"]) > SHUTDOWN_S
    assert settings["KillMode"] == "mixed"
    assert settings["NoNewPrivileges"] == "yes"
    assert not settings.keys() & {"RestrictNamespaces", "SystemCallFilter", "PrivateUsers"}, "decoders need these"
    assert "--keys" in settings["ExecStart"]


def test_the_unit_may_write_where_it_keeps_what_it_measured() -> None:
    """Home folders are closed to it, and the file system is read-only."""
    settings = unit()
    assert settings["Environment"] == f"STMIXER_CACHE_DIR=/var/cache/{settings['CacheDirectory']}"
    assert "cache_dir" in Settings.model_fields


def test_the_unit_has_a_folder_for_what_is_to_stay() -> None:
    """Events, clips and lessons: docs/operate.md and the unit's own comment name one folder."""
    settings = unit()
    folder = f"/var/lib/{settings['StateDirectory']}"
    assert settings["StateDirectoryMode"] == "0700"
    assert f"STMIXER_EVENTS_FILE={folder}/" in (ROOT / "docs" / "operate.md").read_text()


@pytest.mark.parametrize(
    ("file", "pattern"),
    [("nginx.conf", r"client_max_body_size (\d+)m;"), ("Caddyfile", r"max_size (\d+)MiB ")],  # nginx's m is 2**20
)
def test_a_proxy_lets_the_largest_body_through(file: str, pattern: str) -> None:
    """A video with results to be drawn into it."""
    (mib,) = re.findall(pattern, (DEPLOY / file).read_text())
    largest = Settings.model_fields["max_upload_mb"].default * 2**20 + MAX_RESULTS_BYTES + OVERHEAD_BYTES
    assert largest <= int(mib) * 2**20 < largest + 2**20


def test_nginx_is_configured_as_the_page_says() -> None:
    """A test runs nginx with the page's block (tests/service/test_proxies.py)."""
    (block,) = re.findall(r"^```nginx\n(.*?)^```$", (ROOT / "docs" / "proxy.md").read_text(), re.DOTALL | re.MULTILINE)
    assert (DEPLOY / "nginx.conf").read_text() == block


def test_caddy_finds_no_fault_with_its_file(tmp_path: Path) -> None:
    caddy = need("caddy", "caddy")
    done = subprocess.run(
        [caddy, "validate", "--adapter", "caddyfile", "--config", DEPLOY / "Caddyfile"],
        capture_output=True, text=True, check=False, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Valid configuration" in done.stdout + done.stderr


def test_caddy_leads_to_the_prefix_with_its_slash() -> None:
    done = subprocess.run(
        [need("caddy", "caddy"), "adapt", "--config", DEPLOY / "Caddyfile"], capture_output=True, text=True, check=True
    )
    assert '{"handler":"static_response","headers":{"Location":["/cam/"]},"status_code":302}' in done.stdout
    assert '"path":["/cam"]' in done.stdout


def test_compose_starts_something_without_a_flag() -> None:
    lines = [line for line in (ROOT / ".env").read_text().splitlines() if not line.startswith("#")]
    (name, _, profile) = lines[0].partition("=")
    assert (len(lines), name) == (1, "COMPOSE_PROFILES")
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert {name for name, each in services.items() if profile in each["profiles"]} == {
        "stmixer-cpu", "prometheus", "grafana",
    }  # fmt: skip


SCHEMAS = {
    "docker-compose.yml": "compose-spec", ".github/ISSUE_TEMPLATE/config.yml": "github-issue-config",
    ".github/ISSUE_TEMPLATE/defect.yml": "github-issue-forms", ".github/ISSUE_TEMPLATE/wish.yml": "github-issue-forms",
    "CITATION.cff": "citation-file-format",
}  # fmt: skip
"""Files that other people's programs read, and what those want of them."""


def against(schema: str, path: Path) -> str:
    """What check-jsonschema finds wrong; nothing where all is well."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_file_is_what_its_readers_want(name: str) -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    assert against(SCHEMAS[name], ROOT / name) == ""


def test_every_form_for_issues_is_checked() -> None:
    assert {f".github/ISSUE_TEMPLATE/{path.name}" for path in (ROOT / ".github" / "ISSUE_TEMPLATE").iterdir()} == {
        name for name in SCHEMAS if name.startswith(".github")
    }


def test_a_misspelt_key_of_compose_would_be_seen(tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    text = (ROOT / "docker-compose.yml").read_text()
    (tmp_path / "docker-compose.yml").write_text(text.replace("mem_limit: 512m", "memory_limit: 512m"))
    assert "memory_limit" in against("compose-spec", tmp_path / "docker-compose.yml")
