"""Scores videos with a trained detector: the library behind `python -m gvvad_jax.score`."""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from gvvad_jax import calibration, metrics, model_measures, step
from gvvad_jax.calibration import Calibration
from gvvad_jax.checked_features import require_text, require_visual, text_dim
from gvvad_jax.command import UserError
from gvvad_jax.config import CHECKPOINTS, TrainConfig
from gvvad_jax.measures import MeasureOptions, Measures
from gvvad_jax.padding import batch_size, buckets
from gvvad_jax.run import checkpoints
from gvvad_jax.sharing import facts, models
from gvvad_jax.sharing.card import Facts
from gvvad_jax.splits import Member
from gvvad_jax.standardisation import Standardisation
from gvvad_jax.store.annotations import Annotations
from gvvad_jax.store.format import Manifest
from gvvad_jax.store.reader import Store

# One video: visual [T, D] or [T, N, D], alone or with text [S, E].
VideoFeatures = np.ndarray | tuple[np.ndarray, np.ndarray | None]
# Checked: visual [T, N, D], text [S, E].
_Rows = tuple[np.ndarray, np.ndarray | None]


def require_finite(snippets: Mapping[str, np.ndarray], path: str) -> None:
    """Raises UserError where a score of the features at `path` isn't a number to rank by."""
    for video_id, scores_T in snippets.items():
        if not np.isfinite(scores_T).all():
            raise UserError(
                f"{path}: video {video_id!r}: expected finite scores, found NaN or infinity; its "
                "features or the checkpoint's weights aren't finite (gvvad store "
                "checks a store)"
            )


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained detector with all that it needs to score videos; `load` gives one.

    Attributes:
      config: the settings of its training.
      manifest: what holds for the features that it takes: encoder, width, crops, snippets.
      standard: the standardisation of its visual features.
      variables: its weights and running statistics.
      score_step: its compiled scoring function, of step.make_score_step.
      calibration: its temperature and its threshold; None where training has set none.
      normal_videos: the normal videos that the threshold may rest on; see Calibrations.
      seen: mean and deviation of the features that it was adapted to; None for those that
        `standard` has of training.
    """

    config: TrainConfig
    manifest: Manifest
    standard: Standardisation
    variables: Any
    score_step: Callable[..., jax.Array]
    calibration: Calibration | None = None
    normal_videos: Mapping[str, str] = dataclasses.field(default_factory=dict)
    folder: pathlib.Path | None = None
    facts: Facts = dataclasses.field(default_factory=lambda: Facts(license=""))
    seen: Standardisation | None = None

    def score(self, features: Mapping[str, VideoFeatures] | Store) -> dict[str, np.ndarray]:
        """Scores each snippet of whole videos; higher is more abnormal.

        Args:
          features: by video id, visual features [T, D], or [T, N, D] of N crops, as the encoder
            gives them; for a detector with a text stream a pair of them and text [S, E]. Or a
            `Store`, all of whose videos are scored.

        Returns:
          float32 [T] by video id, in the order given. alignment.frame_scores turns them into
          frame scores.

        Raises:
          UserError: features of another type, shape or width than the detector takes, text that is
            missing, values that aren't finite; the message names the argument and the video.
        """
        if isinstance(features, Store):
            path = str(features.path)
            self.require(features.manifest, path)
            snippets = self._score_rows(
                {i: (features.visual(i), features.text(i)) for i in features.rows}
            )
        else:
            path = "features"
            snippets = self._score_rows(self._checked(features))
        require_finite(snippets, path)
        return snippets

    def evaluate(
        self,
        store: Store | str | os.PathLike[str],
        split: str = "test",
        annotations: Annotations | str | os.PathLike[str] | None = None,
        *,
        alarms_per_hour: float | None = None,
        normal_store: str = "",
        options: MeasureOptions | None = None,
        other: "Model | None" = None,
    ) -> Measures:
        """Measures this detector on a store's videos, by frame, by video and by events.

        Args:
          store: the store, or its path.
          split: train, validation or test.
          annotations: a videos.json, or its path, that overrides the one in the store.
          alarms_per_hour: alarms an hour of normal footage that the threshold is set by (default:
            the run's). Another than the run's needs its normal validation videos in the store.
          normal_store: a store of normal footage to set the threshold on instead.
          options: what to measure beyond the defaults, e.g. MeasureOptions(bootstrap=1000).
          other: another detector to compare with on the same videos.

        Returns:
          The measures. Without frame annotations of every abnormal video, those of frames are None.

        Raises:
          UserError: a store of another encoder, or no video of the split.
        """
        videos = model_measures.open_videos(store, split, annotations)
        return model_measures.measure_store(
            self, videos, alarms_per_hour, normal_store, options, other
        )[1]

    def video_scores(self, snippets: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Returns each video's score, the mean of its top-k snippets, not calibrated."""
        return {i: metrics.video_score(s, self.config.top_k) for i, s in snippets.items()}

    def calibrated_scores(self, snippets: Mapping[str, np.ndarray]) -> dict[str, float] | None:
        """Returns the chance that each video is abnormal; None where there is no temperature."""
        if self.calibration is None or self.calibration.temperature is None:
            return None
        scores = self.video_scores(snippets)
        chances_V = calibration.apply(list(scores.values()), self.calibration.temperature)
        return dict(zip(scores, chances_V.tolist(), strict=True))

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        license: str = "",
        data: str = "",
        measures: Measures | None = None,
    ) -> None:
        """Writes this detector as a folder to share; `load` reads it. See docs/sharing.md.

        Paths, ids of videos and the digests of normal footage stay out of it.

        Args:
          folder: absent, empty, or with a shared detector, which is replaced.
          license: identifier of the licence, such as apache-2.0; a detector that was shared
            already keeps its own by default.
          data: what it was trained on, and under which licence, for the model card.
          measures: what `evaluate` returned, e.g. with intervals (default: those of the run).

        Raises:
          UserError: no licence, or a folder with anything else.
        """
        models.save(self, folder, license, data, measures)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str = "",
        data: str = "",
        measures: Measures | None = None,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a detector",
    ) -> str:
        """Uploads what `save_pretrained` writes to the Hugging Face Hub, as one commit.

        The token is that of HF_TOKEN or of `hf auth login`.

        Args:
          repo_id: "USER/NAME", created if need be; `load("hf:USER/NAME")` reads it.
          license, data, measures: see save_pretrained.
          private: whether a repository that is created is private; by default as the account's
            settings have it, which usually is public.
          revision: branch to upload to.
          commit_message: of the commit.

        Returns:
          The commit's address.

        Raises:
          UserError: no licence, no token, no access or no network.
        """
        return models.push(
            self, repo_id, license, data, measures,
            private=private, revision=revision, message=commit_message,
        )  # fmt: skip

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
        if fields := self.manifest.unknown_weights(manifest):
            print(
                f"{path}: whether its {' and '.join(fields)} has the weights of the one trained on "
                "isn't known: version 1 knew weights by size and ends alone",
                file=sys.stderr,
            )

    def score_members(self, members: Sequence[Member]) -> dict[str, np.ndarray]:
        """Snippet scores by video id; raises UserError where one isn't finite."""
        snippets = self._score_rows(
            {m.video.id: (m.store.visual(m.video.id), m.store.text(m.video.id)) for m in members}
        )
        for member in members:
            video_id = member.video.id
            require_finite({video_id: snippets[video_id]}, str(member.store.path))
        return snippets

    def _checked(self, features: Mapping[str, VideoFeatures]) -> dict[str, _Rows]:
        """The features of the `score` call, each as a pair of visual [T, N, D] and text."""
        if not isinstance(features, Mapping):
            raise UserError(
                f"features: expected arrays by video id or a Store, found "
                f"{type(features).__name__}; give {{id: array}}"
            )
        checked: dict[str, _Rows] = {}
        crops: int | None = None
        for video_id, value in features.items():
            where = f"features: video {video_id!r}"
            if isinstance(value, tuple):
                if len(value) != 2:
                    raise UserError(
                        f"{where}: expected (visual, text), found {len(value)} values; give a "
                        "pair, or visual features alone"
                    )
                visual, text = value
            else:
                visual, text = value, None
            visual_TxNxD = require_visual(visual, self.manifest, where)
            crops = crops or visual_TxNxD.shape[1]
            if visual_TxNxD.shape[1] != crops:
                raise UserError(
                    f"{where}: expected {crops} crops as in the first video, found "
                    f"{visual_TxNxD.shape[1]}; score videos of other crops in a call of their own"
                )
            if not self.config.uses_text:
                text = None
            else:
                text = require_text(text, len(visual_TxNxD), self.manifest, where)
            checked[video_id] = visual_TxNxD, text
        return checked

    def _score_rows(self, videos: Mapping[str, _Rows]) -> dict[str, np.ndarray]:
        """Snippet scores [T] by id of whole-length videos, not standardised, in the order given.

        Videos of similar length are padded and masked to one length, so that few shapes are
        compiled; padding changes no score. A video whose text has another number of rows is
        scored by itself, its text stream at its own length (see tevad.align_length).
        """
        lengths: dict[str, int] = {}
        scores: dict[str, np.ndarray] = {}
        if self.config.causal_window:  # Text is no sequence of its own then, but of snippets.
            videos = {
                i: (visual, None if text is None else held(text, len(visual)))
                for i, (visual, text) in videos.items()
            }
        for video_id, (visual_TxNxD, text_SxE) in videos.items():
            if (
                self.config.uses_text
                and text_SxE is not None
                and len(text_SxE) != len(visual_TxNxD)
            ):
                visual = self.standard.apply(visual_TxNxD).swapaxes(0, 1)[None]
                text = np.asarray(text_SxE, np.float32)[None]
                scores[video_id] = np.asarray(self.score_step(self.variables, visual, text, None))[
                    0
                ]
            else:
                lengths[video_id] = len(visual_TxNxD)
        # The manifest of an imported checkpoint doesn't know the crops.
        crops = videos[next(iter(lengths))][0].shape[1] if lengths else 1
        ahead: list[tuple[list[str], jax.Array]] = []
        for length, ids in buckets(lengths, crops).items():
            size = batch_size(len(ids), length, crops)
            for start in range(0, len(ids), size):
                batch = ids[start : start + size]
                ahead.append((batch, self._score_batch([videos[i] for i in batch], length, size)))
                if len(ahead) > 1:  # The next batch is prepared while this one is computed.
                    scores |= _unpadded(*ahead.pop(0), lengths)
        for batch, scores_VxT in ahead:
            scores |= _unpadded(batch, scores_VxT, lengths)
        return {video_id: scores[video_id] for video_id in videos}

    def _score_batch(self, videos: Sequence[_Rows], length: int, size: int) -> jax.Array:
        """Padded scores [size, length], which JAX may still be computing."""
        crops = videos[0][0].shape[1]
        visual = np.zeros((size, crops, length, self.manifest.dim), np.float32)
        text, mask = None, np.zeros((size, length), np.float32)
        if self.config.uses_text:
            text = np.zeros((size, length, text_dim(self.manifest)), np.float32)
        for i, (visual_TxNxD, text_TxE) in enumerate(videos):
            count = len(visual_TxNxD)
            visual[i, :, :count] = self.standard.apply(visual_TxNxD).swapaxes(0, 1)
            mask[i, :count] = 1
            if text is not None:
                text[i, :count] = text_TxE
        return self.score_step(self.variables, visual, text, mask)


