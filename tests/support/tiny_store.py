"""A store of four videos, each known by its id, for tests of what stores are."""

import pathlib

import numpy as np

from gvvad_jax.store import annotations
from gvvad_jax.store.format import Manifest, Row
from gvvad_jax.store.writer import StoreWriter

MANIFEST = Manifest(
    encoder={"id": "test", "weights": "none", "pooling": "none", "normalised": False},
    dim=4,
    crops={"count": 2, "order": "whole, mirrored"},
    snippet={"frames": 4, "stride": 4, "pooling": "mean"},
    fps_policy="native",
    text={"encoder": "words", "dim": 3, "normalised": True},
)
IDS = ["c", "a", "d/e", "b"]


def annotated(ids=IDS):
    entries = {i: {"file": f"{i}.mp4", "label": n % 2, "split": "train"} for n, i in enumerate(ids)}
    return annotations.from_json({"fps": 10, "videos": entries}, "videos.json")


def encoded(video_id):
    """Row, visual [T, 2, 4] and text [T, 3] of a video: the id says which."""
    rng = np.random.default_rng(ord(video_id[0]))
    count = 2 + ord(video_id[0]) % 3
    row = Row(
        id=video_id,
        num_snippets=count,
        num_frames=4 * count,
        fps=10.0,
        source="real",
        declared_frames=4 * count,
        decoded_frames=4 * count,
    )
    visual_TxNxD = rng.normal(size=(count, 2, 4)).astype(np.float32)
    return row, visual_TxNxD, rng.normal(size=(count, 3)).astype(np.float32)


def write(path, ids=IDS, shard_bytes=1, videos=None):
    """The writer, and whether the store is finished."""
    writer = StoreWriter(path, MANIFEST, videos or annotated())
    for video_id in ids:
        if not writer.has(video_id):
            writer.add(*encoded(video_id))
    return writer, writer.pack(shard_bytes)


def files(path):
    return {p.name: p.read_bytes() for p in pathlib.Path(path).iterdir() if p.name != ".lock"}
