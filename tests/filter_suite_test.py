"""The filter's exam: what is planted, a small run, and real clips from files."""

import json
import subprocess
import sys

import numpy as np
import pytest

from generation.media.writing import write_video
from generation.prompts.grammar import write_grammar
from generation.world import render
from gvvad_jax.command import UserError
from tools import filter_suite, planted


@pytest.fixture(scope="module")
def pair():
    """Two sound clips of different places."""
    descriptions = write_grammar(2, 3)[::2]
    return [
        render.render(description, domain="generated", seed=3).frames_TxHxWx3
        for description in descriptions
    ]


@pytest.mark.parametrize("kind", planted.DEFECTS)
def test_every_defect_is_a_pure_function_and_leaves_the_sound_clip_alone(pair, kind):
    frames, other = pair
    before = frames.copy(), other.copy()
    for severity in planted.SEVERITIES:
        broken = planted.plant(kind, severity, frames, other, seed=5)
        assert broken.shape == frames.shape and broken.dtype == np.uint8
        assert (broken != frames).any()
    np.testing.assert_array_equal(planted.plant(kind, severity, frames, other, seed=5), broken)
    np.testing.assert_array_equal(before[0], frames)
    np.testing.assert_array_equal(before[1], other)


def test_shares_and_strengths_are_what_they_say(pair):
    frames, other = pair
    black = planted.plant("black", "plain", frames, other, 0)
    assert np.mean(black.max(axis=(1, 2, 3)) == 0) == pytest.approx(0.2, abs=0.02)
    frozen = planted.plant("frozen", "gross", frames, other, 0)
    still = (np.diff(frozen.astype(int), axis=0) == 0).all(axis=(1, 2, 3))
    assert still.mean() == pytest.approx(0.8, abs=0.03)
    held = planted.plant("stutter", "gross", frames, other, 0)
    np.testing.assert_array_equal(held[3], held[0])
    np.testing.assert_array_equal(held[8], frames[8])
    assert set(planted.HELD_OUT) < set(planted.DEFECTS)
    assert planted.HELD_OUT == ("stutter", "melt")


def test_a_small_run(monkeypatch):
    assert filter_suite.GAPS == (0.0, 1.0, 2.0)
    monkeypatch.setattr(filter_suite, "GAPS", (0.5, 1.0))
    found = filter_suite.world_suite(pairs=1, real_pairs=1, seed=3, kinds=("black",))
    assert found["real_videos"] == 2 and list(found["sound"]) == ["0.5", "1"]
    for counts in found["sound"].values():
        assert counts["clips"] == 2 and counts["dropped_light"] == 0
        assert sum(counts["by_class"].values()) == counts["dropped"]
    black = found["planted"]["black"]
    assert [black[s]["dropped"] for s in planted.SEVERITIES] == [2, 2, 2]
    assert [black[s]["dropped_light"] for s in planted.SEVERITIES] == [0, 0, 2]
    assert black["plain"]["reasons"]["black"] == 2 and black["plain"]["strength"] == 0.2
    sound = found["sound"]["1"]["dropped"]
    assert black["plain"]["at_random"] == round((2 + sound) / 4, 4)
    for counts in found["broken_share"].values():
        assert sum(of for _, of in counts["by_defect"].values()) == counts["clips"] == 4
        assert sum(n for n, _ in counts["by_defect"].values()) == counts["dropped"]
    rates = found["broken_share"]["rates"]["summary"]["by_label"]
    # 0.62 and 0.39 of two each.
    assert rates["normal"]["kept"] <= 1 and rates["abnormal"]["kept"] <= 1
    found["planted"]["melt"] = black
    printed = filter_suite.table(json.loads(json.dumps(found)))
    assert "melt *" in printed and "black *" not in printed and "not judged: pair_margin" in printed


def test_real_clips_are_judged_against_real_videos(tmp_path, pair):
    folder = tmp_path / "clips"
    folder.mkdir()
    frames, other = pair
    write_video(folder / "good.mp4", frames, fps=8.0)
    frozen = planted.plant("frozen", "gross", frames, other, 0)
    write_video(folder / "bad.mp4", frozen, fps=8.0)
    (folder / "notes.txt").write_text("no video")
    for name, shown in (("r0", frames), ("r1", other)):
        write_video(tmp_path / f"{name}.mp4", shown, fps=8.0)
    entry = {"label": 0, "split": "train"}
    videos = {name: entry | {"file": f"{name}.mp4"} for name in ("r0", "r1")}
    videos["unread"] = {"label": 0, "split": "test", "file": "none.mp4"}
    (tmp_path / "videos.json").write_text(json.dumps({"videos": videos}))
    command = [sys.executable, "-m", "tools.filter_suite", "--pairs=0", f"--clips={folder}"]
    out = tmp_path / "suite.json"
    done = subprocess.run(
        [*command, f"--reference={tmp_path / 'videos.json'}", f"--json={out}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["real_clips"]
    assert (found["clips"], found["dropped"], found["reference"]) == (2, 1, 2)
    assert "frozen" in found["by_clip"]["bad.mp4"]["reasons"]
    assert found["by_clip"]["good.mp4"]["reasons"] == []
    assert "1 of 2 dropped" in done.stdout
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.startswith("error: --clips, --reference")
    with pytest.raises(UserError, match="found 0"):
        filter_suite.real_clips(tmp_path / "none", tmp_path / "videos.json")
