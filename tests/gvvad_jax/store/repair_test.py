"""Damage of a finished store: readers refuse it, and the command that wrote it repairs it."""

import json
import shutil

import numpy as np
import pytest

from gvvad_jax.command import UserError
from gvvad_jax.store import digests, sealing
from gvvad_jax.store.reader import Store
from gvvad_jax.store.writer import StoreWriter
from tests.support.tiny_store import IDS, MANIFEST, annotated, encoded, files, write

SHARD_OF_B = "shard-00001"  # Each shard holds one video, in the order a, b, c, d/e.


def _flip(name, at=-1):
    """Changes one byte of a file."""

    def damage(path):
        content = bytearray((path / name).read_bytes())
        content[at] ^= 1
        (path / name).write_bytes(content)

    return damage


def _cut(name):
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:-9])


def _remove(name):
    return lambda path: (path / name).unlink()


def _edit_row(**changes):
    def damage(path):
        shard = path / f"{SHARD_OF_B}.jsonl"
        shard.write_text(json.dumps(json.loads(shard.read_text()) | changes) + "\n")

    return damage


def _retyped(path):
    """The same bytes, to be read as whole numbers."""
    array = np.load(path / f"{SHARD_OF_B}.visual.npy")
    np.save(path / f"{SHARD_OF_B}.visual.npy", array.view(np.int32))


def _edit_manifest(path):
    content = json.loads((path / "manifest.json").read_text())
    content["encoder"]["id"] = "another"
    (path / "manifest.json").write_text(json.dumps(content))


