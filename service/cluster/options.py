"""What ``serve run stmixer.service.cluster:app NAME=VALUE …`` takes: what concerns the cluster, and any setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from stmixer.service.errors import StartError
from stmixer.service.settings import Settings
from stmixer.service.wire import Wire

NOT_HERE = (
    "port", "root_path", "ssl_certfile", "ssl_keyfile", "max_connections", "max_connections_per_address",
    "keep_alive_s", "weights_dir", "allow_teach", "events_file", "event_clips", "webhook", "mqtt", "watch",
    "watch_streams",
)  # fmt: skip
"""Settings of one process: of the address, which Serve has, and of what lies in a folder of its own."""


class ClusterOptions(Wire):
    """``replicas`` at first, or always; with ``max_replicas`` as many as streams want, ``replicas`` at least.

    ``filled``: the part of what a replica can have at which another one is wanted; ``keyframe_age_s``: results older
    than that want one, too. ``more_after_s``, ``fewer_after_s``: for how long more, or fewer, have to be wanted until
    there are. ``num_cpus``, ``num_gpus``: what Ray gives each.
    """

    replicas: int = Field(1, ge=1, le=10_000)
    max_replicas: int | None = Field(None, ge=1, le=10_000)
    filled: float = Field(0.8, gt=0, le=1)
    keyframe_age_s: float = Field(3.0, gt=0)
    more_after_s: float = Field(30.0, ge=0, le=86400)
    fewer_after_s: float = Field(600.0, ge=0, le=86400)
    num_cpus: float = Field(1.0, gt=0)
    num_gpus: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _most_is_most(self) -> ClusterOptions:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError("max_replicas is less than replicas")
        return self


def options_of(arguments: Mapping[str, Any]) -> tuple[ClusterOptions, Settings]:
    """What was given, and ``STMIXER_*`` of this process. Raises StartError."""
    if unknown := Settings.unknown_environment():
        raise StartError("bad_setting", f"{', '.join(unknown)}: no such setting; remove it or correct its name")
    own = {name: value for name, value in arguments.items() if name in ClusterOptions.model_fields}
    try:
        options = ClusterOptions.model_validate(own, strict=False)
        settings = Settings(**{name: value for name, value in arguments.items() if name not in own})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise StartError("bad_setting", f"{name}: {first['msg'].removeprefix('Value error, ')}") from None
    for name in NOT_HERE:
        if getattr(settings, name) != Settings.model_fields[name].default:
            raise StartError("bad_setting", f"{name}: not in a cluster (docs/cluster.md, What differs)")
    if settings.keys is None and not settings.allow_anonymous:  # whoever reaches Serve's address, which is not ours
        raise StartError(
            "open_door",
            "a cluster serves whom Serve's address lets in: give keys=FILE (`stmixer keys add`), "
            "or allow_anonymous=true if anyone may use it",
        )
    return options, settings
