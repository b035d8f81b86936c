"""Text encoders: hashed n-grams, and tiny random checkpoints of the real classes."""

import json
import pathlib
import shutil
import sys
import zlib

import numpy as np
import pytest
import torch
import transformers

from generation.encoders import pretrained
from generation.encoders.options import TextOptions
from generation.encoders.text import HashedTextEncoder, make_text_encoder
from gvvad_jax.command import UserError
from tests.support.tiny_transformers import LETTERS, save_bert, save_clip

pytestmark = pytest.mark.usefixtures("one_thread")


def _encoder(name, weights=""):
    return make_text_encoder(TextOptions(text_encoder=name, text_weights=str(weights)))


TEXTS = ["a man walks", "", "two cars crash into each other", "a man walks", "a", "dogs " * 9]


def test_a_word_lands_where_its_hash_says():
    dim = 256
    expected_E = np.zeros(dim)
    ngrams = [("1 run", 1.0)]
    ngrams += [(f"c {run}", 0.25) for run in ("<ru", "run", "un>", "<run", "run>", "<run>")]
    for ngram, weight in ngrams:
        digest = zlib.crc32(ngram.encode())
        expected_E[(digest >> 1) % dim] += weight * (1 if digest & 1 else -1)
    expected_E /= np.linalg.norm(expected_E)
    actual = HashedTextEncoder()(["The run!"])
    np.testing.assert_allclose(actual, expected_E[None], atol=1e-7)
    assert actual.dtype == np.float32


def test_hashed_vectors_never_change():
    # Old and new stores must agree, so a change here needs a new id.
    vector_E = _encoder("hashed")(["fast erratic motion close together"])[0]
    assert zlib.crc32(np.round(vector_E * 1000).astype(np.int16).tobytes()) == 1668134579
    assert HashedTextEncoder.id == "hashed-ngrams-v1"


def test_cosine_follows_shared_words():
    embed = HashedTextEncoder()
    texts = [
        "people fighting, erratic motion to and fro",
        "two people fighting with erratic motion",
        "a fight between people",
        "one small region moving slowly, calm",
    ]
    cosines = embed(texts) @ embed(texts)[0]
    assert list(np.argsort(-cosines)) == [0, 1, 2, 3]
    assert cosines[0] == pytest.approx(1.0) and cosines[1] > 0.6 and cosines[3] < 0.3


def test_order_and_repetition_do_not_matter_to_a_row():
    embed = HashedTextEncoder()
    rows = embed(["a b", "motion", "motion", ""])
    np.testing.assert_array_equal(rows[1], rows[2])
    np.testing.assert_array_equal(rows[1], embed(["motion"])[0])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 1, 0], atol=1e-6)
    assert embed([]).shape == (0, embed.dim)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("weights") / "tiny-bert")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("weights") / "tiny-clip")


def _alone(model_class, folder, text, **limits):
    """Returns a model's output for one text without padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = model_class.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(**tokenizer([text], return_tensors="pt", **limits))


def test_simcse_is_the_poolers_output_as_it_is(bert):
    embed = _encoder("simcse", bert)
    digest = pretrained.known_digest(str(bert), pretrained.TEXTS)
    assert embed.id == f"simcse:tiny-bert@{digest}:pooler"
    assert (embed.dim, embed.normalised) == (16, False)
    rows = embed(TEXTS)
    assert rows.shape == (6, 16) and rows.dtype == np.float32
    for text, row_E in zip(TEXTS, rows, strict=True):
        cut = {"truncation": True, "max_length": 40}
        expected = _alone(transformers.BertModel, bert, text, **cut).pooler_output[0]
        np.testing.assert_allclose(row_E, expected, atol=1e-5)
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).min() > 0.1


def test_transformer_is_the_mean_over_a_texts_tokens(bert):
    embed = _encoder("transformer", bert)
    digest = pretrained.known_digest(str(bert), pretrained.TEXTS)
    assert embed.id == f"transformer:tiny-bert@{digest}:mean"
    for text, row_E in zip(TEXTS[:5], embed(TEXTS[:5]), strict=True):
        states_LxE = _alone(transformers.BertModel, bert, text).last_hidden_state[0]
        np.testing.assert_allclose(row_E, states_LxE.mean(dim=0), atol=1e-5)


def test_clip_is_the_projection_of_the_whole_models_text_tower(clip):
    embed = _encoder("clip-l14", clip)
    digest = pretrained.known_digest(str(clip), pretrained.TEXTS)
    assert embed.id == f"clip-l14:tiny-clip@{digest}:projection"
    assert embed.dim == 6
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
    for text, row_E in zip(TEXTS, embed(TEXTS), strict=True):
        inputs = tokenizer([text], return_tensors="pt")
        with torch.inference_mode():
            expected = model.get_text_features(**inputs).pooler_output[0]
        np.testing.assert_allclose(row_E, expected, atol=1e-5)


def test_clip_cuts_after_77_tokens(clip):
    embed = _encoder("clip-l14", clip)
    # 75 letters between start and end.
    long, longer, other = "a" * 75, "a" * 75 + " b", "a" * 74 + " b"
    rows = embed([long, longer, other])
    np.testing.assert_array_equal(rows[0], rows[1])
    assert np.abs(rows[0] - rows[2]).max() > 1e-3
    limits = {"truncation": True, "max_length": 77}
    expected = _alone(transformers.CLIPTextModelWithProjection, clip, longer, **limits)
    np.testing.assert_allclose(rows[1], expected.text_embeds[0], atol=1e-5)


@pytest.mark.parametrize("name", ["simcse", "clip-l14", "transformer"])
def test_a_row_does_not_depend_on_the_other_texts(name, request, monkeypatch):
    weights = request.getfixturevalue("clip" if name == "clip-l14" else "bert")
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "batch_size", lambda device: 16)
        embed = _encoder(name, weights)
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice([*LETTERS, " "], size)) for size in rng.integers(1, 30, 60)]
    together = embed(texts)
    assert len(np.unique(np.round(together, 4), axis=0)) > 50
    order = rng.permutation(60)
    np.testing.assert_array_equal(embed([texts[i] for i in order]), together[order])
    np.testing.assert_array_equal(embed(texts[17:20]), together[17:20])
    np.testing.assert_array_equal(embed([texts[3]]), together[3:4])
    few = _encoder(name, weights)  # One text at a time.
    np.testing.assert_allclose(few(texts), together, atol=1e-5)
    assert embed([]).shape == (0, embed.dim) and embed([]).dtype == np.float32


def test_repeated_texts_are_embedded_once(bert, monkeypatch):
    monkeypatch.setattr(pretrained, "batch_size", lambda device: 16)
    embed = _encoder("simcse", bert)
    asked = []
    compute = embed._embed
    monkeypatch.setattr(embed, "_embed", lambda *texts: asked.append(texts[0]) or compute(*texts))
    rows = embed(["b", "a", "b", "b", "a" * 30])
    assert sorted(asked) == [["a" * 30], ["b", "a"]]
    np.testing.assert_array_equal(rows[[0, 0]], rows[2:4])


def test_weights_of_the_same_name_have_different_ids(bert, tmp_path):
    copy, other = (shutil.copytree(bert, tmp_path / name / bert.name) for name in "ab")
    model = transformers.BertModel.from_pretrained(bert)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[0, 0] += 1
    model.save_pretrained(other)
    one, same, another = (_encoder("simcse", folder).id for folder in (bert, copy, other))
    assert one == same != another


def _changed(folder, to, **changes):
    """Copies a checkpoint and changes its config."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    config = json.loads((to / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_missing_weights_are_an_error(bert, tmp_path):
    # Without a pooler, SimCSE's vectors would be random and differ from run to run.
    model = transformers.BertModel.from_pretrained(bert, add_pooling_layer=False)
    folder = _changed(bert, tmp_path / "headless")
    model.save_pretrained(folder)
    expected = r"headless: expected all weights of \w+, found 2 missing, 'pooler.dense.bias' first"
    with pytest.raises(UserError, match=expected):
        _encoder("simcse", folder)
    # The mean has no use for one.
    actual = _encoder("transformer", folder)(TEXTS)
    expected = _encoder("transformer", bert)(TEXTS)
    np.testing.assert_array_equal(actual, expected)


