"""Ids are refused where a video is listed, not where they do harm."""

import numpy as np
import pytest

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, files
from gvvad_jax.store.ids import require_ids
from gvvad_jax.store.writer import StoreWriter

REFUSED = {
    "nul": ["a\0b"],
    "line": ["a\nb"],
    "parent": ["../a"],
    "inner parent": ["a/../../b"],
    "windows parent": ["a\\..\\b"],
    "root": ["/a"],
    "empty": [" "],
    "surrogate": ["a\ud800"],
    "long": ["a" * 1025],
    "npy": ["a", "a.npy"],
}


@pytest.mark.parametrize("ids", REFUSED.values(), ids=REFUSED)
def test_what_harms_is_refused_in_one_line_wherever_it_is_listed(tmp_path, ids):
    with pytest.raises(UserError, match="^list.json: video .*; rename it") as raised:
        require_ids(ids, "list.json")
    assert "\n" not in str(raised.value)
    entry = {"file": "a.mp4", "label": 0, "split": "train"}
    with pytest.raises(UserError, match="videos.json: video "):
        annotations.from_json({"videos": dict.fromkeys(ids, entry)}, "videos.json")
    writer = StoreWriter.for_features(tmp_path, dim=2)
    for video_id in ids[:-1]:
        writer.add_video(video_id, np.zeros((1, 2)), label=0, split="train")
    with pytest.raises(UserError, match="add_video: video "):
        writer.add_video(ids[-1], np.zeros((1, 2)), label=0, split="train")


def test_usual_ids_are_taken():
    require_ids(["a", "b.npy", "c/d", "e..f", "ü 1", "x" * 255, "npy", ".npy"], "list.json")


def test_an_npz_whose_names_mean_two_arrays_is_refused(tmp_path):
    files.write_arrays(tmp_path / "s.npz", {"a": np.zeros(2), "a.npy": np.ones(2)})
    with pytest.raises(UserError, match="arrays called 'a' and 'a'.npy"):
        files.load_arrays(tmp_path / "s.npz", "scores")
