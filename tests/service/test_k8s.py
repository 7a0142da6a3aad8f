"""docker/deploy/k8s: each manifest is what Kubernetes takes, and what it says of the service is so."""

from __future__ import annotations

import ipaddress
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from stmixer.service.api.app import PUBLIC, foreign, openapi
from stmixer.service.key_file import KeyFile, read_keys
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings
from stmixer.service.streams_file import read_streams

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker" / "deploy" / "k8s"
Manifest = dict[str, Any]


def read() -> list[Manifest]:
    """All of them."""
    return [each for path in sorted(FOLDER.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]


MANIFESTS = read()
DEPLOYMENTS = [each for each in MANIFESTS if each["kind"] == "Deployment"]


def named(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def of_kind(kind: str) -> list[Manifest]:
    return [each for each in MANIFESTS if each["kind"] == kind]


def pod(deployment: Manifest) -> Manifest:
    found: Manifest = deployment["spec"]["template"]["spec"]
    return found


def container(deployment: Manifest) -> Manifest:
    (found,) = pod(deployment)["containers"]
    return dict(found)


def variables(deployment: Manifest) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(deployment)["env"]}


def options(deployment: Manifest) -> dict[str, str]:
    args = container(deployment)["args"]
    assert len(args) % 2 == 0
    return dict(zip(args[::2], args[1::2], strict=True))


def settings_of(deployment: Manifest) -> Settings:
    """What the service makes of its command line and variables, in its image. Raises ValueError."""
    given = {option.removeprefix("--").replace("-", "_"): value for option, value in options(deployment).items()}
    given |= {name.removeprefix("STMIXER_").lower(): value for name, value in variables(deployment).items()}
    assert given.keys() <= Settings.model_fields.keys()
    return Settings(**(given | {"host": of_image(r"STMIXER_HOST=(\S+)")}))  # type: ignore[arg-type]


def of_image(pattern: str) -> str:
    """What the image says of itself."""
    (found,) = re.findall(pattern, (ROOT / "docker" / "cpu.Dockerfile").read_text(), re.MULTILINE)
    return str(found)


def wrong(manifest: Manifest) -> str:
    """What is against the newest schemas; nothing where all is well. An unknown key is a fault."""
    checker = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    try:
        checker.validate(manifest, checker.latest_version(), strict=True)
    except checker.ValidationError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("manifest", MANIFESTS, ids=named)
def test_kubernetes_takes_it(manifest: Manifest) -> None:
    assert wrong(manifest) == ""


def test_a_misspelt_key_and_a_wrong_value_would_be_seen() -> None:
    misspelt, mistaken = deepcopy(DEPLOYMENTS[0]), deepcopy(DEPLOYMENTS[0])
    pod(misspelt)["terminationGraceSeconds"] = pod(misspelt).pop("terminationGracePeriodSeconds")
    pod(mistaken)["enableServiceLinks"] = "no"
    assert "terminationGraceSeconds" in wrong(misspelt)
    assert "no" in wrong(mistaken)


def test_all_kinds_are_there() -> None:
    assert sorted(each["kind"] for each in MANIFESTS) == [
        "ConfigMap", "Deployment", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "NetworkPolicy",
        "PodDisruptionBudget", "Service", "Service",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def said() -> str:
    """By ``stmixer serve --help``."""
    command = [sys.executable, "-m", "stmixer.service.cli", "serve", "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=named)
def test_the_service_has_these_options_and_takes_their_values(deployment: Manifest, said: str) -> None:
    for option in options(deployment):
        assert re.search(rf"{option}\b", said), option
    assert settings_of(deployment).keys is not None, "nobody comes in without a key"


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=named)
def test_it_is_asked_where_it_answers(deployment: Manifest) -> None:
    served = container(deployment)
    assert served["ports"] == [{"name": "http", "containerPort": Settings.model_fields["port"].default}]
    assert of_image(r"^EXPOSE (\d+)$") == str(served["ports"][0]["containerPort"])
    wanted = {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    assert {name: served[name]["httpGet"]["path"] for name in wanted} == wanted
    assert {served[name]["httpGet"]["port"] for name in wanted} == {"http"}
    assert set(wanted.values()) <= openapi()["paths"].keys()


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=named)
def test_who_asks_is_let_in(deployment: Manifest) -> None:
    """A kubelet by the pod's address and without a key, others by the Service's name; another name may be rebound."""
    settings = settings_of(deployment)
    for host in ("10.1.2.3:8000", f"{deployment['metadata']['name']}:8000"):
        assert foreign(settings, {b"host": host.encode()}) is None
    assert foreign(settings, {b"host": b"evil.example:8000"}) is not None
    assert {"/readyz", "/healthz"} <= set(PUBLIC)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=named)
def test_there_is_time_for_the_drain(deployment: Manifest) -> None:
    (command, pause_s) = container(deployment)["lifecycle"]["preStop"]["exec"]["command"]
    drain_s = float(variables(deployment)["STMIXER_SHUTDOWN_TIMEOUT"])
    assert command == "sleep"
    assert drain_s == Settings.model_fields["shutdown_timeout"].default
    assert pod(deployment)["terminationGracePeriodSeconds"] >= float(pause_s) + drain_s + 10
    probe = container(deployment)["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= 10, "one that lost its workers is left soon"


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=named)
def test_it_is_shut_in(deployment: Manifest) -> None:
    inside, outside = container(deployment)["securityContext"], pod(deployment)["securityContext"]
    assert inside == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert outside["runAsNonRoot"] is True
    assert str(outside["runAsUser"]) == of_image(r"^USER (\d+)$")
    assert outside["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(deployment)["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod(deployment).keys()


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=named)
def test_no_variable_of_kubernetes_is_taken_for_a_setting(
    deployment: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a Service called stmixer it sets these in every pod that asks for links, which all do by default."""
    monkeypatch.setenv("STMIXER_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("STMIXER_PORT", "tcp://10.0.0.1:8000")
    assert "STMIXER_SERVICE_HOST" in Settings.unknown_environment()
    with pytest.raises(ValueError, match="port"):
        Settings()
    assert pod(deployment)["enableServiceLinks"] is False


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=named)
def test_it_has_whole_cores_to_itself_and_places_to_write(deployment: Manifest) -> None:
    resources = container(deployment)["resources"]
    assert resources["requests"] == resources["limits"]
    assert re.fullmatch(r"\d+", resources["limits"]["cpu"])
    mounts = {each["mountPath"]: each for each in container(deployment)["volumeMounts"]}
    volumes = {each["name"]: each for each in pod(deployment)["volumes"]}
    assert {each["name"] for each in mounts.values()} == volumes.keys()
    for place in (variables(deployment)["STMIXER_CACHE_DIR"], "/tmp"):
        assert "emptyDir" in volumes[mounts[place]["name"]]
        assert not mounts[place].get("readOnly")
    files = [value for value in options(deployment).values() if value.startswith("/etc/")]
    for file in files:
        mount = mounts[str(Path(file).parent)]
        assert mount["readOnly"] is True
        assert volumes[mount["name"]].keys() & {"secret", "configMap"}
    room = volumes["tmp"]["emptyDir"]["sizeLimit"]
    assert int(room.removesuffix("Gi")) * 1024 >= 4 * Settings.model_fields["max_upload_mb"].default


def test_keys_of_a_secrets_volume_are_taken(tmp_path: Path) -> None:
    """Its folder is everybody's but for the sticky bit, its files are links, and of the mode that the manifest says."""
    (mode,) = {pod(each)["volumes"][0]["secret"]["defaultMode"] for each in DEPLOYMENTS}
    tmp_path.chmod(0o1777)
    (tmp_path / "..2026").mkdir()
    real = tmp_path / "..2026" / "keys.json"
    real.write_text(KeyFile().model_dump_json())
    real.chmod(mode)
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "keys.json").symlink_to(Path("..data", "keys.json"))
    assert read_keys(tmp_path / "keys.json").keys == ()
    assert mode & 0o040, "the pod's group reads it (fsGroup), nobody writes it"
    assert not mode & 0o037


def test_whoever_selects_finds_pods() -> None:
    labels = {each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"] for each in DEPLOYMENTS}

    def found(selector: dict[str, str]) -> list[str]:
        return sorted(name for name, has in labels.items() if selector.items() <= has.items())

    for each in DEPLOYMENTS:
        assert found(each["spec"]["selector"]["matchLabels"]) == [each["metadata"]["name"]]
    for each in of_kind("Service"):
        assert found(each["spec"]["selector"]) == [each["metadata"]["name"]]
        assert [port["targetPort"] for port in each["spec"]["ports"]] == ["http"]
    (budget,) = of_kind("PodDisruptionBudget")
    assert found(budget["spec"]["selector"]["matchLabels"]) == ["stmixer"]
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind("NetworkPolicy")}
    assert found(policies["stmixer"]["podSelector"]["matchLabels"]) == ["stmixer", "stmixer-cameras"]
    assert found(policies["stmixer-cameras"]["podSelector"]["matchLabels"]) == ["stmixer-cameras"]
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "stmixer"}


