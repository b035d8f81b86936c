"""The study of the filter: a small run, and generated videos in files."""

import json
import subprocess

import pytest

from generation.media.writing import write_video
from gvvad_jax.command import UserError
from tests.support.started import python
from tools.studies import defects, filter_quality


def test_a_small_run(monkeypatch):
    assert filter_quality.GAPS == (0.0, 1.0, 2.0)
    monkeypatch.setattr(filter_quality, "GAPS", (0.5, 1.0))
    results = filter_quality.world_suite(pairs=1, real_pairs=1, seed=3, kinds=("black",))
    assert results["real_videos"] == 2 and list(results["sound"]) == ["0.5", "1"]
    for counts in results["sound"].values():
        assert counts["clips"] == 2 and counts["dropped_light"] == 0
        assert sum(counts["by_class"].values()) == counts["dropped"]
    black = results["planted"]["black"]
    assert [black[s]["dropped"] for s in defects.SEVERITIES] == [2, 2, 2]
    assert [black[s]["dropped_light"] for s in defects.SEVERITIES] == [0, 0, 2]
    assert black["plain"]["reasons"]["black"] == 2 and black["plain"]["strength"] == 0.2
    sound = results["sound"]["1"]["dropped"]
    assert black["plain"]["at_random"] == round((2 + sound) / 4, 4)
    for counts in results["broken_share"].values():
        assert sum(of for _, of in counts["by_defect"].values()) == counts["clips"] == 4
        assert sum(n for n, _ in counts["by_defect"].values()) == counts["dropped"]
    rates = results["broken_share"]["rates"]["summary"]["by_label"]
    # 0.62 and 0.39 of two each.
    assert rates["normal"]["kept"] <= 1 and rates["abnormal"]["kept"] <= 1
    results["planted"]["melt"] = black
    printed = filter_quality.table(json.loads(json.dumps(results)))
    assert "melt *" in printed and "black *" not in printed and "not judged: pair_margin" in printed


def test_real_clips_are_judged_against_real_videos(tmp_path, pair):
    folder = tmp_path / "clips"
    folder.mkdir()
    frames, other = pair
    write_video(folder / "good.mp4", frames, fps=8.0)
    frozen = defects.plant("frozen", "gross", frames, other, 0)
    write_video(folder / "bad.mp4", frozen, fps=8.0)
    (folder / "notes.txt").write_text("no video")
    for name, shown in (("r0", frames), ("r1", other)):
        write_video(tmp_path / f"{name}.mp4", shown, fps=8.0)
    entry = {"label": 0, "split": "train"}
    videos = {name: entry | {"file": f"{name}.mp4"} for name in ("r0", "r1")}
    videos["unread"] = {"label": 0, "split": "test", "file": "none.mp4"}
    (tmp_path / "videos.json").write_text(json.dumps({"videos": videos}))
    command = [*python(), "-m", "tools.filter_suite", "--pairs=0", f"--clips={folder}"]
    out = tmp_path / "suite.json"
    done = subprocess.run(
        [*command, f"--reference={tmp_path / 'videos.json'}", f"--json={out}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())["real_clips"]
    assert (results["clips"], results["dropped"], results["reference"]) == (2, 1, 2)
    assert "frozen" in results["by_clip"]["bad.mp4"]["reasons"]
    assert results["by_clip"]["good.mp4"]["reasons"] == []
    assert "1 of 2 dropped" in done.stdout
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.startswith("error: --clips, --reference")
    with pytest.raises(UserError, match="found 0"):
        filter_quality.judged_files(tmp_path / "none", tmp_path / "videos.json")
