"""What another camera or a re-encoded file costs a detector, and what mends it.

    python -m tools.study_cameras --question=cameras --flagfile=configs/ped2.flags \\
        --footage=videos --videos=PED2/ground_truth.json --out=DIR --results=FILE.csv
    python -m tools.study_cameras --question=compression ...
    python -m tools.study_cameras --results=FILE.csv --show

Trains on real videos, or on the built-in world's footage, with several seeds, each with a split of
its own. cameras measures the detectors on videos as other cameras would have taken them, with and
without the camera's own statistics of features; compression measures them on re-encoded copies, and
trains on copies too; feedback tunes them on alarms of half of the test videos and measures the
other half; drift measures how far features lie from those of training. Writes the measurements to a
CSV and prints their means (docs/calibration.md and docs/responsible_use.md show them). Repeating
the command keeps finished trainings.
"""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from gvvad_jax.command import UserError, define_flags, from_flags, run_command
from gvvad_jax.config import TrainConfig
from gvvad_jax.store import folders
from gvvad_jax.store.files import read_text, write_atomically
from tools.studies import statistics
from tools.studies.cameras import CameraStudy

# What rows are averaged by; all other columns but the seed are averaged.
_KEYS = ("trained_on", "target", "known", "label", "footage", "share", "strength")


def main(_: list[str]) -> None:
    values = flags.FLAGS
    if not values.results:
        raise UserError("--results: expected a file for the measurements, found none; name one")
    path = pathlib.Path(values.results)
    if not values.show:
        import cv2

        from tools.studies import camera_runs

        cv2.setNumThreads(1)
        study, train = from_flags(CameraStudy), from_flags(TrainConfig)
        folders.claim(study.folder, "study")
        ask = getattr(camera_runs, f"{values.question}_rows")
        _write(path, list(ask(study, train)))
    print(table(_read(path)))


def _write(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _read(path: pathlib.Path) -> list[dict[str, str]]:
    return list(csv.DictReader(read_text(path, "measurements of a study").splitlines()))


def table(rows: Sequence[dict[str, str]]) -> str:
    """Returns means and deviations over seeds as a table in Markdown."""
    keys = [key for key in _KEYS if key in rows[0]]
    measures = [name for name in rows[0] if name not in (*_KEYS, "seed")]
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    lines = [[*keys, *measures], ["---"] * (len(keys) + len(measures))]
    for group, members in groups.items():
        spreads = [statistics.mean_sd([float(row[m]) for row in members]) for m in measures]
        lines.append([*group, *(f"{mean:.3f} +- {sd:.3f}" for mean, sd in spreads)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    define_flags(CameraStudy, TrainConfig, set_here=("store", "annotations", "workdir", "seed"))
    flags.DEFINE_enum(
        "question", "cameras", ["cameras", "compression", "feedback", "drift"], "What to measure."
    )
    flags.DEFINE_string(
        "results", "", "CSV of the measurements, to write or, with --show, to read."
    )
    flags.DEFINE_bool("show", False, "Only print the means of the CSV.")
    run_command(main, usage=__doc__)
