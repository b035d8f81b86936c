"""CLIP's vision tower: frames of a video to image embeddings of their crops.

Frames are resized in uint8 on the CPU, where they are decoded. Crops are cut and normalised on the
model's device, so that a frame is transferred once however many crops it has. Resizing uses
PyTorch, within two grey levels of the checkpoint's own processor, which uses PIL.
"""

import functools
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from generation.encoders import pretrained
from generation.encoders.options import POOLINGS, VisualOptions
from generation.encoders.protocols import SnippetStream
from gvvad_jax.command import UserError

if TYPE_CHECKING:
    import torch
    from transformers import CLIPVisionModelWithProjection

    from generation.media.reading import Picture

DEFAULT_WEIGHTS = "openai/clip-vit-large-patch14"
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


class ClipEncoder:
    """Computes CLIP's `image_embeds` of the crops of a snippet's frames, not normalised.

    The constructor reads the checkpoint's configuration and enough of its weights to identify
    them; `load`, or the first use, reads all weights.

    Args:
      options: the fields of VisualOptions for CLIP. The crops are "centre" (the short side is
        resized and the middle square cut out, like the checkpoint's processor), "ten"
        (torchvision's TenCrop) or "whole" (the frame is squeezed into a square).

    Raises:
      UserError: the checkpoint does not exist or is of another model, or an option is invalid.

    Attributes:
      id, dim, crops, manifest: see VisualEncoder.
      device: device of the model.
      dtype: number format of the computation. It is not part of the manifest: rows computed in
        different formats differ only by rounding, so their stores may be combined.
      size: side in pixels of the model's input.
    """

    def __init__(self, options: VisualOptions):
        crops = options.crops or "centre"
        _require("--pooling", options.pooling, POOLINGS)
        _require("--crops", crops, CROPS)
        self.device = pretrained.choose_device(options.device)
        self.dtype = options.compute_dtype or pretrained.usual_dtype(self.device)
        _require("--compute_dtype", self.dtype, pretrained.DTYPES)
        self._weights = options.weights or DEFAULT_WEIGHTS
        self._read_configuration(self._weights)
        self._crops, self._pooling = crops, options.pooling
        count, order = CROPS[crops]
        self._batch_size = options.crops_at_once
        self._ten_crop_batch_size = max(1, options.crops_at_once // CROPS["ten"][0])
        self.crops: dict[str, Any] = {"count": count, "order": order}
        if crops == "ten":
            self._short_side = options.resize or round(self.size * _TEN_CROP_RATIO)
            self.crops["resize"] = self._short_side
        elif options.resize is not None:
            raise UserError(
                f"--resize: expected none for --crops={crops}, found {options.resize}; leave it "
                "out or give --crops=ten"
            )
        if self._short_side < self.size:
            raise UserError(
                f"--resize: expected a short side of at least {self.size}, the model's input, "
                f"found {self._short_side}; give a larger one"
            )
        name = pretrained.name_of(self._weights)
        self.id = f"clip-{name}"
        self.manifest = {
            "id": self.id,
            "weights": name,
            "digest": self._digest,
            "pooling": options.pooling,
            "normalised": False,
            "standardise": False,
        }

    def _read_configuration(self, weights: str) -> None:
        from transformers import CLIPImageProcessorPil, CLIPVisionConfig

        with pretrained.reading(weights, "a CLIP checkpoint"):
            kind = CLIPVisionConfig.get_config_dict(weights)[0].get("model_type")
            if kind not in ("clip", "clip_vision_model"):
                raise UserError(
                    f"{weights}: expected a CLIP checkpoint, found one of {kind}; give another"
                )
            config = CLIPVisionConfig.from_pretrained(weights)
            processor = CLIPImageProcessorPil.from_pretrained(weights)
            self._digest = pretrained.digest(weights, pretrained.IMAGES)
        self.dim, self.size = config.projection_dim, config.image_size
        self._short_side = processor.size.shortest_edge
        crop = (processor.crop_size.height, processor.crop_size.width)
        # PIL's numbers of its filters.
        self._mode = {2: "bilinear", 3: "bicubic"}.get(int(processor.resample))
        if self._short_side is None or crop != (self.size, self.size) or self._mode is None:
            raise UserError(
                f"{weights}: expected an image processor that resizes the short side, bicubic or "
                f"bilinear, and crops {self.size} pixels, found size {processor.size}, crop_size "
                f"{processor.crop_size}, resample {processor.resample}; give another checkpoint"
            )
        scale = processor.rescale_factor
        self._mean = [mean / scale for mean in processor.image_mean]
        self._scale = [scale / std for std in processor.image_std]

    def load(self) -> None:
        """Reads the weights, once; raises UserError if they are not of a CLIP vision tower."""
        _ = self.model

    @functools.cached_property
    def model(self) -> "CLIPVisionModelWithProjection":
        """The model, with its weights."""
        from transformers import CLIPVisionModelWithProjection

        with pretrained.reading(self._weights, "a CLIP checkpoint"):
            return pretrained.load(
                CLIPVisionModelWithProjection,
                self._weights,
                dtype=pretrained.torch_dtype(self.dtype),
                device=self.device,
                attn_implementation="sdpa",
            )

    def frames_of(self, start: int, end: int) -> list[int]:
        """Returns which frames of the snippet [start, end) are embedded, ascending."""
        if self._pooling == "middle":
            return [(start + end - 1) // 2]
        return list(range(start, end))

    def begin(self, spans_Tx2: np.ndarray, num_frames: int, rate: float) -> SnippetStream:
        """Begins a video; see VisualEncoder.begin."""
        del num_frames, rate
        return SnippetStream(spans_Tx2, self.frames_of, self.prepare, self.encode_snippets)

    def prepare(self, picture: "Picture") -> "torch.Tensor":
        """Reduces a frame to what its crops need: uint8 [3, h, w] on the CPU."""
        if self._crops == "whole":
            return self.prepare_whole(picture)
        frame_HxWx3 = picture.rgb()
        height, width = resized_size(*frame_HxWx3.shape[:2], self._short_side)
        resized_3xHxW = self._resize(frame_HxWx3, height, width)
        if self._crops == "ten":
            return resized_3xHxW
        # Rounded like the processor, which differs from torchvision.
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return resized_3xHxW[:, top : top + self.size, left : left + self.size].contiguous()

    def prepare_whole(self, picture: "Picture") -> "torch.Tensor":
        """Reduces a frame to what `consistency` needs: the whole frame in the input size."""
        return self._resize(picture.rgb(), self.size, self.size)

    def _resize(self, frame_HxWx3: np.ndarray, height: int, width: int) -> "torch.Tensor":
        import torch

        frame_1x3xHxW = torch.from_numpy(frame_HxWx3).permute(2, 0, 1)[None]
        if frame_HxWx3.shape[:2] == (height, width):
            return frame_1x3xHxW[0].contiguous()
        return torch.nn.functional.interpolate(
            frame_1x3xHxW, size=(height, width), mode=self._mode, antialias=True
        )[0].contiguous()

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
                self.model(pixel_values=crops_FxNx3xSxS.flatten(0, 1)).image_embeds.unflatten(
                    0, crops_FxNx3xSxS.shape[:2]
                )
                for crops_FxNx3xSxS in self._batches(frames, ten)
            ]
            # Transferred only now, so that a GPU never waits for a transfer between batches.
            rows_FxNxD = torch.cat(rows).float().cpu().numpy()
        if not np.isfinite(rows_FxNxD).all():
            raise UserError(
                f"--compute_dtype={self.dtype}: expected finite features, found NaN or infinity; "
                f"{self._weights} overflows in it; give bfloat16 or float32"
            )
        return rows_FxNxD

    def _batches(self, frames: "Sequence[torch.Tensor]", ten: bool) -> "Iterator[torch.Tensor]":
        """Yields normalised crops [f, N, 3, size, size]; each batch overwrites the last one."""
        import torch

        at_once = self._ten_crop_batch_size if ten else self._batch_size
        mean, scale = (
            torch.tensor(values, device=self.device)[:, None, None]
            for values in (self._mean, self._scale)
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


def resized_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Returns (height, width) with this short side; the long side is rounded down."""
    short, long = min(height, width), max(height, width)
    new_long = int(short_side * long / short)
    return (short_side, new_long) if height <= width else (new_long, short_side)


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
