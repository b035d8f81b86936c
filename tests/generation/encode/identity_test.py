"""What makes a store's rows out of date: content, and never how a path is spelled."""

import shutil

import numpy as np

from generation.encode import encoding
from generation.encode.recipe import EncodeOptions
from generation.media.writing import write_video
from gvvad_jax.store.reader import Store
from tests.support.tiny_videos import write_list

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
