"""What a report knows of a training run: its settings, its log, its result, its scores."""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from gvvad_jax.command import UserError, to_flagfile
from gvvad_jax.config import TrainConfig
from gvvad_jax.run import folder as run_folder
from gvvad_jax.run import log as run_log
from gvvad_jax.store.files import read_json, read_json_as
from tools.pages import report_scores
from tools.pages.report_scores import Scores

# Draws of bootstrap intervals: enough for two digits.
DRAWS = 1000
# Flags that say where things lie, or how fast they go, and so make no two runs different.
_NO_SETTINGS = (
    *("workdir", "compilation_cache", "verify_rows", "device_gigabytes", "loggers"),
    *("log_every", "checkpoint_every", "parallel", "processes"),
)
# Flags that name data, which the run knows by content: the roles in begun.json.
_ROLES = {
    "store": "stores",
    "synthetic_store": "synthetic_store",
    "synthetic_keep": "decisions",
    "annotations": "annotations",
}


class Measures(msgspec.Struct):
    """The measures in result.json that a report shows; those of older runs are fewer."""

    auc: float | None = None
    ap: float | None = None
    auc_abnormal: float | None = None
    far: float | None = None
    video_auc: float | None = None
    video_ap: float | None = None
    ece: float | None = None
    alarms_per_hour: float | None = None
    per_class: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    videos: int = 0
    frames: int = 0
    step: int | None = None


class Result(msgspec.Struct):
    """The content of result.json that a report shows."""

    last: Measures | None = None
    best_on_validation: Measures | None = None
    best_on_test: Measures | None = None
    steps: int = 0
    reasons: dict[str, str] = {}
    provenance: dict[str, Any] = {}

    def of(self, checkpoint: str) -> Measures | None:
        """The measures of a checkpoint: last, best_on_validation or best_on_test."""
        return getattr(self, checkpoint)


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
      name: the end of its folder's path that tells it from the others.
      folder: its folder.
      settings: its flags by name, without those that only say where things lie.
      data: digest of what a role of begun.json had as content, by role; shortened.
      versions: commit and library versions.
      log: (step, values) of each line of metrics.jsonl.
      result: None while the run isn't finished.
      stores: digests of the stores that it was begun with.
      scores: of the test videos; None where they can't be had.
      reason: why there is no `result` or there are no `scores`; empty where there are.
    """

    name: str
    folder: pathlib.Path
    settings: Mapping[str, str]
    data: Mapping[str, str]
    versions: Mapping[str, str]
    log: Sequence[tuple[int, Mapping[str, float | None]]]
    result: Result | None
    stores: Sequence[str] = ()
    scores: Scores | None = None
    reason: str = ""

    @property
    def seedless(self) -> tuple[tuple[str, str], ...]:
        """What runs share that differ in their seed alone."""
        settings = {k: v for k, v in self.settings.items() if k not in ("seed", *_ROLES)}
        # A seed changes which videos are held out, and so the splits and labels.
        data = {k: v for k, v in self.data.items() if k not in ("splits", "labels")}
        return tuple(sorted((settings | data).items()))

    def series(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of each line of the log that has a value of this name."""
        return [(s, float(v)) for s, values in self.log if (v := values.get(name)) is not None]


def read(folders: Sequence[pathlib.Path]) -> list[Run]:
    """Reads runs from their folders, without any scores.

    Raises:
      UserError: a folder isn't a run's, or its files are damaged.
    """
    names = shorten_names(folders)
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def shorten_names(folders: Sequence[pathlib.Path]) -> list[str]:
    """The shortest ends of paths that tell the folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    longest = max(map(len, parts), default=1)
    for count in range(1, longest + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(
        f"--workdir: expected each run once, found {folders[0]} or another twice; leave it out"
    )


def _read(folder: pathlib.Path, name: str) -> Run:
    config_path, model_path = folder / "config.flags", folder / "model.json"
    if not config_path.exists() and not model_path.exists():
        raise UserError(
            f"--workdir={folder}: expected the folder of a run (config.flags), found none; give "
            "the --workdir of gvvad train"
        )
    result_path, result, reason = folder / "result.json", None, ""
    begun_here = config_path.exists()
    if result_path.exists():
        remedy = "train again, or restore the file"
        result = read_json_as(result_path, Result, "the result of a run", remedy)
    elif begun_here:
        reason = "not finished: there is no result.json yet"
    else:
        reason = "an imported checkpoint: it has neither a log nor a result.json"
    flags = run_folder.read_flags(folder) if begun_here else _imported_flags(model_path)
    begun_path = folder / "begun.json"
    begun = read_json(begun_path) if begun_path.exists() else {}
    if not isinstance(begun, dict):
        raise UserError(f"{begun_path}: expected what a run was begun with; restore the file")
    provenance = result.provenance if result else {}
    versions = provenance.get("versions")
    return Run(
        name=name,
        folder=folder,
        settings={k: v for k, v in _complete(flags).items() if k not in _NO_SETTINGS},
        data={role: _short(begun[role]) for role in sorted(begun) if _is_digest(begun[role])},
        versions={"commit": str(provenance["commit"])[:60]} | dict(versions)
        if isinstance(versions, dict) and "commit" in provenance
        else {},
        log=run_log.read(folder / "metrics.jsonl"),
        result=result,
        stores=[str(each) for each in begun.get("stores") or ()],
        reason=reason,
    )


def _imported_flags(path: pathlib.Path) -> dict[str, str]:
    content = read_json(path)
    config = content.get("config") if isinstance(content, dict) else None
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    try:
        known = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(config).items()}
        lines = to_flagfile(TrainConfig(**{k: v for k, v in known.items() if k in names}))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: expected a model with its settings, found others ({error}); train again"
        ) from error
    return _by_name(lines)


def _complete(flags: Mapping[str, str]) -> dict[str, str]:
    """All flags: a run of an earlier version had the defaults of those that it doesn't know."""
    return defaults() | dict(flags)


