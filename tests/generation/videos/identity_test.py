"""The identity of weights: a folder's contents, a Hub id's commit."""

import json
import pathlib
import shutil

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from generation.videos import generating, identity
from gvvad_jax.command import UserError
from tests.support import tiny_pipelines
from tests.support.tiny_pipelines import make_backend as make

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model(models, tmp_path):
    return pathlib.Path(shutil.copytree(models["cogvideox"], tmp_path / "model"))


def replace_weights(model, component="transformer"):
    """Changes the last number of a component's weights."""
    path = next((model / component).glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def test_videos_of_other_weights_are_refused(model, tmp_path):
    descriptions = tiny_pipelines.short_descriptions(1)

    def generate(out):
        generating.generate(
            descriptions, make(str(model), denoising_steps=1), tmp_path / out, progress=False
        )
        return json.loads((tmp_path / out / "model.json").read_text())

    old = generate("a")
    (tmp_path / "a" / "clips" / f"{descriptions[1].id}.json").unlink()
    replace_weights(model)
    with pytest.raises(UserError, match="--model: expected the weights of .*give another --out"):
        generate("a")
    assert not (tmp_path / "a" / "videos.json").exists()
    replace_weights(model)  # This restores the old ones.
    assert generate("a") == old
    # A complete folder loads nothing, so it is not compared.
    shutil.rmtree(model)
    generate("a")


def test_embeddings_of_other_weights_are_not_used(model, tmp_path):
    descriptions = tiny_pipelines.short_descriptions(1)
    before = make(str(model), denoising_steps=1)
    before.prepare(descriptions, tmp_path / "prepared")
    files = set((tmp_path / "prepared").iterdir())
    replace_weights(model, "text_encoder")
    make(str(model), denoising_steps=1).prepare(descriptions, tmp_path / "prepared")
    assert len(set((tmp_path / "prepared").iterdir())) == 2 * len(files)


def test_a_folders_digest_covers_what_is_loaded(model):
    recorded = identity.identify(str(model))
    (model / "README.md").write_text("About")
    (model / ".cache").mkdir()
    (model / "vae" / ".lock").touch()
    assert identity.identify(str(model), recorded=recorded) == recorded
    for name in ("vae/config.json", "scheduler/scheduler_config.json", "model_index.json"):
        content = (model / name).read_text()
        (model / name).write_text(content + " ")
        with pytest.raises(UserError, match="expected the weights"):
            identity.identify(str(model), recorded=recorded)
        (model / name).write_text(content)
    for damaged in ([], {}, "?"):
        with pytest.raises(UserError, match="expected the weights"):
            identity.identify(str(model), recorded=damaged)


def test_a_hub_id_stays_at_the_recorded_commit(models, tmp_path, monkeypatch):
    # The Hub's cache as two downloads of a branch leave it, without a network.
    import huggingface_hub
    import safetensors.torch
    import torch

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    cached = tmp_path / "models--someone--model"
    old, new = "a" * 40, "b" * 40
    for commit in (old, new):
        shutil.copytree(models["cogvideox"], cached / "snapshots" / commit)
    replace_weights(cached / "snapshots" / new)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(old)
    recorded = identity.identify("someone/model")
    assert recorded == {"model": "someone/model", "commit": old, "digest": None}
    (cached / "refs" / "main").write_text(new)
    assert identity.identify("someone/model")["commit"] == new
    assert identity.identify("someone/model", recorded=recorded) == recorded
    with pytest.raises(UserError, match=f"begun with .{new[:12]}., found others .{old[:12]}"):
        identity.check(dict(recorded, commit=new), recorded)
    # The weights of that commit are loaded.
    descriptions = tiny_pipelines.short_descriptions(1)
    backend = make("someone/model", guidance=1.0)
    assert backend.prepare(descriptions, tmp_path / "prepared", recorded) == recorded
    path = next((cached / "snapshots" / old / "transformer").glob("*.safetensors"))
    loaded = backend._pipeline.transformer.state_dict()
    for name, tensor in safetensors.torch.load_file(path).items():
        assert torch.equal(loaded[name], tensor)
