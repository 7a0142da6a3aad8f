"""The variants, as one plain table. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from model.config import BackboneConfig, ClipConfig, ConfigError, DecoderConfig, DetectorConfig, PreprocessConfig

DEFAULT_VARIANT = "tiny"
"""What runs when no weights are named. No trained weights are bundled yet, so it is the one that is live anywhere."""

VARIANTS: dict[str, DetectorConfig] = {
    config.name: config
    for config in (
        DetectorConfig(
            name="slowonly_r50",
            clip=ClipConfig(frames=4, stride=16),
            backbone=BackboneConfig(kind="slowonly"),
            decoder=DecoderConfig(frames=4, frames_out=16),
        ),
        DetectorConfig(
            name="slowfast_r50",
            clip=ClipConfig(frames=32, stride=2),
            backbone=BackboneConfig(kind="slowfast"),
            decoder=DecoderConfig(frames=8, frames_out=32),
        ),
        # The same code, narrow and shallow: milliseconds on a CPU, for tests of everything around the model.
        DetectorConfig(
            name="tiny",
            clip=ClipConfig(frames=4, stride=16),
            preprocess=PreprocessConfig(short_side=128),
            backbone=BackboneConfig(kind="slowonly", depths=(1, 1, 1, 1), width=8),
            decoder=DecoderConfig(
                frames=4,
                frames_out=8,
                queries=20,
                dim=32,
                stages=2,
                groups=2,
                points=8,
                points_out=16,
                heads=4,
                ffn_dim=64,
            ),
        ),
    )
}


def variant(name: str, *, classes: int | None = None) -> DetectorConfig:
    """The named variant, with another number of action classes if given. Raises ConfigError for an unknown name."""
    try:
        config = VARIANTS[name]
    except KeyError:
        raise ConfigError(f"unknown model variant {name!r}; known: {', '.join(VARIANTS)}") from None
    if classes is None:
        return config
    return replace(config, decoder=replace(config.decoder, classes=classes))