def defaults() -> dict[str, str]:
    """The default of each flag of training that has one, by name."""
    return _by_name(to_flagfile(TrainConfig()))


def _by_name(flagfile: str) -> dict[str, str]:
    pairs = (line.removeprefix("--").partition("=") for line in flagfile.splitlines())
    return {name: value for name, _, value in pairs}


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and bool(value))


def _short(value: Any) -> str:
    values = value if isinstance(value, list) else value.split(",")
    return ", ".join(str(each)[:8] for each in values)


def with_scores(
    runs: Sequence[Run],
    store: str = "",
    annotated: str = "",
    checkpoint: str = "last",
    draws: int = DRAWS,
) -> list[Run]:
    """Scores the test videos of runs; one that can't says why in its `reason`.

    Args:
      runs: the runs.
      store: path of the store with the test videos (default: each run's own).
      annotated: path of a videos.json instead of the run's or the store's.
      checkpoint: last, best_on_validation or best_on_test.
      draws: draws of the bootstrap intervals.
    """
    return [_with_scores(run, store, annotated, checkpoint, draws) for run in runs]


def _with_scores(run: Run, store: str, annotated: str, checkpoint: str, draws: int) -> Run:
    if run.reason and not (run.folder / "checkpoints").exists():
        return run
    try:
        scores = report_scores.score(
            run.folder,
            store or run.settings.get("store", ""),
            annotated or run.settings.get("annotations", ""),
            checkpoint,
            () if store else run.stores,
            draws,
        )
    except UserError as error:
        why = f"from its result.json alone: {error}" if run.result else f"{run.reason}; {error}"
        print(f"{run.folder}: {why}", file=sys.stderr)
        return dataclasses.replace(run, reason=why)
    return dataclasses.replace(run, scores=scores)


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(setting, its value in each run) of the settings, data and versions that differ."""
    rows: list[tuple[str, list[str]]] = []
    for name in sorted({key for run in runs for key in run.settings} - set(_ROLES)):
        rows.append((f"--{name}", [run.settings.get(name, "") for run in runs]))
    roles = {role: flag for flag, role in _ROLES.items()}
    for role in sorted({key for run in runs for key in run.data}):
        flag = roles.get(role)
        if role == "chosen":
            continue
        values = []
        for run in runs:
            path = pathlib.Path(run.settings.get(flag or "", "")).name
            digest = run.data.get(role, "")
            values.append(f"{path} ({digest})" if path and digest else digest)
        # Paths don't count: data is known by its content.
        if len({run.data.get(role) for run in runs}) > 1:
            rows.append((f"--{flag}" if flag else f"the {role}", values))
    for name in sorted({key for run in runs for key in run.versions}):
        rows.append((name, [run.versions.get(name, "") for run in runs]))
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in their seed alone, together, in the order of their first ones."""
    by_settings: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        by_settings.setdefault(run.seedless, []).append(run)
    return list(by_settings.values())


def choose_videos(runs: Sequence[Run], asked: Sequence[str]) -> tuple[list[str], str]:
    """Chooses the test videos whose scores are shown.

    Args:
      runs: the runs; those with scores count.
      asked: ids; empty for a choice of up to four, which the second value describes.

    Returns:
      (ids, how they were chosen).

    Raises:
      UserError: an id that no run has scored.
    """
    every = [run.scores.scored for run in runs if run.scores]
    known = {video_id for each in every for video_id in each.abnormal}
    if asked:
        if missing := [video_id for video_id in asked if video_id not in known]:
            raise UserError(
                f"--videos: expected ids of test videos, found {missing[0]!r}; there are "
                f"{', '.join(sorted(known)[:5]) or 'none: no run could be scored'}"
                f"{' ...' if len(known) > 5 else ''}"
            )
        return list(dict.fromkeys(asked)), "as --videos asks for"
    if not known:
        return [], ""
    shared = [i for i in sorted(known) if all(i in each.abnormal for each in every)]
    snippets = {i: [each.snippets[i] for each in every if each.snippets] for i in shared}
    apart = {i: _apart(snippets[i]) for i in shared}
    peak = {i: max(float(s.max()) for s in snippets[i]) for i in shared}
    one_run = len(every) == 1
    # One run agrees with itself: its abnormal videos go by their peaks.
    abnormal = sorted(
        (i for i in shared if every[0].abnormal[i]),
        key=lambda i: (peak[i] if one_run else -apart[i], i),
    )
    normal = sorted((i for i in shared if not every[0].abnormal[i]), key=lambda i: (-peak[i], i))
    chosen = [*abnormal[:1], *abnormal[-1:], *normal[:1], *normal[-1:]]
    how = (
        "the abnormal videos "
        + ("with the lowest and the highest peak" if one_run
           else "that the runs' scores differ most and least in")
        + ", and the normal ones with the highest and the lowest peak"
    )  # fmt: skip
    return list(dict.fromkeys(chosen)), how


def _apart(scores: Sequence[np.ndarray]) -> float:
    """How far the snippet scores of runs lie apart, on average over snippets."""
    length = min(map(len, scores))
    return float(np.ptp(np.stack([scores_T[:length] for scores_T in scores]), axis=0).mean())
