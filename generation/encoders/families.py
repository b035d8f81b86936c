"""Which published models encode frames: their checkpoints, classes and outputs.

What a row holds is in a store's manifest: the encoder's `output`, and `normalised`, which is false
for all, because none divides a row by its length. (CLIP's manifests are older than `output`.)
"""

import dataclasses
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gvvad_jax.command import UserError

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Models of one kind, whatever their size.

    Attributes:
      kind: name of the preprocessing, and the start of an encoder's id.
      title: for messages.
      weights: Hub name of the default checkpoint.
      model_types: accepted values of config.json's model_type, the first one where it has none.
      model: class of transformers.
      output: what a row is, in words; for the manifest.
      field: the field of the model's output that becomes a row.
      crops: the crops of the checkpoint's own processor, the default of --crops.
      fixed: whether the model takes pictures of one size only.
    """

    kind: str
    title: str
    weights: str
    model_types: tuple[str, ...]
    model: str
    output: str
    field: str
    crops: str
    fixed: bool = True

    def dim(self, config: Mapping[str, Any]) -> int:
        """Returns the width of a row, from the loaded configuration's values."""
        if self.kind == "clip":
            return config["projection_dim"]
        return config["num_classes" if self.kind == "pe-core" else "hidden_size"]

    def require_libraries(self) -> None:
        """Raises UserError if a library that only this family needs is not installed."""
        if self.kind == "pe-core" and importlib.util.find_spec("timm") is None:
            raise UserError(
                "--encoder=pe-core: expected timm to be installed, found none; pip install "
                "'.[timm]'"
            )

    def arguments(self, pixels: "torch.Tensor") -> dict[str, Any]:
        """Returns the arguments of the model's call."""
        if self.kind == "vjepa2":
            return {"pixel_values_videos": pixels, "skip_predictor": True}
        return {"pixel_values": pixels}


_CLIP: dict[str, Any] = {
    **{"kind": "clip", "title": "a CLIP checkpoint", "model": "CLIPVisionModelWithProjection"},
    **{"model_types": ("clip", "clip_vision_model"), "field": "image_embeds", "crops": "centre"},
    "output": "projected class token",
}
# By the value of --encoder.
FAMILIES = {
    "clip-b32": Family(weights="openai/clip-vit-base-patch32", **_CLIP),
    "clip-b16": Family(weights="openai/clip-vit-base-patch16", **_CLIP),
    "clip-l14": Family(weights="openai/clip-vit-large-patch14", **_CLIP),
    # The checkpoints of fixed size are SigLIP models in transformers; "naflex" ones are others.
    "siglip2": Family(
        kind="siglip2",
        title="a SigLIP 2 checkpoint of fixed size",
        weights="google/siglip2-so400m-patch14-384",
        model_types=("siglip", "siglip_vision_model"),
        model="SiglipVisionModel",
        output="attention pooled",
        field="pooler_output",
        crops="whole",
    ),
    # timm calls the projection into the space of image and text a classifier.
    "pe-core": Family(
        kind="pe-core",
        title="a PE-Core checkpoint of timm",
        weights="timm/vit_pe_core_large_patch14_336.fb",
        model_types=("timm_wrapper",),
        model="TimmWrapperForImageClassification",
        output="projected attention pool",
        field="logits",
        crops="centre",
    ),
    "dinov3": Family(
        kind="dinov3",
        title="a DINOv3 ViT checkpoint",
        weights="facebook/dinov3-vitl16-pretrain-lvd1689m",
        model_types=("dinov3_vit",),
        model="DINOv3ViTModel",
        output="class token after the last layer norm",
        field="pooler_output",
        crops="whole",
        fixed=False,
    ),
    "vjepa2": Family(
        kind="vjepa2",
        title="a V-JEPA 2 checkpoint",
        weights="facebook/vjepa2-vitl-fpc64-256",
        model_types=("vjepa2",),
        model="VJEPA2Model",
        output="mean over the encoder's tokens of a window",
        field="last_hidden_state",
        crops="centre",
        fixed=False,
    ),
}
