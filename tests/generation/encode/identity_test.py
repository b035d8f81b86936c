"""What makes a store's rows out of date: content, and never how a path is spelled."""

import dataclasses
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from generation.encode import encoding
from generation.encode.recipe import EncodeOptions
from generation.filter import features as filter_features
from generation.media.writing import write_video
from gvvad_jax.command import UserError
from gvvad_jax.run import inputs
from gvvad_jax.store.reader import Store
from tests.support import tiny_transformers
from tests.support.tiny_videos import moving, write_list

OPTIONS = EncodeOptions(captioner="none")
FRAMES = 60


def _video(path):
    """Writes a large file; everything between its first and last quarter can be missing."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (FRAMES, 96, 128, 3), dtype=np.uint8)
    write_video(path, frames, fps=10, crf=18)


def test_a_preallocated_download_that_went_on_is_encoded_again(tmp_path, capsys):
    """It has its whole size and its ends from the start; half of its frames stayed "finished"."""
    _video(tmp_path / "whole.mp4")
    content = (tmp_path / "whole.mp4").read_bytes()
    size = len(content)
    assert size > 4 * (64 << 10)  # The ends that used to be read leave a middle.
    begun = content[: size // 2] + bytes(size // 4) + content[size // 2 + size // 4 :]
    assert len(begun) == size and begun[: 64 << 10] == content[: 64 << 10]
    (tmp_path / "a.mp4").write_bytes(begun)
    videos = write_list(tmp_path, "a")
    assert encoding.encode(videos, tmp_path / "s", OPTIONS, progress=False)
    decoded = Store(tmp_path / "s").rows["a"].decoded_frames
    assert decoded < FRAMES
    damage = f"a: the file declares {FRAMES} frames, {decoded} could be decoded"
    assert damage in capsys.readouterr().err
    (tmp_path / "a.mp4").write_bytes(content)
    assert encoding.encode(videos, tmp_path / "s", OPTIONS, progress=False)
    assert Store(tmp_path / "s").rows["a"].decoded_frames == FRAMES
    messages = capsys.readouterr().err
    assert "its row is of another file" in messages and "could be decoded" not in messages


def test_moved_and_respelled_paths_are_the_same_work(tmp_path, capsys, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    _video(data / "a.mp4")
    write_list(data, "a")
    assert encoding.encode(data / "videos.json", data / "s", OPTIONS, progress=False)
    shard = data / "s" / "shard-00000.jsonl"
    written = shard.stat().st_mtime_ns, shard.read_bytes()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linked").symlink_to("data")
    for videos, out in (
        ("data/videos.json", "data/s"),
        ("./data/../data/videos.json", "data/s/"),
        (str(data / "videos.json"), str(data / "s")),
        ("linked/videos.json", "linked/s"),
    ):
        assert encoding.encode(videos, out, OPTIONS, progress=False)
        assert (shard.stat().st_mtime_ns, shard.read_bytes()) == written
    shutil.move(data, tmp_path / "moved")
    (tmp_path / "linked").unlink()
    assert encoding.encode("moved/videos.json", "moved/s", OPTIONS, progress=False)
    shard = tmp_path / "moved" / "s" / "shard-00000.jsonl"
    assert (shard.stat().st_mtime_ns, shard.read_bytes()) == written
    assert "encoded again" not in capsys.readouterr().err


def test_renamed_weights_are_the_same_and_merged_ones_are_not(tmp_path, capsys):
    clip = tiny_transformers.save_clip(tmp_path / "one")
    options = EncodeOptions(
        encoder="clip-l14", weights=clip, text_encoder="clip-l14", text_weights=clip
    )
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", moving(20, seed=ord(name)), fps=10)

    def encode(names, options):
        videos = write_list(tmp_path, names)
        return encoding.encode(videos, tmp_path / "s", options, progress=False)

    assert encode("a", options)
    first = Store(tmp_path / "s").rows["a"].sha256
    renamed = tmp_path / "another name"
    clip.rename(renamed)
    moved = dataclasses.replace(options, weights=renamed, text_weights=renamed)
    assert encode("a", moved) and encode("ab", moved)
    store = Store(tmp_path / "s")
    assert list(store.rows) == ["a", "b"] and store.rows["a"].sha256 == first
    assert "encoded again" not in capsys.readouterr().err
    inputs.require_encoder(tmp_path / "s" / "bank.json", store)
    assert filter_features.clip_text_encoder(store.manifest, str(renamed)).dim == store.manifest.dim
    weights = load_file(renamed / "model.safetensors")
    name = next(name for name in sorted(weights) if "vision" in name and "q_proj.weight" in name)
    weights[name] = weights[name] + np.float32(1e-3)
    save_file(weights, renamed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="expected the store here to have the same settings"):
        encode("ab", moved)
    assert Store(tmp_path / "s").rows["a"].sha256 == first
