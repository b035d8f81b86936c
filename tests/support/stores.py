"""Small stores of random features in which abnormal snippets stand out."""

import numpy as np

from gvvad_jax.store import annotations, sealing
from gvvad_jax.store.format import Manifest, Row
from gvvad_jax.store.writer import StoreWriter

DIM, TEXT_DIM, CROPS = 12, 8, 2


def make_manifest(**changes) -> Manifest:
    fields = {
        "encoder": {"id": "test", "weights": "none", "pooling": "none", "normalised": False},
        "dim": DIM,
        "crops": {"count": CROPS, "order": "whole, mirrored"},
        "snippet": {"frames": 4, "stride": 4, "pooling": "mean"},
        "fps_policy": "native",
        "text": {"encoder": "words", "dim": TEXT_DIM, "normalised": True},
    }
    return Manifest(**(fields | changes))


def reseal(path):
    """Has a store's manifest name the files as they are: what a test changed is no damage."""
    manifest = sealing.read(path).manifest
    (path / "manifest.json").write_bytes(sealing.to_bytes(manifest, sealing.covered(path)))
    return path


def write_store(path, splits, *, source="real", seed=0, prefix="", manifest=None, lengths=(3, 12),
                twins=False):  # fmt: skip
    """A store of random features in which abnormal snippets stand out.

    Args:
      path: its folder.
      splits: {split: (number of normal videos, number of abnormal ones)}.
      source: real or synthetic.
      seed: of the features.
      prefix: of the video ids.
      manifest: another than `make_manifest()`.
      lengths: fewest and most snippets a video.
      twins: whether rows name their twins: the videos of one number and split.
    """
    manifest = manifest or make_manifest()
    rng = np.random.default_rng(seed)
    videos, rows = {}, []
    for split, counts in splits.items():
        for label, count in enumerate(counts):
            for i in range(count):
                video_id = f"{prefix}{split}-{label}-{i}"
                length = int(rng.integers(lengths[0], lengths[1] + 1))
                start = int(rng.integers(0, length))
                visual_TxNxD = rng.normal(size=(length, CROPS, manifest.dim))
                text_TxE = rng.normal(size=(length, (manifest.text or {"dim": TEXT_DIM})["dim"]))
                if label:
                    visual_TxNxD[start : start + 2, :, :3] += 3.0
                    text_TxE[start : start + 2, :2] += 3.0
                frames = 4 * length
                videos[video_id] = {
                    "file": f"{video_id}.mp4",
                    "label": label,
                    "split": split,
                    "num_frames": frames,
                    "class": "Arson" if label else "Normal",
                    "abnormal_frames": [[4 * start, min(4 * start + 8, frames)]] if label else [],
                }
                row = Row(
                    id=video_id,
                    num_snippets=length,
                    num_frames=frames,
                    fps=10.0,
                    source=source,
                    declared_frames=frames,
                    decoded_frames=frames,
                    twin=f"{prefix}{split}-{1 - label}-{i}" if twins else None,
                )
                rows.append((row, visual_TxNxD, text_TxE if manifest.text else None))
    content = {"fps": 10, "videos": videos}
    writer = StoreWriter(path, manifest, annotations.from_json(content, "videos.json"))
    for row, visual_TxNxD, text_TxE in rows:
        writer.add(row, visual_TxNxD, text_TxE)
    assert writer.pack()
    np.save(path / "bank.npy", np.eye(3, TEXT_DIM, dtype=np.float32))
    return path
