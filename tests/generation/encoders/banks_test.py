"""The prompt banks, and what lies beside a store's manifest of them."""

import collections
import dataclasses
import itertools
import json
import re
import zlib

import numpy as np
import pytest

from generation.encoders import banks, motion_captions
from generation.encoders.text import HashedTextEncoder
from generation.prompts.descriptions import CLASSES
from gvvad_jax.store.reader import read_manifest
from tests.support.stores import write_store

ALL = [(name, v) for name in banks.BANKS for v in banks.VOCABULARIES]
NUM_CLASSES = {"ucf_crime": 13, "xd_violence": 6, "shanghaitech": 10, "tad": 7}


@pytest.mark.parametrize(("name", "vocabulary"), ALL)
def test_a_bank_has_two_short_phrases_of_each_class(name, vocabulary):
    bank = banks.prompt_bank(name, vocabulary)
    counts = collections.Counter(prompt.cls for prompt in bank)
    assert len(counts) == NUM_CLASSES[name] and set(counts.values()) == {2}
    for prompt in bank:
        words = prompt.phrase.split()
        # CLIP takes 77 tokens; captions are about as long as these.
        assert 5 <= len(words) <= 18 and len(prompt.phrase) < 100
        assert re.fullmatch(r"[a-z',-]+( [a-z',-]+)*", prompt.phrase)


def test_a_class_goes_by_its_datasets_name():
    assert [p.cls for p in banks.prompt_bank("ucf_crime", "plain")[::2]] == list(CLASSES)
    violence = {prompt.cls for prompt in banks.prompt_bank("xd_violence", "plain")}
    assert violence == {"Abuse", "CarAccident", "Explosion", "Fighting", "Riot", "Shooting"}
    for name in banks.BANKS:
        plain, motion = (banks.prompt_bank(name, v) for v in banks.VOCABULARIES)
        assert [p.cls for p in plain] == [p.cls for p in motion]


def test_no_two_phrases_are_the_same():
    phrases = [p.phrase for name, v in ALL for p in banks.prompt_bank(name, v)]
    assert len(phrases) == len(set(phrases)) == 4 * sum(NUM_CLASSES.values())
    # Nor the same but for small words.
    embed = HashedTextEncoder()
    for name, vocabulary in ALL:
        rows = embed([p.phrase for p in banks.prompt_bank(name, vocabulary)])
        assert max(a @ b for a, b in itertools.combinations(rows, 2)) < 0.9


def test_phrases_of_the_rule_based_captioner_never_change():
    # docs/results.md depends on them: a change here needs another BANK_VERSION.
    bank = banks.prompt_bank("ucf_crime", "motion")
    content = "\n".join(f"{prompt.cls}: {prompt.phrase}" for prompt in bank)
    assert zlib.crc32(content.encode()) == 637683320 and banks.BANK_VERSION == 1


def test_motion_phrases_use_the_captioners_words_and_plain_ones_do_not():
    scales = (motion_captions._PACES, motion_captions._AGITATION, motion_captions._SPREADS)
    words = {word for scale in scales for _, text in scale for word in text.split()}
    words |= {"region", "regions", "flash", "flames", "flickering", "outwards"}
    for name in banks.BANKS:
        for prompt in banks.prompt_bank(name, "motion"):
            assert len(words & set(re.findall(r"[a-z]+", prompt.phrase))) >= 2, prompt
        for prompt in banks.prompt_bank(name, "plain"):
            assert not re.search(r"regions?\b|erratic|vehicle-shaped|outwards", prompt.phrase)


@pytest.fixture
def folder(tmp_path):
    """A store whose text rows are of the hashed embedder, with its bank."""
    embed = HashedTextEncoder()
    path = write_store(tmp_path / "s", {"train": (1, 1)})
    manifest = read_manifest(path)
    text = {"encoder": embed.id, "dim": embed.dim, "normalised": True}
    content = dataclasses.replace(manifest, text=text).to_json()
    (path / "manifest.json").write_text(json.dumps(content))
    bank = banks.prompt_bank("tad", "plain")
    rows = embed([prompt.phrase for prompt in bank])
    banks.save_bank(path, "tad", bank, embed.id, rows, vocabulary="plain")
    return path


def test_a_bank_is_saved_with_its_phrases(folder):
    bank = banks.prompt_bank("tad", "plain")
    rows = HashedTextEncoder()([prompt.phrase for prompt in bank])
    np.testing.assert_array_equal(np.load(folder / "bank.npy", allow_pickle=False), rows)
    content = json.loads((folder / "bank.json").read_text())
    assert content["encoder"] == "hashed-ngrams-v1" and content["version"] == 1
    assert (content["bank"], content["vocabulary"]) == ("tad", "plain")
    assert content["prompts"][0] == {"class": bank[0].cls, "phrase": bank[0].phrase}


def test_a_bank_that_was_changed_is_noticed(folder):
    assert banks.is_whole(folder)
    rows, content = (folder / "bank.npy").read_bytes(), (folder / "bank.json").read_text()
    changed = bytearray(rows)
    changed[-1] ^= 1
    other = content.replace("a person walks", "a person runs")
    assert other != content
    for name, value in (
        ("bank.npy", bytes(changed)),
        ("bank.npy", rows[:-4]),
        ("bank.json", other.encode()),
        ("bank.json", content[:50].encode()),
        ("bank.json", b"[]"),
        ("bank.json", content.replace('"version": 1', '"version": "1"').encode()),
        ("bank.json", content.replace('"bank": "tad"', '"bank": "mine"').encode()),
    ):
        (folder / name).write_bytes(value)
        assert not banks.is_whole(folder)
        (folder / "bank.npy").write_bytes(rows)
        (folder / "bank.json").write_text(content)
    assert banks.is_whole(folder)
    (folder / "bank.npy").unlink()
    assert not banks.is_whole(folder)
