"""``--explain``: where the model looked, stage by stage, as Figure 4 of the paper shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from stmixer.media.draw import draw_points, tile
from stmixer.media.encode import encode_png
from stmixer.media.resize import resize
from stmixer.model.decoder import PERSON
from stmixer.service.offline.engine import DetectedKeyframe

QUERIES_SHOWN = 3
ZOOM = 2


def write_explanation(keyframe: DetectedKeyframe, folder: Path) -> Path:
    """One PNG per keyframe: a row for each of the best persons, a column for each stage.

    Points are coloured by the stride they read at (log2, 2..5: the level z less 1, where the weights of
    ``model.sampling.level_weights`` peak). If no query passed the threshold the likeliest one is shown.
    """
    stages, b = keyframe.batch.output.stages, keyframe.position
    person = stages[-1].human_logits[b].softmax(-1)[:, PERSON]
    kept = torch.from_numpy(keyframe.batch.kept[b].queries).to(person.device)
    candidates = kept[person[kept].argsort(descending=True)] if len(kept) else person.argmax().unsqueeze(0)
    height, width = keyframe.picture.shape[:2]
    picture = resize(keyframe.picture, width * ZOOM, height * ZOOM)
    tiles = []
    for query in candidates[:QUERIES_SHOWN].tolist():
        for number, stage in enumerate(stages, start=1):
            points = stage.points_xyz[b, query].reshape(-1, 3).float().cpu().numpy()
            x1, y1, x2, y2 = (stage.boxes_xyxy_px[b, query] * ZOOM).tolist()
            title = f"query {query}  stage {number}  person {stage.human_logits[b, query].softmax(-1)[PERSON]:.2f}"
            levels = np.clip(points[:, 2] - 1, 2, 5)
            tiles.append(draw_points(picture, points[:, :2] * ZOOM, levels, (x1, y1, x2, y2), title))
    path = folder / f"keyframe_{keyframe.result.seq:05d}.png"
    path.write_bytes(encode_png(tile(tiles, len(stages))))
    return path
