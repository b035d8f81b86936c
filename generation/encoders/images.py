"""Encoders of published vision models: frames of a video to embeddings of their crops.

Frames are resized on the CPU, where they are decoded. Crops are cut and normalised on the model's
device, so that a frame is transferred once however many crops it has. preprocessing.py says what is
done to a frame, and families.py which models there are.
"""

import abc
import functools
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from generation.encoders import preprocessing, pretrained
from generation.encoders.families import FAMILIES
from generation.encoders.options import POOLINGS, VisualOptions
from generation.encoders.protocols import SnippetStream
from gvvad_jax.command import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from generation.media.reading import Picture

# By name: number of views of a frame, and their order in the store.
CROPS = {
    "centre": (1, "centre"),
    "whole": (1, "whole"),
    "ten": (
        10,
        "top left, top right, bottom left, bottom right, centre, then these five of the mirrored "
        "frame",
    ),
}
# Short side of the frame over side of the crop for ten crops: 256 for 224.
_TEN_CROP_RATIO = 256 / 224


class VisionModel(abc.ABC):
    """A published vision model, and what its crops are; see ImageEncoder and WindowEncoder.

    The constructor reads the checkpoint's configuration and enough of its weights to identify
    them; `load`, or the first use, reads all weights.

    Args:
      options: the fields of VisualOptions for a published model. The crops are "centre" (the short
        side is resized and the middle square cut out), "ten" (torchvision's TenCrop) or "whole"
        (the frame is squeezed into a square); by default those of the checkpoint's own processor.

    Raises:
      UserError: the checkpoint does not exist or is of another model, or an option is invalid.

    Attributes:
      id, dim, crops, manifest: see VisualEncoder.
      device: device of the model.
      dtype: number format of the computation. It is not part of the manifest: rows computed in
        different formats differ only by rounding, so their stores may be combined.
      size: side in pixels of the model's input.
    """

    @abc.abstractmethod
    def encode_snippets(self, snippets: "Sequence[Sequence[torch.Tensor]]") -> np.ndarray:
        """Computes the features of snippets of one video; see ImageEncoder and WindowEncoder."""

    def __init__(self, options: VisualOptions):
        self._family = FAMILIES[options.encoder]
        crops = options.crops or self._family.crops
        _require("--pooling", options.pooling, POOLINGS)
        _require("--crops", crops, CROPS)
        self._family.require_libraries()
        self.device = pretrained.choose_device(options.device)
        self.dtype = options.compute_dtype or pretrained.usual_dtype(self.device)
        _require("--compute_dtype", self.dtype, pretrained.DTYPES)
        self._weights = options.weights or self._family.weights
        self._read_configuration(self._weights)
        self._crops, self._pooling = crops, options.pooling
        count, order = CROPS[crops]
        self._batch_size = options.crops_at_once
        self.crops: dict[str, Any] = {"count": count, "order": order}
        self._choose_short_side(crops, options.resize)
        name = pretrained.name_of(self._weights)
        self.id = f"{self._family.kind}-{name}"
        self.manifest = {
            "id": self.id,
            "weights": name,
            "digest": self._digest,
            "pooling": options.pooling,
            "normalised": False,
            "standardise": False,
        }
        if self._family.kind != "clip":
            self.manifest["output"] = self._family.output

    def _read_configuration(self, weights: str) -> None:
        import transformers

        family = self._family
        model_class = getattr(transformers, family.model)
        with pretrained.reading(weights, family.title, "--weights"):
            content = transformers.PreTrainedConfig.get_config_dict(weights)[0]
            # timm's files name no type.
            of_timm = "timm_wrapper" if "pretrained_cfg" in content else None
            kind = content.get("model_type") or of_timm
            if kind not in family.model_types:
                raise UserError(
                    f"{weights}: expected {family.title}, found one of {kind}; give another"
                )
            config = model_class.config_class.from_pretrained(weights).to_dict()
            self._processing = preprocessing.read(family.kind, weights, content)
            self._digest = pretrained.digest(weights, pretrained.IMAGES)
        self.dim, self.size = family.dim(config), self._processing.size
        if family.fixed and config.get("image_size", self.size) != self.size:
            raise UserError(
                f"{weights}: expected an image processor that crops {config['image_size']} pixels, "
                f"the model's input, found {self.size}; give another checkpoint"
            )
        self._config = config

    def _choose_short_side(self, crops: str, resize: int | None) -> None:
        """Sets the short side to which frames are resized before crops are cut."""
        self._short_side = self._processing.short_side or self.size
        if crops == "ten":
            self._short_side = resize or round(self.size * _TEN_CROP_RATIO)
            self.crops["resize"] = self._short_side
        elif resize is not None:
            raise UserError(
                f"--resize: expected none for --crops={crops}, found {resize}; leave it out or "
                "give --crops=ten"
            )
        if self._short_side < self.size:
            raise UserError(
                f"--resize: expected a short side of at least {self.size}, the model's input, "
                f"found {self._short_side}; give a larger one"
            )

    def load(self) -> None:
        """Reads the weights, once; raises UserError if they are not of such a model."""
        _ = self.model

    @functools.cached_property
    def model(self) -> "PreTrainedModel":
        """The model, with its weights."""
        import transformers

        with pretrained.reading(self._weights, self._family.title, "--weights"):
            return pretrained.load(
                getattr(transformers, self._family.model),
                self._weights,
                dtype=pretrained.torch_dtype(self.dtype),
                device=self.device,
                attn_implementation="sdpa",
            )

    def frames_of(self, start: int, end: int) -> list[int]:
        """Returns which frames of the snippet [start, end) are used, ascending."""
        return list(range(start, end))

    def begin(self, spans_Tx2: np.ndarray, num_frames: int, rate: float) -> SnippetStream:
        """Begins a video; see VisualEncoder.begin."""
        del num_frames, rate
        return SnippetStream(spans_Tx2, self.frames_of, self.prepare, self.encode_snippets)

    def prepare(self, picture: "Picture") -> "torch.Tensor":
        """Reduces a frame to what its crops need: grey levels [3, h, w] on the CPU."""
        frame_HxWx3 = picture.rgb()
        if self._crops == "whole":
            return self._processing.resize(frame_HxWx3, self.size, self.size)
        if self._crops == "centre":
            return self._processing.centre(frame_HxWx3, self._short_side)
        height, width = preprocessing.resized_size(*frame_HxWx3.shape[:2], self._short_side)
        return self._processing.resize(frame_HxWx3, height, width)

    def _forward(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Returns the model's rows of a batch."""
        return getattr(self.model(**self._family.arguments(pixels)), self._family.field)

    def _finite(self, rows: np.ndarray) -> np.ndarray:
        if not np.isfinite(rows).all():
            raise UserError(
                f"--compute_dtype={self.dtype}: expected finite features, found NaN or infinity; "
                f"{self._weights} overflows in it; give bfloat16 or float32"
            )
        return rows

    def _batches(self, frames: "Sequence[torch.Tensor]", ten: bool) -> "Iterator[torch.Tensor]":
        """Yields normalised crops [f, N, 3, size, size]; each batch overwrites the last one."""
        import torch

        at_once = max(1, self._batch_size // (CROPS["ten"][0] if ten else 1))
        mean, scale = (
            torch.tensor(values, device=self.device)[:, None, None]
            for values in (self._processing.mean, self._processing.scale)
        )
        # One buffer for all batches: allocating this much memory costs more than filling it.
        shape = (min(at_once, len(frames)), 10 if ten else 1, 3, self.size, self.size)
        buffer = torch.empty(shape, device=self.device, dtype=self.model.dtype)
        for start in range(0, len(frames), at_once):
            batch = torch.stack(list(frames[start : start + at_once]))
            if self.device.startswith("cuda"):
                batch = batch.pin_memory()
            pixels_Fx3xHxW = batch.to(self.device, non_blocking=True).float()
            pixels_Fx3xHxW.sub_(mean).mul_(scale)
            crops = ten_crops(pixels_Fx3xHxW, self.size) if ten else [pixels_Fx3xHxW]
            for number, crop_Fx3xSxS in enumerate(crops):
                buffer[: len(batch), number].copy_(crop_Fx3xSxS)
            yield buffer[: len(batch)]


class ImageEncoder(VisionModel):
    """Embeds frames one by one; a snippet's row is their mean or the middle one, not normalised."""

    def frames_of(self, start: int, end: int) -> list[int]:
        """Returns which frames of the snippet [start, end) are embedded, ascending."""
        if self._pooling == "middle":
            return [(start + end - 1) // 2]
        return list(range(start, end))

    def prepare_whole(self, picture: "Picture") -> "torch.Tensor":
        """Reduces a frame to what `consistency` needs: the whole frame in the input size."""
        return self._processing.resize(picture.rgb(), self.size, self.size)

    def encode_snippets(self, snippets: "Sequence[Sequence[torch.Tensor]]") -> np.ndarray:
        """Computes the features of snippets of one video.

        Args:
          snippets: the prepared frames of each snippet that `frames_of` named. A frame that
            several snippets share is embedded once.

        Returns:
          float32 [len(snippets), crops, dim].
        """
        distinct = {id(frame): frame for frames in snippets for frame in frames}
        place = {key: number for number, key in enumerate(distinct)}
        rows_FxNxD = self._embed(list(distinct.values()), self._crops == "ten")
        return np.stack(
            [rows_FxNxD[[place[id(frame)] for frame in frames]].mean(axis=0) for frames in snippets]
        )

    def consistency(self, frames: "Sequence[torch.Tensor]") -> float:
        """Computes VBench's temporal consistency (Huang et al., 2024).

        It is the mean over t >= 1 of (cos(f_t, f_t-1) + cos(f_t, f_0)) / 2, where f_t embeds the
        whole frame t.

        Args:
          frames: results of `prepare_whole`, in temporal order.

        Returns:
          At most 1; 1 for a single frame.
        """
        embedded_FxD = self._embed(frames, ten=False)[:, 0].astype(np.float64)
        embedded_FxD /= np.linalg.norm(embedded_FxD, axis=1, keepdims=True)
        if len(embedded_FxD) < 2:
            return 1.0
        to_last = (embedded_FxD[1:] * embedded_FxD[:-1]).sum(axis=1)
        return float(np.mean((to_last + embedded_FxD[1:] @ embedded_FxD[0]) / 2))

    def _embed(self, frames: "Sequence[torch.Tensor]", ten: bool) -> np.ndarray:
        """Returns float32 [F, crops, dim] of prepared frames of one size."""
        import torch

        with torch.inference_mode():
            rows = [
                self._forward(crops_FxNx3xSxS.flatten(0, 1)).unflatten(0, crops_FxNx3xSxS.shape[:2])
                for crops_FxNx3xSxS in self._batches(frames, ten)
            ]
            # Transferred only now, so that a GPU never waits for a transfer between batches.
            rows_FxNxD = torch.cat(rows).float().cpu().numpy()
        return self._finite(rows_FxNxD)


def ten_crops(pixels_xHxW: "torch.Tensor", size: int) -> "list[torch.Tensor]":
    """Returns the crops of torchvision's TenCrop as views, in the order of CROPS["ten"].

    The last five are those of the mirrored frame, so the sixth crop is the second one mirrored.

    Args:
      pixels_xHxW: a tensor with any leading axes.
      size: side of the crops in pixels.
    """
    height, width = pixels_xHxW.shape[-2:]
    # Halves are rounded to even, as in torchvision.
    middle = round((height - size) / 2), round((width - size) / 2)
    bottom, right = height - size, width - size
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), middle)
    return [
        pixels[..., top : top + size, left : left + size]
        for pixels in (pixels_xHxW, pixels_xHxW.flip(-1))
        for top, left in corners
    ]


def _require(flag: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise UserError(
            f"{flag}: expected one of {', '.join(choices)}, found {value!r}; correct the flag"
        )
