"""Digests of files, and digests that must never change."""

import os

from generation.encode import provenance
from generation.encoders import pretrained
from gvvad_jax.store import annotations, digests


def test_digests_in_stores_and_video_folders_never_change(tmp_path):
    """Otherwise every store would be encoded again, and every folder of videos refused."""
    for name, size in (("config.json", 3), ("model.safetensors", (1 << 20) + 5)):
        (tmp_path / name).write_bytes(bytes(range(251)) * (size // 251) + bytes(size % 251))
    assert pretrained.known_digest(str(tmp_path), pretrained.IMAGES) == "88d35a71f576"
    entry = {"file": "model.safetensors", "label": 0, "split": "train"}
    videos = annotations.from_json({"videos": {"a": entry}}, str(tmp_path / "videos.json"))
    expected = "2d1608e706f6e251125ac939659a56d942c0a28685824641478a67b70a6f57d3"
    assert provenance.video_digests(videos, {}, "real") == {"a": expected}


def test_a_large_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_LARGE_BYTES", 4)
    monkeypatch.setattr(digests, "_TICK_SECONDS", -1.0)
    reads = []
    whole = digests.hashlib.file_digest
    monkeypatch.setattr(
        digests.hashlib, "file_digest", lambda file, kind: reads.append(1) or whole(file, kind)
    )
    path = tmp_path / "weights"
    path.write_bytes(b"0" * 9)
    first = [digests.of_file(path), digests.of_file(path)]
    assert first == [digests.of_bytes(b"0" * 9)] * 2 and len(reads) == 1
    times = path.stat()
    with open(path, "r+b") as file:  # The middle alone, in place, with the old time of change.
        file.seek(4)
        file.write(b"1")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digests.of_file(path) == digests.of_bytes(b"0000" + b"1" + b"0000") and len(reads) == 2


def test_without_a_home_every_file_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    monkeypatch.setattr(digests, "_LARGE_BYTES", 4)
    (tmp_path / "weights").write_bytes(b"0" * 9)
    assert digests.of_file(tmp_path / "weights") == digests.of_bytes(b"0" * 9)
