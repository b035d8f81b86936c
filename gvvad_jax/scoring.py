"""Scores videos with a trained detector: the library behind `python -m gvvad_jax.score`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store.format import Manifest

# Crops x snippets that go through the detector at once: bounds memory, not results.
ROWS_AT_ONCE = 4096
# Lengths that a set of videos is padded to: a program is compiled for each.
MOST_BUCKETS = 20


def require_finite(snippets: Mapping[str, np.ndarray], path: str) -> None:
    """Raises UserError where a score of the features at `path` isn't a number to rank by."""
    for video_id, scores_T in snippets.items():
        if not np.isfinite(scores_T).all():
            raise UserError(
                f"{path}: video {video_id!r}: expected finite scores, found NaN or infinity; its "
                "features or the checkpoint's weights aren't finite (python -m gvvad_jax.store "
                "checks a store)"
            )


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained detector and all that it needs to score videos of its encoder.

    Attributes:
      config: it was trained with.
      manifest: of the stores it was trained on.
      standard: batches.Standardisation of its visual features.
      variables: weights and running statistics, of step.scoring_variables.
      score_step: of step.make_score_step.
    """

    config: Any
    manifest: Manifest
    standard: Any
    variables: Any
    score_step: Any

    def require(self, manifest: Manifest, path: str) -> None:
        """Raises UserError unless a store's features are of the kind this was trained on."""
        if not self.config.uses_text:  # Nor does it matter whether there is any.
            manifest = dataclasses.replace(manifest, text=self.manifest.text)
        differences = self.manifest.differences(manifest, unknown_agrees=True)
        if differences:
            raise UserError(
                f"{path}: expected a store like the one trained on, found "
                f"{'; '.join(differences)}; encode it with the same settings"
            )

    def of_members(self, members: Sequence[Any]) -> dict[str, np.ndarray]:
        """`scores` of batches.Member by id; raises UserError where one isn't finite."""
        snippets = self.scores(
            {m.video.id: (m.store.visual(m.video.id), m.store.text(m.video.id)) for m in members}
        )
        for member in members:
            video_id = member.video.id
            require_finite({video_id: snippets[video_id]}, str(member.store.path))
        return snippets

    def scores(
        self, features: Mapping[str, tuple[np.ndarray, np.ndarray | None]]
    ) -> dict[str, np.ndarray]:
        """Snippet scores of whole-length videos.

        Videos of similar length are padded and masked to one length, so that few shapes are
        compiled; padding changes no score. A video whose text has another number of rows is
        scored by itself, its text stream at its own length (see tevad.align_length).

        Args:
          features: (visual_TxNxD, text_SxE or None) by video id, not standardised.

        Returns:
          float32 [T] by video id, in the order given.
        """
        lengths: dict[str, int] = {}
        found: dict[str, np.ndarray] = {}
        for video_id, (visual_TxNxD, text_SxE) in features.items():
            if self.config.uses_text and len(text_SxE) != len(visual_TxNxD):
                visual = self.standard.apply(visual_TxNxD).swapaxes(0, 1)[None]
                text = np.asarray(text_SxE, np.float32)[None]
                found[video_id] = np.asarray(self.score_step(self.variables, visual, text, None))[0]
            else:
                lengths[video_id] = len(visual_TxNxD)
        # Of an import the manifest doesn't know the crops.
        crops = features[next(iter(lengths))][0].shape[1] if lengths else 1
        ahead: list[tuple[list[str], Any]] = []
        for length, ids in buckets(lengths, crops).items():
            size = batch_size(len(ids), length, crops)
            for start in range(0, len(ids), size):
                batch = ids[start : start + size]
                ahead.append((batch, self._score_batch([features[i] for i in batch], length, size)))
                if len(ahead) > 1:  # The next one is made ready while this one is computed.
                    found |= _unpadded(*ahead.pop(0), lengths)
        for batch, scores_VxT in ahead:
            found |= _unpadded(batch, scores_VxT, lengths)
        return {video_id: found[video_id] for video_id in features}

    def _score_batch(
        self, videos: Sequence[tuple[np.ndarray, np.ndarray | None]], length: int, size: int
    ) -> Any:
        """Padded scores [size, length], not yet there: JAX goes on computing them."""
        crops = videos[0][0].shape[1]
        visual = np.zeros((size, crops, length, self.manifest.dim), np.float32)
        text, mask = None, np.zeros((size, length), np.float32)
        if self.config.uses_text:
            text = np.zeros((size, length, self.manifest.text["dim"]), np.float32)
        for i, (visual_TxNxD, text_TxE) in enumerate(videos):
            count = len(visual_TxNxD)
            visual[i, :, :count] = self.standard.apply(visual_TxNxD).swapaxes(0, 1)
            mask[i, :count] = 1
            if text is not None:
                text[i, :count] = text_TxE
        return self.score_step(self.variables, visual, text, mask)


