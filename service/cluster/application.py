"""How Serve is to run the service."""

from __future__ import annotations

import os
import uuid
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from stmixer.service.cluster.options import ClusterOptions, options_of
from stmixer.service.cluster.proxy import IMPORT_PATH
from stmixer.service.cluster.replica import STOP_S, Replica
from stmixer.service.cluster.router import STATS_S
from stmixer.service.settings import Settings

MOST_REQUESTS = 10_000
"""That Serve lets a replica have at a time, WebSockets among them: who is let in is the service's own to say."""

# of the Ray that is started from here: nothing is told to its makers, its proxies say what has happened, and ask
# replicas over gRPC: by Ray's own calls one that dies holds up all answers of a replica until its death is known
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SERVE_PROXY_USE_GRPC", "1")
os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", IMPORT_PATH)


def application(arguments: dict[str, Any]) -> Application:
    """What ``serve run`` deploys; ``arguments`` as ``options_of``. Raises StartError."""
    options, settings = options_of(arguments)
    deployed: Application = deployment_of(options, settings).bind(settings, uuid.uuid4().hex, options.keyframe_age_s)
    return deployed


def deployment_of(options: ClusterOptions, settings: Settings) -> Any:
    """How Serve is to run it."""
    scaling = None
    if options.max_replicas is not None:
        kept = {"filled": options.filled, "keyframe_age_s": options.keyframe_age_s}
        scaling = AutoscalingConfig(
            min_replicas=options.replicas,
            max_replicas=options.max_replicas,
            upscale_delay_s=options.more_after_s,
            downscale_delay_s=options.fewer_after_s,
            policy=AutoscalingPolicy.model_validate(
                {"policy_function": "stmixer.service.cluster.scaling:StreamScaling", "policy_kwargs": kept}
            ),
        )
    return serve.deployment(
        serve.ingress()(Replica),
        name="stmixer",
        **({"num_replicas": options.replicas} if scaling is None else {"autoscaling_config": scaling}),
        ray_actor_options={"num_cpus": options.num_cpus, "num_gpus": options.num_gpus},
        max_ongoing_requests=MOST_REQUESTS,
        graceful_shutdown_timeout_s=settings.shutdown_timeout + STOP_S,
        graceful_shutdown_wait_loop_s=0.5,
        request_router_config=RequestRouterConfig.model_validate(
            {
                "request_router_class": "stmixer.service.cluster.router:StreamRouter",
                "request_routing_stats_period_s": STATS_S,
                "request_routing_stats_timeout_s": 5.0,
            }
        ),
    )
