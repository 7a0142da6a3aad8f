"""One page of pictures: who was taken for the actor of each clip. Nothing is loaded from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from stmixer.trainer.evaluate.page import STYLE
from stmixer.trainer.teach.clips import NONE, SkippedClip
from stmixer.trainer.teach.drafts import DraftedClip
from stmixer.trainer.teach.split import ClipPart

_PARTS: Mapping[ClipPart, str] = {"train": "learned from", "val": "kept to check by"}


def draft_page(drafts: Sequence[DraftedClip], parts: Mapping[str, ClipPart], skipped: Sequence[SkippedClip]) -> str:
    """The whole document, a section for each label.

    Args:
        drafts: those that are used, and those in which nobody was found.
        parts: of those that are used, by name; nothing where they could not be parted.
        skipped: what is left out.
    """
    labels = sorted({draft.clip.label for draft in drafts}, key=lambda label: (label is None, label or ""))
    sections = []
    for label in labels:
        own = [draft for draft in drafts if draft.clip.label == label]
        sections += [
            f"<h2>{escape(label or NONE)}</h2>",
            '<div class="pictures">',
            *(_figure(d, parts) for d in own),
            "</div>",
        ]
    if skipped:
        rows = "".join(f"<li>{escape(clip.path.name)}: {escape(clip.reason)}</li>" for clip in skipped)
        sections += ["<h2>Left out</h2>", f"<ul>{rows}</ul>"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Who was taken for the actor</title>'
        f"<style>{STYLE}</style><h1>Who was taken for the actor</h1>"
        "<p>The beginning, middle and end of every clip. Whoever is called actor is what is learned; of the others "
        "nothing is said. Where it is somebody else, cut the clip to the actor or take it away, and run the same "
        f"command again.</p>{''.join(sections)}</html>\n"
    )


def _figure(draft: DraftedClip, parts: Mapping[str, ClipPart]) -> str:
    picture = base64.b64encode(draft.picture.read_bytes()).decode()
    nobody = draft.clip.label is not None and draft.actor is None
    part = parts.get(draft.clip.name)
    use = "left out: nobody was found in it" if nobody else "not used yet" if part is None else _PARTS[part]
    people = f"{len(draft.tracks)} people" if len(draft.tracks) != 1 else "one person"
    name = escape(draft.clip.name)
    return (
        f'<figure><img alt="{name}" src="data:image/jpeg;base64,{picture}">'
        f"<figcaption>{name}: {people}, {use}</figcaption></figure>"
    )
