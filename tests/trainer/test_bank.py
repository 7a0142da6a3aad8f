"""The query bank: what it holds, windows, and banks that are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from training import own_set, run_config, stage_output
from typer.testing import CliRunner

from stmixer.model.card import read_header
from stmixer.model.checkpoint import load
from stmixer.model.decoder import DecoderOutput
from stmixer.model.device_preprocess import make_clip_on
from stmixer.trainer.cli import main
from stmixer.trainer.data.clips import ClipReader
from stmixer.trainer.data.records import Video, VideoFile
from stmixer.trainer.errors import TrainError
from stmixer.trainer.long_term.bank import BankMaker, QueryBank, best_queries


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Path:
    """Of the repository's two clips: fall.mp4, 5.3 s, and walk.mp4, 6.8 s."""
    root = own_set(tmp_path_factory.mktemp("set"), "train")
    path = root / "bank.safetensors"
    BankMaker(run_config(root, labels=["nothing of the set's"]), tiny_weights, torch.device("cpu")).run(path)
    return path


def test_what_it_says_of_itself(bank: Path, tiny_weights: Path) -> None:
    card = QueryBank(bank).card
    assert (card.model, card.k, card.dim) == ("tiny", 5, 2 * read_header(tiny_weights)[0].config.decoder.dim)
    assert card.digest == read_header(tiny_weights)[1]
    assert card.set == bank.parent.name
    assert sorted(card.videos) == ["fall.mp4", "walk.mp4"]


def test_a_clip_a_second(bank: Path) -> None:
    opened = QueryBank(bank)
    for video, clips in (("fall.mp4", 6), ("walk.mp4", 7)):
        assert opened.times_us[opened.clips(video)].tolist() == [1_000_000 * i for i in range(clips)]
    assert opened.scores.shape == (13, 5)
    assert (opened.scores.diff(dim=1) <= 0).all()


def test_the_queries_are_the_detectors(bank: Path, tiny_weights: Path) -> None:
    model = load(tiny_weights)
    config = model.card.config
    reader = ClipReader(config.clip, antialias=config.preprocess.antialias, cache_bytes=0)
    path = bank.parent / "videos" / "walk.mp4"
    frames = reader.read(Video("w", VideoFile(path)), reader.window.indices(4_000_000), config.preprocess.short_side)
    with torch.inference_mode():
        output = model.detector(*make_clip_on(torch.device("cpu"), [frames], config.preprocess))
    order = output.stages[-1].human_logits[0].softmax(-1)[:, 0].argsort(descending=True)[:5]
    wanted = torch.cat((output.spatial_queries[0, order], output.temporal_queries[0, order]), -1)
    queries, mask = QueryBank(bank).window("walk.mp4", 4.0, width_clips=1)
    assert mask.tolist() == [True] * 5
    torch.testing.assert_close(queries, wanted, rtol=2e-3, atol=2e-3)  # half precision in the file


def test_the_best_people_by_hand() -> None:
    human = torch.tensor([[[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]]])
    stage = stage_output(torch.zeros(1, 3, 4), human_logits=human)
    spatial, temporal = torch.arange(6.0).view(1, 3, 2), torch.arange(6.0).view(1, 3, 2) * 10
    queries, scores = best_queries(DecoderOutput((stage,), spatial, temporal), 2)
    assert queries.tolist() == [[[2.0, 3.0, 20.0, 30.0], [4.0, 5.0, 40.0, 50.0]]]
    torch.testing.assert_close(scores, torch.tensor([[2.0, 1.0]]).sigmoid())


def test_windows(bank: Path) -> None:
    opened = QueryBank(bank)
    alone = torch.stack([opened.window("walk.mp4", float(t), 1)[0] for t in range(7)])
    queries, mask = opened.window("walk.mp4", 3.4)
    assert queries.shape == (300, opened.card.dim)
    assert queries.dtype == torch.float32
    there = mask.view(60, 5)
    # 30 clips before the centre, clip 3: clip 0 is the 27th
    assert there.all(1).nonzero().flatten().tolist() == list(range(27, 34))
    assert not there[:27].any()
    torch.testing.assert_close(queries.view(60, 5, -1)[27:34], alone, rtol=0, atol=0)
    assert (queries[~mask] == 0).all()
    # half a second is nearer to the later clip; a window inside the video has everyone
    queries, mask = opened.window("walk.mp4", 2.5, 4)
    assert mask.all()
    torch.testing.assert_close(queries.view(4, 5, -1), alone[1:5], rtol=0, atol=0)


