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
    replace_last_byte(next((model / component).glob("*.safetensors")))


def replace_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_videos_of_other_weights_are_refused(model, tmp_path, capsys):
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
    # Videos that are all there are compared too.
    replace_weights(model)
    with pytest.raises(UserError, match="--model: expected the weights of .*give another --out"):
        generate("a")
    # So are those whose model.json is damaged or gone: each record has the weights.
    for harm in (lambda path: path.write_text("{}"), pathlib.Path.unlink):
        harm(tmp_path / "a" / "model.json")
        with pytest.raises(UserError, match="--model: expected the weights of"):
            generate("a")
    (tmp_path / "a" / "model.json").write_text(json.dumps(old))
    # A folder that is gone can't be compared, which is said.
    capsys.readouterr()
    shutil.rmtree(model)
    generate("a")
    assert "the weights of the videos can't be compared" in capsys.readouterr().err


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
            identity.check(recorded, identity.identify(str(model)))
        (model / name).write_text(content)
    # Every byte counts, and not those of the ends alone.
    path = next((model / "transformer").glob("*.safetensors"))
    size = path.stat().st_size
    for place in (0, size // 3, size // 2, size - 1):
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(UserError, match="expected the weights"):
            identity.check(recorded, identity.identify(str(model)))
        data[place] ^= 1
        path.write_bytes(data)
    assert identity.identify(str(model)) == recorded


def test_links_are_read_as_what_they_lead_to(model, tmp_path):
    digest = identity.identify(str(model))["digest"]
    # The Hub's cache: a snapshot of links to blobs.
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("c" * 40)
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in model.rglob("*") if p.is_file())):
        shutil.copy(path, blobs / str(number))
        link = snapshot / path.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / str(number))
    assert identity.identify(str(snapshot))["digest"] == digest
    replaced = (snapshot / "transformer" / "diffusion_pytorch_model.safetensors").resolve()
    replace_last_byte(replaced)
    assert identity.identify(str(snapshot))["digest"] != digest
    # Linked folders: of a component, inside one, of the whole, and one that leads to itself.
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in model.iterdir():
        (linked / path.name).symlink_to(path)
    (tmp_path / "whole").symlink_to(linked)
    assert identity.identify(str(tmp_path / "whole"))["digest"] == digest
    (model / "vae").rename(tmp_path / "vae")
    (model / "vae").mkdir()
    (model / "vae" / "inner").symlink_to(tmp_path / "vae")
    inner = identity.identify(str(model))["digest"]
    weights = next((tmp_path / "vae").glob("*.safetensors"))
    replace_last_byte(weights)
    assert identity.identify(str(model))["digest"] != inner
    (tmp_path / "vae" / "loop").symlink_to(model / "vae")
    identity.identify(str(model))
    (model / "vae" / "gone").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="--model: expected all files of .*gone: No such file"):
        identity.identify(str(model))


def test_a_moved_model_goes_on(model, tmp_path):
    descriptions = tiny_pipelines.short_descriptions(1)
    arguments = {"denoising_steps": 1}
    generating.generate(descriptions, make(str(model), **arguments), tmp_path / "a", progress=False)
    moved = model.rename(tmp_path / "moved")
    (tmp_path / "a" / "clips" / f"{descriptions[1].id}.json").unlink()
    path = generating.generate(
        descriptions, make(f"{moved}/", **arguments), tmp_path / "a", progress=False
    )
    assert path.exists()


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
    with pytest.raises(UserError, match=f"begun with .{new[:12]}., found others in .*{old[:12]}"):
        identity.check(dict(recorded, commit=new), recorded)
    # The weights of that commit are loaded.
    descriptions = tiny_pipelines.short_descriptions(1)
    backend = make("someone/model", guidance=1.0)
    assert backend.prepare(descriptions, tmp_path / "prepared", recorded) == recorded
    path = next((cached / "snapshots" / old / "transformer").glob("*.safetensors"))
    loaded = backend._pipeline.transformer.state_dict()
    for name, tensor in safetensors.torch.load_file(path).items():
        assert torch.equal(loaded[name], tensor)
