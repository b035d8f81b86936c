"""--like: the frame rate and length of real videos, as far as a generator can make them."""

import json
import subprocess

import numpy as np
import pytest

from generation.prompts.descriptions import save_descriptions
from generation.prompts.grammar import write_grammar
from generation.videos import like, presets
from generation.videos.options import DiffusersOptions
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from gvvad_jax.store.format import Row
from gvvad_jax.store.writer import StoreWriter
from tests.support.started import python
from tests.support.stores import make_manifest

NTSC = 30000 / 1001


def write_store(path, videos):
    """Writes a store of (split, source, num_frames, fps)."""
    entries = {
        f"v{i}": {"file": f"v{i}.mp4", "label": 0, "split": split}
        for i, (split, *_) in enumerate(videos)
    }
    manifest = make_manifest()
    writer = StoreWriter(path, manifest, annotations.from_json({"videos": entries}, "videos.json"))
    for i, (_, source, num_frames, fps) in enumerate(videos):
        rows = np.zeros((1, manifest.crops["count"], manifest.dim), manifest.dtype)
        text = manifest.text and np.zeros((1, manifest.text["dim"]), manifest.dtype)
        row = Row(
            id=f"v{i}",
            num_snippets=1,
            num_frames=num_frames,
            fps=fps,
            source=source,
            declared_frames=num_frames,
            decoded_frames=num_frames,
        )
        writer.add(row, rows, *([text] if text is not None else []))
    assert writer.pack()
    return path


def test_real_training_videos_are_read_alone(tmp_path):
    store = write_store(
        tmp_path / "store",
        [
            ("train", "real", 100, 25.0),  # 4 s
            ("train", "real", 150, 25.0),  # 6 s
            ("train", "real", 300, NTSC),  # 10.01 s
            ("train", "real", 60, 30.0),  # 2 s
            ("test", "real", 9000, 60.0),
            ("validation", "real", 9000, 60.0),
            ("train", "synthetic", 49, 8.0),
        ],
    )
    # Between 25 and 29.97 fps lies 27.5, a rate of no video.
    assert like.read(store) == like.RealVideos(str(store), 4, 25.0, 5.0)


def test_a_store_without_real_training_videos_is_refused(tmp_path):
    store = write_store(
        tmp_path / "s", [("train", "synthetic", 49, 8.0), ("test", "real", 100, 25.0)]
    )
    with pytest.raises(UserError) as caught:
        like.read(store)
    assert str(caught.value) == (
        f"--like={store}: expected a store with real videos of split train, found none in it; "
        "give the store of the real training videos"
    )
    with pytest.raises(UserError, match="expected a feature store"):
        like.read(tmp_path / "none")


SEEN = "; the median of 7 real training videos of S is {} fps and {} s"


