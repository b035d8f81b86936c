"""The identity of checkpoints: their whole content, and no file that isn't read."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from generation.encoders import pretrained
from gvvad_jax.command import UserError

SETTINGS = {"IMAGES": pretrained.IMAGES, "TEXTS": pretrained.TEXTS, "CAPTIONS": pretrained.CAPTIONS}


def _checkpoint(folder, attention):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    names = ("embedding", "encoder.layers.0.self_attn.q_proj.weight", "visual_projection")
    weights = {name: np.full((700, 700), i, np.float32) for i, name in enumerate(names)}
    weights[names[1]] = weights[names[1]] + attention
    save_file(weights, folder / "model.safetensors")
    for name in {*pretrained.CAPTIONS, "vocab.txt"}:
        (folder / name).write_text(name)
    return str(folder)


def test_a_lora_merged_into_attention_is_another_checkpoint(tmp_path):
    """It keeps the file's size and its first and last MiB, which used to be its identity."""
    before = _checkpoint(tmp_path / "before", attention=0.0)
    merged = _checkpoint(tmp_path / "merged", attention=1e-3)
    contents = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("before", "merged")]
    one_mib = 1 << 20
    assert len(contents[0]) == len(contents[1])
    assert contents[0][:one_mib] == contents[1][:one_mib]
    assert contents[0][-one_mib:] == contents[1][-one_mib:]
    for settings in SETTINGS.values():
        values = {pretrained.known_digest(path, settings) for path in (before, merged)}
        assert len(values) == 2 and all(len(value) == 12 for value in values)


@pytest.mark.parametrize(
    ("name", "counts_for"),
    [
        ("config.json", {"IMAGES", "TEXTS", "CAPTIONS"}),
        ("preprocessor_config.json", {"IMAGES", "CAPTIONS"}),
        ("tokenizer.json", {"TEXTS", "CAPTIONS"}),
        ("tokenizer_config.json", {"TEXTS", "CAPTIONS"}),
        ("generation_config.json", {"CAPTIONS"}),
        ("vocab.txt", set()),  # tokenizer.json has all of it.
        ("README.md", set()),
    ],
)
def test_settings_count_where_they_are_read(tmp_path, name, counts_for):
    path = _checkpoint(tmp_path / "c", attention=0.0)
    before = {kind: pretrained.known_digest(path, names) for kind, names in SETTINGS.items()}
    (tmp_path / "c" / name).write_text("another")
    after = {kind: pretrained.known_digest(path, names) for kind, names in SETTINGS.items()}
    assert {kind for kind in SETTINGS if before[kind] != after[kind]} == counts_for


def test_a_vocabulary_counts_where_it_is_the_tokenizer(tmp_path):
    path = _checkpoint(tmp_path / "c", attention=0.0)
    (tmp_path / "c" / "tokenizer.json").unlink()
    values = set()
    for word in ("one", "other"):
        (tmp_path / "c" / "vocab.txt").write_text(word)
        values.add(pretrained.known_digest(path, pretrained.TEXTS))
    assert len(values) == 2


def test_a_moved_or_linked_checkpoint_is_the_same(tmp_path, monkeypatch):
    path = _checkpoint(tmp_path / "c", attention=0.0)
    expected = pretrained.known_digest(path, pretrained.IMAGES)
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for file in (tmp_path / "c").iterdir():
        (linked / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    for spelling in (f"{path}/", "c", "./c/", str(linked), "snapshot/."):
        assert pretrained.known_digest(spelling, pretrained.IMAGES) == expected
    for spelling in (path, f"{path}/", "c", "./c/.", "org/c", "c/../c"):
        assert pretrained.name_of(spelling) == "c"
    snapshot = tmp_path / "models--org--clip" / "snapshots" / "f00d"
    snapshot.mkdir(parents=True)
    assert pretrained.name_of(str(snapshot)) == pretrained.name_of("org/clip") == "clip"


@pytest.mark.parametrize("index", [[], {}, {"weight_map": ["a"]}, {"weight_map": {"a": 3}}])
def test_a_damaged_index_is_one_line(tmp_path, index):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="index.json: expected an index of weights"):
        pretrained.known_digest(str(tmp_path), pretrained.IMAGES)
