"""Visual encoders by name."""

from typing import Any

from generation.encoders.motion import MotionEncoder
from gvvad_jax.command import UserError

ENCODERS = ("motion", "clip-l14")


def make_encoder(name: str, *, pooling: str = "mean", crops: str = "", **settings: Any) -> Any:
    """The encoder of this name.

    Args:
      name: one of ENCODERS.
      pooling: "mean" over a snippet's frames, or its "middle" frame (CLIP only).
      crops: for CLIP "centre", "ten" or "whole"; centre unless told. Motion has the whole frame.
      **settings: for CLIP, see ClipEncoder; those that are None or "" are its own.

    Raises:
      UserError: an unknown name, or something that the encoder doesn't have.
    """
    if name == "clip-l14":
        from generation.encoders.clip import ClipEncoder

        given = {key: value for key, value in settings.items() if value not in (None, "")}
        return ClipEncoder(pooling=pooling, crops=crops or "centre", **given)
    if name != "motion":
        raise UserError(f"--encoder: expected one of {', '.join(ENCODERS)}, found {name!r}")
    for flag, value, only in (("pooling", pooling, "mean"), ("crops", crops or "whole", "whole")):
        if value != only:
            raise UserError(
                f"--{flag}: expected {only} for the motion encoder, found {value!r}; motion is "
                "between whole frames"
            )
    return MotionEncoder()
