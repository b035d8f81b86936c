"""Digests of videos, which tell whether a row is up to date."""

import json

import pytest

from generation.encode import provenance
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, digests


def _digest(folder, file):
    videos = {"a": {"file": file, "label": 0, "split": "train", "fps": 10}}
    (folder / "videos.json").write_text(json.dumps({"videos": videos}))
    return provenance.video_digests(annotations.load(folder / "videos.json"), {}, "real")["a"]


def _frames(folder, names):
    folder.mkdir()
    for number, name in enumerate(names):
        (folder / name).write_bytes(bytes([number]) * 100)


@pytest.mark.parametrize("file", ["a.mp4", "frames"])
def test_a_video_that_cannot_be_read_is_named(tmp_path, monkeypatch, file):
    (tmp_path / "a.mp4").write_bytes(b"a")
    _frames(tmp_path / "frames", ["0.png"])

    def refused(path, num_bytes):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(digests, "read_ends", refused)
    with pytest.raises(UserError, match=f"{file}.* video 'a', .*Permission denied.*readable"):
        _digest(tmp_path, file)


def test_a_folder_is_read_in_the_order_of_its_frames(tmp_path):
    # With another digest, every store of padded names would be encoded again.
    _frames(tmp_path / "padded", [f"{number:02d}.png" for number in range(12)])
    assert _digest(tmp_path, "padded") == "f0d1d33153fad816"
    # The old digest, when frames were ordered by letters.
    _frames(tmp_path / "plain", [f"{number}.png" for number in range(12)])
    assert _digest(tmp_path, "plain") != "7ab841cb28ba4139"
