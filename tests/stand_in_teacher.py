"""What stands in for `stmixer teach` where the subject is the service or the page: it tells at once what a lesson
would, and gives the bundled model for what was learned. The model's name says how it goes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np

from stmixer.media.jpeg import encode_jpeg
from stmixer.model.bundled import bundled

FIGURES = {"mean_ap": 0.93, "recall": 0.95, "false_people": 0.1, "keyframes": 12, "named": 0.05}
FOR_EVER_S = 3600.0


def say(state: str, says: str = "", **more: object) -> None:
    print(json.dumps({"state": state, "says": says, **more}), flush=True)


def main() -> None:
    """``teach CLIPS -o OUTPUT --weights NAME --json``."""
    command, clips, _, output, *_ = sys.argv[1:]
    assert command == "teach"
    name, work = Path(output).stem, Path(output).with_suffix(".teach")
    say("start", "reading the clips", phase="look")
    match name:
        case "absent":
            print("stmixer: torch not installed; pip install 'stmixer[train]' brings what is missing", file=sys.stderr)
            raise SystemExit(2)
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        case "fails":
            say("failed", f"wave has one clip; add another one to {clips}/wave", phase="look")
            raise SystemExit(2)
    say("end", "3 clips", phase="look")
    say("note", f"{clips}/wave/9.mp4 is left out: nobody was found in it", phase="look")
    say("start", "finding who is in the clips", phase="draft")
    work.mkdir(exist_ok=True)
    picture = base64.b64encode(encode_jpeg(np.full((60, 240, 3), 120, np.uint8))).decode()
    figure = f'<img src="data:image/jpeg;base64,{picture}"><figcaption>wave/1.mp4: one person</figcaption>'
    (work / "draft.html").write_text(f"<title>Who</title><style>p {{ margin: 0 }}</style><figure>{figure}</figure>")
    say("end", "somebody in 3 of 3 clips", phase="draft")
    say("start", "learning from them", phase="learn")
    say("progress", phase="learn", done=3, total=10, left_s=70.0)
    match name:
        case "waits":
            signal.sigtimedwait([], FOR_EVER_S)
        case "deaf":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if os.fork() == 0:  # one of its own, which holds its pipes
                signal.sigtimedwait([], FOR_EVER_S)
            say("note", "deaf from here on", phase="learn")
            signal.sigtimedwait([], FOR_EVER_S)
    say("end", "the best is kept", phase="learn")
    weights = bundled()["stmixer-rt"].file
    for path in weights.parent.glob("stmixer-rt.*"):
        shutil.copy(path, Path(output).with_name(f"{name}{path.name.removeprefix('stmixer-rt')}"))
    say("done", f"stmixer serve --weights {output}", phase="write", weights=output, figures=FIGURES, next="")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        say("stopped", "stopped during learn; what is done is kept, the same command goes on")
        raise SystemExit(130) from None
