"""A run as it watches videos: its detector, its encoder, its threshold and its classes."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from gvvad_jax import events
from gvvad_jax.command import UserError
from gvvad_jax.store import digests
from gvvad_jax.store.files import load_array, read_json
from tools.watching.features import RunFeatures
from tools.watching.options import WatchOptions

if TYPE_CHECKING:
    from gvvad_jax.scoring import Model

# The bank of runs whose store isn't at hand.
_USUAL_BANK = "ucf_crime"


@dataclasses.dataclass(frozen=True, eq=False)
class Classes:
    """The classes of a prompt bank.

    Attributes:
      names_K: the class of each phrase.
      bank_KxE: the phrases' vectors, of length 1.
    """

    names_K: Sequence[str]
    bank_KxE: np.ndarray

    def nearest(self, text_TxE: np.ndarray) -> list[str]:
        """Returns the class of the phrase nearest to each caption, by the cosine."""
        near_T = np.argmax(np.asarray(text_TxE, np.float32) @ self.bank_KxE.T, axis=1)
        return [self.names_K[index] for index in near_T]


@dataclasses.dataclass(frozen=True, eq=False)
class Detector:
    """All that it takes to find events in a video.

    Attributes:
      model: scores features.
      features: encodes videos.
      threshold: of events, and what it rests on.
      classes: what captions are compared with; None for a detector without text.
      identity: digest of the detector and its adaptation, whatever their paths are.
    """

    model: "Model"
    features: RunFeatures
    threshold: events.Threshold
    classes: Classes | None
    identity: str

    @property
    def rule(self) -> events.Rule:
        """What makes an event."""
        assert self.threshold.threshold is not None
        return events.Rule(threshold=self.threshold.threshold)


def open_detector(options: WatchOptions, models: Any = None) -> Detector:
    """Opens a run for watching videos.

    Args:
      options: the run, and what its threshold rests on.
      models: where the encoder's checkpoints are, an options.ModelOptions.

    Raises:
      UserError: no such run, no threshold, or an encoder that can't be built here.
    """
    from gvvad_jax import adaptation, calibration, scoring

    model = scoring.load(options.workdir, options.checkpoint)
    if options.adaptation:
        model = adaptation.apply(model, options.adaptation)
    identity = adaptation.fingerprint(model)
    if options.adaptation:  # It may have learned from feedback, which the detector doesn't show.
        identity = digests.of_json([identity, digests.of_file(options.adaptation)])
    threshold = _threshold(model, options)
    if said := calibration.describe(threshold):
        print(f"warning: {options.workdir}: {said}", file=sys.stderr)
    features = RunFeatures.open(options.workdir, model, models)
    return Detector(
        model=model,
        features=features,
        threshold=threshold,
        classes=_classes(model, features, options.workdir),
        identity=identity,
    )


def _threshold(model: "Model", options: WatchOptions) -> events.Threshold:
    """Returns the threshold asked for; raises UserError where there is none."""
    from gvvad_jax import calibration

    if options.threshold is not None:
        return events.Threshold(
            threshold=options.threshold,
            alarms_per_hour=None,
            asked=model.config.alarms_per_hour,
            reason="given as --threshold",
        )
    members = []
    if options.alarms_per_hour is not None and not options.normal_store:
        members = _validation_members(model)
    try:
        found = calibration.threshold_of(
            model, members, options.alarms_per_hour, options.normal_store
        )
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"--{error}; correct the flag") from error
    if found.threshold is None:
        raise UserError(
            f"{options.workdir}: expected a run with a threshold of events, found none "
            f"({found.reason}); give --threshold=NUMBER to begin with, --normal_store with normal "
            "footage, or --adaptation of gvvad calibrate"
        )
    return found


def _validation_members(model: "Model") -> list[Any]:
    """Returns the videos of the run's stores, those that are still there."""
    from gvvad_jax.splits import members_of
    from gvvad_jax.store.reader import Store

    members = []
    for path in filter(None, model.config.store.split(",")):
        if (pathlib.Path(path) / "manifest.json").exists():
            members += members_of(Store(path), None)
    return members


class _Bank(msgspec.Struct):
    """What is used of a store's bank.json."""

    encoder: str
    prompts: list[dict[str, str]]
    sha256: str = ""


def _classes(model: "Model", features: RunFeatures, workdir: str) -> Classes | None:
    """Returns the classes of the run's prompt bank, or of the usual one where that is gone."""
    encoder = features.recipe.text_encoder
    if encoder is None or features.recipe.captioner is None:
        return None
    stores = [path for path in model.config.store.split(",") if path]
    for folder in map(pathlib.Path, (model.folder or workdir, *stores)):
        if not (folder / "bank.npy").exists() or not (folder / "bank.json").exists():
            continue
        try:
            bank = msgspec.convert(read_json(folder / "bank.json"), _Bank)
            vectors_KxE = load_array(folder / "bank.npy", "a prompt bank")
            names = [prompt["class"] for prompt in bank.prompts]
            whole = not bank.sha256 or digests.of_file(folder / "bank.npy") == bank.sha256
        except (ValueError, KeyError, OSError):
            continue
        if whole and bank.encoder == encoder.id and vectors_KxE.shape == (len(names), encoder.dim):
            return Classes(names, _unit(vectors_KxE))
    from generation.encoders import banks

    print(
        f"{workdir}: the prompt bank of the run's store isn't there; classes are those of the "
        f"bank {_USUAL_BANK}",
        file=sys.stderr,
    )
    prompts = banks.prompt_bank(_USUAL_BANK, features.recipe.captioner.vocabulary)
    vectors_KxE = encoder([prompt.phrase for prompt in prompts])
    return Classes([prompt.cls for prompt in prompts], _unit(vectors_KxE))


def _unit(vectors_KxE: np.ndarray) -> np.ndarray:
    vectors_KxE = np.asarray(vectors_KxE, np.float32)
    return vectors_KxE / np.maximum(np.linalg.norm(vectors_KxE, axis=1, keepdims=True), 1e-12)
