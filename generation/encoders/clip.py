"""CLIP's vision tower: frames of a video -> image embeddings of their crops.

Frames are resized on the CPU, in uint8, where they are decoded; crops are cut and normalised on the
model's device, so that a frame travels once, whatever the number of its crops. The arithmetic of
resizing is PyTorch's, within two grey levels of the checkpoint's own (PIL) processor.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from generation.encoders import pretrained
from gvvad_jax.command import UserError

DEFAULT_WEIGHTS = "openai/clip-vit-large-patch14"
POOLINGS = ("middle", "mean")
# Name -> how many views of a frame, and their order as the store keeps it.
CROPS = {
    "centre": (1, "centre"),
    "whole": (1, "whole"),
    "ten": (
        10,
        "top left, top right, bottom left, bottom right, centre, then these five of the mirrored "
        "frame",
    ),
}
# Short side over crop where ten crops are cut: 256 for 224.
_TEN_CROP_RATIO = 256 / 224


class ClipEncoder:
    """`image_embeds` of crops of a snippet's frames, not normalised.

    Making one reads the checkpoint's configuration, and of its weights what tells them from others;
    `load`, or the first use, all of them.

    Args:
      weights: a checkpoint's name or folder, as transformers' from_pretrained takes it.
      pooling: the snippet's "middle" frame, or the "mean" over its frames.
      crops: "centre" (short side resized, middle square; as the checkpoint's processor does it),
        "ten" (torchvision's TenCrop) or "whole" (the frame squeezed into a square).
      resize: for ten crops, the frame's short side; 256 for crops of 224 unless told.
      dtype: that the model computes in; float16 on a GPU and float32 elsewhere unless told.
      attn_implementation: as transformers takes it.
      batch_size: crops through the model at once.
      device: torch's name of it; a GPU where there is one unless told.

    Raises:
      UserError: no such checkpoint or one of another model, or an argument out of its choices.

    Attributes:
      id, dim, crops, manifest: for the store.
      device: of the model.
      dtype: that the model computes in. Stores whose rows were computed in different ones agree:
        the rows differ by rounding alone.
      size: pixels of a side of the model's input.
    """

    whole_video = False

    def __init__(
        self,
        weights: str = DEFAULT_WEIGHTS,
        *,
        pooling: str = "middle",
        crops: str = "centre",
        resize: int | None = None,
        dtype: str | None = None,
        attn_implementation: str = "sdpa",
        batch_size: int = 64,
        device: str | None = None,
    ):
        _require("--pooling", pooling, POOLINGS)
        _require("--crops", crops, CROPS)
        self.device = pretrained.choose_device(device)
        self.dtype = dtype or pretrained.usual_dtype(self.device)
        _require("--compute_dtype", self.dtype, pretrained.DTYPES)
        self._weights, self._attention = weights, attn_implementation
        self._read_configuration(weights)
        self._crops, self._pooling = crops, pooling
        count, order = CROPS[crops]
        self._frames_at_once = max(1, batch_size // count)
        self._ones_at_once = batch_size
        self.crops: dict[str, Any] = {"count": count, "order": order}
        if crops == "ten":
            self._short_side = resize or round(self.size * _TEN_CROP_RATIO)
            self.crops["resize"] = self._short_side
        elif resize is not None:
            raise UserError(f"--resize: expected none for --crops={crops}, found {resize}")
        if self._short_side < self.size:
            raise UserError(
                f"--resize: expected a short side of at least {self.size}, the model's input, "
                f"found {self._short_side}; give a larger one"
            )
        name = pretrained.name_of(weights)
        self.id = f"clip-{name}"
        self.manifest = {
            "id": self.id,
            "weights": name,
            "digest": self._digest,
            "pooling": pooling,
            "normalised": False,
            "standardise": False,
        }

    def _read_configuration(self, weights: str) -> None:
        from transformers import CLIPImageProcessorPil, CLIPVisionConfig

        with pretrained.reading(weights, "a CLIP checkpoint"):
            kind = CLIPVisionConfig.get_config_dict(weights)[0].get("model_type")
            if kind not in ("clip", "clip_vision_model"):
                raise UserError(f"{weights}: expected a CLIP checkpoint, found {kind}'s")
            config = CLIPVisionConfig.from_pretrained(weights)
            processor = CLIPImageProcessorPil.from_pretrained(weights)
            self._digest = pretrained.digest(weights)
        self.dim, self.size = config.projection_dim, config.image_size
        self._short_side = processor.size.shortest_edge
        crop = (processor.crop_size.height, processor.crop_size.width)
        # PIL's numbers.
        self._mode = {2: "bilinear", 3: "bicubic"}.get(int(processor.resample))
        if self._short_side is None or crop != (self.size, self.size) or self._mode is None:
            raise UserError(
                f"{weights}: expected an image processor that resizes the short side, bicubic or "
                f"bilinear, and crops {self.size} pixels, found size {processor.size}, crop_size "
                f"{processor.crop_size}, resample {processor.resample}"
            )
        scale = processor.rescale_factor
        self._mean = [mean / scale for mean in processor.image_mean]
        self._scale = [scale / std for std in processor.image_std]

    def load(self) -> None:
        """Reads the weights, once. Raises UserError where they aren't a CLIP vision tower's."""
        _ = self.model

    @functools.cached_property
    def model(self) -> Any:
        """The CLIPVisionModelWithProjection."""
        from transformers import CLIPVisionModelWithProjection

        with pretrained.reading(self._weights, "a CLIP checkpoint"):
            return pretrained.load(
                CLIPVisionModelWithProjection,
                self._weights,
                dtype=pretrained.choose_dtype(self.dtype),
                device=self.device,
                attn_implementation=self._attention,
            )

    def frames_of(self, start: int, end: int) -> list[int]:
        """Which frames of the snippet [start, end) are embedded, ascending."""
        if self._pooling == "middle":
            return [(start + end - 1) // 2]
        return list(range(start, end))

    def prepare(self, frame_HxWx3: np.ndarray) -> Any:
        """What is kept of a frame for its crops: a uint8 tensor [3, h, w], on the CPU.

        Args:
          frame_HxWx3: RGB uint8.
        """
        if self._crops == "whole":
            return self.prepare_whole(frame_HxWx3)
        height, width = resized_size(*frame_HxWx3.shape[:2], self._short_side)
        resized_3xHxW = self._resize(frame_HxWx3, height, width)
        if self._crops == "ten":
            return resized_3xHxW
        # The processor's rounding, which isn't torchvision's.
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return resized_3xHxW[:, top : top + self.size, left : left + self.size].contiguous()

    def prepare_whole(self, frame_HxWx3: np.ndarray) -> Any:
        """What is kept of a frame for `consistency`: all of it in the model's input size."""
        return self._resize(frame_HxWx3, self.size, self.size)

    def _resize(self, frame_HxWx3: np.ndarray, height: int, width: int) -> Any:
        import torch

        frame_1x3xHxW = torch.from_numpy(frame_HxWx3).permute(2, 0, 1)[None]
        if frame_HxWx3.shape[:2] == (height, width):
            return frame_1x3xHxW[0].contiguous()
        return torch.nn.functional.interpolate(
            frame_1x3xHxW, size=(height, width), mode=self._mode, antialias=True
        )[0].contiguous()

    def encode_snippets(self, snippets: Sequence[Sequence[Any]]) -> np.ndarray:
        """Features of snippets of one video.

        Args:
          snippets: for each the `prepare`d frames that `frames_of` asked for. A frame that several
            share is embedded once.

        Returns:
          float32 [len(snippets), crops, dim].
        """
        distinct = {id(frame): frame for frames in snippets for frame in frames}
        place = {key: number for number, key in enumerate(distinct)}
        rows_FxNxD = self._embed(list(distinct.values()), self._crops == "ten")
        return np.stack(
            [rows_FxNxD[[place[id(frame)] for frame in frames]].mean(axis=0) for frames in snippets]
        )

    def encode_video(
        self, frames_FxHxWx3: np.ndarray, spans_Tx2: np.ndarray, fps: float
    ) -> np.ndarray:
        """float32 [T, crops, dim] of a video that is in memory; see MotionEncoder.encode_video."""
        del fps
        chosen = [self.frames_of(int(start), int(end)) for start, end in spans_Tx2]
        prepared = {i: self.prepare(frames_FxHxWx3[i]) for i in sorted(set().union(*chosen))}
        return self.encode_snippets([[prepared[i] for i in frames] for frames in chosen])

    def consistency(self, frames: Sequence[Any]) -> float:
        """How much a video stays the same thing: VBench's temporal consistency.

        mean over t >= 1 of (cos(f_t, f_t-1) + cos(f_t, f_0)) / 2, where f_t embeds a whole frame.

        Args:
          frames: `prepare_whole`d, in the order of time.

        Returns:
          At most 1; 1 for a single frame.
        """
        embedded_FxD = self._embed(frames, ten=False)[:, 0].astype(np.float64)
        embedded_FxD /= np.linalg.norm(embedded_FxD, axis=1, keepdims=True)
        if len(embedded_FxD) < 2:
            return 1.0
        to_last = (embedded_FxD[1:] * embedded_FxD[:-1]).sum(axis=1)
        return float(np.mean((to_last + embedded_FxD[1:] @ embedded_FxD[0]) / 2))

    def _embed(self, frames: Sequence[Any], ten: bool) -> np.ndarray:
        """float32 [F, crops, dim] of prepared frames of one size."""
        import torch

        with torch.inference_mode():
            rows = [
                self.model(pixel_values=crops_FxNx3xSxS.flatten(0, 1)).image_embeds.unflatten(
                    0, crops_FxNx3xSxS.shape[:2]
                )
                for crops_FxNx3xSxS in self._batches(frames, ten)
            ]
            # Read only now: a GPU has the next batch while this one comes back.
            rows_FxNxD = torch.cat(rows).float().cpu().numpy()
        if not np.isfinite(rows_FxNxD).all():
            raise UserError(
                f"--compute_dtype={self.dtype}: expected finite features, found NaN or infinity; "
                f"{self._weights} overflows in it: take bfloat16 or float32"
            )
        return rows_FxNxD

    def _batches(self, frames: Sequence[Any], ten: bool) -> Iterator[Any]:
        """Normalised crops [f, N, 3, size, size]; a batch is overwritten by the next."""
        import torch

        at_once = self._frames_at_once if ten else self._ones_at_once
        mean, scale = (
            torch.tensor(values, device=self.device)[:, None, None]
            for values in (self._mean, self._scale)
        )
        # One buffer: fresh memory of this size costs more than what is written into it.
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
    """(height, width) with the short side as asked; the long one rounded down, as PIL users do."""
    short, long = min(height, width), max(height, width)
    new_long = int(short_side * long / short)
    return (short_side, new_long) if height <= width else (new_long, short_side)


def ten_crops(pixels_xHxW: Any, size: int) -> list[Any]:
    """torchvision's TenCrop, as views: see CROPS for the order.

    The second five are those of the mirrored frame, so the sixth is the second one mirrored.

    Args:
      pixels_xHxW: a tensor of any leading axes.
      size: of a side of the crops.
    """
    height, width = pixels_xHxW.shape[-2:]
    # torchvision rounds halves to even.
    middle = round((height - size) / 2), round((width - size) / 2)
    bottom, right = height - size, width - size
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), middle)
    return [
        pixels[..., top : top + size, left : left + size]
        for pixels in (pixels_xHxW, pixels_xHxW.flip(-1))
        for top, left in corners
    ]


def _require(flag: str, value: str, choices: Any) -> None:
    if value not in choices:
        raise UserError(f"{flag}: expected one of {', '.join(choices)}, found {value!r}")
