"""A tiny random CLIP, saved as a checkpoint with its image processor, and its encoder."""


def make_encoder(weights, **settings):
    """Returns the ImageEncoder of a checkpoint, by default of each snippet's middle frame."""
    from generation.encoders.images import ImageEncoder
    from generation.encoders.options import VisualOptions

    fields = {"encoder": "clip-l14", "weights": str(weights), "pooling": "middle"}
    return ImageEncoder(VisualOptions(**(fields | settings)))


def save(folder, image_size=16, patch_size=8, scale=1.0):
    """Saves a vision tower into a folder and returns the folder's name.

    Args:
      folder: the folder to create.
      image_size, patch_size: sizes in pixels.
      scale: factor of the last layer's weights.
    """
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=image_size, patch_size=patch_size, projection_dim=6,
    )  # fmt: skip
    model = CLIPVisionModelWithProjection(config)
    with torch.no_grad():
        # Without this, embeddings of different pictures would hardly differ.
        model.vision_model.embeddings.patch_embedding.weight.mul_(20)
        model.visual_projection.weight.mul_(scale)
    model.save_pretrained(folder)
    save_processor(folder, image_size)
    return str(folder)


def save_processor(folder, image_size):
    """Saves an image processor with other numbers than CLIP's own."""
    from transformers import CLIPImageProcessorPil

    crop = {"height": image_size, "width": image_size}
    normalise = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    size = {"shortest_edge": image_size}
    CLIPImageProcessorPil(size=size, crop_size=crop, **normalise).save_pretrained(folder)
