"""What models are asked for before anything is made of them."""

import importlib.util
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from generation.videos import presets
from generation.videos.diffusers_backend import DiffusersBackend
from gvvad_jax.command import UserError
from tests.support import tiny_pipelines
from tests.support.tiny_pipelines import make_backend as make

pytestmark = pytest.mark.usefixtures("one_thread")


def test_wrong_frame_counts_are_refused_before_anything_is_made(models, descriptions, tmp_path):
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
    # A model whose own default isn't 8N+1 follows a rule of its own; the count is checked anyway.
    odd = make(tiny_pipelines.save_cogvideox(tmp_path / "odd", default_frames=10), num_frames=13)
    odd.prepare(descriptions[:1], tmp_path / "prepared")
    assert "expected 13 frames, found 16" in str(odd(descriptions[:1])[0])
    # Without --num_frames, what the model makes of itself is expected.
    default = make(models["cogvideox"], num_frames=None, steps=1)
    default.prepare(descriptions[:1], tmp_path / "prepared")
    assert default._expected_frames == 17 == len(default(descriptions[:1])[0].frames_TxHxWx3)
    # Wan rounds sizes down without an error.
    wide = make(models["wan"], 32, steps=1)
    wide.prepare(descriptions[:1], tmp_path / "prepared")
    wide._call["width"] = 40
    assert "have to be divisible" in str(wide(descriptions[:1])[0])