@pytest.mark.parametrize(
    ("options", "backend", "real", "expected", "reason"),
    [
        ({}, "world", (25.0, 4.0), (25.0, 100), ""),
        ({}, "world", (NTSC, 5.005), (NTSC, 150), ""),
        ({}, "world", (25.0, 90.0), (25.0, 600), ", but the world makes at most 24 s"),
        ({}, "world", (10.0, 0.1), (10.0, 2), ", but the world makes at least 2 frames"),
        (
            {},
            "world",
            (240.0, 30.0),
            (60.0, 1440),
            ", but the world takes 1 to 60 fps and makes at most 24 s",
        ),
        ({"fps": 8.0}, "world", (25.0, 4.0), (8.0, 32), "; --fps as given"),
        ({"num_frames": 9}, "world", (25.0, 4.0), (25.0, 9), "; --num_frames as given"),
        # CogVideoX isn't told a rate: at 25 fps its frames would play three times too fast.
        (
            {},
            "diffusers",
            (25.0, 30.0),
            (8, 49),
            ", but zai-org/CogVideoX-2b moves at 8 fps and makes at most 49 frames",
        ),
        (
            {"generator": "cogvideox-2b"},
            "diffusers",
            (8.0, 4.1),
            (8, 33),
            "",
        ),
        (
            {"generator": "cogvideox1.5-5b"},
            "diffusers",
            (16.0, 1.6),
            (16, 33),
            ", but cogvideox1.5-5b makes 16N+1 frames",
        ),
        (
            {"generator": "wan2.1-1.3b"},
            "diffusers",
            (25.0, 3.0),
            (16, 49),
            ", but wan2.1-1.3b moves at 16 fps and makes 4N+1 frames",
        ),
        ({"generator": "ltx-video"}, "diffusers", (25.0, 4.85), (25.0, 121), ""),
        # 125 frames lie between 121 and 129.
        (
            {"generator": "ltx-video"},
            "diffusers",
            (25.0, 5.0),
            (25.0, 121),
            ", but ltx-video makes 8N+1 frames",
        ),
        (
            {"fps": 5.0, "num_frames": 9},
            "world",
            (25.0, 90.0),
            (5.0, 9),
            "; --fps and --num_frames as given",
        ),
        (
            {"generator": "ltx-video"},
            "diffusers",
            (NTSC, 60.0),
            (NTSC, 161),
            ", but ltx-video makes at most 161 frames",
        ),
        (
            {"generator": "cogvideox-2b", "fps": 16.0},
            "diffusers",
            (25.0, 0.1),
            (16.0, 9),
            ", but cogvideox-2b makes at least 9 frames; --fps as given",
        ),
    ],
)
def test_what_is_chosen_and_why(options, backend, real, expected, reason, monkeypatch):
    monkeypatch.setattr(like, "read", lambda path: like.RealVideos(path, 7, *real))
    given = DiffusersOptions(**options)
    fitted, line = like.fitted(given, backend, "S")
    assert (fitted.fps, fitted.num_frames) == expected
    assert fitted.generator == given.generator and fitted.height is None
    shown = [f"{value:.2f}".rstrip("0").rstrip(".") for value in (expected[0], *real)]
    assert line == f"--like: {expected[1]} frames at {shown[0]} fps" + (
        SEEN.format(*shown[1:]) + reason
    )


def test_a_model_without_published_numbers_is_refused():
    with pytest.raises(UserError) as caught:
        like.bounds(DiffusersOptions(model="me/mine"), "diffusers")
    assert str(caught.value) == (
        f"--like: expected a published model ({', '.join(presets.PRESETS)}), whose frame rate and "
        "frame counts are known, found me/mine; give --fps and --num_frames in place of --like"
    )


def test_command(tmp_path):
    store = write_store(tmp_path / "real", [("train", "real", 12, 25.0), ("train", "real", 9, 5.0)])
    save_descriptions(tmp_path / "p.jsonl", write_grammar(1, seed=0))

    def run(*flags):
        command = [
            *(*python(), "-m", "generation.videos", f"--prompts={tmp_path / 'p.jsonl'}"),
            *("--height=32", "--width=48", f"--out={tmp_path / 'out'}", *flags),
        ]
        return subprocess.run(command, capture_output=True, text=True)

    done = run(f"--like={store}")
    assert done.returncode == 0, done.stderr
    # (0.48 s + 1.8 s) / 2 at 5 fps.
    assert done.stderr.startswith(
        f"--like: 6 frames at 5 fps; the median of 2 real training videos of {store} is 5 fps and "
        "1.14 s\n"
    )
    listed = json.loads((tmp_path / "out" / "videos.json").read_text())["videos"].values()
    assert [(video["num_frames"], video["fps"]) for video in listed] == [(6, 5.0)] * 2
    # The numbers themselves are what a folder must agree on.
    assert run("--fps=5", "--num_frames=6").returncode == 0
    assert run(f"--like={store}", "--num_frames=7").returncode == 2
    failed = run(f"--like={tmp_path}")
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1
