"""Is the built-in world a fair problem? Measured before any detector is trained on it.

A rule that learns nothing must not solve it, and what is abnormal must be visible in the features.
All figures are frame AUCs on test footage, over all videos and over the abnormal ones only.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

# The world is fair when every baseline reaches at most this AUC over all videos ...
RULE_LIMIT = 0.80
# ... and the supervised classifier at least this one.
SUPERVISED_LIMIT = 0.95
GAPS = (0.0, 1.0, 2.0)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Baseline scores, features and truth of one video.

    Attributes:
      label: 1 if the video is abnormal.
      rules: per-frame scores by rule, [num_frames] each; empty except for test videos.
      feat_TxD: motion features of its snippets.
      times_Tx2: start and end of each snippet in seconds.
      labels_F: 0/1 per frame.
      fps: frames per second.
    """

    label: int
    rules: dict[str, np.ndarray]
    feat_TxD: np.ndarray
    times_Tx2: np.ndarray
    labels_F: np.ndarray
    fps: float

    def snippet_labels(self) -> np.ndarray:
        """1 for each snippet most of whose frames are abnormal, else 0."""
        frames_Tx2 = np.round(self.times_Tx2 * self.fps).astype(int)
        return np.array([self.labels_F[start:end].mean() > 0.5 for start, end in frames_Tx2], int)


def read_samples(videos_path: pathlib.Path) -> dict[str, list[Sample]]:
    """Reads and encodes the videos of a world, by split; test videos get baseline scores too.

    Args:
      videos_path: videos.json that generation.videos wrote; world_truth.json lies beside it.

    Returns:
      Samples by split.
    """
    import tqdm

    from generation.encoders import motion
    from generation.media import reading
    from gvvad_jax.store import alignment, annotations

    videos = annotations.load(videos_path)
    truth = json.loads(videos_path.with_name("world_truth.json").read_text())
    encoder = motion.MotionEncoder()
    samples = {split: [] for split in annotations.SPLITS}
    for video in tqdm.tqdm(videos.videos.values(), str(videos_path.parent.name), unit="video"):
        path = videos.resolve(video)
        frames = reading.read(path).frames_TxHxWx3
        spans_Tx2 = alignment.snippet_spans(
            len(frames), motion.SNIPPET_FRAMES, motion.SNIPPET_STRIDE
        )
        labels_F = np.zeros(len(frames), np.uint8)
        for start, end in truth[video.id]["shown_frames"]:
            labels_F[start:end] = 1
        stream = encoder.begin(spans_Tx2, len(frames), video.fps)
        features: list[np.ndarray] = []
        for _, picture in reading.Reader(path).frames(stream.wanted_F):
            features += stream.take([stream.prepare(picture)])
        samples[video.split].append(
            Sample(
                video.label,
                _rules(frames) if video.split == "test" else {},
                np.stack(features)[:, 0],
                spans_Tx2 / video.fps,
                labels_F,
                video.fps,
            )
        )
    return samples


