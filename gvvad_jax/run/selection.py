"""Selection of a run's best checkpoints, and their measures on the test videos."""

import dataclasses
import sys

import numpy as np

from gvvad_jax import evaluation, ground_truth, metrics, parallel, scoring, step
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.evaluation import Measures
from gvvad_jax.run.checkpoints import Checkpoints
from gvvad_jax.splits import Splits, Standardisation
from gvvad_jax.step import TrainState
from gvvad_jax.store.format import Manifest


class Selection:
    """Keeps the best checkpoints and measures them on the test videos.

    Validation videos have video labels only: best_on_validation has the highest video-level AUC
    of top-k mean scores, ties by validation loss. Validation videos of one label have no AUC and
    select nothing. Nor does the test set, unless best_on_test is asked for.

    Args:
      config: the run's settings.
      splits: the videos; validation and test may be empty.
      manifest: the manifest of the stores.
      standard: the standardisation of the visual features.
      saved: the run's checkpoints; None in all but the first of several processes, which measure
        and save nothing.

    Raises:
      UserError: early stopping without validation videos of both labels.
    """

    def __init__(
        self,
        config: TrainConfig,
        splits: Splits,
        manifest: Manifest,
        standard: Standardisation,
        saved: Checkpoints | None,
    ):
        labels = {member.video.label for member in splits.validation}
        if config.early_stop and len(labels) < 2:
            found = "those of one label" if labels else (
                "none (fewer than five training videos of a label, or --validation_share=0)"
            )  # fmt: skip
            raise UserError(
                f"--early_stop: expected validation videos of both labels, found {found}; name "
                "some in videos.json or set it to 0"
            )
        if len(labels) == 1 and saved:
            print(
                f"{len(splits.validation)} validation videos, all with label {labels.pop()}: they "
                "have no AUC, so best_on_validation stays null; name videos of both labels",
                file=sys.stderr,
            )
        self._splits, self._config, self._saved = splits, config, saved
        self._model = scoring.Model(
            config=config,
            manifest=manifest,
            standard=standard,
            variables=None,
            score_step=step.make_score_step(config),
        )
        has_frames = [
            m for m in splits.test if m.video.abnormal_frames is not None or not m.video.label
        ]
        self._test = splits.test if len(has_frames) == len(splits.test) else []
        if splits.test and not self._test:
            print(
                "test videos without abnormal_frames: no frame-level result; add them to "
                "videos.json for one",
                file=sys.stderr,
            )
        # Annotations that don't fit are reported before training rather than after it.
        ground_truth.frame_truths(self._test, config.annotations)

    def _model_at(self, state: TrainState) -> scoring.Model:
        return dataclasses.replace(self._model, variables=step.scoring_variables(state))

    def stale(self, done: int) -> bool:
        """Returns whether the last --early_stop validations were no better than before."""
        if not self._config.early_stop:
            return False
        best = self._saved.latest("best_on_validation") if self._saved else None
        patience = self._config.early_stop * self._config.validate_every
        return bool(parallel.from_first(best is not None and done - best >= patience))

    def consider(self, done: int, state: TrainState) -> dict[str, float | None]:
        """Saves the state if it is the best so far; returns the measures to log."""
        if not self._saved:
            return {}
        model = self._model_at(state)
        measures: dict[str, float | None] = {}
        if self._splits.validation:
            auc, loss = self._validate(model)
            measures |= {"validation_auc": auc, "validation_loss": loss}
            if auc is not None:
                self._keep("best_on_validation", done, state, [auc, -loss])
        if self._config.best_on_test and self._test:
            auc = self._measured(model)["auc"]
            measures["test_auc"] = auc
            self._keep("best_on_test", done, state, [auc])
        return measures

    def _keep(self, kind: str, done: int, state: TrainState, measure: list[float | None]) -> None:
        assert self._saved
        best = self._saved.measure(kind)
        # A resumed run comes again to steps that were considered before it was stopped.
        considered = done <= (self._saved.latest(kind) or 0)
        if not considered and (best is None or measure > best):
            self._saved.save(kind, done, state, measure)

    def _validate(self, model: scoring.Model) -> tuple[float | None, float]:
        members = self._splits.validation
        scores = model.score_members(members)
        scores_V = np.array(
            [metrics.video_score(scores[m.video.id], self._config.top_k) for m in members]
        )
        labels_V = np.array([m.video.label for m in members])
        chance_V = np.clip(np.where(labels_V, scores_V, 1 - scores_V), 1e-7, 1)
        return metrics.roc_auc(scores_V, labels_V), float(-np.log(chance_V).mean())

    def results(self, state: TrainState) -> dict[str, Measures | None]:
        """Test measures of the last and the best checkpoints; None where there is none."""
        assert self._saved
        kinds = ["best_on_validation"] + ["best_on_test"] * self._config.best_on_test
        results = {"last": self._measured(self._model_at(state)) if self._test else None}
        for kind in kinds:
            chosen = self._saved.latest(kind)
            results[kind] = None
            if chosen is not None and self._test:
                best = self._measured(self._model_at(self._saved.restore(kind, state)))
                results[kind] = {**best, "step": chosen}
        return results

    def _measured(self, model: scoring.Model) -> Measures:
        return evaluation.measure_members(
            model,
            self._test,
            missing=len(self._splits.missing),
            path=self._config.annotations,
        )
