"""Features of videos for a trained run: those that encoding them into its store would give."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from generation.encode.recipe import EncodeOptions, Recipe
from generation.encoders import families
from gvvad_jax.command import UserError
from gvvad_jax.store import alignment, annotations
from gvvad_jax.store.format import STAND_IN, Manifest

if TYPE_CHECKING:
    from generation.encode.decode_ahead import Chunk, DecodePlan
    from generation.encode.reporting import DecodingBar
    from gvvad_jax.scoring import Model

_OTHER_WAY = (
    "extract your video's features as the run's were, then use gvvad import-features and "
    "gvvad score"
)


class UnreadableVideo(UserError):
    """A video of which nothing can be encoded; it affects no other one."""


class Piece(NamedTuple):
    """The next snippets of a video, in order.

    Attributes:
      visual_TxNxD: visual rows, of the type that the store has.
      text_TxE: text rows; None for a detector without text.
      captions: a sentence for each snippet; empty without text.
    """

    visual_TxNxD: np.ndarray
    text_TxE: np.ndarray | None
    captions: list[str]


class Ending(NamedTuple):
    """The end of a video's rows.

    Attributes:
      faults: warnings about the file: what is damaged, or when its frames are shown.
    """

    faults: list[str]


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a video before its rows are.

    Attributes:
      num_frames: frames of the video at `fps`.
      fps: frames per second.
      times_Tx2: start and end of each snippet in seconds.
    """

    num_frames: int
    fps: float
    times_Tx2: np.ndarray

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return self.num_frames / self.fps


@dataclasses.dataclass(frozen=True, eq=False)
class RunFeatures:
    """Encodes videos as the videos were that a run was trained on; `open` makes one.

    Attributes:
      recipe: the encoder, the captioner and the sizes of snippets.
      manifest: what holds for the rows; the same as the run's.
    """

    recipe: Recipe
    manifest: Manifest

    @classmethod
    def open(
        cls, workdir: str | os.PathLike[str], model: "Model", models: Any = None
    ) -> "RunFeatures":
        """Builds the encoder that a run was trained on.

        Args:
          workdir: the run's folder, for messages, and for the answers of a chat server.
          model: the run's detector.
          models: where checkpoints are and how they run, an options.ModelOptions.

        Raises:
          UserError: the encoder can't be built here, or only another one.
        """
        from gvvad_jax.sharing import hub

        options = encode_options(model.manifest, model.config.uses_text, str(workdir))
        if models is not None:
            options = dataclasses.replace(options, **dataclasses.asdict(models))
        require_checkpoints(options, model.manifest, str(workdir))
        if options.captioner == "chat" and not options.cache and hub.is_name(workdir):
            raise UserError(
                f"--cache: expected a folder for the answers of the captioner's server, because "
                f"{workdir} is no folder of this machine, found none; give one"
            )
        recipe = options.recipe(pathlib.Path(workdir) / "watched")
        built = recipe.manifest()
        expected = model.manifest if model.config.uses_text else _without_text(model.manifest)
        if differences := expected.differences(built, unknown_agrees=True):
            raise UserError(
                f"{workdir}: expected the encoder that the run was trained on, found "
                f"{'; '.join(differences)}; give its checkpoint with --weights, --caption_weights "
                "or --text_weights"
            )
        return cls(recipe, built)

    def of_file(
        self,
        path: str | os.PathLike[str],
        fps: float | None = None,
        report: Callable[[str], object] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, Facts]:
        """Encodes a whole video.

        Args:
          path: the video.
          fps: its frames per second (default: what the file says).
          report: takes each warning about the file; see Ending.

        Returns:
          (visual rows [T, N, D], text rows [T, E] or None, start and end of each snippet in seconds
          [T, 2], facts about the video).

        Raises:
          UnreadableVideo: nothing of it can be encoded.
        """
        pieces: list[Piece] = []
        facts = None
        for message in self.pieces(path, fps):
            if isinstance(message, Facts):
                facts, pieces = message, []
            elif isinstance(message, Piece):
                pieces.append(message)
            elif report:
                for fault in message.faults:
                    report(fault)
        assert facts is not None
        text = [piece.text_TxE for piece in pieces if piece.text_TxE is not None]
        return (
            np.concatenate([piece.visual_TxNxD for piece in pieces]),
            np.concatenate(text) if text else None,
            facts.times_Tx2,
            facts,
        )

    def pieces(
        self,
        path: str | os.PathLike[str],
        fps: float | None = None,
        bar: "DecodingBar | None" = None,
    ) -> Iterator[Facts | Piece | Ending]:
        """Encodes a video piece by piece, in constant memory.

        Args:
          path: the video.
          fps: its frames per second (default: what the file says).
          bar: shows the share of it that is decoded.

        Yields:
          Its facts, its rows, and its ending. If it turns out to be damaged, other facts follow
          the rows, and rows from the first one on; those before are void.

        Raises:
          UnreadableVideo: nothing of it can be encoded.
        """
        from generation.encode import decode_ahead

        path = pathlib.Path(path)
        video = annotations.VideoAnnotation(
            id=path.name, file=path.name, label=0, split="test", fps=fps
        )
        listed = annotations.Annotations({video.id: video}, str(path.parent / "videos.json"))
        source = decode_ahead.Source(listed, self.recipe, measure=False, bar=bar)
        rows = None
        ahead = decode_ahead.ahead(source.messages([video]), decode_ahead.CHUNKS_ALIVE)
        with contextlib.closing(ahead) as messages:
            for message in messages:
                if isinstance(message, decode_ahead.Unreadable):
                    raise UnreadableVideo(message.reason)
                if rows is None or rows.plan is not message.plan:
                    rows = _Rows(self.recipe, message.plan)
                    yield self._facts(message.plan)
                if isinstance(message, decode_ahead.Chunk):
                    piece = rows.take(message)
                    if piece is not None:
                        yield piece
                else:
                    lost = message.declared_frames - message.decoded_frames
                    faults = [f"{lost} frames could not be decoded"] if lost > 0 else []
                    yield Ending(faults + message.faults)
                del message  # Frees its frames before the next message arrives.

    def _facts(self, plan: "DecodePlan") -> Facts:
        times_Tx2, _ = alignment.row_times(
            len(plan.spans_Tx2),
            plan.num_frames,
            plan.fps,
            self.manifest.snippet,
            self.manifest.fps_policy,
        )
        return Facts(plan.num_frames, plan.fps, times_Tx2)


