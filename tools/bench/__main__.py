"""Measures speed and memory; the tables of docs/performance.md.

    python -m tools.bench [--sections=step,data] [--json=FILE]
    python -m tools.bench --sections=accuracy --store=STORE
    python -m tools.bench --gpu --json=FILE
    python -m tools.bench --tables_of=FILE       # a file of the above as tables

Sections: step (each detector compared with plain PyTorch and the machine's matrix products), data
(opening, gathering), evaluation (a UCF-Crime-sized test set), run (LAP's whole published schedule,
from measured parts, at the last number of segments), metrics, startup, memory (how it
grows with the data, and each detector's and encoder's with the length of a video), streaming
(scores as snippets arrive, and a camera's delay, on one core), accuracy (what bfloat16 and float16
cost). The sides of a comparison are timed in turn. A ratio is the median over
the rounds; it is comparable between runs where times are not. JAX and PyTorch use a GPU if both see
one. Nothing else should run on the machine.

--gpu runs another report, which takes at most --gpu_seconds and needs only JAX, Flax, PyTorch and
transformers: parity, steps in each precision, evaluation, CLIP, seeds together, CogVideoX's
transformer. Each part has a process and a time of its own; what is missing is skipped, and says so.
Without a GPU it runs at tiny sizes, whose figures mean nothing.
"""

import json
import pathlib
import platform
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from gvvad_jax.command import UserError, run_command
from gvvad_jax.config import DETECTORS

SECTIONS = ("step", "data", "evaluation", "run", "metrics", "startup", "memory", "streaming")
# These need a store.
OF_STORES = ("accuracy", "crops")


def main(_: Sequence[str]) -> None:
    values = flags.FLAGS
    if values.tables_of:
        from tools.bench import tables

        print(tables.markdown(json.loads(pathlib.Path(values.tables_of).read_text())))
        return
    if values.json:
        pathlib.Path(values.json).resolve().parent.mkdir(parents=True, exist_ok=True)
    if values.gpu:
        from tools.bench.gpu import report

        report.run(values.json, values.gpu_seconds)
        return
    from gvvad_jax.store.files import write_json

    known = (*SECTIONS, *OF_STORES, *DETECTORS)
    unknown = {*values.sections, *_detectors(values)} - {*known}
    if unknown:
        raise UserError(
            f"--sections, --detectors: expected of {', '.join(known)}, found "
            f"{', '.join(sorted(unknown))}; correct them"
        )
    if set(OF_STORES) & set(values.sections) and not values.store:
        raise UserError("--store: expected a store for accuracy and crops, found none; name one")
    wrong = [text for text in values.segments if not text.isdecimal() or int(text) < 5]
    if wrong or not values.segments:
        # The count of operations needs more segments than a dilated convolution reaches.
        raise UserError(
            f"--segments: expected whole numbers of 5 or more, found {wrong or 'none'}; correct it"
        )
    figures: dict[str, Any] = {"machine": _machine()}
    print(json.dumps(figures["machine"]))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for section in values.sections:
            device = figures["machine"]["device"]
            figures[section] = _measure(section, pathlib.Path(folder), device)
            if values.json:  # After each section, so that an interrupted run keeps its figures.
                write_json(values.json, figures)


def _detectors(values: flags.FlagValues) -> list[str]:
    return values.detectors.split(",")


def _machine() -> dict[str, Any]:
    import importlib.metadata
    import os

    import jax
    import torch

    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    return {
        "device": "cuda" if on_gpu else "cpu",
        "name": jax.devices()[0].device_kind if on_gpu else _processor(),
        "cores": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "torch")},
    }


