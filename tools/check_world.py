"""Shows that the built-in world is a fair problem, before any detector is trained on it.

    python -m tools.check_world

Renders footage (training and test videos as H.264 files), then measures on its test videos, in
frame AUC over all of them and over the abnormal ones only:

- every trivial rule, frame by frame and averaged over snippets, as it is and with its sign
  flipped: fair at 0.80 or less over all videos;
- a frame-supervised linear classifier on the motion features: fair at 0.95 or more, so that what
  is abnormal can be seen in them;
- for information: the oracle that knows each video's label (abnormal-only 0.5 by construction),
  the same classifier with only the videos' labels (weak), and trained on generated clips alone at
  several domain gaps.

Prints a table and one line of JSON; exit status 1 when the world isn't fair.
"""

import dataclasses
import functools
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
from absl import flags

from gvvad_jax.command import run_command

RULE_LIMIT = 0.80
SUPERVISED_LIMIT = 0.95
GAPS = (0.0, 1.0, 2.0)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A video's rules, features and truth.

    Attributes:
      label: of the video.
      rules: per-frame scores by rule, [num_frames] each; test videos only.
      feat_TxD: motion features of its snippets.
      times_Tx2: seconds.
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
        """0/1 for each snippet: whether most of its frames are abnormal."""
        frames_Tx2 = np.round(self.times_Tx2 * self.fps).astype(int)
        return np.array([self.labels_F[start:end].mean() > 0.5 for start, end in frames_Tx2], int)


def read_samples(videos_path: pathlib.Path) -> dict[str, list[Sample]]:
    """Reads and encodes the videos of a world, by split; those of the test split get rules too.

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
        frames = reading.read(videos.resolve(video)).frames_TxHxWx3
        spans_Tx2 = alignment.snippet_spans(
            len(frames), motion.SNIPPET_FRAMES, motion.SNIPPET_STRIDE
        )
        labels_F = np.zeros(len(frames), np.uint8)
        for start, end in truth[video.id]["shown_frames"]:
            labels_F[start:end] = 1
        feat_TxNxD = encoder.encode_video(frames, spans_Tx2, video.fps)
        samples[video.split].append(
            Sample(
                video.label,
                _rules(frames) if video.split == "test" else {},
                feat_TxNxD[:, 0],
                spans_Tx2 / video.fps,
                labels_F,
                video.fps,
            )
        )
    return samples


def _rules(frames_FxHxWx3: np.ndarray) -> dict[str, np.ndarray]:
    """Each rule, frame by frame and averaged over the snippets that a detector sees."""
    from generation.encoders import motion
    from tools import baselines

    rules = baselines.rule_scores(frames_FxHxWx3)
    snippet = motion.SNIPPET_FRAMES, motion.SNIPPET_STRIDE
    return rules | {
        f"{rule}, smoothed": baselines.smoothed(scores_F, *snippet)
        for rule, scores_F in rules.items()
    }


def fit(samples: Sequence[Sample], labels: Callable[[Sample], np.ndarray], strength: float):
    """A linear classifier of snippets; `strength` is scikit-learn's C, smaller is smoother."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = np.concatenate([sample.feat_TxD for sample in samples])
    truth = np.concatenate([labels(sample) for sample in samples])
    logistic = LogisticRegression(C=strength, class_weight="balanced", max_iter=500)
    return make_pipeline(StandardScaler(), logistic).fit(features, truth)


def classifier_scores(model, sample: Sample) -> np.ndarray:
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
      folder: for the videos; what is there already is not rendered again.
      train_pairs, test_pairs: of footage.
      generated_pairs: of sound generated clips, at each domain gap.
      seed: of footage; the generated clips have another one.

    Returns:
      {"auc", "auc_abnormal"} by name: of the rules (also "RULE, smoothed"), "oracle",
      "supervised", "weak", "weak + generated" and "generated, gap G".
    """
    from generation.prompts.grammar import write_grammar
    from generation.videos import generating
    from generation.videos.world_backend import WorldBackend, render_footage

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
        # Sound clips only: the check is about the domains, not about the defects.
        backend = WorldBackend(seed=seed + 1, domain_gap=gap, defect_share=0.0)
        path = generating.generate(descriptions, backend, folder / f"generated-gap-{gap:g}")
        generated = read_samples(path)["train"]
        models[f"generated, gap {gap:g}"] = fit(generated, Sample.snippet_labels, 0.01)
        if gap == 1.0:
            models["weak + generated"] = fit(train + generated, _video_labels, 0.001)
    for name, model in models.items():
        table[name] = auc_pair(test, functools.partial(classifier_scores, model))
    return table


def faults(table: dict[str, dict[str, float]], rules: Sequence[str]) -> list[str]:
    """Why the world isn't fair; empty when it is. Smoothed rules must keep the limit too."""
    found = []
    for rule in (name for name in table if name.removesuffix(", smoothed") in rules):
        best = max(table[rule]["auc"], 1 - table[rule]["auc"])
        if best > RULE_LIMIT:
            found.append(f"{rule} reaches {best:.3f}, more than {RULE_LIMIT}")
    reached = table["supervised"]["auc"]
    if reached < SUPERVISED_LIMIT:
        found.append(f"the supervised classifier reaches {reached:.3f}, not {SUPERVISED_LIMIT}")
    return found


def main(_) -> None:
    import cv2

    from generation.world import render
    from tools import baselines

    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        table = measure(
            pathlib.Path(folder),
            train_pairs=_TRAIN_PAIRS.value,
            test_pairs=_TEST_PAIRS.value,
            generated_pairs=_GENERATED_PAIRS.value,
            seed=_SEED.value,
        )
    print(f"{'frame AUC on footage':24s}  all videos  abnormal only", file=sys.stderr)
    for name, row in table.items():
        print(f"{name:24s}  {row['auc']:10.3f}  {row['auc_abnormal']:13.3f}", file=sys.stderr)
    found = faults(table, baselines.RULES)
    summary = {
        "world_version": render.WORLD_VERSION,
        "fair": not found,
        "faults": found,
        "table": {
            name: {key: round(value, 4) for key, value in row.items()}
            for name, row in table.items()
        },
    }
    print(json.dumps(summary))
    if found:
        sys.exit(1)


if __name__ == "__main__":
    _TRAIN_PAIRS = flags.DEFINE_integer("train_pairs", 26, "Of footage.", lower_bound=1)
    _TEST_PAIRS = flags.DEFINE_integer("test_pairs", 26, "Of footage.", lower_bound=1)
    _GENERATED_PAIRS = flags.DEFINE_integer("generated_pairs", 26, "At each gap.", lower_bound=1)
    _SEED = flags.DEFINE_integer("seed", 0, "Of everything.", lower_bound=0)
    run_command(main, usage=__doc__)
