"""A run's YAML file to its ``RunConfig``, or to those of its phases."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stmixer.model.named import weights_named
from stmixer.trainer.config.run import CustomSet, RunConfig, current_keys
from stmixer.trainer.errors import TrainError, reading


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a run's YAML, laid over its preset; ``overrides`` go over both. Of several phases it is the last.

    Relative paths start at the file's folder.

    Raises:
        TrainError: a file that cannot be read, unknown keys, values out of range: one line each.
    """
    return load_phases(path, overrides)[-1]


def load_phases(path: Path, overrides: Mapping[str, Any] | None = None) -> list[RunConfig]:
    """As ``load_config``, but ``phases`` may list mappings that are laid over the rest of the file: runs one after the
    other, each starting from the weights of the one before. Their folders lie in ``run_dir``, by their ``name``.

    Raises:
        TrainError: as ``load_config``; phases without distinct names.
    """
    values = _values(path, overrides)
    phases = values.pop("phases", None)
    if phases is None:
        return [_config(path, values)]
    if not isinstance(phases, list) or not all(isinstance(phase, dict) for phase in phases):
        raise TrainError(f"{path}: phases must be a list of keys and values")
    names = [phase.pop("name", None) for phase in phases]
    if (
        not names
        or not all(isinstance(name, str) and name.isidentifier() for name in names)
        or len(set(names)) != len(names)
    ):
        raise TrainError(f"{path}: every phase wants a name of its own, a word")
    configs: list[RunConfig] = []
    for name, phase in zip(names, phases, strict=True):
        own = _laid_over(values, phase) | {"run_dir": str(Path(values.get("run_dir", ".")) / name)}
        if configs:
            start = {"weights": configs[-1].run_dir / "weights.safetensors", "classifier": "keep"}
            if "backbone" not in phase.get("init", {}):  # the first phase's is in its weights
                start["backbone"] = None
            other = next((c for c in configs if c.run_dir.name == own.get("init", {}).get("average_with")), None)
            if other is not None:
                start["average_with"] = other.run_dir / "weights.safetensors"
            own["init"] = _laid_over(own.get("init", {}), start)
        configs.append(_config(path, own))
    return configs


