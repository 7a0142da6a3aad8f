"""How the application is deployed: what docs/cluster.md shows, and what Serve is told of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from conftest import TESTS
from ray.serve.schema import ServeDeploySchema

from stmixer.service.cluster import app
from stmixer.service.cluster.application import deployment_of
from stmixer.service.cluster.options import options_of
from stmixer.service.cluster.proxy import IMPORT_PATH, Mended, middlewares
from stmixer.service.cluster.replica import STOP_S
from stmixer.service.cluster.router import StreamRouter
from stmixer.service.cluster.scaling import StreamScaling

OPEN = {"allow_anonymous": "true"}


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tests are told by the environment is no setting."""
    for name in [name for name in os.environ if name.startswith("STMIXER_")]:
        monkeypatch.delenv(name)


def test_the_file_of_the_document_is_what_serve_takes(tmp_path: Path) -> None:
    page = (TESTS.parent / "docs" / "cluster.md").read_text()
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (shown,) = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications
    assert (shown.import_path, shown.route_prefix) == ("stmixer.service.cluster:app", "/")
    options, settings = options_of(shown.args)
    assert (options.replicas, options.max_replicas, options.num_gpus) == (3, 12, 1)
    assert (settings.device, settings.host, settings.keys) == ("cuda", "0.0.0.0", Path("/etc/stmixer/keys.json"))


def test_what_serve_is_told() -> None:
    given = {"replicas": "2", "max_replicas": "5", "fewer_after_s": "90", "shutdown_timeout": "7", "num_gpus": "1"}
    options, settings = options_of(given | OPEN)
    deployment = deployment_of(options, settings)
    config = deployment._deployment_config
    assert config.graceful_shutdown_timeout_s == 7 + STOP_S
    assert config.request_router_config.get_request_router_class() is StreamRouter
    scaling = config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 5)
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s) == (30, 90)
    assert scaling.policy.get_policy() is StreamScaling
    assert scaling.policy.policy_kwargs == {"filled": 0.8, "keyframe_age_s": 3.0}
    assert deployment.ray_actor_options["num_gpus"] == 1
    fixed = deployment_of(*options_of({"replicas": "2", "allow_anonymous": "true"}))
    assert fixed.num_replicas == 2
    assert fixed._deployment_config.autoscaling_config is None


def test_an_application_is_built_of_what_a_command_line_gives() -> None:
    first, second = (
        app({"replicas": "3", "model": "tiny", "keyframe_age_s": "2.5"} | OPEN)._bound_deployment for _ in range(2)
    )
    assert first.num_replicas == 3
    settings, deployment, late_s = first.init_args
    assert settings.model == "tiny"
    assert late_s == 2.5
    assert second.init_args == (settings, second.init_args[1], late_s)
    assert deployment != second.init_args[1], "each deployment is another one"


def test_ray_tells_nobody_and_its_proxies_say_what_happened() -> None:
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["RAY_SERVE_PROXY_USE_GRPC"] == "1"
    assert (
        os.environ["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
        == IMPORT_PATH
        == (f"{middlewares.__module__}:{middlewares.__name__}")
    )
    assert [middleware.cls for middleware in middlewares()] == [Mended]
