"""Writes stores of any size that take no disk space: sparse shards whose features are all zero.

    python -m tools.bench.sparse_store --videos=161000 --out=STORE

They show how opening and training scale (tools/bench/data.py). UCF-Crime's training set has 1,610
videos of 490 snippets on average; a hundred times as many are 2.7 TB to a reader.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from gvvad_jax.command import UserError, run_command
from gvvad_jax.store import sealing
from gvvad_jax.store.format import Manifest, array_path, rows_hash
from gvvad_jax.store.packing import SHARD_BYTES
from gvvad_jax.store.reader import Store

UCF_CRIME_VIDEOS, UCF_CRIME_SNIPPETS = 1610, 490
SNIPPET_FRAMES = 16
CROPS, DIM, TEXT_DIM = 10, 768, 768


def write(path: pathlib.Path, videos: int, dtype: str = "float32") -> pathlib.Path:
    """Writes a store of training videos, every other one abnormal.

    Args:
      path: new folder of the store.
      videos: number of videos.
      dtype: type of the visual features.

    Returns:
      The path.
    """
    path.mkdir(parents=True)
    manifest = Manifest(
        encoder={"id": "zeros", "weights": "none", "pooling": "none", "normalised": False},
        dim=DIM,
        crops={"count": CROPS, "order": "unknown"},
        snippet={"frames": SNIPPET_FRAMES, "stride": SNIPPET_FRAMES, "pooling": "middle"},
        fps_policy="native",
        dtype=dtype,
        text={"encoder": "zeros", "dim": TEXT_DIM, "normalised": False},
    )
    videos_a_shard = max(
        1, SHARD_BYTES // (UCF_CRIME_SNIPPETS * CROPS * DIM * np.dtype(dtype).itemsize)
    )
    digest = rows_hash(
        np.zeros((UCF_CRIME_SNIPPETS, CROPS, DIM), dtype),
        np.zeros((UCF_CRIME_SNIPPETS, TEXT_DIM), dtype),
    )
    ids = [f"{number:09d}" for number in range(videos)]
    for number, first in enumerate(range(0, videos, videos_a_shard)):
        members = ids[first : first + videos_a_shard]
        shard = path / f"shard-{number:05d}.jsonl"
        rows = len(members) * UCF_CRIME_SNIPPETS
        for kind, shape in (("visual", (rows, CROPS, DIM)), ("text", (rows, TEXT_DIM))):
            # This writes only the header and the last byte.
            np.lib.format.open_memmap(array_path(shard, kind), mode="w+", dtype=dtype, shape=shape)
        lines = [
            _row(video_id, i * UCF_CRIME_SNIPPETS, digest) for i, video_id in enumerate(members)
        ]
        shard.write_text("".join(f"{line}\n" for line in lines))
    content = {
        video_id: {"file": f"{video_id}.mp4", "label": i % 2, "split": "train"}
        for i, video_id in enumerate(ids)
    }
    (path / "videos.json").write_text(json.dumps({"fps": 30, "videos": content}))
    np.save(path / "bank.npy", np.ones((60, TEXT_DIM), np.float32))
    (path / "manifest.json").write_bytes(sealing.to_bytes(manifest, sealing.covered(path)))
    return path


def _row(video_id: str, offset: int, digest: str) -> str:
    frames = UCF_CRIME_SNIPPETS * SNIPPET_FRAMES
    entry: dict[str, Any] = {"id": video_id, "offset": offset, "num_snippets": UCF_CRIME_SNIPPETS}
    entry |= {"num_frames": frames, "declared_frames": frames, "decoded_frames": frames}
    return json.dumps(entry | {"fps": 30.0, "source": "real", "sha256": digest})


def main(_: Sequence[str]) -> None:
    out = pathlib.Path(flags.FLAGS.out)
    if not flags.FLAGS.out or out.exists():
        raise UserError(f"--out: expected a new folder, found {flags.FLAGS.out!r}; name another")
    write(out, flags.FLAGS.videos)
    print(json.dumps(Store(out).summary()))


if __name__ == "__main__":
    flags.DEFINE_integer("videos", UCF_CRIME_VIDEOS, "Number of videos.", lower_bound=2)
    flags.DEFINE_string("out", "", "New folder of the store.")
    run_command(main, usage=__doc__)
