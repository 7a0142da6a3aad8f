"""STMixer: backbone, feature space, decoder. One forward, in training as in evaluation; no state."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stmixer.model.ablations import KeyframeDecoder, OneStreamDecoder
from stmixer.model.backbones import build_backbone
from stmixer.model.backbones.yolox import ConvSilu
from stmixer.model.classifiers import BankWindow, Head
from stmixer.model.config import DetectorConfig
from stmixer.model.decoder import Decoder
from stmixer.model.feature_space import build_feature_space
from stmixer.model.frame_maps import STRIDES
from stmixer.model.frame_then_clip import detect_by_frame
from stmixer.model.mixing import AdaptiveMixing, FixedMixing
from stmixer.model.outputs import DecoderOutput
from stmixer.model.person_head import Cells, PersonHead
from stmixer.model.sampling import PointGenerator
from stmixer.model.stage import StageBase
from stmixer.model.starts import best_cells

ACTION_PRIOR = 0.01


class Detector(nn.Module):
    """A clip of normalised, padded RGB frames to boxes, human logits and action logits of N queries per stage."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        self.feature_space = build_feature_space(config)
        self.person_head = PersonHead(config.backbone.map_channels) if config.decoder.cells else None
        self.decoder = build_decoder(config)

    def forward(
        self, clip: Tensor, sizes_wh: Tensor, bank_queries: Tensor | None = None, bank_mask: Tensor | None = None
    ) -> DecoderOutput:
        """Detect.

        Args:
            clip: (B, 3, frames, H, W) float, normalised, zero-padded to multiples of 32.
            sizes_wh: (B, 2) float, width and height of each clip before padding, px.
            bank_queries: (B, K, 2D) float, the stacked window of a long-term model (``LongTermConfig.entries``).
            bank_mask: (B, K) bool, True for entries that are there; the others may hold anything.

        Returns:
            Every stage's output, boxes in pixels of the unpadded clip.

        Raises:
            ValueError: a long-term model without a bank, or a bank for another.
        """
        if self.config.backbone.per_frame:
            return detect_by_frame(self.frame_stage, self.clip_stage, clip, sizes_wh, bank_queries, bank_mask)
        space, bank = self.feature_space(self.backbone(clip)), self._bank(bank_queries, bank_mask)
        output: DecoderOutput = self.decoder(space, STRIDES, sizes_wh, bank)
        return output

    def frame_stage(self, frames: Tensor) -> tuple[Tensor, ...]:
        """What can be computed once per frame and kept. Only where ``config.backbone.per_frame``.

        Args:
            frames: (F, 3, H, W) float, normalised and padded like a clip's.

        Returns:
            The feature space of each frame by itself: four maps (F, D, H / s, W / s); and where
            ``config.decoder.cells`` is K > 0 a fifth, the frame's starts (F, 5, K, 1) of ``model.starts``.
        """
        return self.project(self.backbone(frames))

    def project(self, maps: Sequence[Tensor], cells: Cells | None = None) -> tuple[Tensor, ...]:
        """The second half of ``frame_stage``: the backbone's maps (F, C_k, H / s, W / s) to what that gives.

        ``cells``: what ``person_head`` says of these frames, where that is known already, or of the clips' keyframes
        alone, one a clip: all that ``clip_stage`` reads of the starts.
        """
        space: tuple[Tensor, ...] = self.feature_space(maps)
        if self.person_head is None:
            return space
        starts = best_cells(self.person_head(maps) if cells is None else cells, self.config.decoder.cells)
        return *space, starts

    def clip_stage(
        self,
        maps: Sequence[Tensor],
        sizes_wh: Tensor,
        bank_queries: Tensor | None = None,
        bank_mask: Tensor | None = None,
    ) -> DecoderOutput:
        """The rest: four maps (B, T, D, H / s, W / s) of ``frame_stage``'s frames, in time, and (B, 2) sizes in px.

        A model with starts takes them as a fifth, (B, T, 5, K, 1), of which it reads the keyframe's.
        ``forward`` of a clip is ``clip_stage`` of its frames' maps. T = 1 stands for a clip in which nothing moves.
        """
        space = [x.transpose(1, 2) for x in maps[: len(STRIDES)]]
        inputs = (space, STRIDES, sizes_wh, self._bank(bank_queries, bank_mask), *maps[len(STRIDES) :])
        output: DecoderOutput = self.decoder(*inputs)
        return output

    def _bank(self, queries: Tensor | None, mask: Tensor | None) -> BankWindow | None:
        if self.config.long_term is None:
            if queries is not None or mask is not None:
                raise ValueError(f"{self.config.name} is a short-term model: it takes no bank")
            return None
        if queries is None or mask is None:
            raise ValueError(f"{self.config.name} is a long-term model: it wants a bank")
        return BankWindow(queries, mask)

    @torch.no_grad()
    def initialise(self) -> None:
        """Initial weights of training (docs/detector.md, Training), drawn from torch's current generator."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and "queries" not in name:
                nn.init.xavier_uniform_(parameter)
        for queries in (self.decoder.spatial_queries, self.decoder.temporal_queries):
            if queries is not None:
                nn.init.normal_(queries)
        for module in self.modules():
            match module:
                case PointGenerator() | PersonHead() | ConvSilu():
                    module.reset_parameters()
                case AdaptiveMixing():
                    nn.init.zeros_(module.generator.weight)
                case FixedMixing():
                    module.reset_parameters()
                case Decoder(start_weight=nn.Parameter() as start_weight):
                    nn.init.ones_(start_weight)
                case StageBase():
                    nn.init.uniform_(module.iof_tau, 0.0, 4.0)
                    if module.box_head is not None:
                        _zero(module.box_head)
                    if module.action_head is not None:
                        bias = module.action_head.last.bias
                        nn.init.constant_(bias, -math.log((1 - ACTION_PRIOR) / ACTION_PRIOR))


def build_decoder(config: DetectorConfig) -> Decoder | OneStreamDecoder | KeyframeDecoder:
    """The paper's decoder, or the row of Table 1 that the configuration names."""
    if config.feature_space == "keyframe_res5":
        return KeyframeDecoder(config.decoder)
    if config.decoder.mixing in ("dual", "fixed"):
        return Decoder(config.decoder, config.long_term)
    return OneStreamDecoder(config.decoder)


def _zero(head: Head) -> None:
    nn.init.zeros_(head.last.weight)
    nn.init.zeros_(head.last.bias)


def build(config: DetectorConfig, *, seed: int = 0) -> Detector:
    """An untrained detector with the initial weights of training, the same for the same seed, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = Detector(config)
        detector.initialise()
    return detector.eval()


def skeleton(config: DetectorConfig) -> Detector:
    """A detector on the meta device: shapes without memory, for loading into and for counting."""
    with torch.device("meta"):
        return Detector(config).eval()
