"""The lambda of a run with `--lambda_mode=auto`: chosen once, the same in each process."""

import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np

from gvvad_jax import choosing, parallel
from gvvad_jax.choosing import Choice
from gvvad_jax.config import TrainConfig
from gvvad_jax.run import folder
from gvvad_jax.splits import Splits
from gvvad_jax.store.reader import Store


def choose_once(config: TrainConfig, splits: Splits, stores: Sequence[Store]) -> Choice | None:
    """Chooses lambda, or takes what the run begun in the folder chose, and reports it.

    The first process decides, and a resumed run goes on with the same lambda, even where another
    machine or version would round to another choice.

    Returns:
      The choice, with every synthetic store in order; None in other modes, or without generated
      videos.
    """
    if config.lambda_mode != "auto" or all(m.row.source == "real" for m in splits.train):
        return None
    paths = [str(store.path) for store in stores[len(config.store.split(",")) :]]
    choice = Choice(value=0.0, by_set=dict.fromkeys(paths, 0.0), why="by the first process")
    if jax.process_index() == 0:
        begun = folder.chosen_lambda(pathlib.Path(config.workdir))
        if begun and len(begun.by_set) == len(paths):
            by_set = dict(zip(paths, begun.by_set, strict=True))
            choice = Choice(value=begun.value, by_set=by_set, why=begun.why)
        else:
            chosen = choosing.choose(splits, config)
            # A store of which no video trains isn't a set.
            by_set = {path: chosen.by_set.get(path, chosen.value) for path in paths}
            choice = Choice(value=chosen.value, by_set=by_set, why=chosen.why)
        print(choice.describe(), file=sys.stderr)
    lambdas = parallel.from_first(np.array([choice.value, *choice.by_set.values()]))
    value, *each = np.asarray(lambdas).tolist()
    return Choice(value=value, by_set=dict(zip(paths, each, strict=True)), why=choice.why)


def to_begun(choice: Choice | None) -> folder.ChosenLambda | None:
    """Returns what begun.json keeps of a choice, which names no path."""
    if choice is None:
        return None
    return folder.ChosenLambda(choice.value, list(choice.by_set.values()), choice.why)
