"""Hashed text embeddings and the prompt bank."""

import json
import zlib

import numpy as np
import pytest

from generation import text_bank
from generation.prompts import CLASSES
from gvvad_jax.store import UserError


def test_a_word_lands_where_its_hash_says():
    dim = 64
    expected_E = np.zeros(dim)
    ngrams = [("1 run", 1.0)]
    ngrams += [(f"c {run}", 0.25) for run in ("<ru", "run", "un>", "<run", "run>", "<run>")]
    for ngram, weight in ngrams:
        digest = zlib.crc32(ngram.encode())
        expected_E[(digest >> 1) % dim] += weight * (1 if digest & 1 else -1)
    expected_E /= np.linalg.norm(expected_E)
    found = text_bank.HashedTextEmbedder(dim)(["The run!"])
    np.testing.assert_allclose(found, expected_E[None], atol=1e-7)
    assert found.dtype == np.float32


def test_vectors_never_change():
    # Stores of different days must agree: a change here needs a new id.
    vector_E = text_bank.HashedTextEmbedder()(["fast erratic motion close together"])[0]
    assert zlib.crc32(np.round(vector_E * 1000).astype(np.int16).tobytes()) == 1668134579
    assert text_bank.HashedTextEmbedder.id == "hashed-ngrams-v1"


def test_cosine_follows_shared_words():
    embed = text_bank.HashedTextEmbedder()
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
    embed = text_bank.HashedTextEmbedder()
    rows = embed(["a b", "motion", "motion", ""])
    np.testing.assert_array_equal(rows[1], rows[2])
    np.testing.assert_array_equal(rows[1], embed(["motion"])[0])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 1, 0], atol=1e-6)
    assert embed([]).shape == (0, embed.dim)


def test_bank_has_two_different_phrases_a_class():
    bank = text_bank.prompt_bank("ucf_crime")
    assert [prompt.cls for prompt in bank] == [name for name in CLASSES for _ in range(2)]
    assert len({prompt.phrase for prompt in bank}) == 26
    with pytest.raises(UserError, match="expected a prompt bank"):
        text_bank.prompt_bank("shanghai")


def test_bank_is_saved_with_its_phrases(tmp_path):
    embed, bank = text_bank.HashedTextEmbedder(), text_bank.prompt_bank("ucf_crime")
    rows = embed([prompt.phrase for prompt in bank])
    text_bank.save_bank(tmp_path, "ucf_crime", bank, embed.id, rows)
    np.testing.assert_array_equal(np.load(tmp_path / "bank.npy", allow_pickle=False), rows)
    content = json.loads((tmp_path / "bank.json").read_text())
    assert content["encoder"] == "hashed-ngrams-v1" and content["version"] == 1
    assert content["prompts"][0] == {"class": bank[0].cls, "phrase": bank[0].phrase}