def _rules(frames_FxHxWx3: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of each baseline, of single frames and averaged over snippets."""
    from generation.encoders import motion
    from tools.studies import baselines

    rules = baselines.rule_scores(frames_FxHxWx3)
    snippet = motion.SNIPPET_FRAMES, motion.SNIPPET_STRIDE
    return rules | {
        f"{rule}, smoothed": baselines.smoothed(scores_F, *snippet)
        for rule, scores_F in rules.items()
    }


def fit(
    samples: Sequence[Sample], labels: Callable[[Sample], np.ndarray], strength: float
) -> "Pipeline":
    """Fits a linear classifier of snippets; `strength` is scikit-learn's C."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = np.concatenate([sample.feat_TxD for sample in samples])
    truth = np.concatenate([labels(sample) for sample in samples])
    logistic = LogisticRegression(C=strength, class_weight="balanced", max_iter=500)
    return make_pipeline(StandardScaler(), logistic).fit(features, truth)


def classifier_scores(model: "Pipeline", sample: Sample) -> np.ndarray:
    """Frame scores of a fitted classifier."""
    from gvvad_jax.store import alignment

    scores_T = model.decision_function(sample.feat_TxD)
    return alignment.frame_scores(scores_T, sample.times_Tx2, len(sample.labels_F), sample.fps)


def auc_pair(samples: Sequence[Sample], score: Callable[[Sample], np.ndarray]) -> dict[str, float]:
    """Frame AUC over all videos, and over the abnormal ones only."""
    from sklearn.metrics import roc_auc_score

    abnormal = [sample for sample in samples if sample.label]
    return {
        key: float(
            roc_auc_score(
                np.concatenate([sample.labels_F for sample in chosen]),
                np.concatenate([score(sample) for sample in chosen]),
            )
        )
        for key, chosen in (("auc", samples), ("auc_abnormal", abnormal))
    }


def _video_labels(sample: Sample) -> np.ndarray:
    return np.full(len(sample.feat_TxD), sample.label)


def measure(
    folder: pathlib.Path, *, train_pairs: int, test_pairs: int, generated_pairs: int, seed: int
) -> dict[str, dict[str, float]]:
    """Renders the world into a folder and measures everything.

    Args:
      folder: where the videos go; existing ones are not rendered again.
      train_pairs: pairs of training footage.
      test_pairs: pairs of test footage.
      generated_pairs: pairs of sound generated videos at each domain gap.
      seed: random seed of the footage; generated videos use the next one.

    Returns:
      {"auc", "auc_abnormal"} by name: the baselines (also "RULE, smoothed"); "oracle", which knows
      each video's label; linear classifiers on the motion features: "supervised" (frame labels),
      "weak" (video labels), "weak + generated" and "generated, gap G" (generated videos alone).
    """
    from generation.prompts.grammar import write_grammar
    from generation.videos import generating
    from generation.videos.world_backend import WorldBackend, render_footage
    from generation.world.render import WorldOptions

    path = render_footage(folder / "footage", train_pairs, test_pairs, seed)
    footage = read_samples(path)
    train, test = footage["train"], footage["test"]
    table = {}
    for rule in test[0].rules:
        table[rule] = auc_pair(test, lambda sample, rule=rule: sample.rules[rule])
    table["oracle"] = auc_pair(test, lambda sample: np.full(len(sample.labels_F), sample.label))
    models = {
        "supervised": fit(train, Sample.snippet_labels, 0.01),
        "weak": fit(train, _video_labels, 0.001),
    }
    descriptions = write_grammar(generated_pairs, seed + 1)
    for gap in GAPS:
        # Without defects: the check is about the domains.
        backend = WorldBackend(WorldOptions(seed=seed + 1, domain_gap=gap), defect_share=0.0)
        path = generating.generate(descriptions, backend, folder / f"generated-gap-{gap:g}")
        generated = read_samples(path)["train"]
        models[f"generated, gap {gap:g}"] = fit(generated, Sample.snippet_labels, 0.01)
        if gap == 1.0:
            models["weak + generated"] = fit(train + generated, _video_labels, 0.001)
    for name, model in models.items():
        table[name] = auc_pair(test, functools.partial(classifier_scores, model))
    return table


def faults(table: Mapping[str, Mapping[str, float]], rules: Sequence[str]) -> list[str]:
    """Lists why the world isn't fair; empty when it is. Smoothed baselines count too."""
    reasons = []
    for rule in (name for name in table if name.removesuffix(", smoothed") in rules):
        best = max(table[rule]["auc"], 1 - table[rule]["auc"])
        if best > RULE_LIMIT:
            reasons.append(f"{rule} reaches {best:.3f}, more than {RULE_LIMIT}")
    reached = table["supervised"]["auc"]
    if reached < SUPERVISED_LIMIT:
        reasons.append(f"the supervised classifier reaches {reached:.3f}, not {SUPERVISED_LIMIT}")
    return reasons