DAMAGE = {
    "flipped byte in visual rows": (_flip(f"{SHARD_OF_B}.visual.npy"), ["b"]),
    "flipped byte in text rows": (_flip(f"{SHARD_OF_B}.text.npy"), ["b"]),
    "truncated shard": (_cut(f"{SHARD_OF_B}.visual.npy"), ["b"]),
    "rows of another type": (_retyped, ["b"]),
    "missing shard": (_remove(f"{SHARD_OF_B}.visual.npy"), ["b"]),
    "missing text rows": (_remove(f"{SHARD_OF_B}.text.npy"), ["b"]),
    "missing index": (_remove(f"{SHARD_OF_B}.jsonl"), ["b"]),
    "flipped byte in the index": (_flip(f"{SHARD_OF_B}.jsonl", 20), ["b"]),
    "wrong offset": (_edit_row(offset=1, num_snippets=3), ["b"]),
    "absurd num_frames": (_edit_row(num_frames=1_000_000), ["b"]),
    "wrong fps": (_edit_row(fps=1.0), ["b"]),
    "flipped byte in the manifest": (_flip("manifest.json", 40), IDS),
    "edited manifest": (_edit_manifest, IDS),
    "empty manifest": (lambda path: (path / "manifest.json").write_bytes(b""), IDS),
    "missing manifest": (_remove("manifest.json"), IDS),
    "damaged list": (lambda path: (path / "videos.json").write_bytes(b"\xff{"), []),
    "damaged quarantine": (lambda path: (path / "quarantine.jsonl").write_text("{"), []),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "made_again"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_refused_and_repaired_by_the_same_command(tmp_path, damage, made_again, capsys):
    write(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "s")
    damage(tmp_path / "s")
    with pytest.raises(UserError):
        dict(Store(tmp_path / "s"))
    writer = StoreWriter(tmp_path / "s", MANIFEST, annotated())
    written = [video_id for video_id in IDS if not writer.has(video_id)]
    for video_id in written:
        writer.add(*encoded(video_id))
    assert writer.pack(1) and written == made_again
    assert files(tmp_path / "s") == files(tmp_path / "whole")
    assert Store(tmp_path / "s").faults() == []
    assert capsys.readouterr().err.count("\n") <= 1


def test_a_store_that_grows_does_not_sign_a_flipped_bit(tmp_path):
    write(tmp_path / "s", ids=IDS[:3], videos=annotated(IDS[:3]))
    _flip("shard-00000.visual.npy")(tmp_path / "s")
    writer = StoreWriter(tmp_path / "s", MANIFEST, annotated())
    # The video that was hit is the encoder's to make again, as the new one is.
    assert [i for i in IDS if not writer.has(i)] == ["a", "b"]
    writer.add(*encoded("b"))
    assert not writer.pack(1)


def test_rows_are_compared_once_when_they_are_first_read(tmp_path):
    write(tmp_path)
    _flip(f"{SHARD_OF_B}.text.npy")(tmp_path)
    opened = Store(tmp_path)
    opened.visual("a")
    with pytest.raises(UserError, match="'b': expected rows of sha256 .* makes again"):
        opened.visual("b")  # Its text is another.
    assert Store(tmp_path, verify_rows=False).text("b").shape == (4, 3)
    _flip("shard-00000.visual.npy")(tmp_path)
    opened.visual("a")


def _bank(path, value):
    np.save(path / "bank.npy", np.full((2, 3), value, np.float32))
    content = {"sha256": digests.of_bytes((path / "bank.npy").read_bytes())}
    (path / "bank.json").write_text(json.dumps(content))


def test_the_bank_is_covered_and_only_a_whole_one_takes_its_place(tmp_path):
    writer = StoreWriter(tmp_path, MANIFEST, annotated())
    _bank(tmp_path, 1)
    assert write(tmp_path)[1]
    Store(tmp_path)
    _flip("bank.npy")(tmp_path)
    with pytest.raises(UserError, match="bank.npy: expected what the store was finished with"):
        Store(tmp_path)
    with pytest.raises(UserError, match=r"bank.npy: .* put it back; for another bank remove"):
        StoreWriter(tmp_path, MANIFEST, annotated()).pack()
    _bank(tmp_path, 2)
    with pytest.raises(UserError, match="bank"):
        Store(tmp_path)
    writer = StoreWriter(tmp_path, MANIFEST, annotated())
    assert writer.pack() and all(map(writer.has, IDS))
    assert sealing.read(tmp_path).files["bank.npy"] and Store(tmp_path).faults() == []


@pytest.mark.parametrize("suffix", [".json", ".npy", ".text.npy"])
def test_a_damaged_part_is_named_and_made_again(tmp_path, suffix):
    writer, finished = write(tmp_path, ids=IDS[:3])
    assert not finished
    part = next(
        p for p in (tmp_path / "parts").glob("*.json") if json.loads(p.read_text())["id"] == "a"
    )
    _flip(part.with_suffix(suffix).relative_to(tmp_path))(tmp_path)
    writer.add(*encoded("b"))
    with pytest.raises(UserError, match="'a', found them damaged .* run the same command again"):
        writer.pack(1)
    assert not writer.has("a")
    assert write(tmp_path)[1]
    write(tmp_path.parent / f"whole{suffix}")
    assert files(tmp_path) == files(tmp_path.parent / f"whole{suffix}")


def test_a_folder_of_something_else_is_refused_untouched(tmp_path):
    for name in ("videos.json", "precious.mp4"):
        (tmp_path / name).write_text("mine")
    for write_into in (
        lambda: StoreWriter(tmp_path, MANIFEST, annotated()),
        lambda: StoreWriter.for_features(tmp_path, dim=4),
    ):
        with pytest.raises(
            UserError, match="expected an absent or empty folder, or one of the kind 'store'"
        ):
            write_into()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "videos.json": "mine",
        "precious.mp4": "mine",
    }


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    write(tmp_path / "s")
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "s" / ".lock").unlink()
    (tmp_path / "s" / ".lock").symlink_to("../precious")
    with pytest.raises(UserError, match=r"\.lock: expected a lock, found a link"):
        StoreWriter(tmp_path / "s", MANIFEST, annotated())
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_later_version_is_left_alone(tmp_path):
    write(tmp_path)
    content = json.loads((tmp_path / "manifest.json").read_text()) | {"format_version": 3}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    before = files(tmp_path)
    with pytest.raises(UserError, match="expected format_version 2 or less, found 3"):
        StoreWriter(tmp_path, MANIFEST, annotated())
    assert files(tmp_path) == before
