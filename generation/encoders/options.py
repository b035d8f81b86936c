"""Flags of the visual encoders, the captioners and the text encoders."""

import dataclasses

from generation.chat.options import ChatOptions
from generation.encoders.banks import BANKS
from generation.encoders.families import FAMILIES
from generation.ranks import DEVICE, WORKERS
from gvvad_jax.command import check, group
from gvvad_jax.store.format import STAND_IN

VISUAL_ENCODERS = ("motion", *FAMILIES)
CAPTIONERS = ("rules", "git", "blip", "chat", STAND_IN, "none")
TEXT_ENCODERS = ("hashed", "simcse", "clip-l14", "transformer")
POOLINGS = ("mean", "middle")

VISUAL = group("Visual encoder")
TEXT = group("Captions and text")
COMPUTE_DTYPE: str = WORKERS(
    "",
    "Number format of the models: float32, float16 or bfloat16 (default: by the device).",
    free=True,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualOptions:
    """The visual encoder, see `visual.make_encoder`."""

    encoder: str = VISUAL("motion", "Visual encoder.", choices=VISUAL_ENCODERS)
    weights: str = VISUAL(
        "",
        "Checkpoint of --encoder: a Hub name or a folder (default: the published one, see "
        "docs/encoders.md); motion has none.",
    )
    pooling: str = VISUAL(
        "mean", "Pooling of a snippet's frames: their mean or the middle one.", choices=POOLINGS
    )
    crops: str = VISUAL(
        "",
        "Crops of a frame: centre, ten or whole (default: as the model's own processor; whole for "
        "motion).",
    )
    resize: int | None = VISUAL(
        None,
        "Short side in pixels to which frames are resized, with --crops=ten (default: 256 for a "
        "model of 224).",
        low=1,
    )
    crops_at_once: int = VISUAL(
        64, "Crops that go through the visual encoder in one batch.", low=1, free=True
    )
    compute_dtype: str = COMPUTE_DTYPE
    device: str = DEVICE

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionOptions(ChatOptions):
    """The captioner, see `captions.make_captioner`."""

    captioner: str = TEXT(
        "rules",
        "Captioner of the text rows; rules needs no weights, description takes the text that a "
        "video was generated from.",
        choices=CAPTIONERS,
    )
    caption_weights: str = TEXT(
        "",
        "Checkpoint of the captioner: a Hub name or a folder, with --captioner=git or blip "
        "(default: a published one).",
    )
    compute_dtype: str = COMPUTE_DTYPE
    device: str = DEVICE


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextOptions:
    """The text encoder, see `text.make_text_encoder`, and the prompt bank."""

    text_encoder: str = TEXT(
        "hashed", "Text encoder of captions and prompts.", choices=TEXT_ENCODERS
    )
    text_weights: str = TEXT(
        "",
        "Checkpoint of the text encoder: a Hub name or a folder (default: a published one; "
        "--text_encoder=transformer has none).",
    )
    bank: str = TEXT("ucf_crime", "Bank of anomaly prompts.", choices=BANKS)
    device: str = DEVICE

    def __post_init__(self):
        check(self)
