"""Selection of a run's best checkpoints, and their measures on the test videos."""

import dataclasses
import sys

import numpy as np

from gvvad_jax import (
    calibration,
    ground_truth,
    metrics,
    model_measures,
    parallel,
    scoring,
    step,
)
from gvvad_jax.command import UserError
from gvvad_jax.config import CHECKPOINTS, TrainConfig
from gvvad_jax.measures import Measures
from gvvad_jax.run.checkpoints import Checkpoints
from gvvad_jax.splits import Splits
from gvvad_jax.standardisation import Standardisation
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
            found = "those of one label" if labels else splits.reasons["validation"]
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
        self._by_frames = bool(splits.test)
        if unlabelled := model_measures.without_frames(splits.test):
            self._by_frames = False
            print(
                f"{unlabelled}: no frame-level result; add them to videos.json for one",
                file=sys.stderr,
            )
        if self._by_frames:
            # Annotations that don't fit are reported before training rather than after it.
            ground_truth.frame_truths(splits.test, config.annotations)
        self._normal = calibration.normal_of(splits.validation)
        if config.normal_store:
            trained = [*splits.train, *splits.held_out]
            self._normal = calibration.open_normal(
                self._model, config.normal_store, trained, config.verify_rows
            )
        self._calibrated: dict[str, calibration.Calibration] = {}

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
        if self._config.best_on_test and self._by_frames:
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
        done = self._saved.latest("last") or 0
        results = {"last": self._calibrate("last", done, self._model_at(state))}
        for kind in kinds:
            chosen = self._saved.latest(kind)
            results[kind] = None
            if chosen is not None:
                restored = self._model_at(self._saved.restore(kind, state))
                best = self._calibrate(kind, chosen, restored)
                results[kind] = {**best, "step": chosen} if best else None
        return results

    def _calibrate(self, kind: str, done: int, model: scoring.Model) -> Measures | None:
        """Calibrates a checkpoint; measures it then, where there are test videos."""
        validation = self._splits.validation
        calibrated = calibration.calibrate(model, done, validation, self._normal)
        self._calibrated[kind] = calibrated
        if said := calibration.describe(calibrated.threshold):
            print(f"{kind} checkpoint: {said}", file=sys.stderr)
        model = dataclasses.replace(model, calibration=calibrated)
        return self._measured(model) if self._splits.test else None

    def calibrations(self) -> calibration.Calibrations:
        """The calibration of the checkpoints that `results` has measured."""
        footage = calibration.normal_of(self._splits.validation)
        return calibration.Calibrations(self._calibrated, calibration.digests_of(footage))

    def reasons(self) -> dict[str, str]:
        """Why a checkpoint isn't measured, by its kind, whether or not another one is."""
        labels = {member.video.label for member in self._splits.validation}
        no_video = self._splits.reasons
        without = {} if self._splits.test else dict.fromkeys(CHECKPOINTS, no_video["test"])
        if len(labels) < 2:
            without["best_on_validation"] = (
                f"all validation videos have label {labels.pop()}"
                if labels
                else no_video["validation"]
            )
        if not self._by_frames:
            unlabelled = model_measures.without_frames(self._splits.test)
            without["best_on_test"] = unlabelled or no_video["test"]
        return without

    def _measured(self, model: scoring.Model) -> Measures:
        return model_measures.measure_members(
            model,
            self._splits.test,
            missing=len(self._splits.missing),
            path=self._config.annotations,
        )
