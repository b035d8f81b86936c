"""First frames that CLIP chooses, with a tiny random CLIP."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from generation.media.writing import write_video
from generation.prompts.grammar import write_grammar
from generation.videos import first_frames, nearest_frames
from generation.videos.diffusers_backend import DiffusersBackend
from generation.videos.nearest_frames import PLACES, NearestFrames
from generation.videos.options import DiffusersOptions
from gvvad_jax.command import UserError
from tests.support import tiny_transformers, tiny_vision

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(tiny_transformers.save_clip(tmp_path_factory.mktemp("clip") / "clip"))


@pytest.fixture
def folder(tmp_path):
    """Three normal training videos of 16 different frames, and an abnormal one."""
    entries = {}
    for number, name in enumerate("abc"):
        frames = [tiny_vision.picture(32, 48, 16 * number + frame) for frame in range(16)]
        write_video(tmp_path / f"{name}.mp4", frames, fps=8)
        entries[name] = {"file": f"{name}.mp4", "label": 0, "split": "train"}
    entries["x"] = {"file": "none.mp4", "label": 1, "split": "train"}
    (tmp_path / "videos.json").write_text(json.dumps({"videos": entries}))
    return tmp_path


def _expected(clip, folder, description):
    """Returns the nearest (video, place), by the classes of transformers alone."""
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    processor = transformers.CLIPImageProcessorPil.from_pretrained(clip)
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
    candidates = [(name, place) for name in "abc" for place in PLACES]
    images = [first_frames.frame_at(folder / f"{name}.mp4", place) for name, place in candidates]
    text = f"{description.location}, {description.viewpoint}"
    with torch.inference_mode():
        output = model(
            **processor(
                images=[Image.fromarray(np.asarray(i)) for i in images], return_tensors="pt"
            ),
            **tokenizer([text], return_tensors="pt", truncation=True, max_length=77),
        )
    return candidates[int(output.logits_per_text[0].argmax())]


def test_the_nearest_frame_is_chosen_for_both_twins(clip, folder, tmp_path):
    frames = NearestFrames(folder / "videos.json", 0, clip)
    descriptions = write_grammar(6, seed=0)
    frames.prepare(descriptions, tmp_path / "prepared", "cpu")
    chosen = set()
    for abnormal, normal in zip(descriptions[::2], descriptions[1::2], strict=True):
        assert frames.draw(abnormal) == frames.draw(normal) == _expected(clip, folder, abnormal)
        chosen.add(frames.draw(abnormal))
    assert len(chosen) > 1
    assert frames.read(descriptions[0], 16, 16).size == (16, 16)


def test_embeddings_are_kept_and_used_again(clip, folder, tmp_path, monkeypatch):
    descriptions = write_grammar(3, seed=1)
    first = NearestFrames(folder / "videos.json", 0, clip)
    first.prepare(descriptions, tmp_path / "prepared", "cpu")
    kept = sorted((tmp_path / "prepared" / "first_frames").iterdir())
    assert len(kept) == 3
    # A damaged and a missing file are made again, and no other.
    kept[0].write_bytes(b"cut")
    kept[1].unlink()
    embedded, real = [], nearest_frames._embedded

    def counted(encoder, video, path):
        embedded.append(video.id)
        return real(encoder, video, path)

    monkeypatch.setattr(nearest_frames, "_embedded", counted)
    again = NearestFrames(folder / "videos.json", 0, clip)
    again.prepare(descriptions, tmp_path / "prepared", "cpu")
    assert len(embedded) == 2
    assert [again.draw(one) for one in descriptions] == [first.draw(one) for one in descriptions]
    again.prepare(descriptions, tmp_path / "prepared", "cpu")
    assert len(embedded) == 2


def test_unreadable_videos_are_named_and_left_out(clip, folder, tmp_path, capsys):
    (folder / "a.mp4").write_bytes(b"no video")
    frames = NearestFrames(folder / "videos.json", 0, clip)
    descriptions = write_grammar(2, seed=0)
    frames.prepare(descriptions, tmp_path / "prepared", "cpu")
    assert "a: gives no first frame" in capsys.readouterr().err
    assert all(frames.draw(one)[0] in "bc" for one in descriptions)
    for name in "bc":
        (folder / f"{name}.mp4").write_bytes(b"no video")
    frames = NearestFrames(folder / "videos.json", 0, clip)
    with pytest.raises(UserError, match="expected normal training videos with readable frames"):
        frames.prepare(descriptions, tmp_path / "other", "cpu")


def test_the_choice_is_part_of_the_settings(clip, folder):
    def digest(**options):
        fields = {"model": "m", "first_frames": str(folder / "videos.json")} | options
        return DiffusersBackend(DiffusersOptions(**fields)).settings["first_frames"]

    by_clip = {"first_frames_by": "clip"}
    digests = [digest(), digest(**by_clip), digest(**by_clip, first_frames_weights=clip)]
    assert len(set(digests)) == 3
    with pytest.raises(UserError, match="--first_frames_by: expected --first_frames beside it"):
        DiffusersOptions(first_frames_by="clip")
    with pytest.raises(UserError, match="--first_frames_weights: expected --first_frames_by=clip"):
        DiffusersOptions(first_frames="v.json", first_frames_weights=clip)
