"""Text-to-video models of random weights, under 1 MB each, from the real classes of diffusers.

They are saved with save_pretrained, so that they load as published ones do. A video has `SIZES`
squared pixels and takes a fraction of a second.
"""

import functools
import pathlib

import msgspec

from generation.prompts.descriptions import Description
from generation.prompts.grammar import write_grammar
from generation.videos.diffusers_backend import DiffusersBackend
from generation.videos.options import DiffusersOptions

SIZES = {"cogvideox": 16, "wan": 32, "ltx": 32}


def short_descriptions(num_pairs: int) -> list[Description]:
    """Twins in few words, because the tokenizers here have one token per letter."""
    return [
        msgspec.structs.replace(d, description=f"{d.event} in {d.location}"[:60])
        for d in write_grammar(num_pairs, seed=0)
    ]


def make_backend(model: str, size: int = 16, **options) -> DiffusersBackend:
    """A backend for videos of 9 frames in two steps on the CPU, unless `options` override it."""
    defaults = {"model_dtype": "float32", "device": "cpu", "num_frames": 9, "denoising_steps": 2}
    defaults |= {"height": size, "width": size}
    return DiffusersBackend(DiffusersOptions(model=model, **(defaults | options)))


class Models(dict):
    """Folders of SAVERS' models; each is saved when it is first used."""

    def __init__(self, folder: pathlib.Path):
        super().__init__()
        self._folder = folder

    def __missing__(self, name: str) -> str:
        return self.setdefault(name, SAVERS[name](self._folder / name))


def _text(encoder="T5"):
    """A tokenizer of letters and a text encoder of one layer."""
    import transformers

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(chr(letter), -3.0) for letter in range(ord("a"), ord("z") + 1)]
    config = getattr(transformers, f"{encoder}Config")(
        vocab_size=len(pieces), d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4
    )
    return {
        "tokenizer": transformers.T5Tokenizer(vocab=pieces, extra_ids=0),
        "text_encoder": getattr(transformers, f"{encoder}EncoderModel")(config),
    }


def _saved(pipeline, folder) -> str:
    pipeline.save_pretrained(folder)
    return str(pathlib.Path(folder))


def save_cogvideox(
    folder, *, from_image: bool = False, patch_frames: int | None = None, default_frames: int = 17
) -> str:
    """CogVideoX: 8N+1 frames.

    Args:
      folder: folder to save it in.
      from_image: whether to save the image-to-video class.
      patch_frames: latent frames per patch of the transformer, 2 in CogVideoX 1.5.
      default_frames: number of frames per video.

    Returns:
      The folder.
    """
    import diffusers
    import torch

    torch.manual_seed(0)
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    newer = patch_frames is not None
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=16 if newer else 8,
        in_channels=8 if from_image else 4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=default_frames,
        patch_size=2,
        patch_size_t=patch_frames,
        patch_bias=not newer,
        use_rotary_positional_embeddings=newer,
        temporal_compression_ratio=4,
        max_text_seq_length=226,
    )
    name = "CogVideoXImageToVideoPipeline" if from_image else "CogVideoXPipeline"
    pipeline = getattr(diffusers, name)(
        **_text(), vae=vae, transformer=transformer, scheduler=diffusers.CogVideoXDDIMScheduler()
    )
    return _saved(pipeline, folder)


def save_wan(folder) -> str:
    """Wan: 4N+1 frames, height and width in steps of 16."""
    import diffusers
    import torch

    torch.manual_seed(0)
    vae = diffusers.AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = diffusers.WanPipeline(
        **_text("UMT5"), vae=vae, transformer=transformer, scheduler=scheduler
    )
    return _saved(pipeline, folder)


def save_ltx(folder) -> str:
    """LTX-Video: 4N+1 frames (the published one, with another VAE: 8N+1), sizes in steps of 32."""
    import diffusers
    import torch

    torch.manual_seed(0)
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    pipeline = diffusers.LTXPipeline(
        **_text(),
        vae=vae,
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    return _saved(pipeline, folder)


def save_images(folder) -> str:
    """A pipeline that makes pictures, not videos."""
    import diffusers

    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(4, 4),
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    return _saved(diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()), folder)


SAVERS = {
    "cogvideox": save_cogvideox,
    "cogvideox-i2v": functools.partial(save_cogvideox, from_image=True),
    "wan": save_wan,
    "ltx": save_ltx,
}