class _Rows:
    """The rows of one video that are complete; encoder and captioner complete them in turn."""

    def __init__(self, recipe: Recipe, plan: "DecodePlan"):
        self.plan, self._recipe = plan, recipe
        self._visual: list[np.ndarray] = []
        self._captions: list[str] = []

    def take(self, chunk: "Chunk") -> Piece | None:
        """Encodes the next frames; returns the snippets that are complete now, if any."""
        self._visual += self.plan.features.take(chunk.features)
        count, dtype = len(self._visual), self._recipe.dtype
        text_TxE, captions = None, []
        if self.plan.captions is not None:
            self._captions += self.plan.captions.take(chunk.captions)
            count = min(count, len(self._captions))
        if not count:
            return None
        visual_TxNxD = np.stack(self._visual[:count]).astype(dtype)
        if not np.isfinite(visual_TxNxD).all():
            raise UnreadableVideo("expected finite features, found NaN or infinity; re-encode it")
        if self.plan.captions is not None:
            captions = self._captions[:count]
            text_TxE = self._recipe.text_encoder(captions).astype(dtype)
        del self._visual[:count], self._captions[:count]
        return Piece(visual_TxNxD, text_TxE, captions)


def encode_options(manifest: Manifest, uses_text: bool, where: str) -> EncodeOptions:
    """Returns how to encode a video like those of a manifest, but for where checkpoints are.

    Args:
      manifest: of the run.
      uses_text: whether the detector has a text stream; without one, no captions are made.
      where: the run, for messages.

    Raises:
      UserError: the features weren't made here, or not from pixels.
    """
    encoder = manifest.encoder
    kind = _visual_kind(manifest)
    sizes = manifest.snippet.get("frames"), manifest.snippet.get("stride"), manifest.fps_policy
    orders = {order: name for name, order in _crop_orders().items()}
    crops = orders.get(str(manifest.crops.get("order")))
    if kind is None or crops is None or "unknown" in sizes:
        raise UserError(
            f"{where}: expected a run trained on features of generation.encode, found "
            f"{encoder['id']!r} of {manifest.crops.get('order') or 'unknown'} crops, which can't "
            f"be computed here; {_OTHER_WAY}"
        )
    captioner, text_encoder = _text_kinds(manifest, where) if uses_text else ("none", "hashed")
    pooling = encoder.get("pooling")
    resize = manifest.crops.get("resize")
    return EncodeOptions(
        encoder=kind,
        # Video models take all frames of a snippet at once.
        pooling="mean" if pooling == "window" else str(pooling),
        crops=crops,
        resize=None if resize is None else int(resize),
        snippet_frames=int(manifest.snippet["frames"]),
        snippet_stride=int(manifest.snippet["stride"]),
        fps_policy=str(manifest.fps_policy),
        dtype=manifest.dtype,
        captioner=captioner,
        text_encoder=text_encoder,
    )


