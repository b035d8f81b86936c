"""Tiny random models of the pipelines of 2026, saved as tiny_pipelines' are.

Cosmos-Predict 2.5 and Kandinsky 5 Lite need torchvision, for frames and for a text encoder.
"""

from tests.support.tiny_pipelines import _saved, _text, save_wan

# Squared size in pixels and number of frames that each can generate.
SIZES = {"wan2.2": 32, "sana": 32, "hunyuan1.5": 16, "ltx2": 32, "cosmos2.5": 32, "kandinsky5": 16}
FRAMES = {"wan2.2": 9, "sana": 9, "hunyuan1.5": 5, "ltx2": 5, "cosmos2.5": 9, "kandinsky5": 5}
_TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def _tokenizer():
    tokenizer = _text()["tokenizer"]
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def _wan_vae():
    import diffusers

    return diffusers.AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )


def _small_gpt(vocabulary, **more):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return sizes | heads | {"vocab_size": vocabulary} | more


def _qwen(vocabulary):
    """The configuration of a Qwen 2.5 VL."""
    import transformers

    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6}
    return transformers.Qwen2_5_VLConfig(
        text_config=_small_gpt(vocabulary, rope_parameters=rope),
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
            "out_hidden_size": 16,
        },
    )  # fmt: skip


def save_wan22(folder) -> str:
    """Wan 2.2 A14B: two transformers, that of high noise first."""
    import diffusers
    import torch

    pipeline = diffusers.WanPipeline.from_pretrained(save_wan(folder))
    torch.manual_seed(1)
    second = diffusers.WanTransformer3DModel.from_config(pipeline.transformer.config)
    parts = pipeline.components | {"transformer_2": second, "boundary_ratio": 0.875}
    return _saved(diffusers.WanPipeline(**parts), folder)


def save_sana(folder) -> str:
    """SANA-Video: `frames`, 4N+1."""
    import diffusers
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    config = transformers.Gemma2Config(**_small_gpt(len(tokenizer), head_dim=8))
    transformer = diffusers.SanaVideoTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        sample_size=8,
        rope_max_seq_len=32,
    )
    pipeline = diffusers.SanaVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=transformers.Gemma2Model(config),
        vae=_wan_vae(),
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True
        ),
    )
    return _saved(pipeline, folder)


def save_hunyuan15(folder) -> str:
    """HunyuanVideo 1.5: its guidance is a component."""
    import diffusers
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6}
    language = transformers.Qwen2_5_VLTextConfig(**_small_gpt(len(tokenizer), rope_parameters=rope))
    glyphs = transformers.T5Config(
        vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    transformer = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=16,
        text_embed_2_dim=16,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    pipeline = diffusers.HunyuanVideo15Pipeline(
        text_encoder=transformers.Qwen2_5_VLTextModel(language),
        tokenizer=tokenizer,
        transformer=transformer,
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=transformers.T5EncoderModel(glyphs),
        tokenizer_2=transformers.ByT5Tokenizer(),
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=6.0),
    )
    return _saved(pipeline, folder)


def save_cosmos25(folder) -> str:
    """Cosmos-Predict 2.5; the caller stands in for its safety checker."""
    import diffusers
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    transformer = diffusers.CosmosTransformer3DModel(
        in_channels=17,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        mlp_ratio=2,
        text_embed_dim=32,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        extra_pos_embed_type=None,
        use_crossattn_projection=True,
        crossattn_proj_in_channels=32,
        encoder_hidden_states_channels=32,
    )
    pipeline = diffusers.Cosmos2_5_PredictBasePipeline(
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(_qwen(len(tokenizer))),
        tokenizer=tokenizer,
        transformer=transformer,
        vae=_wan_vae(),
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True
        ),
    )
    return _saved(pipeline, folder)


def save_ltx2(folder) -> str:
    """LTX-2: video and sound."""
    import diffusers
    import torch
    import transformers
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    language = _small_gpt(len(tokenizer), head_dim=8)
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    config = transformers.Gemma3Config(text_config=language, vision_config=vision)
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1}
    connectors = LTX2TextConnectors(
        caption_channels=16,
        text_proj_in_factor=3,
        **{f"video_connector_{name}": value for name, value in heads.items()},
        **{f"audio_connector_{name}": value for name, value in heads.items()},
        video_connector_num_learnable_registers=None,
        audio_connector_num_learnable_registers=None,
        connector_rope_base_seq_len=32,
        rope_double_precision=False,
        rope_type="split",
    )
    transformer = diffusers.LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=1,
        caption_channels=16,
        rope_double_precision=False,
        rope_type="split",
    )
    vae = diffusers.AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        down_block_types=("LTX2VideoDownBlock3D",),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=1,
        decoder_causal=False,
    )
    audio = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4,
        ch_mult=(1,),
        num_res_blocks=1,
        resolution=32,
        latent_channels=2,
        mel_bins=8,
    )
    vocoder = LTX2Vocoder(
        in_channels=16,
        hidden_channels=32,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
        output_sampling_rate=16000,
    )
    pipeline = diffusers.LTX2Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        audio_vae=audio,
        text_encoder=transformers.Gemma3ForConditionalGeneration(config),
        tokenizer=tokenizer,
        connectors=connectors,
        transformer=transformer,
        vocoder=vocoder,
    )
    return _saved(pipeline, folder)


def save_kandinsky5(folder) -> str:
    """Kandinsky 5 Lite; its text encoder's processor needs torchvision."""
    import diffusers
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    processor = transformers.Qwen2VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(),
    )
    clip = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, projection_dim=16, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    transformer = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=16,
        time_dim=16,
        out_visual_dim=4,
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(4, 6, 6),
    )
    vae = diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    pipeline = diffusers.Kandinsky5T2VPipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(_qwen(len(tokenizer))),
        tokenizer=processor,
        text_encoder_2=transformers.CLIPTextModel(clip),
        tokenizer_2=tokenizer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    return _saved(pipeline, folder)


SAVERS = {
    "wan2.2": save_wan22,
    "sana": save_sana,
    "hunyuan1.5": save_hunyuan15,
    "ltx2": save_ltx2,
    "cosmos2.5": save_cosmos25,
    "kandinsky5": save_kandinsky5,
}
