"""Encoding again repairs a damaged store, and never writes into the user's own folder."""

import shutil

import numpy as np
import pytest

from generation.encode import encoding
from generation.encode.recipe import EncodeOptions
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from gvvad_jax.store.reader import Store
from tests.support.tiny_store import files
from tests.support.tiny_videos import write_videos

OPTIONS = EncodeOptions(encoder="motion", captioner="rules", text_encoder="hashed")


def _encode(folder, out):
    return encoding.encode(folder / "videos.json", out, OPTIONS, progress=False)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A folder of videos, and the store of them."""
    folder = write_videos(tmp_path_factory.mktemp("videos"))
    out = tmp_path_factory.mktemp("stores") / "s"
    assert _encode(folder, out)
    return folder, out


def _flip(name):
    def damage(store):
        content = bytearray((store / name).read_bytes())
        content[-2] ^= 1
        (store / name).write_bytes(content)

    return damage


def _replaced_bank(store):
    np.save(store / "bank.npy", np.load(store / "bank.npy")[::-1])


def _offset(store):
    shard = store / "shard-00000.jsonl"
    shard.write_text(shard.read_text().replace('"offset": 0', '"offset": 1'))


DAMAGE = {
    "rows": _flip("shard-00000.visual.npy"),
    "truncated shard": lambda s: (s / "shard-00000.visual.npy").write_bytes(b"\x93NUMPY\x01"),
    "missing shard": lambda s: (s / "shard-00000.visual.npy").unlink(),
    "missing text": lambda s: (s / "shard-00000.text.npy").unlink(),
    "index": _flip("shard-00000.jsonl"),
    "offsets": _offset,
    "manifest": _flip("manifest.json"),
    "bank": _flip("bank.npy"),
    "bank of others": _replaced_bank,
    "bank's phrases": lambda s: (s / "bank.json").write_bytes(b"{"),
    "missing bank": lambda s: (s / "bank.npy").unlink(),
    "list": lambda s: (s / "videos.json").write_bytes(b"{"),
    "notes": lambda s: (s / "encoding.json").write_bytes(b"{"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_the_same_command_repairs_a_store(encoded, tmp_path, damage):
    folder, whole = encoded
    shutil.copytree(whole, tmp_path / "s")
    damage(tmp_path / "s")
    assert _encode(folder, tmp_path / "s")
    assert files(tmp_path / "s") == files(whole)
    assert Store(tmp_path / "s").faults() == []


def test_a_store_that_was_moved_is_recognised(encoded, tmp_path, monkeypatch):
    folder, whole = encoded
    shutil.copytree(whole, tmp_path / "s")
    monkeypatch.setattr(encoding, "_load", lambda *_: pytest.fail("loads the models"))
    monkeypatch.chdir(tmp_path)
    for name in ("s", "s/", str(tmp_path / "s")):
        assert _encode(folder, name)


def test_the_folder_of_the_videos_is_no_place_for_a_store(encoded, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(encoded[0], folder)
    (folder / "shard-00000.npy").write_bytes(b"mine")
    before = files(folder)
    with pytest.raises(
        UserError, match="expected an absent or empty folder, or one of the kind 'store'"
    ):
        _encode(folder, folder)
    assert files(folder) == before and annotations.load(folder / "videos.json")