def _visual_kind(manifest: Manifest) -> str | None:
    """Returns the --encoder of a manifest; None for an encoder of others."""
    encoder_id, weights = str(manifest.encoder["id"]), manifest.encoder.get("weights")
    if encoder_id.startswith("motion-"):
        return "motion"
    kinds = [
        name
        for name, family in families.FAMILIES.items()
        if encoder_id == f"{family.kind}-{weights}"
    ]
    # Several sizes of CLIP are one kind of model; the checkpoint tells them apart.
    named = [kind for kind in kinds if _name(families.FAMILIES[kind].weights) == weights]
    return next(iter(named + kinds), None)


def _text_kinds(manifest: Manifest, where: str) -> tuple[str, str]:
    """Returns the --captioner and the --text_encoder of a manifest."""
    from generation.encoders import text

    entry = manifest.text or {}
    said, embedded = str(entry.get("captioner")), str(entry.get("encoder"))
    captioner = "rules" if said.startswith("motion-rules") else said.partition(":")[0]
    encoder = "hashed" if embedded.startswith("hashed-ngrams") else embedded.partition(":")[0]
    known = "hashed", *text.DEFAULT_WEIGHTS
    if captioner not in ("rules", "git", "blip", "chat") or encoder not in known:
        found = "the descriptions of generated videos" if said == STAND_IN else repr(said)
        raise UserError(
            f"{where}: expected a run whose captions come from pixels by a captioner of "
            f"generation.encode, found {found} embedded by {embedded!r}; {_OTHER_WAY}, or train a "
            "detector without text (--feature_group=visual)"
        )
    return captioner, encoder


def require_checkpoints(options: EncodeOptions, manifest: Manifest, where: str) -> None:
    """Raises UserError for a checkpoint of another name than the default's that isn't given."""
    from generation.encoders import captions, text

    entry = manifest.text or {}
    wanted = {}
    if options.encoder in families.FAMILIES:
        default = families.FAMILIES[options.encoder].weights
        wanted["weights"] = default, str(manifest.encoder.get("weights"))
    if options.captioner in captions.DEFAULT_WEIGHTS:
        name = str(entry.get("captioner")).partition(":")[2].partition("@")[0]
        wanted["caption_weights"] = captions.DEFAULT_WEIGHTS[options.captioner], name
    if options.captioner != "none" and options.text_encoder in text.DEFAULT_WEIGHTS:
        name = str(entry.get("encoder")).partition(":")[2].partition("@")[0]
        wanted["text_weights"] = text.DEFAULT_WEIGHTS[options.text_encoder], name
    for flag, (default, name) in wanted.items():
        if not getattr(options, flag) and _name(default) != name:
            raise UserError(
                f"--{flag}: expected the checkpoint {name!r}, by which the run {where} was "
                "encoded, found none; give its Hub name or folder"
            )


def _name(weights: str) -> str:
    return weights.rpartition("/")[2]


def _crop_orders() -> dict[str, str]:
    """Returns the order of crops in a manifest by the --crops."""
    from generation.encoders.images import CROPS

    return {name: order for name, (_, order) in CROPS.items()}


def _without_text(manifest: Manifest) -> Manifest:
    return dataclasses.replace(manifest, text=None)