def test_other_checkpoints_are_refused(bert, tmp_path):
    with pytest.raises(UserError, match="expected a checkpoint of clip or clip_text_model, found"):
        _encoder("clip-l14", bert)
    vocabulary = {letter: number for number, letter in enumerate(LETTERS)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[])
    distil = transformers.DistilBertConfig(
        vocab_size=57, dim=16, hidden_dim=32, n_layers=1, n_heads=2, max_position_embeddings=40
    )
    transformers.DistilBertModel(distil).save_pretrained(tmp_path / "distil")
    transformers.AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path / "distil")
    with pytest.raises(UserError, match="found a distilbert; .* with a pooler"):
        _encoder("simcse", tmp_path / "distil")
    assert _encoder("transformer", tmp_path / "distil")(["a"]).shape == (1, 16)
    gpt = transformers.GPT2Config(vocab_size=57, n_embd=16, n_layer=1, n_head=2, n_positions=40)
    transformers.GPT2Model(gpt).save_pretrained(tmp_path / "gpt")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "gpt")
    with pytest.raises(UserError, match="found a gpt2; give the checkpoint of a text encoder"):
        _encoder("transformer", tmp_path / "gpt")


def test_unreadable_checkpoints_are_user_errors(bert, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="BERT-like checkpoint for --text_encoder=simcse, found no"):
        _encoder("simcse", tmp_path / "none")
    with pytest.raises(UserError, match="give the folder of a downloaded one"):
        _encoder("simcse", tmp_path)
    narrow = _changed(bert, tmp_path / "narrow", hidden_size=32)
    with pytest.raises(UserError, match="narrow: expected a BERT-like checkpoint"):
        _encoder("simcse", narrow)
    # A checkpoint's own code is not run, and nobody is asked to run it.
    own = _changed(bert, tmp_path / "own", model_type="own", auto_map={"AutoModel": "own.Model"})
    (own / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UserError, match="own: expected a BERT-like checkpoint"):
        _encoder("simcse", own)
    with pytest.raises(UserError, match="--text_weights: expected a checkpoint"):
        _encoder("transformer")
    with pytest.raises(UserError, match="hashed, simcse, clip-l14, transformer"):
        _encoder("word2vec")


def test_weights_that_run_code_are_refused(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Evil:
        def __reduce__(self):
            return (open, ("evil-ran", "w"))

    folder = _changed(bert, tmp_path / "evil")
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="evil: expected a BERT-like checkpoint") as caught:
        _encoder("simcse", folder)
    assert not pathlib.Path("evil-ran").exists()
    assert "weights_only" not in str(caught.value)  # No advice to load it unsafely.


@pytest.mark.parametrize("module", ["torch", "transformers"])
def test_missing_libraries_are_named(module, bert, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"expected PyTorch and .*; pip install '.\[generation\]'"):
        _encoder("simcse", bert)