@pytest.mark.parametrize("t_s", [-100.0, 500.0])
def test_a_window_beside_the_video_is_empty(bank: Path, t_s: float) -> None:
    queries, mask = QueryBank(bank).window("fall.mp4", t_s)
    assert not mask.any()
    assert not queries.any()


def test_an_unknown_video(bank: Path) -> None:
    with pytest.raises(KeyError):
        QueryBank(bank).window("run.mp4", 0.0)


def test_it_goes_to_worker_processes(bank: Path) -> None:
    opened = QueryBank(bank)
    wanted = opened.window("fall.mp4", 2.0)
    got = pickle.loads(pickle.dumps(opened)).window("fall.mp4", 2.0)
    for a, b in zip(wanted, got, strict=True):
        assert np.array_equal(a.numpy(), b.numpy())


def test_another_models_bank_is_refused(bank: Path, tiny_weights: Path) -> None:
    QueryBank(bank, read_header(tiny_weights)[1])
    with pytest.raises(
        TrainError, match=r"is a bank of another model: of tiny \w{12}, not of 0{12}; make it"
    ) as raised:
        QueryBank(bank, "0" * 64)
    assert len(str(raised.value).splitlines()) == 1


def test_files_that_are_no_banks(tmp_path: Path, bank: Path, tiny_weights: Path) -> None:
    with pytest.raises(TrainError, match="does not exist"):
        QueryBank(tmp_path / "no.safetensors")
    with pytest.raises(TrainError, match="is not a query bank"):
        QueryBank(tiny_weights)
    (tmp_path / "cut.safetensors").write_bytes(bank.read_bytes()[:1000])
    with pytest.raises(TrainError, match="is not a safetensors file"):
        QueryBank(tmp_path / "cut.safetensors")
    save_file({"queries": torch.zeros(1)}, tmp_path / "b.safetensors", {"stmixer_bank": '{"format": 1, "card": {}}'})
    with pytest.raises(TrainError, match="is a damaged bank"):
        QueryBank(tmp_path / "b.safetensors")


def test_the_command(tmp_path: Path, tiny_weights: Path) -> None:
    root = own_set(tmp_path / "set", "val")
    out = tmp_path / "banks" / "set.safetensors"
    common = ["bank", "--weights", str(tiny_weights), "-o", str(out), "--set", "workers=0"]
    done = CliRunner().invoke(main, [*common, "--custom", str(root), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "2 videos, of tiny" in done.stdout
    assert QueryBank(out).card.set == "set"
    assert [path.name for path in out.parent.iterdir()] == ["set.safetensors"]


def test_what_the_command_refuses(tmp_path: Path, tiny_weights: Path) -> None:
    root = own_set(tmp_path / "set", "val")
    sets = [{"kind": "custom", "name": name} for name in ("one", "two")]
    (root / "run.yaml").write_text(yaml.safe_dump({"run_dir": "run", "sets": sets}))
    (tmp_path / "file").write_text("")
    cases = {
        "wants --config or --custom": [],
        "choose with --name among one, two": ["-c", str(root / "run.yaml")],
        "no.safetensors does not exist": ["--custom", str(root), "--weights", "no.safetensors"],
        "bank.safetensors cannot be written": ["--custom", str(root), "-o", str(tmp_path / "file/bank.safetensors")],
    }
    for message, arguments in cases.items():
        given = ["bank", "--weights", str(tiny_weights), "-o", str(tmp_path / "out.safetensors"), *arguments]
        done = CliRunner().invoke(main, given)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        assert (done.exit_code, len(lines)) == (2, 1), lines
        assert message in lines[0]
