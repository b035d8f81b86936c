"""What a score costs in AUC that looks at the last snippets alone, as live scoring does.

    python -m tools.study_windows --flagfile=configs/studies/windows_ped2.flags \\
        --videos=PED2/ground_truth.json
    python -m tools.study_windows --flagfile=configs/studies/windows_world.flags
    python -m tools.study_windows --csv=docs/studies/windows.csv --table

Trains with several seeds, each with a split of its own, on real videos or on the built-in world's
footage. Ordinary runs are measured on whole videos and by a sliding window of several lengths;
runs of --causal_window are trained for each length. Each measurement is added to a CSV, which both
footages may share, and isn't run again; --table prints means and deviations (docs/streaming.md).
"""

import csv
import io
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from gvvad_jax.command import UserError, define_flags, from_flags, run_command
from gvvad_jax.config import TrainConfig
from gvvad_jax.store import folders
from gvvad_jax.store.files import read_text, write_atomically
from tools.studies import statistics, windows


def main(_: list[str]) -> None:
    values = flags.FLAGS
    if not values.csv:
        raise UserError("--csv: expected a file for the measurements, found none; name one")
    path = pathlib.Path(values.csv)
    held = read(path)
    if not values.table:
        import cv2

        cv2.setNumThreads(1)
        study = from_flags(windows.WindowStudy)
        folders.claim(study.folder, "study")
        for row in windows.rows(study, from_flags(TrainConfig), held):
            held.append({name: str(value) for name, value in row.items()})
            _write(path, held)
            print(" ".join(held[-1].values()), file=sys.stderr, flush=True)
    print(table(held, values.column))


def _write(path: pathlib.Path, rows: Sequence[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue().encode())


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """Reads a table of measurements; an absent file is an empty one."""
    if not path.exists():
        return []
    lines = list(csv.DictReader(read_text(path, "measurements of a study").splitlines()))
    if lines and not set(windows.KEYS) < set(lines[0]):
        raise UserError(
            f"{path}: expected the columns {', '.join(windows.KEYS)}, found "
            f"{', '.join(lines[0])}; give another --csv"
        )
    return lines


def table(rows: Sequence[dict[str, str]], measure: str) -> str:
    """Returns a measure by footage, detector and window as Markdown, and what windows cost.

    A cell of a window is the mean over seeds, and in brackets the mean and deviation of the
    difference to the same seed's ordinary run on whole videos.
    """
    values: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        key = tuple(row[name] for name in windows.KEYS[:-1])
        values.setdefault(key, {})[row["seed"]] = float(row[measure])
    lengths = sorted({key[3] for key in values if key[3] != "0"}, key=int)
    header = ["footage", "detector", "whole videos", "live"]
    lines = [[*header, *(f"W = {window}" for window in lengths)]]
    lines.append(["---"] * len(lines[0]))
    for footage, detector, kind, _ in dict.fromkeys(key for key in values if key[2] == "whole"):
        whole = values[footage, detector, kind, "0"]
        for live in (windows.SLIDING, windows.CAUSAL):
            cells = [
                _cell(values.get((footage, detector, live, window), {}), whole)
                for window in lengths
            ]
            lines.append([footage, detector, _spread(list(whole.values()), ".3f"), live, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(by_seed: dict[str, float], whole: dict[str, float]) -> str:
    seeds = [seed for seed in by_seed if seed in whole]
    if not seeds:
        return "-"
    mean, _ = statistics.mean_sd([by_seed[seed] for seed in seeds])
    changes = _spread([by_seed[seed] - whole[seed] for seed in seeds], "+.3f")
    missing = f"; {len(seeds)} of {len(whole)} seeds" if len(seeds) < len(whole) else ""
    return f"{mean:.3f} ({changes}{missing})"


def _spread(values: Sequence[float], form: str) -> str:
    """A mean, and of several values their deviation."""
    mean, sd = statistics.mean_sd(values)
    return f"{mean:{form}}" + (f" ± {sd:.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    define_flags(
        windows.WindowStudy, TrainConfig, set_here=("store", "annotations", "workdir", "seed")
    )
    flags.DEFINE_string("csv", "", "The study's table; rows that it holds aren't run again.")
    flags.DEFINE_bool("table", False, "Print tables of --csv and run nothing.")
    flags.DEFINE_enum(
        "column", "auc", windows.runs.MEASURES, "Measure of --csv that --table shows."
    )
    run_command(main, usage=__doc__)