def held(text_SxE: np.ndarray, length: int) -> np.ndarray:
    """Returns text of a video's number of snippets: cut, or with its last row repeated."""
    return text_SxE[np.minimum(np.arange(length), len(text_SxE) - 1)]


def _unpadded(
    ids: Sequence[str], scores_VxT: jax.Array, lengths: Mapping[str, int]
) -> dict[str, np.ndarray]:
    padded_VxT = np.asarray(scores_VxT)
    return {i: scores_T[: lengths[i]] for i, scores_T in zip(ids, padded_VxT, strict=False)}


def load(workdir: str | os.PathLike[str], checkpoint: str = "last") -> Model:
    """Loads a trained detector from a run's folder, or a shared one.

    Args:
      workdir: the folder of gvvad_jax.train, tools.import_checkpoint or save_pretrained, or
        "hf:USER/NAME[@REVISION]" of the Hugging Face Hub.
      checkpoint: last, best_on_validation or best_on_test; a shared detector has one checkpoint.

    Raises:
      UserError: no such run, no such checkpoint, or a damaged one.
    """
    if checkpoint not in CHECKPOINTS:
        raise UserError(
            f"checkpoint: expected one of {', '.join(CHECKPOINTS)}, found {checkpoint!r}; "
            "give one of them"
        )
    if models.is_shared(workdir):
        return _load_shared(workdir, checkpoint)
    saved = checkpoints.read_model(workdir)
    config, manifest = saved.config, saved.manifest
    template = cast(
        step.TrainState,
        jax.eval_shape(lambda: step.init_state(config, manifest.dim, text_dim(manifest))),
    )
    run = checkpoints.Checkpoints(workdir)
    state = run.restore(checkpoint, template)
    known = saved.calibrations
    calibrated = known.checkpoints.get(checkpoint) if known else None
    # A run that was prolonged, or is still going on, has another checkpoint than was calibrated.
    if calibrated and calibrated.step != run.latest(checkpoint):
        calibrated = None
    step_saved = run.latest(checkpoint)
    run.close()
    return Model(
        config=config,
        manifest=manifest,
        standard=Standardisation.from_json(saved.standardisation),
        variables=step.scoring_variables(state),
        score_step=step.make_score_step(config),
        calibration=calibrated,
        normal_videos=known.normal_videos if known else {},
        folder=pathlib.Path(workdir),
        facts=facts.of_run(pathlib.Path(workdir), checkpoint, step_saved),
    )


def _load_shared(name: str | os.PathLike[str], checkpoint: str) -> Model:
    """Loads a shared detector from its folder or from the Hugging Face Hub."""
    shared, folder = models.load(name, checkpoint)
    return Model(
        config=shared.config,
        manifest=shared.manifest,
        standard=shared.standard,
        variables=shared.variables,
        score_step=step.make_score_step(shared.config),
        calibration=shared.calibration,
        seen=shared.seen,
        folder=folder,
        facts=shared.facts,
    )
