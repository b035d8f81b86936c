"""Models that cannot be loaded, and ways to load them."""

import importlib.util
import json
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from generation.videos.diffusers_backend import DiffusersBackend
from generation.videos.options import DiffusersOptions
from gvvad_jax.command import UserError
from tests.support import tiny_pipelines
from tests.support.tiny_pipelines import make_backend as make

pytestmark = pytest.mark.usefixtures("one_thread")


def test_models_that_do_not_support_the_options(models, descriptions, tmp_path):
    real_videos = tmp_path / "videos.json"
    entry = {"file": "a.mp4", "label": 0, "split": "train"}
    real_videos.write_text(json.dumps({"videos": {"a": entry}}))
    (tmp_path / "a.mp4").write_bytes(b"not opened")
    for model, options, said in (
        (
            models["cogvideox"],
            {"first_frames": str(real_videos)},
            "takes an image, found CogVideoXP",
        ),
        (models["cogvideox-i2v"], {}, "expected a videos.json for CogVideoXImageToVideoPipeline"),
        (
            models["wan"],
            {"pipeline_arguments": '{"shift": 3}'},
            "arguments of WanPipeline, found shift",
        ),
        (models["wan"], {"offload": "model"}, "--offload=model: expected a GPU"),
        (models["wan"], {"offload": "sequential"}, "--offload=sequential: expected a GPU"),
        (tiny_pipelines.save_images(tmp_path / "images"), {}, "makes videos, found DDPMPipeline"),
        (str(tmp_path / "none"), {}, "--model: expected a diffusers pipeline, found"),
        (str(tmp_path), {}, "--model: expected a diffusers pipeline, found none: .*model_index"),
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
        with pytest.raises(UserError, match=f"--device={device}: expected"):
            make(models["wan"], device=device).prepare(descriptions[:1], tmp_path / "prepared")
    with pytest.raises(UserError, match="--generator: expected one of cogvideox-2b, "):
        DiffusersBackend(DiffusersOptions(generator="cogvideox-9b"))


def test_int8_without_torchao_names_the_remedy(models, descriptions, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torchao" else find_spec(name)
    )
    with pytest.raises(UserError, match=r"--quantize=int8: .* pip install '\.\[quantize\]'"):
        make(models["wan"], 32, quantize="int8").prepare(descriptions[:1], tmp_path)


def test_int8_weights_give_nearly_the_same_video(models, descriptions, tmp_path):
    pytest.importorskip("torchao")
    whole, small = (make(models["wan"], 32, quantize=kind) for kind in ("none", "int8"))
    for backend in (whole, small):
        backend.prepare(descriptions[:1], tmp_path)
    weight = small._pipeline.transformer.blocks[0].attn1.to_q.weight
    assert type(weight).__name__ == "Int8Tensor"
    frames = [backend(descriptions[:1])[0].frames_TxHxWx3.astype(int) for backend in (whole, small)]
    assert 0 < np.abs(frames[0] - frames[1]).max() < 16


def test_tiles_and_slices_are_turned_on(models, descriptions, tmp_path):
    backend = make(models["cogvideox"], vae_tiling=True, vae_slicing=True, denoising_steps=1)
    assert backend.settings != make(models["cogvideox"], denoising_steps=1).settings
    slicing = make(
        models["cogvideox"], vae_slicing=True, offload="model", clips_a_call=2, denoising_steps=1
    )
    assert slicing.settings == make(models["cogvideox"], denoising_steps=1).settings
    backend.prepare(descriptions[:1], tmp_path)
    assert backend._pipeline.vae.use_tiling and backend._pipeline.vae.use_slicing
    assert backend(descriptions[:1])[0].frames_TxHxWx3.shape == (9, 16, 16, 3)
