"""Scores videos with a trained detector.

    python -m gvvad_jax.score --workdir=W --store=STORE --out=S.npz
    python -m gvvad_jax.score --workdir=W --visual=X.npy [--text=Y.npy] --out=S.npz

S.npz holds one array [frames] a video id, and `snippets/<id>` [T] with `times/<id>` [T, 2] in
seconds. Prints one JSON object.
"""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from gvvad_jax import annotations, store
from gvvad_jax.command import UserError, refuse_flags, run_command
from gvvad_jax.files import load_array, write_arrays

# Crops x snippets that go through the detector at once: bounds memory, not results.
ROWS_AT_ONCE = 4096
# Lengths that a set of videos is padded to: a program is compiled for each.
MOST_BUCKETS = 20
# Before a video's id: its snippets' scores and times.
DERIVED = ("snippets/", "times/")


def main(_: Sequence[str]) -> None:
    values = flags.FLAGS
    for name in ("workdir", "out"):
        if not values[name].value:
            raise UserError(f"--{name}: expected a path, found none")
    if bool(values.store) == bool(values.visual):
        raise UserError("expected either --store or --visual, found both or neither")
    if values.store:
        refuse_flags("--store", ("text", "fps"))
    _require_writable(pathlib.Path(values.out))
    model = load(values.workdir, values.checkpoint)
    arrays = _of_store(model, values.store) if values.store else _of_files(model)
    write_arrays(values.out, arrays)
    ids = [name for name in arrays if not name.startswith(DERIVED)]
    print(json.dumps({"out": values.out, "videos": len(ids)}))


def _require_writable(out: pathlib.Path) -> None:
    """Raises UserError before hours of scoring rather than after them."""
    if out.is_dir():
        raise UserError(f"--out: expected a file, found the folder {out}; name one in it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # On some file systems only trying tells.
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UserError(
            f"--out: expected a file that can be written, found {out} ({error.strerror}); give "
            "another"
        ) from error


def _of_store(model: "Model", path: str) -> dict[str, np.ndarray]:
    opened = store.Store(path)
    model.require(opened.manifest, path)
    for video_id in opened.rows:
        if video_id.startswith(DERIVED):
            raise UserError(
                f"{path}: video {video_id!r}: expected an id that doesn't begin with "
                f"{' or '.join(DERIVED)}, as other arrays of --out do; encode it with another"
            )
    snippets = model.scores({i: (opened.visual(i), opened.text(i)) for i in opened.rows})
    require_finite(snippets, path)
    arrays = {}
    for video_id, scores_T in snippets.items():
        row, times_Tx2 = opened.rows[video_id], opened.times(video_id)
        arrays |= {
            video_id: annotations.frame_scores(scores_T, times_Tx2, row.num_frames, row.fps),
            f"snippets/{video_id}": scores_T,
            f"times/{video_id}": times_Tx2,
        }
    return arrays


def _of_files(model: "Model") -> dict[str, np.ndarray]:
    values, snippet = flags.FLAGS, model.manifest.snippet
    visual_TxNxD = _read_features(values.visual)
    crops = model.manifest.crops["count"]
    if visual_TxNxD.ndim == 2:
        visual_TxNxD = visual_TxNxD[:, None]
    if (
        visual_TxNxD.ndim != 3
        or not visual_TxNxD.size
        or visual_TxNxD.shape[-1] != model.manifest.dim
    ):
        raise UserError(
            f"{values.visual}: expected an array [T, {model.manifest.dim}] or [T, crops, "
            f"{model.manifest.dim}], found {list(visual_TxNxD.shape)}; encode with "
            f"{model.manifest.encoder['id']}"
        )
    if crops not in ("unknown", visual_TxNxD.shape[1]):
        raise UserError(
            f"{values.visual}: expected [T, {crops}, {model.manifest.dim}], {crops} crops as in "
            f"training, found {list(visual_TxNxD.shape)}; where crops come first, transpose to "
            "[T, crops, dim]"
        )
    text_TxE = _read_features(values.text) if values.text else None
    if model.config.uses_text:
        _require_text(text_TxE, len(visual_TxNxD), model.manifest.text["dim"])
    name = pathlib.Path(values.visual).stem
    scores = model.scores({name: (visual_TxNxD, text_TxE)})
    require_finite(scores, values.visual)
    scores_T = scores[name]
    num_frames = (len(scores_T) - 1) * snippet["stride"] + snippet["frames"]
    fps = values.fps
    times_Tx2 = annotations.snippet_spans(num_frames, snippet["frames"], snippet["stride"]) / fps
    frames = annotations.frame_scores(scores_T, times_Tx2, num_frames, fps)
    return {name: frames, f"snippets/{name}": scores_T, f"times/{name}": times_Tx2}


def _require_text(text_SxE: np.ndarray | None, length: int, dim: int) -> None:
    """Text of at least half the video's rows: what is missing is repeated from its end."""
    fits = text_SxE is not None and text_SxE.ndim == 2 and text_SxE.shape[1] == dim
    if not fits or 2 * len(text_SxE) < length:
        found = "none" if text_SxE is None else list(text_SxE.shape)
        raise UserError(
            f"{flags.FLAGS.text or '--text'}: expected an array [{length}, {dim}], a few rows "
            f"more or fewer, found {found}; embed the video's captions with the run's text encoder"
        )


def _read_features(path: str) -> np.ndarray:
    array = load_array(path, "an .npy array of features")
    if not np.isfinite(array).all():
        raise UserError(
            f"{path}: expected finite features, found NaN or infinity; encode the video again"
        )
    return array


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
    manifest: store.Manifest
    standard: Any
    variables: Any
    score_step: Any

    def require(self, manifest: store.Manifest, path: str) -> None:
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

    from gvvad_jax import batches, checkpoints, step

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
        standard=batches.Standardisation.from_json(content["standardisation"]),
        variables=step.scoring_variables(state),
        score_step=step.make_score_step(config),
    )


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "a run's folder")
    flags.DEFINE_string("store", "", "feature store to score")
    flags.DEFINE_string("visual", "", "one video's features instead, .npy [T, dim] or [T, N, dim]")
    flags.DEFINE_string("text", "", "its text rows, .npy [T, text_dim]")
    flags.DEFINE_float("fps", 25.0, "frames per second of the video, with --visual", lower_bound=1)
    flags.DEFINE_string("out", "", "S.npz")
    flags.DEFINE_enum("checkpoint", "last", ["last", "best_on_validation", "best_on_test"], "which")
    run_command(main, usage=__doc__)