def test_it_scales_by_what_the_service_tells() -> None:
    text = (FOLDER / "autoscaler.yaml").read_text()
    told = {family.name for family in Metrics().registry.collect()}
    series = set(re.findall(r"stmixer_streams_(?:active|capacity)", text))
    assert series == {"stmixer_streams_active", "stmixer_streams_capacity"} <= told
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    (metric,) = scaler["spec"]["metrics"]
    assert f"name: {{ as: {metric['pods']['metric']['name']} }}" in text


def test_cameras_are_fetched_once_and_can_be_reached(tmp_path: Path) -> None:
    (cameras,) = [each for each in DEPLOYMENTS if each["metadata"]["name"] == "stmixer-cameras"]
    assert (cameras["spec"]["replicas"], cameras["spec"]["strategy"]) == (1, {"type": "Recreate"})
    (streams,) = of_kind("ConfigMap")
    (name,) = streams["data"]
    assert options(cameras)["--streams"].endswith(f"/{name}")
    (tmp_path / name).write_text(streams["data"][name])
    orders = read_streams(tmp_path / name)
    assert len(orders) == 2
    (policy,) = [each for each in of_kind("NetworkPolicy") if each["metadata"]["name"] == "stmixer-cameras"]
    rule, packets = policy["spec"]["egress"]
    assert packets == {"to": rule["to"], "ports": [{"protocol": "UDP", "port": 1024, "endPort": 65535}]}
    assert {port["port"] for port in rule["ports"]} == {554, 322, 80, 443}
    (to,) = rule["to"]
    assert to["ipBlock"]["cidr"] == options(cameras)["--allow-networks"]
    for order in orders.values():
        host = urlsplit(order.url).hostname
        assert host is not None
        assert ipaddress.ip_address(host) in ipaddress.ip_network(to["ipBlock"]["cidr"])


def test_an_apply_cuts_nothing_back() -> None:
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    (scaled,) = [each for each in DEPLOYMENTS if each["metadata"]["name"] == scaler["spec"]["scaleTargetRef"]["name"]]
    assert "replicas" not in scaled["spec"]