def _unpadded(
    ids: Sequence[str], scores_VxT: Any, lengths: Mapping[str, int]
) -> dict[str, np.ndarray]:
    scores_VxT = np.asarray(scores_VxT)
    return {i: scores_T[: lengths[i]] for i, scores_T in zip(ids, scores_VxT, strict=False)}


def bucket_length(length: int) -> int:
    """The smallest of 8, 10, 12, 14, 16, 18 ... 32, 36, 40 ... (eight an octave) that fits."""
    step = max(2, 1 << max(0, (length - 1).bit_length() - 4))
    return max(8, -(-length // step) * step)


def batch_size(videos: int, length: int, crops: int) -> int:
    """Videos in each of the equal batches that hold so many of one length."""
    most = max(1, ROWS_AT_ONCE // (length * crops))
    return -(-videos // -(-videos // most))


def padded_snippets(videos: int, length: int, crops: int) -> int:
    """Snippets of so many videos padded to one length, empty places of batches included."""
    size = batch_size(videos, length, crops)
    return -(-videos // size) * size * length


def buckets(
    lengths: Mapping[str, int], crops: int, most: int = MOST_BUCKETS
) -> dict[int, list[str]]:
    """Ids by the length that they are padded to, so that little is padded and few are compiled.

    Args:
      lengths: of the videos, by id.
      crops: of each video.
      most: lengths at most. Lengths of bucket_length are merged into longer ones where that adds
        the fewest of padded_snippets (dynamic programming over the sorted lengths).
    """
    by_length: dict[int, list[str]] = {}
    for video_id, length in lengths.items():
        by_length.setdefault(bucket_length(int(length)), []).append(video_id)
    steps = sorted(by_length)
    counts = np.cumsum([0] + [len(by_length[step]) for step in steps])
    # best[j]: (padded snippets, borders) of the first j lengths in so many buckets.
    best = {0: (0, ())}
    for _ in range(most):
        longer = dict(best)
        for start, (cost, borders) in best.items():
            for stop in range(start + 1, len(steps) + 1):
                videos = int(counts[stop] - counts[start])
                padded = cost + padded_snippets(videos, steps[stop - 1], crops)
                if stop not in longer or padded < longer[stop][0]:
                    longer[stop] = padded, (*borders, stop)
        best = longer
    found, start = {}, 0
    for stop in best[len(steps)][1]:
        found[steps[stop - 1]] = [i for step in steps[start:stop] for i in by_length[step]]
        start = stop
    return found


def load(workdir: str, checkpoint: str = "last") -> Model:
    """A trained detector from a run's folder.

    Args:
      workdir: of gvvad_jax.train or tools.import_checkpoint.
      checkpoint: last, best_on_validation or best_on_test.

    Raises:
      UserError: no such run or no such checkpoint.
    """
    import jax

    from gvvad_jax import step
    from gvvad_jax.run import checkpoints
    from gvvad_jax.splits import Standardisation

    content = checkpoints.read_model(workdir)
    config, manifest = content["config"], content["manifest"]
    text_dim = (manifest.text or {}).get("dim", 0)
    template = jax.eval_shape(lambda: step.init_state(config, manifest.dim, text_dim))
    saved = checkpoints.Checkpoints(workdir)
    state = saved.restore(checkpoint, template)
    saved.close()
    return Model(
        config=config,
        manifest=manifest,
        standard=Standardisation.from_json(content["standardisation"]),
        variables=step.scoring_variables(state),
        score_step=step.make_score_step(config),
    )
