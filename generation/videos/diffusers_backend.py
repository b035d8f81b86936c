"""Generate videos from text, or from text and a first frame, with any pipeline of diffusers.

A pipeline is loaded by name and called with those arguments that it accepts, so CogVideoX, Wan, LTX
and similar models differ here only in numbers (`presets.PRESETS`). Prompts are embedded first; then
the text encoder is dropped. A video's initial noise depends on its description and the seed alone,
not on its batch, its rank or the device.
"""

import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tqdm

from generation.prompts.descriptions import Description
from generation.videos import (
    identity,
    limits,
    loading,
    presets,
    prompt_embeddings,
    prompt_lengths,
)
from generation.videos.backends import GeneratedVideo
from generation.videos.first_frames import FirstFrames
from generation.videos.nearest_frames import NearestFrames
from generation.videos.options import DiffusersOptions
from generation.world.scenes import stream
from gvvad_jax.command import UserError

if TYPE_CHECKING:
    import diffusers

_SIZES = ("height", "width")
BLACK_LEVEL = 8  # Grey levels. A video that is never brighter shows nothing.


class DiffusersBackend:
    """Any text-to-video or image-to-video pipeline of diffusers.

    Creating a backend loads nothing, so its `settings` cost nothing and it can be sent to other
    processes; `prepare` loads the model.

    Args:
      options: the model and how to call it.
      seed: seed of the whole set, beside each description's own.

    Attributes:
      batch_size: number of videos per call of the pipeline.

    Raises:
      UserError: the generator is unknown, the pipeline's arguments are not JSON, or `first_frames`
        lists no normal training video.
    """

    def __init__(self, options: DiffusersOptions, seed: int = 0):
        preset = presets.find_preset(options.generator, options.model)

        def number(name: str, preset_name: str = "") -> Any:
            given = getattr(options, name)
            return getattr(preset, preset_name or name, None) if given is None else given

        dtype = options.model_dtype or (preset.dtype if preset else "bfloat16")
        vae_dtype = options.vae_dtype or (preset.vae_dtype if preset else None) or dtype
        self._weights = {
            "model": options.model or preset.model,
            "revision": presets.revision(preset, options.model, options.revision),
            "dtype": dtype,
            "vae_dtype": vae_dtype,
            "quantize": options.quantize,
        }
        self._options, self._seed = options, seed
        self._device = options.device
        self._fps = number("fps") or 8.0
        self._num_frames = number("num_frames")
        call = dict.fromkeys(presets.FRAME_ARGUMENTS, self._num_frames) | {
            "height": number("height"),
            "width": number("width"),
            "num_inference_steps": number("denoising_steps", "steps"),
            "guidance_scale": number("guidance"),
            "frame_rate": self._fps,  # LTX sets the pace of motion by it.
        }
        self._arguments = options.call_arguments()
        # A guidance scale that is given counts for both of Wan 2.2's transformers.
        extra = preset.arguments if preset and options.guidance is None else {}
        self._call = {name: value for name, value in call.items() if value is not None}
        self._call |= {**extra, **self._arguments}
        self._first_frames = _first_frames(options, seed) if options.first_frames else None
        self.batch_size = options.clips_a_call
        # Set by `prepare`.
        self._pipeline: diffusers.DiffusionPipeline | None = None
        self._embeddings: prompt_embeddings.EmbeddingFiles | None = None
        self._loaded_weights: Mapping[str, Any] = {}
        self._call_parameters: Mapping[str, inspect.Parameter] = {}
        self._expected_frames: int | None = None
        self._largest_batch = 1

    @property
    def settings(self) -> dict[str, Any]:
        """Everything the pixels depend on; not where or how fast they are computed.

        The model isn't named: its weights are known by their content (`examine`, `prepare`).
        """
        return {
            **{name: value for name, value in self._weights.items() if name != "model"},
            "backend": "diffusers",
            "seed": self._seed,
            "fps": self._fps,
            "call": self._call,
            "negative_prompt": self._options.negative_prompt,
            "first_frames": self._first_frames.digest if self._first_frames else None,
            "vae_tiling": self._options.vae_tiling,
        }

    def examine(
        self,
        descriptions: Sequence[Description],
        recorded: Mapping[str, Any] | None,
        is_complete: bool,
    ) -> None:
        """Checks the weights and the lengths of all prompts; see `Backend`."""
        model, revision = self._weights["model"], self._weights["revision"]
        if is_complete:
            reason = identity.compare(model, revision, recorded) if recorded else ""
            if reason:
                print(
                    f"the weights of the videos can't be compared with today's ({reason}); all "
                    "videos are there and stay as they are",
                    file=sys.stderr,
                )
            return
        weights = identity.identify(model, revision, recorded)
        identity.check(recorded, weights)
        names = self._options.generator, self._options.model
        if self._options.model and not names[0] and (preset := presets.find_preset(*names)):
            print(f"--model: {model} has the numbers of {preset.model}", file=sys.stderr)
        cut = prompt_lengths.examine(
            model, weights["commit"] or revision, descriptions, self._arguments
        )
        if cut:
            print(cut, file=sys.stderr)

    def prepare(
        self,
        descriptions: Sequence[Description],
        folder: str | os.PathLike,
        recorded: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """Loads the model and embeds the prompts, where that has not been done.

        Args:
          descriptions: the videos that will be asked for.
          folder: folder for the embeddings, shared by all ranks.
          recorded: what `prepare` returned when the first video of the set was generated.

        Returns:
          The weights; see `identity.identify`.

        Raises:
          UserError: the model cannot be loaded or does not support the settings, or its weights are
            not those that the set was begun with.
        """
        if self._pipeline is None:
            names = self._weights["model"], self._weights["revision"]
            self._loaded_weights = identity.identify(*names, recorded)
        identity.check(recorded, self._loaded_weights)
        if self._first_frames:
            self._first_frames.prepare(descriptions, folder, self._device)
        depends_on = {"dtype": self._weights["dtype"], "arguments": self._arguments}
        files = prompt_embeddings.EmbeddingFiles(folder, self._loaded_weights | depends_on)
        texts = list(dict.fromkeys(description.description for description in descriptions))
        missing = [text for text in texts if not files.has(text)]
        if self._pipeline is not None and (not missing or not self._embeddings):
            return self._loaded_weights
        unguided, negative = self._call.get("guidance_scale", 2) <= 1, self._options.negative_prompt
        complete = not missing and (unguided or files.has(negative, negative=True))
        self._embeddings = files
        self._load(text_encoders=not complete)
        if not complete:
            self._embed(missing)
        loading.place(self._pipeline, self._device, self._options.offload)
        # The last bits of a matrix product depend on the batch (4e-6 of the range in a tiny
        # CogVideoX, where one pixel in 7,000 then rounds to another grey level). A GPU's last bits
        # differ anyway; on a CPU a video must depend on nothing but itself. First frames go one by
        # one too, because Wan takes a list of them for the frames of one video.
        alone = self._device.startswith("cpu") or self._first_frames
        self._largest_batch = 1 if alone else self.batch_size
        return self._loaded_weights

    def _load(self, text_encoders: bool) -> None:
        self._pipeline = None  # Frees an older one first.
        self._device = loading.pick_device(self._device, self._options.offload)
        pipeline = loading.load(
            # A branch on the Hub may move while ranks load, so all load the same commit.
            **self._weights
            | {"revision": self._loaded_weights["commit"] or self._weights["revision"]},
            text_encoders=text_encoders,
        )
        if self._first_frames:
            pipeline = loading.from_images(pipeline)
        self._call_parameters = inspect.signature(pipeline.__call__).parameters
        self._check_call(type(pipeline).__name__)
        self._expected_frames = limits.check_frames(pipeline, self._num_frames)
        limits.check_size(pipeline, self._call)
        loading.set_up_vae(
            pipeline, tiling=self._options.vae_tiling, slicing=self._options.vae_slicing
        )
        self._pipeline = pipeline

    def _check_call(self, pipeline_name: str) -> None:
        image = self._call_parameters.get("image")
        if image and image.default is image.empty and not self._first_frames:
            raise UserError(
                f"--first_frames: expected a videos.json for {pipeline_name}, which needs first "
                "frames, found none; give one, or a text-to-video model"
            )
        limits.refuse_unused(pipeline_name, self._call_parameters, self._options)
        unknown = [
            argument for argument in self._arguments if argument not in self._call_parameters
        ]
        if unknown:
            raise UserError(
                f"--pipeline_arguments: expected arguments of {pipeline_name}, found "
                f"{', '.join(unknown)}; it takes {', '.join(self._call_parameters)}"
            )

    def _embed(self, texts: Sequence[str]) -> None:
        """Writes embeddings to files and drops the text encoder, if the pipeline supports it."""
        pipeline = self._pipeline
        # Offloading layer by layer means that a whole text encoder does not fit the GPU. On the CPU
        # a prompt takes seconds, where a video will take many minutes.
        device = "cpu" if self._options.offload == "sequential" else self._device
        for name in loading.text_encoder_names(pipeline.components):
            getattr(pipeline, name).to(device)
        prompts = [(text, None) for text in texts]
        if prompt_embeddings.is_guided(pipeline, self._call):
            prompts.append((self._options.negative_prompt, self._options.negative_prompt))
        for text, negative in tqdm.tqdm(prompts, "prompts", disable=None, unit="prompt"):
            tensors = prompt_embeddings.encode(pipeline, text, self._call, device, negative)
            if tensors is None:
                print(f"{type(pipeline).__name__}: takes no embeddings, only text", file=sys.stderr)
                self._embeddings = None
                return
            self._embeddings.save(text, tensors, negative is not None)
        loading.drop_text_encoders(pipeline)

    def __call__(self, descriptions: Sequence[Description]) -> list[GeneratedVideo | Exception]:
        """Generates videos of prepared descriptions; returns a video or an error for each."""
        outcomes = []
        while len(outcomes) < len(descriptions):
            start = len(outcomes)
            outcomes += self._generate(descriptions[start : start + self._largest_batch])
        return outcomes

    def _generate(self, batch: Sequence[Description]) -> list[GeneratedVideo | Exception]:
        failure = None
        try:
            videos_BxTxHxWx3 = self._run(batch)
        except Exception as error:  # Whatever a model raises affects only these videos.
            failure = error.with_traceback(None)  # A traceback keeps the memory that ran out.
        if failure is None:
            pairs = zip(batch, videos_BxTxHxWx3, strict=True)
            return [self._checked(description, frames) for description, frames in pairs]
        half = len(batch) // 2
        if loading.ran_out_of_memory(failure):
            self._largest_batch = max(half, 1)
        return self._generate(batch[:half]) + self._generate(batch[half:]) if half else [failure]

    def _run(self, batch: Sequence[Description]) -> Sequence[np.ndarray]:
        """Calls the pipeline once; returns pixels from 0 to 1."""
        import torch

        # Generators on the CPU give the same noise for any device and batch.
        seeds = [self._noise_seed(description) for description in batch]
        noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        call = self._call | self._texts(batch) | {"generator": noise, "output_type": "np"}
        if self._first_frames:
            height, width = limits.video_size(self._pipeline, self._call)
            call["image"] = self._first_frames.read(batch[0], height, width)
        with np.errstate(invalid="ignore"):
            output = self._pipeline(
                **{key: call[key] for key in call if key in self._call_parameters}
            )
        if len(output.frames) != len(batch):
            raise ValueError(f"expected {len(batch)} videos, found {len(output.frames)}")
        return output.frames

    def _noise_seed(self, description: Description) -> int:
        return int(stream(self._seed, description.seed).integers(2**31))

    def _texts(self, batch: Sequence[Description]) -> dict[str, Any]:
        """Returns the prompts as arguments of the call: embeddings, else text."""
        texts = [description.description for description in batch]
        if not self._embeddings:
            negative = {"negative_prompt": [self._options.negative_prompt] * len(texts)}
            return {"prompt": texts} | (negative if self._options.negative_prompt else {})
        import torch

        prompts = [self._embeddings.load(text) for text in texts]
        if prompt_embeddings.is_guided(self._pipeline, self._call):
            negative = self._embeddings.load(self._options.negative_prompt, negative=True)
            prompts = [prompt | negative for prompt in prompts]
        tensors = {
            name: torch.cat([prompt[name] for prompt in prompts]).to(self._device)
            for name in prompts[0]
        }
        # SANA-Video refuses its own default beside an embedding.
        return tensors | {"negative_prompt": None}

    def _checked(
        self, description: Description, frames_TxHxWx3: np.ndarray
    ) -> GeneratedVideo | Exception:
        """Returns the video, or an error if its frames are not what was asked for."""
        frames_TxHxWx3 = np.asarray(frames_TxHxWx3)
        count, expected = len(frames_TxHxWx3), self._expected_frames
        if count != expected if expected else count < 2:
            return ValueError(f"expected {expected or 'several'} frames, found {count}")
        size = frames_TxHxWx3.shape[1:3]
        expected_size = tuple(
            self._call.get(name, actual) for name, actual in zip(_SIZES, size, strict=True)
        )
        if expected_size != size:
            return ValueError(
                f"expected (height, width) {expected_size}, found {size}; give that size"
            )
        if not np.isfinite(frames_TxHxWx3).all():
            return ValueError("non-finite pixels; try another --model_dtype")
        frames_TxHxWx3 = np.round(frames_TxHxWx3 * 255).clip(0, 255).astype(np.uint8)
        if frames_TxHxWx3.max() < BLACK_LEVEL:
            return ValueError("a black video; try another --model_dtype")
        facts = dict(self._loaded_weights, noise_seed=self._noise_seed(description))
        if self._first_frames:
            video_id, place = self._first_frames.draw(description)
            group = self._first_frames.group(video_id)
            facts["first_frame"] = {"video": video_id, "place": place, "group": group}
        return GeneratedVideo(frames_TxHxWx3, self._fps, facts=facts)


def _first_frames(options: DiffusersOptions, seed: int) -> FirstFrames:
    if options.first_frames_by == "clip":
        return NearestFrames(options.first_frames, seed, options.first_frames_weights)
    return FirstFrames(options.first_frames, seed)