def _values(path: Path, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    return _merged(read_yaml(path), overrides or {}, str(path))


def _merged(given: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values over those of their preset, and ``overrides`` over both. Raises TrainError."""
    try:
        # each by itself, so that one may go over the other whatever a key was called when it was written
        given, over = current_keys(given), current_keys(overrides)
    except ValueError as error:
        raise TrainError(f"{where}: {error}") from None
    preset = _preset(given["preset"]) if given.get("preset") is not None else {}
    values = _laid_over(_laid_over(preset, given), over)
    own = _laid_over(given, over)
    _start_from_backbone(values, own)
    if _has_weights(preset) and own.get("model") not in (None, preset.get("model")):
        _start_from_nothing(values, own)
    return values


def _has_weights(preset: Mapping[str, Any]) -> bool:
    init = preset.get("init")
    return isinstance(init, dict) and init.get("weights") is not None


def _start_from_nothing(values: dict[str, Any], own: Mapping[str, Any]) -> None:
    """Whoever names another model than its preset, and nothing to start from, does not start from the preset's
    weights, which are of that."""
    init, said = values.get("init"), own.get("init")
    named = said if isinstance(said, dict) else {}
    if isinstance(init, dict) and named.get("weights") is None and named.get("backbone") is None:
        values["init"] = init | {"weights": None}


def starts_elsewhere(config: RunConfig) -> str | None:
    """The model that a run's preset has weights for, where the run has another one; None: there is none."""
    values = _preset(config.preset) if config.preset is not None else {}
    model = values.get("model")
    return str(model) if _has_weights(values) and model not in (None, config.model) else None


def _start_from_backbone(values: dict[str, Any], own: Mapping[str, Any]) -> None:
    """Whoever names a backbone to start from, and no weights beside it, does not start from a preset's weights: only
    who names both goes half-way between them. So in the first of ``phases``."""
    phases, init = own.get("phases"), values.get("init")
    sections = [own, *(phases[:1] if isinstance(phases, list) else [])]
    inits = [section["init"] for section in sections if isinstance(section, dict) and "init" in section]
    named = [each for each in inits if isinstance(each, dict)]
    backbone = any(each.get("backbone") is not None for each in named)
    if backbone and all(each.get("weights") is None for each in named) and isinstance(init, dict):
        values["init"] = init | {"weights": None}


def check_values(given: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> RunConfig:
    """A run of plain values as a file would have them. Raises TrainError as ``load_config``."""
    return parse_config(_merged(given, overrides, where), where)


def _config(path: Path, values: Mapping[str, Any]) -> RunConfig:
    config = parse_config(values, str(path))
    folder = path.resolve().parent
    # of what is said alone: that nothing was said of weights is told from "none" (RunConfig.starts_from_nothing)
    said = config.init.model_fields_set & {"weights", "average_with", "backbone"}
    files = {key: getattr(config.init, key) for key in said}
    init = config.init.model_copy(update={key: _placed(folder, path) for key, path in files.items()})
    long_term = config.long_term
    if long_term is not None and long_term.bank is not None:
        long_term = long_term.model_copy(update={"bank": folder / long_term.bank})
    sets = tuple(
        chosen.model_copy(update={"ignore": folder / chosen.ignore})
        if isinstance(chosen, CustomSet) and chosen.ignore is not None
        else chosen
        for chosen in config.sets
    )
    paths = {"run_dir": folder / config.run_dir, "data_root": folder / config.data_root}
    return config.model_copy(update=paths | {"sets": sets, "init": init, "long_term": long_term})


def _placed(folder: Path, file: Path | None) -> Path | None:
    """A configuration's file, from its folder on; or the one of weights by name."""
    if file is None:
        return None
    named = weights_named(file) if not os.path.isfile(folder / file) else None
    return folder / file if named is None else named.file


def parse_config(values: Mapping[str, Any], where: str = "config") -> RunConfig:
    """Check plain values. Raises TrainError, a line per fault, each with its key."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise TrainError([f"{where}: {_fault(fault)}" for fault in error.errors(include_url=False)]) from None


def settings_of(settings: Sequence[str]) -> dict[str, Any]:
    """``a.b=value`` pairs as nested keys; values are YAML. Raises TrainError."""
    merged: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            raise TrainError(f"--set wants KEY=VALUE, got {setting!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise TrainError(f"--set {key}: {text!r} is not YAML") from None
        *path, last = key.split(".")
        place = merged
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise TrainError(f"--set {key}: {part} was given a value of its own before")
        place[last] = value
    return merged


def presets() -> tuple[str, ...]:
    """Names of the presets; those of the paper's tables begin with ``paper/``."""
    return tuple(sorted(_preset_files()))


def _preset_files() -> dict[str, Traversable]:
    folder = resources.files("stmixer.trainer").joinpath("presets")
    found = [(file.name, file) for file in folder.iterdir()]
    found += [(f"paper/{file.name}", file) for file in folder.joinpath("paper").iterdir()]
    return {name.removesuffix(".yaml"): file for name, file in found if name.endswith(".yaml")}


def _preset(name: object) -> dict[str, Any]:
    """Its values, over those of the preset that it names itself."""
    file = _preset_files().get(name) if isinstance(name, str) else None
    if file is None:
        raise TrainError(f"preset {name!r} is unknown; known: {', '.join(presets())}")
    values: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    below = values.pop("preset", None)
    return values if below is None else _laid_over(_preset(below), values)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of keys and values. Raises TrainError."""
    try:
        with reading(path):
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise TrainError(f"{path} must hold keys and values")
    return values


def _laid_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; everything else, lists too, is replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _laid_over(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def _fault(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {place}"
    message = fault["msg"].removeprefix("Value error, ")
    got = "" if fault["type"] in ("missing", "value_error") else f", got {fault['input']!r}"
    return f"{place}: {message}{got}" if place else f"{message}{got}"
