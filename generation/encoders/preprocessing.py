"""What a checkpoint's own processor does to a frame, with PyTorch alone.

The classes of transformers that resize with torchvision can't be used where torchvision is not
installed, so their numbers are read from the checkpoint and their steps repeated here. Resized
frames are the same to the last grey level, and normalised ones to 1e-5. A frame may also be cut
into other crops than the processor's own; see `images.CROPS`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gvvad_jax.command import UserError

if TYPE_CHECKING:
    import torch

# PIL's numbers of its filters, which configurations have, or their names in timm.
_FILTERS = {2: "bilinear", 3: "bicubic", "bilinear": "bilinear", "bicubic": "bicubic"}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_GREY_LEVELS = 255
# V-JEPA 2's processor overrides the size that it was saved with by this ratio to its crop.
_VJEPA2_RATIO = 256 / 224


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How frames become a model's input.

    Attributes:
      size: side in pixels of the model's input.
      short_side: to which frames are resized before the middle is cut out; None if the processor
        squeezes the whole frame into a square.
      filter: bilinear or bicubic.
      rounded: whether resized frames are rounded to grey levels, as most processors do.
      by_pil: whether PIL resizes, whose last grey level differs from PyTorch's.
      mean, scale: of the three channels: (grey level - mean) * scale is the model's input.
    """

    size: int
    short_side: int | None
    filter: str
    rounded: bool = True
    by_pil: bool = False
    mean: Sequence[float]
    scale: Sequence[float]

    def resize(self, frame_HxWx3: np.ndarray, height: int, width: int) -> "torch.Tensor":
        """Resizes a frame.

        Returns:
          Grey levels [3, height, width] on the CPU, uint8 or, if not `rounded`, float32.
        """
        import torch

        unchanged = frame_HxWx3.shape[:2] == (height, width)
        if self.by_pil and not unchanged:
            import PIL.Image

            resampling = PIL.Image.Resampling[self.filter.upper()]
            image = PIL.Image.fromarray(frame_HxWx3).resize((width, height), resampling)
            frame_HxWx3, unchanged = np.array(image), True
        frame_1x3xHxW = torch.from_numpy(frame_HxWx3).permute(2, 0, 1)[None]
        if not self.rounded:
            frame_1x3xHxW = frame_1x3xHxW.float()
        if not unchanged:
            frame_1x3xHxW = torch.nn.functional.interpolate(
                frame_1x3xHxW, size=(height, width), mode=self.filter, antialias=True
            )
        return frame_1x3xHxW[0].contiguous()

    def centre(self, frame_HxWx3: np.ndarray, short_side: int) -> "torch.Tensor":
        """Resizes a frame to this short side and cuts out the middle square of the input size."""
        height, width = resized_size(*frame_HxWx3.shape[:2], short_side)
        resized_3xHxW = self.resize(frame_HxWx3, height, width)
        # timm rounds halves to even, like torchvision; transformers rounds down.
        round_half = round if self.by_pil else int
        top, left = (round_half((side - self.size) / 2) for side in (height, width))
        return resized_3xHxW[:, top : top + self.size, left : left + self.size].contiguous()


def resized_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Returns (height, width) with this short side; the long side is rounded down."""
    short, long = min(height, width), max(height, width)
    new_long = int(short_side * long / short)
    return (short_side, new_long) if height <= width else (new_long, short_side)


def read(kind: str, weights: str, model_config: Mapping[str, Any]) -> Preprocessing:
    """Reads a checkpoint's preprocessing; call it inside `pretrained.reading`.

    Args:
      kind: clip, siglip2, pe-core, dinov3 or vjepa2.
      weights: the checkpoint's name or folder.
      model_config: the content of its config.json.

    Raises:
      UserError: its processor does something else than resizing, cutting and normalising.
    """
    if kind == "pe-core":
        return _of_timm(weights, model_config)
    settings = _processor_settings(kind, weights)
    size, crop = settings.get("size") or {}, _square(settings.get("crop_size"))
    if kind == "vjepa2" and crop:
        size = {"shortest_edge": int(crop * _VJEPA2_RATIO)}
    short_side = size.get("shortest_edge")
    side = crop if short_side else _square(size)
    steps = ("do_resize", "do_rescale", "do_normalize", *(["do_center_crop"] if short_side else []))
    chosen_filter = _FILTERS.get(settings.get("resample"))
    if side is None or chosen_filter is None or not all(settings.get(s, True) for s in steps):
        raise UserError(
            f"{weights}: expected an image processor that resizes, bicubic or bilinear, to a "
            f"square or to a short side with a square crop, and normalises, found size {size}, "
            f"crop_size {settings.get('crop_size')}, resample {settings.get('resample')}; give "
            "another checkpoint"
        )
    factor = settings.get("rescale_factor") or 1 / _GREY_LEVELS
    return Preprocessing(
        size=side,
        short_side=short_side,
        filter=chosen_filter,
        rounded=kind != "dinov3",
        mean=[mean / factor for mean in settings["image_mean"]],
        scale=[factor / std for std in settings["image_std"]],
    )


def _processor_settings(kind: str, weights: str) -> dict[str, Any]:
    """Returns what a processor's class makes of a checkpoint's files, defaults included."""
    import transformers

    if kind in ("clip", "siglip2"):
        # These resize with PIL, but have the same numbers as the classes with torchvision.
        name = "CLIPImageProcessorPil" if kind == "clip" else "SiglipImageProcessorPil"
        return getattr(transformers, name).from_pretrained(weights).to_dict()
    defaults = IMAGENET | {"resample": 2}
    if kind == "vjepa2":
        from transformers.video_processing_utils import VideoProcessorMixin

        return defaults | VideoProcessorMixin.get_video_processor_dict(weights)[0]
    from transformers.image_processing_base import ImageProcessingMixin

    return defaults | ImageProcessingMixin.get_image_processor_dict(weights)[0]


def _square(size: Any) -> int | None:
    """Returns the side of a square that a configuration describes; None if it is none."""
    if isinstance(size, int):
        return size
    if not isinstance(size, Mapping) or size.get("height") != size.get("width"):
        return None
    return size.get("height")


def _of_timm(weights: str, model_config: Mapping[str, Any]) -> Preprocessing:
    """Reads the preprocessing from a timm checkpoint's config.json, as timm.data does."""
    settings = model_config.get("pretrained_cfg") or {}
    sides = settings.get("input_size", ())[1:]
    chosen_filter = _FILTERS.get(settings.get("interpolation"))
    if len(set(sides)) != 1 or chosen_filter is None or settings.get("crop_mode") != "center":
        raise UserError(
            f"{weights}: expected a pretrained_cfg of a square input_size, bicubic or bilinear, "
            f"with crop_mode center, found {settings}; give another checkpoint"
        )
    return Preprocessing(
        size=sides[0],
        short_side=int(sides[0] / settings.get("crop_pct", 1.0)),
        filter=chosen_filter,
        by_pil=True,
        mean=[mean * _GREY_LEVELS for mean in settings["mean"]],
        scale=[1 / _GREY_LEVELS / std for std in settings["std"]],
    )
