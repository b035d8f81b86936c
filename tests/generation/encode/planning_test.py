"""What encoding will take, planned without writing anything."""

import json
import subprocess

import numpy as np
import pytest

from generation.encode import encoding, planning
from generation.encode.recipe import EncodeOptions
from generation.media.writing import write_video
from gvvad_jax.store import annotations
from gvvad_jax.store.reader import Store
from tests.support.started import python
from tests.support.tiny_videos import write_faststart, write_uneven


def _frames(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (count, 48, 64, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "whole.mp4", _frames(40), fps=10)
    write_video(folder / "short.mp4", _frames(9), fps=10)
    (folder / "bad.mp4").write_bytes(b"no video")
    write_faststart(folder / "cut.mp4", _frames(60))
    content = (folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(content[: len(content) * 2 // 3])
    write_uneven(folder / "uneven.mp4")
    entries = {
        name: {"file": f"{name}.mp4", "label": 0, "split": "train"}
        for name in ("whole", "short", "bad", "cut", "uneven", "absent")
    }
    path = folder / "videos.json"
    path.write_text(json.dumps({"videos": entries}))
    return path


def test_a_plan_counts_rows_bytes_and_what_will_fail(listed, tmp_path):
    options = EncodeOptions(snippet_stride=8)
    plan = planning.plan(listed, tmp_path / "store", options, progress=False)
    assert not (tmp_path / "store").exists()
    assert plan["videos"] == 6 and plan["done"] == 0
    assert set(plan["failures"]) == {"bad", "absent"}
    assert plan["failures"]["bad"].startswith("bad.mp4: expected a video file")
    assert set(plan["warnings"]) == {"short", "cut", "uneven"}
    assert plan["warnings"]["short"] == ["it is shorter than a snippet: 9 frames of 16"]
    assert "it is cut off: its header names" in plan["warnings"]["cut"][0]
    assert "aren't evenly spaced" in plan["warnings"]["uneven"][0]
    # Four of 40 frames, one of 9, seven of the 60 that are declared, and two of 20.
    assert plan["snippets"] == 4 + 1 + 7 + 2
    assert plan["seconds"] > 0 and plan["a_video_second"]["cpu_seconds"] > 0


def test_a_plan_of_sound_videos_is_what_encoding_makes(listed, tmp_path):
    content = json.loads(listed.read_text())
    content["videos"] = {name: content["videos"][name] for name in ("whole", "short", "uneven")}
    sound = listed.with_name("sound.json")
    sound.write_text(json.dumps(content))
    options = EncodeOptions(snippet_stride=8, dtype="float16")
    before = planning.plan(sound, tmp_path / "store", options, progress=False)
    encoding.encode(sound, tmp_path / "store", options, progress=False)
    after = planning.plan(sound, tmp_path / "store", options, progress=False)
    opened = Store(tmp_path / "store")
    rows = sum(row.num_snippets for row in opened.rows.values())
    width = opened.manifest.dim + opened.manifest.text["dim"]
    assert before["snippets"] == rows == 7 and before["bytes"] == rows * width * 2
    assert before["hours"] * 3600 == pytest.approx(4.9 + 5.0, rel=0.01)
    assert (before["done"], after["done"], after["seconds"]) == (0, 3, None)


def test_the_command_prints_the_plan_and_the_status_to_expect(listed, tmp_path):
    command = [*python(), "-m", "generation.encode", f"--videos={listed}", "--dry_run"]
    done = subprocess.run([*command, f"--out={tmp_path / 's'}"], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["videos"] == len(annotations.load(listed).videos)
    assert "warning: absent: will not be encoded: absent.mp4: expected" in done.stderr
    assert "time: about" in done.stderr and not (tmp_path / "s").exists()