def _processor() -> str:
    """The processor's name, and what it has for low precision."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or "CPU"
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    flags_ = {"avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"} & {*text.split()}
    return " ".join([*names[:1], *sorted(flags_)]) or "CPU"


def _measure(section: str, folder: pathlib.Path, device: str) -> dict[str, Any]:
    from tools.bench import accuracy, data, encoding_memory, evaluation, memory, runs, startup, step
    from tools.bench import streaming as live

    values = flags.FLAGS
    folder = folder / section
    folder.mkdir()
    first = int(values.segments[0])
    if section == "step":
        return _steps(device)
    if section == "data":
        measured = data.measure(folder, first, values.pairs, values.repeats)
    elif section == "evaluation":
        measured = evaluation.measure(values.share, values.repeats, device=device)
    elif section == "run":
        case = step.Case("lap", int(values.segments[-1]), values.pairs)
        measured = runs.measure(case, values.share, values.repeats, turn=values.turn, device=device)
    elif section == "metrics":
        measured = evaluation.measures(values.repeats)
    elif section == "startup":
        measured = startup.measure(folder, values.repeats)
    elif section == "memory":
        measured = data.memory(folder) | {"detectors": memory.detectors(_detectors(values))}
        measured |= {"encoders": encoding_memory.encoders(folder / "encoders")}
    elif section == "streaming":
        measured = live.measure(folder, _detectors(values))
    elif section == "crops":
        measured = accuracy.crops(values.store, folder, values.seeds, _small(values))
    else:
        measured = accuracy.measure(values.store, folder, values.seeds, values.steps)
    print(f"\n{section}")
    _print(measured, "  ")
    return measured


def _small(values: flags.FlagValues) -> dict[str, Any]:
    """Settings of small networks for little data, as in configs/ped2.flags."""
    steps = values.steps
    return {
        "detector": "rtfm", "feature_group": "visual", "segments": 64, "batch_size": 6,
        "mtn_channels": 16, "head_widths": (64, 16), "steps": steps, "validate_every": steps,
        "checkpoint_every": steps,
    }  # fmt: skip


def _steps(device: str) -> dict[str, dict[str, Any]]:
    from tools.bench import step

    values = flags.FLAGS
    head = [
        "detector",
        "segments",
        "s",
        "PyTorch s",
        "ratio",
        "text once",
        "GFLOP",
        "of matmul",
        "GB",
    ]
    print("\n" + "".join(f"{name:>11}" for name in head))
    rows: dict[str, dict[str, Any]] = {}
    for detector in _detectors(values):
        for segments in values.segments:
            case = step.Case(detector, int(segments), values.pairs)
            row = step.measure(
                case, values.repeats, turn=values.turn, device=device, compiled=values.compiled
            )
            rows.setdefault(detector, {})[segments] = row
            cells = [
                detector, segments, row["seconds"], row["torch_seconds"], row["ratio"],
                row.get("ratio_text_once"), row["gigaoperations"], row["share_of_matmul_peak"],
                row["peak_bytes"]["ours"] / 1e9,
            ]  # fmt: skip
            print("".join(f"{_cell(cell):>11}" for cell in cells), flush=True)
    return rows


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return "-" if value is None else str(value)


def _print(measured: Mapping[str, Any], indent: str) -> None:
    for name, value in measured.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            _print(value, indent + "  ")
        elif isinstance(value, list):
            print(f"{indent}{name}: {', '.join(_cell(each) for each in value)}")
        else:
            print(f"{indent}{name}: {_cell(value)}", flush=True)


if __name__ == "__main__":
    flags.DEFINE_list("sections", list(SECTIONS), "Sections to measure.")
    flags.DEFINE_string(
        "detectors", ",".join(DETECTORS), "Detectors to train, separated by commas."
    )
    flags.DEFINE_list("segments", ["32", "64"], "Segments of a video; data uses the first number.")
    flags.DEFINE_integer("pairs", 32, "Pairs of videos in a batch.", lower_bound=1)
    flags.DEFINE_integer("repeats", 5, "Number of rounds.", lower_bound=1)
    flags.DEFINE_float(
        "turn",
        10.0,
        "Seconds of steps that each side takes in a round, after as many to warm up.",
        0.0,
    )
    flags.DEFINE_float(
        "share", 1.0, "Share of the test videos in the sections evaluation and run.", 0.01, 1.0
    )
    flags.DEFINE_bool("compiled", False, "Time torch.compile besides eager PyTorch.")
    flags.DEFINE_string(
        "store", "", "Store with training and test videos, for the sections accuracy and crops."
    )
    flags.DEFINE_integer(
        "seeds", 4, "Number of runs in the sections accuracy and crops.", lower_bound=2
    )
    flags.DEFINE_integer(
        "steps", 200, "Training steps in the sections accuracy and crops.", lower_bound=1
    )
    flags.DEFINE_string("tables_of", "", "JSON file to print as the tables of docs/performance.md.")
    flags.DEFINE_bool("gpu", False, "Run the GPU report instead of sections.")
    flags.DEFINE_float("gpu_seconds", 480.0, "Most seconds of the GPU report.", 10.0)
    flags.DEFINE_string("json", "", "JSON file to write the figures to.")
    run_command(main, usage=__doc__)
