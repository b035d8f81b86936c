"""Writes feature files of any size that take no disk space: sparse .npy files of zeros.

    python -m tools.bench.sparse_features --videos=1900 --out=FEATURES
    python -m tools.import_features --visual=FEATURES/train,FEATURES/test --encoder=i3d --out=STORE

They show how importing scales: 1,900 videos of UCF-Crime's mean length are 19 GB to a reader.
"""

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from gvvad_jax.command import UserError, run_command
from tools.bench.sparse_store import CROPS, UCF_CRIME_SNIPPETS

DIM = 512
_TEST_SHARE = 0.15


def write(path: pathlib.Path, videos: int) -> int:
    """Writes arrays [T, crops, D], named as UCF-Crime's are; lengths vary around UCF-Crime's mean.

    Args:
      path: new folder, which gets the folders train and test.
      videos: number of videos, every other one abnormal.

    Returns:
      The size of all files in bytes, as readers see it.
    """
    size = 0
    for split in ("train", "test"):
        (path / split).mkdir(parents=True)
    for number in range(videos):
        split = "test" if number < _TEST_SHARE * videos else "train"
        name = f"{('Normal_Videos_', 'Abuse')[number % 2]}{number:04d}_x264_i3d.npy"
        # From half of the mean to one and a half.
        snippets = UCF_CRIME_SNIPPETS // 2 + number * 37 % (UCF_CRIME_SNIPPETS + 1)
        shape = (snippets, CROPS, DIM)
        file = path / split / name
        # This writes only the header and the last byte.
        np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        size += file.stat().st_size
    return size


def main(_: Sequence[str]) -> None:
    out = pathlib.Path(flags.FLAGS.out)
    if not flags.FLAGS.out or out.exists():
        raise UserError(f"--out: expected a new folder, found {flags.FLAGS.out!r}; name another")
    print(json.dumps({"out": str(out), "bytes": write(out, flags.FLAGS.videos)}))


if __name__ == "__main__":
    flags.DEFINE_integer("videos", 1900, "Number of videos.", lower_bound=4)
    flags.DEFINE_string("out", "", "New folder of the files.")
    run_command(main, usage=__doc__)
