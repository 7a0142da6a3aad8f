"""Every setting of the service, in one class; the environment (``STMIXER_*``) is read here alone."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from stmixer.model.runtimes import PrecisionName, RuntimeName
from stmixer.service.places import Place, places_of

CLIENT_KEY = "STMIXER_CLIENT_KEY"
"""The key with which a command of ours asks a service; no setting of one."""


class Settings(BaseSettings):
    """``stmixer serve`` options. Command line over environment over these defaults."""

    model_config = SettingsConfigDict(env_prefix="STMIXER_", extra="forbid", frozen=True, hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="address to bind")
    port: int = Field(8000, ge=0, le=65535, description="0 takes a free one")
    model: str | None = Field(None, description="bundled weights by name, or a variant with initial ones")
    weights: Path | None = Field(
        None, description="a .safetensors or .onnx file of stmixer-weights, or a name, bundled or fetched"
    )
    weights_dir: Path | None = Field(None, description="folder whose files may be loaded while the service runs")
    watch: Path | None = Field(
        None, description="a weights file that is served, and anew when another one takes its place"
    )
    watch_streams: Literal["keep", "restart"] = Field(
        "keep", description="live streams that its next model cannot go on with: keep the former one, or begin anew"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; or several with commas, a worker on each")
    runtime: RuntimeName = Field("auto", description="what runs the model: auto, eager, compile, cudagraph, onnx")
    precision: PrecisionName = Field("auto", description="of its products: auto, fp32, bf16, fp16")
    cache_dir: Path | None = Field(
        None, description="folder for what is measured once, like the fastest runtime; ~/.cache/stmixer"
    )
    keys: Path | None = Field(None, description="file of `stmixer keys`; every request then needs one")
    allow_anonymous: bool = Field(False, description="serve beyond this machine without keys")
    refuse_url_tokens: bool = Field(False, description="tokens count in their cookies alone, not in addresses")
    allowed_hosts: str = Field(
        "", description="names it is reached by, with commas, besides addresses and this machine's own"
    )
    forwarded_allow_ips: str = Field(
        "127.0.0.1,::1", description="proxies whose X-Forwarded-* headers count: addresses, networks, * for all"
    )
    root_path: str = Field("", pattern=r"^(/[\w.~-]+)*$", description="the prefix under which a proxy serves us")
    keep_alive_s: int = Field(75, ge=1, description="an idle connection is kept this long; a balancer must close first")
    ssl_certfile: Path | None = Field(None, description="certificate chain, PEM: serve https and wss")
    ssl_keyfile: Path | None = Field(None, description="its private key, PEM, where that is a file of its own")

    max_batch: int = Field(8, ge=1, le=64, description="keyframes of a batch, at most")
    batch_wait_ms: float = Field(5.0, ge=0, le=1000, description="a keyframe waits this long for company")
    max_streams: int | None = Field(None, ge=1, description="streams at a time, whatever they take; else measured")
    spare_workers: int = Field(1, ge=0, le=1, description="warm workers that wait for the first one's death")
    idle_decoders: int = Field(2, ge=0, description="decoder processes kept warm")
    decoder_memory_mb: int = Field(3072, ge=256, description="address space of a decoder, at most")
    shutdown_timeout: float = Field(20.0, ge=0, description="seconds to finish what runs, after SIGTERM")

    max_connections: int | None = Field(None, ge=1, description="half of what descriptors allow, 4096 at most")
    max_connections_per_address: int | None = Field(
        None, ge=1, description="a quarter of that; proxies of forwarded_allow_ips may have all"
    )
    max_upload_mb: int = Field(512, ge=1, description="largest posted video")
    max_width: int = Field(3840, ge=32, description="px of a picture")
    max_height: int = Field(2160, ge=32, description="px of a picture")
    max_duration_s: float = Field(600.0, gt=0, description="longest posted video")
    max_frame_bytes: int = Field(2 * 1024 * 1024, ge=1024, description="largest media message of a WebSocket")
    start_timeout_s: float = Field(5.0, gt=0, description="a WebSocket's `start` has to come within this")
    idle_timeout_s: float = Field(10.0, gt=0, description="no media for this long closes a stream")
    resume_ttl_s: float = Field(15.0, ge=0, description="a live stream waits this long for its client to come back")
    write_timeout_s: float = Field(5.0, gt=0, description="a WebSocket's client has to take a result within this")
    upload_idle_s: float = Field(30.0, gt=0, description="an upload of which nothing comes for this long ends")
    upload_wait_s: float = Field(30.0, ge=0, description="a whole upload waits this long for a place among the streams")
    max_waiting_uploads: int = Field(64, ge=1, description="uploads on their way, or waiting for a place")
    max_waiting_mb: int | None = Field(None, ge=1, description="what those may take on disk; 4 of the largest")

    allow_networks: str = Field("", description="private addresses from which streams may be pulled, with commas")
    allow_files: Path | None = Field(None, description="folder whose files may be played as streams")
    allow_devices: str = Field("", description="video devices that may be read, like /dev/video0, with commas")
    pull_ca_file: Path | None = Field(None, description="certificates, PEM, by which cameras are known, too")
    streams: Path | None = Field(None, description="YAML file of streams to pull; SIGHUP reads it anew")
    pull_silent_s: float = Field(10.0, gt=0, description="a pulled stream without a picture for this long has stalled")

    rules: Path | None = Field(None, description="YAML file of rules for all streams, of which events come")
    events_file: Path | None = Field(None, description="file that keeps events over a restart; else in memory")
    webhook: str | None = Field(None, description="http or https address to which events are posted")
    webhook_secret_file: Path | None = Field(None, description="file whose content signs what is posted")
    mqtt: str | None = Field(None, description="MQTT broker to which events go, like mqtt://host:1883 or mqtts://host")
    mqtt_user: str | None = Field(None, min_length=1, description="by which it knows us")
    mqtt_password: SecretStr | None = Field(None, min_length=1, description="that user's; a file is safer")
    mqtt_password_file: Path | None = Field(None, description="file whose content is that")
    mqtt_ca_file: Path | None = Field(None, description="certificates, PEM, by which an mqtts broker is known")
    mqtt_topic: str = Field(
        "stmixer", pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", description="what all topics begin with"
    )
    mqtt_discovery: str = Field(
        "", pattern=r"^([A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*)?$",
        description="where Home Assistant looks for sensors, by itself homeassistant; without it none are announced",
    )  # fmt: skip
    event_clips: Path | None = Field(None, description="folder for clips of events, of rules that ask for them")
    event_clips_mb: int = Field(2048, ge=1, description="what those may take; the oldest give way")
    event_clips_days: float = Field(14.0, gt=0, description="how long they are kept")

    allow_teach: bool = Field(False, description="whoever may (admin) teaches it new actions on the page")
    teach_dir: Path | None = Field(
        None, description="folder for lessons and for the models kept of them; ~/.local/share/stmixer/teach"
    )
    teach_mb: int = Field(2048, ge=1, description="what the clips of a lesson may take")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning, error")
    log_format: Literal["console", "json"] = Field("console", description="console for people, json: an object a line")

    @field_validator("forwarded_allow_ips", "allow_networks")
    @classmethod
    def _are_addresses(cls, listed: str, info: ValidationInfo) -> str:
        for name in listed.split(","):
            if name.strip() not in ("", *(("*",) if info.field_name == "forwarded_allow_ips" else ())):
                ipaddress.ip_network(name.strip())
        return listed

    @field_validator("allow_devices")
    @classmethod
    def _are_paths(cls, listed: str) -> str:
        for name in filter(None, map(str.strip, listed.split(","))):
            if os.path.normpath(name) != name or not name.startswith("/dev/"):
                raise ValueError(f"{name} is no device: give them as in /dev/video0")
        return listed

    @field_validator("device")
    @classmethod
    def _has_places(cls, device: str) -> str:
        places_of(device, sorted(os.sched_getaffinity(0)))
        return device

    @model_validator(mode="after")
    def _is_about_one_file(self) -> Settings:
        if self.watch is not None and (self.weights is not None or self.model is not None):
            raise ValueError("--watch names what is served; leave --weights and --model out")
        return self

    @model_validator(mode="after")
    def _no_open_door(self) -> Settings:
        if self.keys is not None and self.allow_anonymous:
            raise ValueError("--keys and --allow-anonymous exclude each other: with keys nobody is anonymous")
        if not self.is_loopback and self.keys is None and not self.allow_anonymous:
            raise ValueError(
                f"--host {self.host} is reachable from other machines: pass --keys FILE (`stmixer keys add`), "
                "or --allow-anonymous if anyone may use it"
            )
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ValueError("--ssl-keyfile needs --ssl-certfile")
        return self

    @model_validator(mode="after")
    def _events_can_be_handed_on(self) -> Settings:
        if self.event_clips is not None and self.events_file is None:
            raise ValueError("--event-clips needs --events-file: after a restart nobody would know whose they are")
        if self.webhook is None:
            if self.webhook_secret_file is not None:
                raise ValueError("--webhook-secret-file needs --webhook")
            return self
        if self.events_file is None:
            raise ValueError("--webhook needs --events-file: what is not delivered yet waits there")
        url = _address(self.webhook, "http", "https")
        if url is None:
            raise ValueError("--webhook takes an address like https://host/path")
        if url.username is not None or url.password is not None:
            raise ValueError("--webhook takes no user and password; --webhook-secret-file signs what is posted")
        return self

    @model_validator(mode="after")
    def _broker_can_be_reached(self) -> Settings:
        if self.mqtt is None:
            belongings = ("mqtt_user", "mqtt_password", "mqtt_password_file", "mqtt_ca_file", "mqtt_discovery")
            for name in belongings:
                if getattr(self, name):
                    raise ValueError(f"{_called(name)} needs --mqtt")
            return self
        if self.events_file is None:
            raise ValueError("--mqtt needs --events-file: what is not delivered yet waits there")
        url = _address(self.mqtt, "mqtt", "mqtts")
        if url is not None and (url.username is not None or url.password is not None):
            raise ValueError("--mqtt takes no user and password; --mqtt-user and --mqtt-password-file are for them")
        if url is None or url.path not in ("", "/") or url.query or url.fragment:
            raise ValueError("--mqtt takes an address like mqtt://host:1883, or mqtts://host:8883")
        if self.mqtt_ca_file is not None and url.scheme != "mqtts":
            raise ValueError("--mqtt-ca-file is for mqtts://; what goes to mqtt:// anybody on the way can read")
        if self.mqtt_password is not None and self.mqtt_password_file is not None:
            raise ValueError("STMIXER_MQTT_PASSWORD and --mqtt-password-file exclude each other")
        if self.mqtt_user is None and (self.mqtt_password is not None or self.mqtt_password_file is not None):
            raise ValueError("a password needs --mqtt-user")
        return self

    @model_validator(mode="after")
    def _lessons_have_a_place(self) -> Settings:
        if self.allow_teach and self.teach_folder is None:
            raise ValueError("--allow-teach needs --teach-dir: there is no home folder for what is learned")
        return self

    @classmethod
    def unknown_environment(cls) -> list[str]:
        """``STMIXER_*`` variables that name no setting: a misspelt one, or a lock that this version does not have."""
        known = {f"STMIXER_{name.upper()}" for name in cls.model_fields} | {CLIENT_KEY}
        return sorted(name for name in os.environ if name.startswith("STMIXER_") and name not in known)

    @property
    def places(self) -> tuple[Place, ...]:
        """Where workers run, one at each."""
        return places_of(self.device, sorted(os.sched_getaffinity(0)))

    @property
    def devices(self) -> tuple[str, ...]:
        """Those of ``allow_devices``."""
        return tuple(filter(None, map(str.strip, self.allow_devices.split(","))))

    @property
    def cache_folder(self) -> Path | None:
        """For what need not be found out anew; None where there is no place for it."""
        if self.cache_dir is not None:
            return self.cache_dir.absolute()
        base = os.environ.get("XDG_CACHE_HOME", "")
        try:
            return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "stmixer"
        except RuntimeError:  # nobody's home
            return None

    @property
    def teach_folder(self) -> Path | None:
        """For lessons and what is kept of them; None where there is no place for it."""
        if self.teach_dir is not None:
            return self.teach_dir.absolute()
        base = os.environ.get("XDG_DATA_HOME", "")
        try:
            return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "share") / "stmixer" / "teach"
        except RuntimeError:  # nobody's home
            return None

    @property
    def waiting_bytes(self) -> int:
        """What uploads that are no streams yet may take on disk, all together."""
        megabytes = 4 * self.max_upload_mb if self.max_waiting_mb is None else self.max_waiting_mb
        return megabytes * 2**20

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def _called(name: str) -> str:
    """A setting, as it is given: the password has no option, which others on the machine could read."""
    return "STMIXER_MQTT_PASSWORD" if name == "mqtt_password" else f"--{name.replace('_', '-')}"


def _address(url: str, *schemes: str) -> SplitResult | None:
    """None for what is no address of these schemes, of a host that there can be."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if re.fullmatch(r"[\d.]+", host) or ":" in host:
            ipaddress.ip_address(host)
    except ValueError:
        return None
    written = re.fullmatch(r"\w[\w-]*(\.[\w-]+)*\.?", host) or ":" in host
    good = parts.scheme in schemes and written and port != 0 and not re.search(r"[\s\x00-\x1f\x7f]", url)
    return parts if good else None
