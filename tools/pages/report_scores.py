"""Scores of a run's test videos, for a report, and its measures with their intervals."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from gvvad_jax import scored
from gvvad_jax.command import UserError
from gvvad_jax.measures import MeasureOptions
from gvvad_jax.scored import Scored
from gvvad_jax.store import annotations
from gvvad_jax.store.reader import Store
from tools.studies import statistics


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a run's detector makes of the test videos.

    Attributes:
      scored: the videos with their scores and labels.
      measures: their measures, with bootstrap intervals; see gvvad_jax.measures.Measures.
    """

    scored: Scored
    measures: Mapping[str, Any]


def score(
    folder: pathlib.Path,
    stores: str,
    annotated: str,
    checkpoint: str,
    digests: Sequence[str],
    draws: int,
) -> Scores:
    """Scores the test videos of stores with a run's checkpoint, and measures them.

    Args:
      folder: the run's folder.
      stores: paths of the stores, separated by commas.
      annotated: path of a videos.json instead of the stores' own; empty for those.
      checkpoint: last, best_on_validation or best_on_test.
      digests: what the stores must have as content; empty for anything.
      draws: draws of the bootstrap.

    Raises:
      UserError: a store is missing, is of another encoder or of other content, or has no test
        video; there is no such checkpoint.
    """
    if not stores:
        raise UserError("its settings name no store; give --store")
    opened = [Store(path) for path in stores.split(",")]
    if digests and [store.digest() for store in opened] != list(digests):
        raise UserError(
            f"{stores}: expected the content that the run was begun with, found another; give "
            "--store to score it all the same"
        )
    # Here, because they import JAX.
    from gvvad_jax import model_measures, scoring

    model = scoring.load(folder, checkpoint)
    listed = annotations.load(annotated) if annotated else None
    members = []
    for store in opened:
        model.require(store.manifest, str(store.path))
        members += model_measures.open_videos(store, annotated=listed).members
    videos = model_measures.score_videos(model, members, annotated)
    threshold = model.calibration.threshold if model.calibration else None
    measures = scored.measure(videos, MeasureOptions(bootstrap=draws), threshold)
    return Scores(videos, measures)


def compare(runs: Sequence[Scores | None], base: int, draws: int) -> dict[int, dict[str, Any]]:
    """Compares runs with one of them, on the same test videos.

    Args:
      runs: the runs' scores; None where there are none.
      base: number of the run that the others are compared with.
      draws: draws of the bootstrap.

    Returns:
      {number of a run: {measure: {difference, interval, p, p_holm}}}, without those whose videos or
      labels are others. p_holm is p corrected for as many comparisons of the measure.
    """
    compared = {}
    one = runs[base]
    for number, other in enumerate(runs):
        if number == base or one is None or other is None:
            continue
        try:
            compared[number] = scored.compare(
                other.scored, one.scored, MeasureOptions(bootstrap=draws)
            )
        except UserError:
            continue
    names = {name for each in compared.values() for name in each if name != "per_class"}
    for name in sorted(names):
        entries = [
            entry
            for each in compared.values()
            if isinstance(entry := each.get(name), dict) and entry.get("p") is not None
        ]
        corrected = statistics.holm([entry["p"] for entry in entries])
        for entry, p_value in zip(entries, corrected, strict=True):
            entry["p_holm"] = p_value
    return compared
