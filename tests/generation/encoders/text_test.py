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
from generation.encoders import text as encoders_text
from generation.encoders.text import HashedTextEmbedder, make_text_encoder
from gvvad_jax.command import UserError
from tests.support.tiny_transformers import LETTERS, save_bert, save_clip

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = ["a man walks", "", "two cars crash into each other", "a man walks", "a", "dogs " * 9]


def test_a_word_lands_where_its_hash_says():
    dim = 64
    expected_E = np.zeros(dim)
    ngrams = [("1 run", 1.0)]
    ngrams += [(f"c {run}", 0.25) for run in ("<ru", "run", "un>", "<run", "run>", "<run>")]
    for ngram, weight in ngrams:
        digest = zlib.crc32(ngram.encode())
        expected_E[(digest >> 1) % dim] += weight * (1 if digest & 1 else -1)
    expected_E /= np.linalg.norm(expected_E)
    found = HashedTextEmbedder(dim)(["The run!"])
    np.testing.assert_allclose(found, expected_E[None], atol=1e-7)
    assert found.dtype == np.float32


def test_vectors_never_change():
    # Stores of different days must agree: a change here needs a new id.
    vector_E = make_text_encoder("hashed")(["fast erratic motion close together"])[0]
    assert zlib.crc32(np.round(vector_E * 1000).astype(np.int16).tobytes()) == 1668134579
    assert HashedTextEmbedder.id == "hashed-ngrams-v1"


def test_cosine_follows_shared_words():
    embed = HashedTextEmbedder()
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
    embed = HashedTextEmbedder()
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
    """A model's output for one text without padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = model_class.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(**tokenizer([text], return_tensors="pt", **limits))


def test_simcse_is_the_poolers_output_as_it_is(bert):
    embed = make_text_encoder("simcse", weights=str(bert))
    assert embed.id == f"simcse:tiny-bert@{pretrained.known_digest(str(bert))}:pooler"
    assert (embed.dim, embed.normalised) == (16, False)
    rows = embed(TEXTS)
    assert rows.shape == (6, 16) and rows.dtype == np.float32
    for text, row_E in zip(TEXTS, rows, strict=True):
        cut = {"truncation": True, "max_length": 40}
        expected = _alone(transformers.BertModel, bert, text, **cut).pooler_output[0]
        np.testing.assert_allclose(row_E, expected, atol=1e-5)
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).min() > 0.1


def test_transformer_is_the_mean_over_a_texts_tokens(bert):
    embed = make_text_encoder("transformer", weights=str(bert))
    assert embed.id == f"transformer:tiny-bert@{pretrained.known_digest(str(bert))}:mean"
    for text, row_E in zip(TEXTS[:5], embed(TEXTS[:5]), strict=True):
        states_LxE = _alone(transformers.BertModel, bert, text).last_hidden_state[0]
        np.testing.assert_allclose(row_E, states_LxE.mean(dim=0), atol=1e-5)


def test_clip_is_the_projection_of_the_whole_models_text_tower(clip):
    embed = make_text_encoder("clip-l14", weights=str(clip))
    assert embed.id == f"clip-l14:tiny-clip@{pretrained.known_digest(str(clip))}:projection"
    assert embed.dim == 6
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
    for text, row_E in zip(TEXTS, embed(TEXTS), strict=True):
        inputs = tokenizer([text], return_tensors="pt")
        with torch.inference_mode():
            expected = model.get_text_features(**inputs).pooler_output[0]
        np.testing.assert_allclose(row_E, expected, atol=1e-5)


def test_clip_cuts_after_77_tokens(clip):
    embed = make_text_encoder("clip-l14", weights=str(clip))
    # 75 letters between start and end.
    long, longer, other = "a" * 75, "a" * 75 + " b", "a" * 74 + " b"
    rows = embed([long, longer, other])
    np.testing.assert_array_equal(rows[0], rows[1])
    assert np.abs(rows[0] - rows[2]).max() > 1e-3
    limits = {"truncation": True, "max_length": 77}
    expected = _alone(transformers.CLIPTextModelWithProjection, clip, longer, **limits)
    np.testing.assert_allclose(rows[1], expected.text_embeds[0], atol=1e-5)


@pytest.mark.parametrize("name", ["simcse", "clip-l14", "transformer"])
def test_a_row_has_the_same_bits_whatever_else_is_asked(name, request):
    weights = str(request.getfixturevalue("clip" if name == "clip-l14" else "bert"))
    embed = encoders_text.PretrainedTextEncoder(name, weights, batch_size=16)
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice([*LETTERS, " "], size)) for size in rng.integers(1, 30, 60)]
    together = embed(texts)
    assert len(np.unique(np.round(together, 4), axis=0)) > 50
    order = rng.permutation(60)
    np.testing.assert_array_equal(embed([texts[i] for i in order]), together[order])
    np.testing.assert_array_equal(embed(texts[17:20]), together[17:20])
    np.testing.assert_array_equal(embed([texts[3]]), together[3:4])
    few = make_text_encoder(name, weights=weights)  # One at once, on a CPU.
    np.testing.assert_allclose(few(texts), together, atol=1e-5)
    assert embed([]).shape == (0, embed.dim) and embed([]).dtype == np.float32


def test_a_text_that_comes_again_is_embedded_once(bert, monkeypatch):
    embed = encoders_text.PretrainedTextEncoder("simcse", str(bert), batch_size=16)
    asked = []
    real = embed._embed
    monkeypatch.setattr(embed, "_embed", lambda *given: asked.append(given[0]) or real(*given))
    rows = embed(["b", "a", "b", "b", "a" * 30])
    assert sorted(asked) == [["a" * 30], ["b", "a"]]
    np.testing.assert_array_equal(rows[[0, 0]], rows[2:4])


def test_half_precision_gives_nearly_the_same_as_float32(bert):
    exact = make_text_encoder("simcse", weights=str(bert))
    half = make_text_encoder("simcse", weights=str(bert), dtype="bfloat16")
    assert half.id == exact.id
    rows = half(TEXTS)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, exact(TEXTS), atol=0.15)


def test_weights_of_one_name_but_another_content_are_told_apart(bert, tmp_path):
    copy, other = (shutil.copytree(bert, tmp_path / name / bert.name) for name in "ab")
    model = transformers.BertModel.from_pretrained(bert)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[0, 0] += 1
    model.save_pretrained(other)
    one, same, another = (
        make_text_encoder("simcse", weights=str(folder)).id for folder in (bert, copy, other)
    )
    assert one == same != another


def _changed(folder, to, **changes):
    """A copy of a checkpoint with another config."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    config = json.loads((to / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_weights_that_are_missing_are_not_made_up(bert, tmp_path):
    # Without a pooler SimCSE's vectors would be random, and others each time.
    model = transformers.BertModel.from_pretrained(bert, add_pooling_layer=False)
    folder = _changed(bert, tmp_path / "headless")
    model.save_pretrained(folder)
    expected = r"headless: expected all weights of \w+, found 2 missing, 'pooler.dense.bias' first"
    with pytest.raises(UserError, match=expected):
        make_text_encoder("simcse", weights=str(folder))
    # The mean has no use for one.
    found = make_text_encoder("transformer", weights=str(folder))(TEXTS)
    expected = make_text_encoder("transformer", weights=str(bert))(TEXTS)
    np.testing.assert_array_equal(found, expected)


