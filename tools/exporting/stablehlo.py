"""Detectors as StableHLO, by jax.export: one program for every length, on CPUs, GPUs and TPUs."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from gvvad_jax import detectors
from gvvad_jax.command import UserError
from gvvad_jax.scoring import Model
from tools.exporting.contract import TEXT, VISUAL, Contract

PLATFORMS = ("cpu", "cuda", "tpu")


def convert(model: Model) -> bytes:
    """Returns the serialised program: call(visual_TxNxD[, text_TxE]) -> scores_T.

    Raises:
      UserError: the detector can't be traced with its length left open.
    """
    import flatbuffers as _flatbuffers  # noqa: F401, which serialising needs

    program, standard = model.config.scoring_program, model.standard
    detector = detectors.by_name(program.detector).Detector(program)
    variables = jax.tree.map(np.asarray, model.variables)

    @jax.default_matmul_precision(program.matmul_precision)
    def scores(visual_TxNxD: jax.Array, text_TxE: jax.Array | None = None) -> jax.Array:
        if standard.mean_D is not None:
            visual_TxNxD = (visual_TxNxD - standard.mean_D) / standard.std_D
        if program.score_crops == "mean":
            visual_TxNxD = jnp.mean(visual_TxNxD, axis=1, keepdims=True)
        visual_1xNxTxD = jnp.swapaxes(visual_TxNxD, 0, 1)[None]
        text_1xTxE = None if text_TxE is None else text_TxE[None]
        return detector.apply(variables, visual_1xNxTxD, text_1xTxE, None).scores_VxT[0]

    (length,) = jax_export.symbolic_shape("T")
    inputs = Contract.of(model).inputs()
    arguments = [
        jax.ShapeDtypeStruct((length, *inputs[name]), jnp.float32)
        for name in (VISUAL, TEXT)
        if name in inputs
    ]
    try:
        exported = jax_export.export(jax.jit(scores), platforms=PLATFORMS)(*arguments)
    except jax.errors.ConcretizationTypeError as error:
        raise _refused(model, error) from error
    except (ValueError, NotImplementedError) as error:
        raise _refused(model, error) from error
    return bytes(exported.serialize())


def run(content: bytes, video: Mapping[str, np.ndarray]) -> np.ndarray:
    """Scores a video with a serialised program, on the device at hand."""
    program = jax_export.deserialize(bytearray(content))
    return np.asarray(program.call(*video.values()))


def _refused(model: Model, error: Exception) -> UserError:
    reason = str(error).partition("\n")[0][:200]
    return UserError(
        f"--format=stablehlo: expected a detector that can be traced with its length left open, "
        f"found {model.config.detector}, which can't ({reason}); use --format=onnx"
    )
