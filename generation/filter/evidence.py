"""What the filter knows of generated videos: their scores, and those of real videos."""

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence

from generation.encoders.protocols import TextEncoder
from generation.filter import features
from generation.filter.rules import Rule, preset_rules
from gvvad_jax.command import Interrupted, UserError
from gvvad_jax.store.format import Row
from gvvad_jax.store.reader import Store


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Everything on which decisions depend.

    Attributes:
      scores: scores by name, by video id; {} for a video that could not be encoded.
      labels: labels by video id.
      near: cosines by the id of the other video, by video id.
      real: scores of the real training videos, by name.
      not_judged: reasons why a score could not be computed, by score.
    """

    scores: Mapping[str, Mapping[str, float]]
    labels: Mapping[str, int]
    near: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    real: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    not_judged: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def rules(self, preset: str) -> list[Rule]:
        """Returns the preset's rules for these videos; raises UserError, see preset_rules."""
        generated = collections.defaultdict(list)
        for scores in self.scores.values():
            for name, score in scores.items():
                generated[name].append(score)
        return preset_rules(preset, self.real, generated)


def gather(
    generated: Store,
    real: Store | None = None,
    *,
    phrases: Mapping[str, str] | None = None,
    text_encoder: TextEncoder | None = None,
) -> Evidence:
    """Computes all scores of a store's videos.

    Args:
      generated: store of the generated videos.
      real: store of the real videos; the generated ones are compared with its training videos.
      phrases: short descriptions by video id, from prompts.jsonl.
      text_encoder: text tower of the store's checkpoint, see features.clip_text_encoder.

    Raises:
      UserError: a row lacks pixel statistics, or the stores have different settings.
    """
    real_ids = []
    if real is not None:
        real_ids = [
            row.id
            for row in real.rows.values()
            if row.source == "real" and real.videos.videos[row.id].split == "train"
        ]
    real_pixels = [_pixel_statistics(real, real.rows[video_id]) for video_id in real_ids]
    by_features = features.feature_scores(
        generated, real, real_ids, phrases=phrases, text_encoder=text_encoder
    )
    names = sorted({name for scores in real_pixels for name in scores})
    real_scores = {
        name: [scores[name] for scores in real_pixels if name in scores] for name in names
    }
    scores = {
        row.id: dict(_pixel_statistics(generated, row)) | by_features.generated[row.id]
        for row in generated.rows.values()
    }
    scores |= {video_id: {} for video_id in generated.quarantined}
    return Evidence(
        scores,
        {video_id: generated.videos.videos[video_id].label for video_id in scores},
        by_features.near,
        real_scores | by_features.real,
        by_features.not_judged,
    )


def gather_from_files(
    store_path: str | os.PathLike,
    real_path: str | os.PathLike | None = None,
    prompts_path: str | os.PathLike | None = None,
    clip_weights: str = "",
) -> Evidence:
    """Opens the stores and computes all scores, see `gather`.

    Args:
      store_path: store of the generated videos.
      real_path: store of the real videos.
      prompts_path: descriptions from which the videos were generated; CLIP features are compared
        with their phrases.
      clip_weights: checkpoint with which the stores were encoded (default: ViT-L/14).

    Raises:
      UserError: see `gather`; or the weights are of another checkpoint.
    """
    generated = Store(store_path)
    real = Store(real_path) if real_path else None
    phrases, text_encoder = None, None
    if prompts_path:
        from generation.prompts.descriptions import load_descriptions

        phrases = {record.id: record.phrase for record in load_descriptions(prompts_path)}
        if features.is_clip(generated.manifest):
            text_encoder = features.clip_text_encoder(generated.manifest, clip_weights)
    return gather(generated, real, phrases=phrases, text_encoder=text_encoder)


def require_videos(evidence: Evidence, path: str | os.PathLike) -> None:
    """Raises Interrupted, for status 1, if there is not one video with scores to decide about.

    Args:
      evidence: what is known of the videos.
      path: the store or the decisions that it comes from, for the message.
    """
    if not any(evidence.scores.values()):
        lost = f"none among {len(evidence.scores)} videos" if evidence.scores else "no video"
        raise Interrupted(
            f"{path}: expected generated videos to decide about, found {lost} that could be "
            "encoded; nothing was written: generate or encode them again"
        )


def _pixel_statistics(store: Store, row: Row) -> Mapping[str, float]:
    if row.pixel_statistics is None:
        raise UserError(
            f"{store.path}: video {row.id!r}: expected pixel statistics, found none; "
            "encode it with gvvad encode (imported features have none)"
        )
    return row.pixel_statistics