def test_other_checkpoints_are_refused(bert, tmp_path):
    with pytest.raises(UserError, match="expected a checkpoint of clip or clip_text_model, found"):
        make_text_encoder("clip-l14", weights=str(bert))
    vocabulary = {letter: number for number, letter in enumerate(LETTERS)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[])
    distil = transformers.DistilBertConfig(
        vocab_size=57, dim=16, hidden_dim=32, n_layers=1, n_heads=2, max_position_embeddings=40
    )
    transformers.DistilBertModel(distil).save_pretrained(tmp_path / "distil")
    transformers.AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path / "distil")
    with pytest.raises(UserError, match="found a distilbert; .* with a pooler"):
        make_text_encoder("simcse", weights=str(tmp_path / "distil"))
    assert make_text_encoder("transformer", weights=str(tmp_path / "distil"))(["a"]).shape == (
        1,
        16,
    )
    gpt = transformers.GPT2Config(vocab_size=57, n_embd=16, n_layer=1, n_head=2, n_positions=40)
    transformers.GPT2Model(gpt).save_pretrained(tmp_path / "gpt")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "gpt")
    with pytest.raises(UserError, match="found a gpt2; give the checkpoint of a text encoder"):
        make_text_encoder("transformer", weights=str(tmp_path / "gpt"))


def test_what_is_no_checkpoint_is_a_users_mistake(bert, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="BERT-like checkpoint for --text_encoder=simcse, found no"):
        make_text_encoder("simcse", weights=str(tmp_path / "none"))
    with pytest.raises(UserError, match="give the folder of a downloaded one"):
        make_text_encoder("simcse", weights=str(tmp_path))
    narrow = _changed(bert, tmp_path / "narrow", hidden_size=32)
    with pytest.raises(UserError, match="narrow: expected a BERT-like checkpoint"):
        make_text_encoder("simcse", weights=str(narrow))
    # One with code of its own isn't run, nor is anyone asked whether to.
    own = _changed(bert, tmp_path / "own", model_type="own", auto_map={"AutoModel": "own.Model"})
    (own / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UserError, match="own: expected a BERT-like checkpoint"):
        make_text_encoder("simcse", weights=str(own))
    with pytest.raises(UserError, match="--text_weights: expected a checkpoint"):
        make_text_encoder("transformer")
    with pytest.raises(UserError, match="hashed, simcse, clip-l14, transformer"):
        make_text_encoder("word2vec")


def test_weights_that_run_code_are_refused(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Evil:
        def __reduce__(self):
            return (open, ("evil-ran", "w"))

    folder = _changed(bert, tmp_path / "evil")
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="evil: expected a BERT-like checkpoint") as caught:
        make_text_encoder("simcse", weights=str(folder))
    assert not pathlib.Path("evil-ran").exists()
    assert "weights_only" not in str(caught.value)  # No advice to load it unsafely.


@pytest.mark.parametrize("module", ["torch", "transformers"])
def test_what_is_not_installed_is_told(module, bert, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"expected PyTorch and .*; pip install '.\[generation\]'"):
        make_text_encoder("simcse", weights=str(bert))
