"""Stores as version 0.2.0 wrote them: format version 1, without digests of manifest and index."""

import hashlib
import json

import numpy as np


def downgrade(path):
    """Rewrites the manifest of a store as version 1 had it; its other files are the same."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name in ("files", "sha256", "weights_known_by"):
        del manifest[name]
    manifest["format_version"] = 1
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    (path / ".gvvad").unlink()
    return path


def write_version_1(path, *, encoder=None, made_of=None, split_sizes=None):
    """Writes a store of version 1, file by file: ten training and four test videos, with text.

    Args:
      path: its folder.
      encoder: changes to the manifest's encoder.
      made_of: of every row.
      split_sizes: number of videos of a label by split.
    """
    path.mkdir(parents=True)
    rng = np.random.default_rng(3)
    entries, lines, visual, text, offset = {}, [], [], [], 0
    for split, count in (split_sizes or {"train": 5, "test": 2}).items():
        for number in range(2 * count):
            label, length = number % 2, 3 + number % 4
            video_id = f"{split}-{number}"
            visual.append(rng.normal(label, 1, (length, 2, 12)).astype(np.float32))
            text.append(rng.normal(label, 1, (length, 8)).astype(np.float32))
            content = visual[-1].tobytes() + text[-1].tobytes()
            row = {
                "id": video_id, "offset": offset, "num_snippets": length,
                "num_frames": 4 * length, "fps": 10.0, "source": "real",
                "declared_frames": 4 * length, "decoded_frames": 4 * length,
                "sha256": hashlib.sha256(content).hexdigest(), "description": None, "twin": None,
                "seed": None, "pixel_statistics": None, "feature_statistics": None,
                "made_of": made_of,
            }  # fmt: skip
            lines.append(json.dumps(row, sort_keys=True) + "\n")
            offset += length
            frames = [[0, 4]] if label else []
            entries[video_id] = {
                "file": f"{video_id}.mp4", "label": label, "split": split, "fps": 10,
                "num_frames": 4 * length, "abnormal_frames": frames,
            }  # fmt: skip
    np.save(path / "shard-00000.visual.npy", np.concatenate(visual))
    np.save(path / "shard-00000.text.npy", np.concatenate(text))
    (path / "shard-00000.jsonl").write_text("".join(lines))
    np.save(path / "bank.npy", np.eye(3, 8, dtype=np.float32))
    (path / "videos.json").write_text(json.dumps({"videos": entries}))
    manifest = {
        "format_version": 1,
        "encoder": {"id": "test", "weights": "none", "pooling": "none", "normalised": False}
        | (encoder or {}),
        "dim": 12,
        "crops": {"count": 2, "order": "whole, mirrored"},
        "snippet": {"frames": 4, "stride": 4, "pooling": "mean"},
        "fps_policy": "native",
        "dtype": "float32",
        "text": {"encoder": "words", "dim": 8, "normalised": True},
    }
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    (path / ".lock").touch()
    return path
