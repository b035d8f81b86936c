"""Visual encoders by name."""

from generation.encoders.families import FAMILIES
from generation.encoders.options import VisualOptions
from generation.encoders.protocols import VisualEncoder
from gvvad_jax.command import UserError


def make_encoder(options: VisualOptions) -> VisualEncoder:
    """Returns the visual encoder that the options name.

    `motion` needs no weights: optical flow and image gradients on a grid. The others are published
    models (families.py); their weights are read when they are first needed.

    Raises:
      UserError: the encoder does not have the requested pooling or crops, or there is no such
        checkpoint.
    """
    if options.encoder in FAMILIES:
        if FAMILIES[options.encoder].kind == "vjepa2":
            from generation.encoders.windows import WindowEncoder

            return WindowEncoder(options)
        from generation.encoders.images import ImageEncoder

        return ImageEncoder(options)
    from generation.encoders.motion import MotionEncoder

    for flag, value, expected in (
        ("pooling", options.pooling, "mean"),
        ("crops", options.crops or "whole", "whole"),
    ):
        if value != expected:
            raise UserError(
                f"--{flag}: expected {expected} for the motion encoder, found {value!r}; motion is "
                "measured between whole frames"
            )
    return MotionEncoder()
