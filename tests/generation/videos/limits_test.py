"""Frame counts and sizes that models cannot generate."""

import inspect

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from generation.videos import presets
from gvvad_jax.command import UserError
from tests.support import tiny_pipelines
from tests.support.tiny_pipelines import make_backend as make

pytestmark = pytest.mark.usefixtures("one_thread")


def test_wrong_frame_counts_are_refused_early(models, descriptions, tmp_path):
    newer = tiny_pipelines.save_cogvideox(tmp_path / "1.5", patch_frames=2)
    for model, frames, said in (
        (models["cogvideox"], 13, r"8N\+1 for CogVideoXPipeline, found 13; give 9 or 17"),
        (newer, 25, r"16N\+1 for CogVideoXPipeline, found 25; give 17 or 33"),
        (models["wan"], 10, r"4N\+1 for WanPipeline, found 10; give 9 or 13"),
        (models["ltx"], 7, r"4N\+1 for LTXPipeline, found 7; give 5 or 9"),
    ):
        with pytest.raises(UserError, match=f"--num_frames: expected {said}"):
            make(model, num_frames=frames).prepare(descriptions, tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()
    # A model whose default is not 8N+1 follows another rule; the result's count is checked.
    odd = make(tiny_pipelines.save_cogvideox(tmp_path / "odd", default_frames=10), num_frames=13)
    odd.prepare(descriptions[:1], tmp_path / "prepared")
    assert "expected 13 frames, found 16" in str(odd(descriptions[:1])[0])
    # Without --num_frames, the model's default is expected.
    default = make(models["cogvideox"], num_frames=None, denoising_steps=1)
    default.prepare(descriptions[:1], tmp_path / "prepared")
    assert default._expected_frames == 17 == len(default(descriptions[:1])[0].frames_TxHxWx3)
    # Wan rounds sizes down silently.
    wide = make(models["wan"], 32, denoising_steps=1)
    wide.prepare(descriptions[:1], tmp_path / "prepared")
    wide._call["width"] = 40
    assert "have to be divisible" in str(wide(descriptions[:1])[0])


def test_wrong_sizes_are_refused_early(models, descriptions, tmp_path):
    for name, size, said in (
        ("cogvideox", {"height": 17}, r"--height: .*of 16 for CogVideoXP.* 17; give 16 or 32"),
        ("cogvideox", {"width": 24}, r"--width: .*of 16 for CogVideoXP.* 24; give 16 or 32"),
        ("wan", {"width": 40}, r"--width: .*of 16 for WanPipeline, found 40; give 32 or 48"),
        # The VAE takes multiples of 4; the pipeline does not.
        ("ltx", {"height": 36, "width": 64}, r"LTXPipeline can make, found 36 and 64 .*by 32"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            make(models[name], **size).prepare(descriptions, tmp_path / "prepared")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "prepared").exists()


def test_presets_know_which_models_are_told_the_frame_rate():
    import diffusers

    pipelines = {"cog": "CogVideoXPipeline", "wan": "WanPipeline", "ltx": "LTXPipeline"}
    for name, preset in presets.PRESETS.items():
        if name[:3] not in pipelines:  # Those of newer_pipelines_test.py.
            continue
        call = inspect.signature(getattr(diffusers, pipelines[name[:3]]).__call__).parameters
        assert preset.any_rate == ("frame_rate" in call)
