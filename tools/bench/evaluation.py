"""Scoring and measuring a whole test set, compared with one video at a time."""

import dataclasses
import statistics
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from gvvad_jax import metrics, padding, scoring
from gvvad_jax.config import TrainConfig
from tools.bench.sparse_store import CROPS, DIM, TEXT_DIM
from tools.bench.workers import interleaved, seconds_of

# Rows (visual_TxNxD, text_TxE) by video id.
Features = Mapping[str, tuple[np.ndarray, np.ndarray]]
UCF_TEST_VIDEOS, UCF_TEST_SNIPPETS, SNIPPET_FRAMES = 290, 69_634, 16


def lengths(videos: int, snippets: int) -> np.ndarray:
    """Draws log-normal video lengths, in snippets, with the given sum."""
    rng = np.random.default_rng(0)
    drawn_V = rng.lognormal(0.0, 0.9, videos)
    lengths_V = np.maximum(8, np.floor(drawn_V / drawn_V.sum() * snippets)).astype(int)
    lengths_V[np.argmax(lengths_V)] += snippets - lengths_V.sum()
    return lengths_V


def measure(share: float, repeats: int, *, device: str) -> dict[str, Any]:
    """Times LAP on a share of a test set like UCF-Crime's, with equal weights and scores.

    The published way is one video at a time: the PyTorch twin with text once a crop, then
    scikit-learn's AUC and AP of the frames. The first evaluation, which compiles, is compared with
    our detector one video at a time, which compiles for each length. The side `mean` scores the
    crops' mean feature (--score_crops=mean), which gives other scores.

    Args:
      share: share of the test videos; slow machines can do with fewer.
      repeats: number of rounds, without the first one, which compiles.
      device: PyTorch device of the twin.

    Raises:
      RuntimeError: the scores or measures of the two differ.
    """
    lengths_V = lengths(UCF_TEST_VIDEOS, UCF_TEST_SNIPPETS)
    lengths_V = lengths_V[: max(2, round(share * UCF_TEST_VIDEOS))]
    features, labels = test_set(lengths_V)
    twin = Twin(device)
    model = twin.as_jax()
    quick = with_config(model, dataclasses.replace(model.config, score_crops="mean"))
    sides = {
        "ours": lambda: by_buckets(model, features, labels),
        "mean": lambda: by_buckets(quick, features, labels),
        "alone": lambda: _one_by_one(model, features, labels),
        "torch": lambda: twin.evaluate(features, labels),
    }
    evaluated: dict[str, dict[str, Any]] = {}

    def timed(name: str) -> float:
        return seconds_of(lambda: evaluated.update({name: sides[name]()}))

    first, alone = timed("ours"), timed("alone")
    timed("mean")  # Compiles.
    times = interleaved({name: partial(timed, name) for name in ("ours", "mean", "torch")}, repeats)
    for other in ("alone", "torch"):
        _require_same(evaluated["ours"], evaluated[other])
    ratios, mean_ratios = (
        [torch / jax for jax, torch in zip(times[side], times["torch"], strict=True)]
        for side in ("ours", "mean")
    )
    buckets = padding.buckets({str(i): length for i, length in enumerate(lengths_V)}, CROPS)
    padded = sum(padding.padded_snippets(len(ids), n, CROPS) for n, ids in buckets.items())
    return {
        "videos": len(lengths_V),
        "snippets": int(lengths_V.sum()),
        "lengths_compiled": len(buckets),
        "padding_share": 1.0 - float(lengths_V.sum() / padded),
        "first_seconds": first,
        "alone_first_seconds": alone,
        "first_ratio": alone / first,
        "seconds": statistics.median(times["ours"]),
        "torch_seconds": statistics.median(times["torch"]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "mean_crop_seconds": statistics.median(times["mean"]),
        "mean_crop_ratio": statistics.median(mean_ratios),
        "rounds": times,
    }


def with_config(model: scoring.Model, config: TrainConfig) -> scoring.Model:
    """The model scored by other settings."""
    from gvvad_jax import step

    return dataclasses.replace(model, config=config, score_step=step.make_score_step(config))


def test_set(lengths_V: np.ndarray) -> tuple[Features, dict[str, np.ndarray]]:
    """Random features and frame labels by video id; every other video has an event."""
    rng = np.random.default_rng(1)
    features, labels = {}, {}
    for i, length in enumerate(lengths_V):
        visual_TxNxD = rng.standard_normal((length, CROPS, DIM), np.float32)
        features[str(i)] = visual_TxNxD, rng.standard_normal((length, TEXT_DIM), np.float32)
        truth_F = np.zeros(length * SNIPPET_FRAMES, np.int64)
        if i % 2:
            truth_F[len(truth_F) // 3 : len(truth_F) // 2] = 1
        labels[str(i)] = truth_F
    return features, labels


def _require_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    worst = max(np.abs(one["scores"][i] - other["scores"][i]).max() for i in one["scores"])
    apart = max(abs(one["measures"][name] - other["measures"][name]) for name in ("auc", "ap"))
    if not (worst < 1e-4 and apart < 1e-3):
        raise RuntimeError(f"expected the same scores, found {worst} and measures {apart} apart")


def _by_sklearn(
    scores: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """AUC and AP of the frames; by our own measures where scikit-learn isn't installed."""
    try:
        from sklearn import metrics as sklearn_metrics
    except ModuleNotFoundError:
        frames = {i: np.repeat(scores_T, SNIPPET_FRAMES) for i, scores_T in scores.items()}
        return metrics.frame_measures(frames, labels)
    frames_F = np.concatenate([np.repeat(scores[i], SNIPPET_FRAMES) for i in scores])
    labels_F = np.concatenate([labels[i] for i in scores])
    return {
        "auc": sklearn_metrics.roc_auc_score(labels_F, frames_F),
        "ap": sklearn_metrics.average_precision_score(labels_F, frames_F),
    }


def by_buckets(
    model: scoring.Model, features: Features, labels: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Scores videos of similar lengths together, as score and evaluate do."""
    scores = model.score(features)
    frames = {i: np.repeat(scores_T, SNIPPET_FRAMES) for i, scores_T in scores.items()}
    return {"scores": scores, "measures": metrics.frame_measures(frames, labels)}


def _one_by_one(
    model: scoring.Model, features: Features, labels: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Scores each video at its own length, without buckets."""
    from gvvad_jax import step

    score_step, scores = step.make_score_step(model.config), {}
    for video_id, (visual_TxNxD, text_TxE) in features.items():
        visual = model.standard.apply(visual_TxNxD).swapaxes(0, 1)[None]
        scores[video_id] = np.asarray(score_step(model.variables, visual, text_TxE[None], None))[0]
    return {"scores": scores, "measures": _by_sklearn(scores, labels)}


class Twin:
    """LAP in PyTorch, with random weights."""

    def __init__(self, device: str):
        import torch

        from tools.published import twins

        torch.manual_seed(0)
        self._torch, self._device = torch, device
        self._model = twins.MultipleInstance(DIM, TEXT_DIM).to(device).eval()

    def evaluate(self, features: Features, labels: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Scores the videos one by one, then measures their frames."""
        torch, scores = self._torch, {}
        with torch.inference_mode():
            for video_id, (visual_TxNxD, text_TxE) in features.items():
                visual = torch.from_numpy(visual_TxNxD).transpose(0, 1)[None].to(self._device)
                text = torch.from_numpy(text_TxE)[None, None].to(self._device)
                text = text.repeat(1, visual.shape[1], 1, 1)
                scores[video_id] = self._model.score(visual, text)[0].cpu().numpy()
        return {"scores": scores, "measures": _by_sklearn(scores, labels)}

    def as_jax(self) -> scoring.Model:
        """Our detector with the same weights."""
        import jax

        from gvvad_jax import step
        from gvvad_jax.standardisation import Standardisation
        from gvvad_jax.store.format import Manifest
        from tools.published import names

        state = {name: value.cpu().numpy() for name, value in self._model.state_dict().items()}
        variables, _ = names.to_flax(state)
        variables.pop("ssls", None)
        config = TrainConfig(detector="lap")
        manifest = Manifest(
            encoder={"id": "random"}, dim=DIM, crops={"count": CROPS}, snippet={},
            fps_policy="native", text={"dim": TEXT_DIM},
        )  # fmt: skip
        return scoring.Model(
            config=config,
            manifest=manifest,
            standard=Standardisation(),
            variables=jax.device_put(variables),  # As score.load gives them.
            score_step=step.make_score_step(config),
        )


def measures(repeats: int) -> dict[str, Any]:
    """Times AUC and AP of a test set's frames: our metrics compared with scikit-learn's."""
    from sklearn import metrics as sklearn_metrics

    rng = np.random.default_rng(0)
    lengths_V = lengths(UCF_TEST_VIDEOS, UCF_TEST_SNIPPETS)
    scores = {i: np.repeat(rng.random(n), SNIPPET_FRAMES) for i, n in enumerate(lengths_V)}
    labels = {i: (np.arange(len(frames)) < len(frames) // 5 * (i % 2)).astype(np.int64)
              for i, frames in scores.items()}  # fmt: skip
    scores_F, labels_F = (np.concatenate(list(arrays.values())) for arrays in (scores, labels))

    def plain() -> None:
        sklearn_metrics.roc_auc_score(labels_F, scores_F)
        sklearn_metrics.average_precision_score(labels_F, scores_F)

    pairs = [
        (seconds_of(lambda: metrics.frame_measures(scores, labels)), seconds_of(plain))
        for _ in range(repeats)
    ]
    return {
        "frames": len(scores_F),
        "seconds": statistics.median(seconds for seconds, _ in pairs),
        "sklearn_seconds": statistics.median(sklearn for _, sklearn in pairs),
        "ratio": statistics.median(sklearn / seconds for seconds, sklearn in pairs),
    }
