"""Clips from text, or from text and a first frame, with any pipeline of diffusers.

A pipeline is loaded by name and called with those of our arguments that it knows, so CogVideoX,
Wan, LTX and their kin differ here in numbers alone (`video_models.PRESETS`). Prompts are embedded
first, then the text encoder is dropped. A clip's initial noise depends on its description and the
seed alone: neither on its batch, nor on its rank or the device.
"""

import dataclasses
import inspect
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from generation.prompts.descriptions import Description
from generation.ranks import DEVICE
from generation.videos import identity, loading, presets, prompt_embeddings
from generation.videos.backends import GeneratedVideo
from generation.videos.first_frames import FirstFrames
from generation.world.scenes import stream
from gvvad_jax.command import UserError, check, option

_SIZES = ("height", "width")
BLACK_LEVEL = 8  # grey levels; a clip that never gets brighter shows nothing


class DiffusersBackend:
    """Any text-to-video or image-to-video pipeline of diffusers.

    Making one loads nothing, so `settings` cost nothing and it can be sent to other processes;
    `prepare` loads. Arguments that are None are the preset's, without one the pipeline's own.

    Args:
      model: Hub id or local folder; a model that a preset names gets that preset.
      preset: name in `video_models.PRESETS`.
      revision: branch, tag or commit on the Hub.
      dtype, vae_dtype: float16, bfloat16 or float32; without a preset bfloat16, and the VAE's as
        the others'.
      device: cuda, cpu ...; where there is CUDA, its LOCAL_RANK-th, unless told.
      seed: of the whole set, beside each description's own.
      fps: written into the file, and told to pipelines that ask; 8 without a preset.
      num_frames, height, width, steps, guidance: of the pipeline's call.
      negative_prompt: what to stay away from, where guidance is over 1.
      arguments: more arguments of the pipeline's call.
      batch_size: clips a call.
      first_frames: videos.json of real videos; normal training ones give the first frames.
      vae_tiling, vae_slicing: decode in tiles (which changes pixels a little), clip by clip.
      offload: none, model or sequential; leaves on the GPU what is in use.
      quantize: none or int8, of the transformer's weights.

    Raises:
      UserError: an unknown preset, or no normal training videos in `first_frames`.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        preset: str | None = None,
        revision: str | None = None,
        dtype: str | None = None,
        vae_dtype: str | None = None,
        device: str | None = None,
        seed: int = 0,
        fps: float | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        negative_prompt: str = "",
        arguments: Mapping[str, Any] | None = None,
        batch_size: int = 1,
        first_frames: str | os.PathLike | None = None,
        vae_tiling: bool = False,
        vae_slicing: bool = False,
        offload: str = "none",
        quantize: str = "none",
    ):
        base = presets.find_preset(preset, model)

        def chosen(name: str, given: Any) -> Any:
            return getattr(base, name, None) if given is None else given

        dtype = chosen("dtype", dtype) or "bfloat16"
        self._weights = {
            "model": chosen("model", model),
            "revision": revision,
            "dtype": dtype,
            "vae_dtype": chosen("vae_dtype", vae_dtype) or dtype,
            "quantize": quantize,
        }
        self._seed, self._device = seed, device
        self._fps = chosen("fps", fps) or 8.0
        self._num_frames = chosen("num_frames", num_frames)
        call = dict.fromkeys(presets.FRAME_ARGUMENTS, self._num_frames) | {
            "height": chosen("height", height),
            "width": chosen("width", width),
            "num_inference_steps": chosen("steps", steps),
            "guidance_scale": chosen("guidance", guidance),
            "frame_rate": self._fps,  # LTX sets the pace of motion by it.
        }
        self._call = {name: value for name, value in call.items() if value is not None}
        self._call |= arguments or {}
        self._arguments = dict(arguments or {})
        self._negative_prompt = negative_prompt
        self._first_frames = FirstFrames(first_frames, seed) if first_frames else None
        self._offload, self._tiling, self._slicing = offload, vae_tiling, vae_slicing
        self.batch_size = batch_size
        self._pipeline = self._embeddings = self._loaded = None

    @property
    def settings(self) -> dict[str, Any]:
        """All that pixels depend on; where and how fast they are made is none of it."""
        return {
            **self._weights,
            "backend": "diffusers",
            "seed": self._seed,
            "fps": self._fps,
            "call": self._call,
            "negative_prompt": self._negative_prompt,
            "first_frames": self._first_frames.digest if self._first_frames else None,
            "vae_tiling": self._tiling,
        }

    def prepare(
        self,
        descriptions: Sequence[Description],
        folder: str | os.PathLike,
        begun: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """Loads the model, if it isn't yet, and embeds the prompts that aren't yet.

        Args:
          descriptions: that clips will be asked of.
          folder: for the embeddings; shared by all ranks.
          begun: what this returned when the first of the clips were made.

        Returns:
          See `model_identity.identify`.

        Raises:
          UserError: the model can't be loaded, can't do what the settings ask of it, or isn't the
            one that the clips were begun with.
        """
        if self._pipeline is None:
            names = self._weights["model"], self._weights["revision"]
            self._loaded = identity.identify(*names, begun)
        identity.check(begun, self._loaded)
        making = self._loaded | {"dtype": self._weights["dtype"]}
        files = prompt_embeddings.EmbeddingFiles(folder, making | {"arguments": self._arguments})
        texts = list(dict.fromkeys(description.description for description in descriptions))
        missing = [text for text in texts if not files.has(text)]
        if self._pipeline is not None and (not missing or not self._embeddings):
            return self._loaded
        unguided = self._call.get("guidance_scale", 2) <= 1
        complete = not missing and (unguided or files.has(self._negative_prompt, negative=True))
        self._embeddings = files
        self._load(text_encoders=not complete)
        if not complete:
            self._embed(missing)
        loading.place(self._pipeline, self._device, self._offload)
        # Batched matrix products differ in their last bits from single ones (by 4e-6 of the range
        # in a tiny CogVideoX, where one pixel in 7,000 then rounds to another grey level). A GPU
        # has its own last bits anyway; on a CPU a clip shall depend on nothing but itself. First
        # frames one by one too: a list of them is for Wan the frames of one clip.
        alone = self._device.startswith("cpu") or self._first_frames
        self._largest_batch = 1 if alone else self.batch_size
        return self._loaded

    def _load(self, text_encoders: bool) -> None:
        self._pipeline = None  # An older one goes first.
        self._device = loading.pick_device(self._device, self._offload)
        pipeline = loading.load(
            # A Hub id's branch may move while ranks load: all load the same commit.
            **self._weights | {"revision": self._loaded["commit"] or self._weights["revision"]},
            text_encoders=text_encoders,
        )
        if self._first_frames:
            pipeline = loading.from_images(pipeline)
        self._known = inspect.signature(pipeline.__call__).parameters
        self._check_arguments(type(pipeline).__name__)
        self._expected_frames = loading.check_frames(pipeline, self._num_frames)
        loading.check_size(pipeline, self._call)
        loading.set_up_vae(pipeline, tiling=self._tiling, slicing=self._slicing)
        self._pipeline = pipeline

    def _check_arguments(self, name: str) -> None:
        image = self._known.get("image")
        if image and image.default is image.empty and not self._first_frames:
            raise UserError(
                f"--first_frames: expected a videos.json for {name} to take first frames from, "
                "found none; give one, or a text-to-video model"
            )
        unknown = [argument for argument in self._arguments if argument not in self._known]
        if unknown:
            raise UserError(
                f"--pipeline_arguments: expected arguments of {name}, found {', '.join(unknown)}; "
                f"it takes {', '.join(self._known)}"
            )

    def _embed(self, texts: Sequence[str]) -> None:
        """Puts texts' embeddings into files and drops the text encoder, where a pipeline can."""
        pipeline = self._pipeline
        # Who offloads layer by layer has no room for a whole text encoder on the GPU. On the CPU it
        # takes seconds a prompt, where a clip will take many minutes.
        device = "cpu" if self._offload == "sequential" else self._device
        for name in loading.text_encoder_names(pipeline.components):
            getattr(pipeline, name).to(device)
        wanted = [(text, None) for text in texts]
        if prompt_embeddings.is_guided(pipeline, self._call):
            wanted.append((self._negative_prompt, self._negative_prompt))
        for text, negative in tqdm.tqdm(wanted, "prompts", disable=None, unit="prompt"):
            tensors = prompt_embeddings.encode(pipeline, text, self._call, device, negative)
            if tensors is None:
                print(f"{type(pipeline).__name__}: takes text alone", file=sys.stderr)
                self._embeddings = None
                return
            self._embeddings.save(text, tensors, negative is not None)
        loading.drop_text_encoders(pipeline)

    def __call__(self, descriptions: Sequence[Description]) -> list[GeneratedVideo | Exception]:
        """Makes clips of descriptions that were prepared; one entry each, in their order."""
        made = []
        while len(made) < len(descriptions):
            made += self._make(descriptions[len(made) : len(made) + self._largest_batch])
        return made

    def _make(self, batch: Sequence[Description]) -> list[GeneratedVideo | Exception]:
        failure = None
        try:
            clips_BxTxHxWx3 = self._run(batch)
        except Exception as error:  # whatever a model throws, the other clips go on
            failure = error.with_traceback(None)  # It holds on to the memory that ran out.
        if failure is None:
            pairs = zip(batch, clips_BxTxHxWx3, strict=True)
            return [self._checked(description, frames) for description, frames in pairs]
        half = len(batch) // 2
        if loading.ran_out_of_memory(failure):
            self._largest_batch = max(half, 1)
        return self._make(batch[:half]) + self._make(batch[half:]) if half else [failure]

    def _run(self, batch: Sequence[Description]) -> Sequence[np.ndarray]:
        """One call of the pipeline; pixels from 0 to 1."""
        import torch

        # Generators on the CPU: the same noise whatever the device and the batch.
        seeds = [self._noise_seed(description) for description in batch]
        noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        call = self._call | self._texts(batch) | {"generator": noise, "output_type": "np"}
        if self._first_frames:
            height, width = loading.clip_size(self._pipeline, self._call)
            call["image"] = self._first_frames.read(batch[0], height, width)
        with np.errstate(invalid="ignore"):
            output = self._pipeline(**{key: call[key] for key in call if key in self._known})
        if len(output.frames) != len(batch):
            raise ValueError(f"expected {len(batch)} clips, found {len(output.frames)}")
        return output.frames

    def _noise_seed(self, description: Description) -> int:
        return int(stream(self._seed, description.seed).integers(2**31))

    def _texts(self, batch: Sequence[Description]) -> dict[str, Any]:
        """The prompts as the pipeline takes them: embedded, else as text."""
        texts = [description.description for description in batch]
        if not self._embeddings:
            negative = {"negative_prompt": [self._negative_prompt] * len(texts)}
            return {"prompt": texts} | (negative if self._negative_prompt else {})
        import torch

        prompts = [self._embeddings.load(text) for text in texts]
        if prompt_embeddings.is_guided(self._pipeline, self._call):
            negative = self._embeddings.load(self._negative_prompt, negative=True)
            prompts = [prompt | negative for prompt in prompts]
        return {
            name: torch.cat([prompt[name] for prompt in prompts]).to(self._device)
            for name in prompts[0]
        }

    def _checked(self, description: Description, frames_TxHxWx3: Any) -> GeneratedVideo | Exception:
        frames_TxHxWx3 = np.asarray(frames_TxHxWx3)
        count, expected = len(frames_TxHxWx3), self._expected_frames
        if count != expected if expected else count < 2:
            return ValueError(f"expected {expected or 'several'} frames, found {count}")
        size = frames_TxHxWx3.shape[1:3]
        asked = tuple(self._call.get(name, found) for name, found in zip(_SIZES, size, strict=True))
        if asked != size:
            return ValueError(f"expected (height, width) {asked}, found {size}; ask for that")
        if not np.isfinite(frames_TxHxWx3).all():
            return ValueError("non-finite pixels; try another --model_dtype")
        frames_TxHxWx3 = np.round(frames_TxHxWx3 * 255).clip(0, 255).astype(np.uint8)
        if frames_TxHxWx3.max() < BLACK_LEVEL:
            return ValueError("a black clip; try another --model_dtype")
        facts = dict(self._loaded, noise_seed=self._noise_seed(description))
        if self._first_frames:
            video_id, place = self._first_frames.draw(description)
            facts["first_frame"] = {"video": video_id, "place": place}
        return GeneratedVideo(frames_TxHxWx3, self._fps, facts=facts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusersOptions:
    """A backend in plain values; each field is a flag. Empty or None: the generator's own."""

    generator: str = option(
        "",
        f"diffusers: published model with its numbers: {', '.join(presets.PRESETS)}; "
        "cogvideox-2b unless told",
    )
    model: str = option("", "diffusers: Hub id or folder; with --generator instead of its weights")
    revision: str = option("", "diffusers: branch, tag or commit on the Hub")
    model_dtype: str = option("", "diffusers: of the weights", choices=("", *presets.DTYPES))
    vae_dtype: str = option("", "diffusers: of the VAE's weights", choices=("", *presets.DTYPES))
    height: int | None = option(None, "pixels", low=16)
    width: int | None = option(None, "pixels", low=16)
    num_frames: int | None = option(None, "frames a clip", low=1)
    fps: float | None = option(None, "frames per second of the clips", low=1)
    denoising_steps: int | None = option(None, "diffusers: steps of the scheduler", low=1)
    guidance: float | None = option(None, "diffusers: guidance scale")
    negative_prompt: str = option("", "diffusers: what to stay away from, with guidance over 1")
    pipeline_arguments: str = option("{}", "diffusers: JSON, more arguments of the pipeline's call")
    first_frames: str = option(
        "",
        "diffusers: videos.json whose normal training videos give each clip its first frame, with "
        "an image-to-video model",
    )
    clips_a_call: int = option(1, "diffusers: clips made at once", low=1, free=True)
    vae_tiling: bool = option(False, "diffusers: decode in tiles; takes less memory")
    vae_slicing: bool = option(
        False, "diffusers: decode clip by clip; takes less memory", free=True
    )
    offload: str = option(
        "none",
        "diffusers: leave on the GPU what is in use",
        choices=presets.OFFLOADS,
        free=True,
    )
    quantize: str = option(
        "none", "diffusers: the transformer's weights", choices=presets.QUANTIZATIONS
    )
    device: str = DEVICE

    def __post_init__(self):
        check(self)

    def backend(self, seed: int = 0) -> DiffusersBackend:
        """The backend, with nothing loaded; `seed` is of the whole set.

        Raises:
          UserError: see DiffusersBackend; --pipeline_arguments isn't a JSON object.
        """
        try:
            arguments = json.loads(self.pipeline_arguments)
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            raise UserError(
                "--pipeline_arguments: expected a JSON object, found "
                f"{self.pipeline_arguments!r}; correct it"
            )
        return DiffusersBackend(
            self.model or None,
            preset=self.generator or None,
            revision=self.revision or None,
            dtype=self.model_dtype or None,
            vae_dtype=self.vae_dtype or None,
            device=self.device or None,
            seed=seed,
            fps=self.fps,
            num_frames=self.num_frames,
            height=self.height,
            width=self.width,
            steps=self.denoising_steps,
            guidance=self.guidance,
            negative_prompt=self.negative_prompt,
            arguments=arguments,
            batch_size=self.clips_a_call,
            first_frames=self.first_frames or None,
            vae_tiling=self.vae_tiling,
            vae_slicing=self.vae_slicing,
            offload=self.offload,
            quantize=self.quantize,
        )