def test_wrong_sizes_are_refused_before_anything_is_made(models, descriptions, tmp_path):
    for name, size, said in (
        ("cogvideox", {"height": 17}, r"--height: .*of 16 for CogVideoXP.* 17; give 16 or 32"),
        ("cogvideox", {"width": 24}, r"--width: .*of 16 for CogVideoXP.* 24; give 16 or 32"),
        ("wan", {"width": 40}, r"--width: .*of 16 for WanPipeline, found 40; give 32 or 48"),
        # This one's VAE takes multiples of 4, its pipeline doesn't.
        ("ltx", {"height": 36, "width": 64}, r"LTXPipeline can make, found 36 and 64 .*by 32"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            make(models[name], **size).prepare(descriptions, tmp_path / "prepared")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "prepared").exists()


def test_models_that_cannot_do_what_is_asked(models, descriptions, tmp_path):
    real_videos = tmp_path / "videos.json"
    entry = {"file": "a.mp4", "label": 0, "split": "train"}
    real_videos.write_text(json.dumps({"videos": {"a": entry}}))
    (tmp_path / "a.mp4").write_bytes(b"not looked at")
    for model, options, said in (
        (models["cogvideox"], {"first_frames": real_videos}, "takes an image, found CogVideoXP"),
        (models["cogvideox-i2v"], {}, "expected a videos.json for CogVideoXImageToVideoPipeline"),
        (models["wan"], {"arguments": {"shift": 3}}, "arguments of WanPipeline, found shift"),
        (models["wan"], {"offload": "model"}, "--offload=model: expected a GPU"),
        (models["wan"], {"offload": "sequential"}, "--offload=sequential: expected a GPU"),
        (tiny_pipelines.save_images(tmp_path / "images"), {}, "makes videos, found DDPMPipeline"),
        (str(tmp_path / "none"), {}, "--model: expected a diffusers pipeline, found"),
        (str(tmp_path), {}, "--model: expected a diffusers pipeline, found"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            make(model, **options).prepare(descriptions[:1], tmp_path / "prepared")
        assert "remote_code" not in str(caught.value)
    cut = tmp_path / "cut"
    shutil.copytree(models["cogvideox"], cut)
    (weights,) = (cut / "text_encoder").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    listed = tmp_path / "listed"
    listed.mkdir()
    (listed / "model_index.json").write_text("[]")
    unknown = tmp_path / "unknown"
    shutil.copytree(models["cogvideox"], unknown)
    index = json.loads((unknown / "model_index.json").read_text())
    (unknown / "model_index.json").write_text(json.dumps(index | {"_class_name": "Nothing"}))
    for model in (cut, listed, unknown):
        with pytest.raises(UserError, match="--model: expected a diffusers pipeline, found"):
            make(str(model)).prepare(descriptions[:1], tmp_path / "prepared")
    for device in ("cuda", "paper"):
        with pytest.raises(UserError, match=f"--device={device}: expected one that PyTorch has"):
            make(models["wan"], device=device).prepare(descriptions[:1], tmp_path / "prepared")
    with pytest.raises(UserError, match="--generator: expected one of cogvideox-2b, "):
        DiffusersBackend(preset="cogvideox-9b")


def test_int8_without_torchao_names_the_remedy(models, descriptions, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torchao" else found(name)
    )
    with pytest.raises(UserError, match="--quantize=int8: .* pip install torchao"):
        make(models["wan"], 32, quantize="int8").prepare(descriptions[:1], tmp_path)


def test_int8_weights_make_nearly_the_same_clip(models, descriptions, tmp_path):
    pytest.importorskip("torchao")
    whole, small = (make(models["wan"], 32, quantize=kind) for kind in ("none", "int8"))
    for backend in (whole, small):
        backend.prepare(descriptions[:1], tmp_path)
    weight = small._pipeline.transformer.blocks[0].attn1.to_q.weight
    assert type(weight).__name__ == "Int8Tensor"
    made = [backend(descriptions[:1])[0].frames_TxHxWx3.astype(int) for backend in (whole, small)]
    assert 0 < np.abs(made[0] - made[1]).max() < 16


def test_tiles_and_slices_are_turned_on(models, descriptions, tmp_path):
    backend = make(models["cogvideox"], vae_tiling=True, vae_slicing=True, steps=1)
    assert backend.settings != make(models["cogvideox"], steps=1).settings
    slicing = make(models["cogvideox"], vae_slicing=True, offload="model", batch_size=2, steps=1)
    assert slicing.settings == make(models["cogvideox"], steps=1).settings
    backend.prepare(descriptions[:1], tmp_path)
    assert backend._pipeline.vae.use_tiling and backend._pipeline.vae.use_slicing
    assert backend(descriptions[:1])[0].frames_TxHxWx3.shape == (9, 16, 16, 3)


def test_presets_and_what_overrides_them():
    steps = {"cogvideox": 8, "cogvideox1.5": 16, "wan2.1": 4, "ltx": 8}
    for name, preset in presets.PRESETS.items():
        assert preset.num_frames % steps[name.rsplit("-", 1 + name.endswith("i2v"))[0]] == 1
        assert preset.height % 16 == preset.width % 16 == 0
    settings = DiffusersBackend(preset="wan2.1-1.3b", steps=20, width=480).settings
    assert settings["call"] | {"width": 832, "num_inference_steps": 50} == {
        **{"num_frames": 81, "video_length": 81, "height": 480, "width": 832, "frame_rate": 16},
        **{"num_inference_steps": 50, "guidance_scale": 5.0},
    }
    assert settings["call"]["num_inference_steps"] == 20 and settings["call"]["width"] == 480
    assert (settings["dtype"], settings["vae_dtype"], settings["fps"]) == (
        "bfloat16",
        "float32",
        16,
    )
    # A preset with weights from elsewhere; a published model by its own name; one without a preset.
    assert DiffusersBackend("folder", preset="ltx-video").settings["fps"] == 24
    by_id = DiffusersBackend("THUDM/CogVideoX-2b")
    assert by_id.settings == DiffusersBackend(preset="cogvideox-2b").settings
    assert by_id.settings == DiffusersBackend().settings and by_id.settings["dtype"] == "float16"
    assert DiffusersBackend("folder").settings["call"] == {"frame_rate": 8.0}


def test_settings_need_no_library():
    code = (
        "import pickle, sys; from generation.videos.diffusers_backend import DiffusersBackend; "
        "pickle.loads(pickle.dumps(DiffusersBackend(preset='ltx-video'))).settings['fps']; "
        "print([m for m in ('torch', 'diffusers', 'transformers', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
