"""Writes a store of motion features with ten crops a snippet, from one with the whole frame alone.

    python -m tools.bench.ten_crops --store=STORE --videos=videos.json --out=TEN
    python -m tools.bench --sections=crops --store=TEN

The crops are those of published features: a frame's corners and centre, 224 of 256 pixels of its
shorter side, and their mirror images. The motion encoder looks at each as at a video of its own.
This is how what --train_crops and --score_crops cost in AUC is measured without CLIP's weights.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags

from gvvad_jax.command import UserError, run_command
from gvvad_jax.store import alignment, annotations
from gvvad_jax.store.reader import Store
from gvvad_jax.store.writer import StoreWriter

# Of the shorter side.
SHARE = 224 / 256


def views(frame_HxW: np.ndarray) -> Iterator[np.ndarray]:
    """Cuts a frame into ten square crops: corners, centre, and then their mirror images."""
    height, width = frame_HxW.shape
    side = round(SHARE * min(height, width))
    down, right = height - side, width - side
    places = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    crops = [frame_HxW[top : top + side, left : left + side] for top, left in places]
    yield from crops
    yield from (crop[:, ::-1] for crop in crops)


def features(path: pathlib.Path, spans_Tx2: np.ndarray) -> np.ndarray:
    """The motion encoder's features [T, 10, D] of a video's ten crops."""
    import cv2

    from generation.encoders.motion import MotionEncoder
    from generation.media import reading

    encoder, video = MotionEncoder(), reading.read(path)
    streams = [encoder.begin(spans_Tx2, len(video.frames_TxHxWx3), video.fps) for _ in range(10)]
    rows: list[list[np.ndarray]] = [[] for _ in streams]
    for place in streams[0].wanted_F:
        grey_HxW = cv2.cvtColor(video.frames_TxHxWx3[place], cv2.COLOR_RGB2GRAY)
        for stream, kept, crop_HxW in zip(streams, rows, views(grey_HxW), strict=True):
            side = min(encoder.working_width, len(crop_HxW))
            small_HxW = cv2.resize(crop_HxW, (side, side), interpolation=cv2.INTER_AREA)
            kept += [row_1xD[0] for row_1xD in stream.take([np.ascontiguousarray(small_HxW)])]
    return np.stack([np.stack(kept) for kept in rows], axis=1)


def write(store: Store, videos: annotations.Annotations, folder: pathlib.Path) -> None:
    """Writes the store; its text rows are the original's."""
    crops = {"count": 10, "order": "corners, centre, mirrored"}
    snippet = store.manifest.snippet
    writer = StoreWriter(folder, dataclasses.replace(store.manifest, crops=crops), store.videos)
    for video_id, row in store.rows.items():
        spans_Tx2 = alignment.snippet_spans(row.num_frames, snippet["frames"], snippet["stride"])
        rows_Tx10xD = features(videos.resolve(videos.videos[video_id]), spans_Tx2)
        writer.add(row, rows_Tx10xD, store.text(video_id))
    writer.pack()


def main(_: Sequence[str]) -> None:
    values = flags.FLAGS
    for name in ("store", "videos", "out"):
        if not values[name].value:
            raise UserError(f"--{name}: expected a path, found none; give one")
    store = Store(values.store)
    if store.manifest.encoder["id"] != "motion-v2":
        raise UserError(
            f"{values.store}: expected features of the motion encoder, found "
            f"{store.manifest.encoder['id']}; encode with --encoder=motion"
        )
    write(store, annotations.load(values.videos), pathlib.Path(values.out))


if __name__ == "__main__":
    flags.DEFINE_string("store", "", "Store of motion features.")
    flags.DEFINE_string("videos", "", "The videos.json that it was encoded from.")
    flags.DEFINE_string("out", "", "Folder of the store to write.")
    run_command(main, usage=__doc__)
