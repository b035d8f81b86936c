"""Compares one training step of a detector with the numbers measured on the published one."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gvvad_jax import detectors, ssls, step
from gvvad_jax.batches import Batch
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.detectors.layers import Noise
from gvvad_jax.optimizer import make_optimizer
from gvvad_jax.store.files import load_arrays
from tools.published import names

Arrays = Mapping[str, np.ndarray]

BOUNDS = {
    "outputs": 1e-5,
    "losses": 1e-5,
    "gradients": 1e-4,
    "optimiser": 1e-5,
    "inference": 1e-5,
}
# Errors below this are rounding: a bias in front of a BatchNorm has no other gradient.
FLOOR = 1e-6


def compare(path: str) -> dict[str, float]:
    """Finds the largest relative error of each kind for one golden file.

    Args:
      path: .npz file with meta/*, param/*, inputs, out/*, loss/*, grad/*, param_after/* and eval/*.

    Returns:
      {kind: error} for each kind in BOUNDS. The optimiser, BatchNorm's running statistics included,
      is applied to the file's own gradients: Adam's first step turns a gradient near zero, whose
      sign float32 doesn't settle, into a whole learning rate.

    Raises:
      UserError: no such file, an unknown detector, or an array that is missing or has another
        shape than expected.
    """
    golden = load_arrays(path, "an .npz of a reference run (else name another)")
    try:
        return _Comparison(golden).errors()
    except KeyError as error:
        raise UserError(f"{path}: expected an array {error}, found none; is it whole?") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _within(prefix: str, golden: Arrays) -> dict[str, Any]:
    return {name[len(prefix) :]: golden[name] for name in golden if name.startswith(prefix)}


def _variables(prefix: str, golden: Arrays) -> dict[str, Any]:
    """Parameters, or gradients named like them, as flax variables."""
    variables, leftovers = names.to_flax(_within(prefix, golden))
    if leftovers:
        raise UserError(f"{prefix}*: expected names of the published detectors, found {leftovers}")
    return variables


def _trained(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {"detector": variables["params"], "ssls": variables["ssls"]}


class _Comparison:
    """One golden file, and our detector at the file's initial parameters."""

    def __init__(self, golden: Arrays):
        self.golden = golden
        self.config, dim, text_dim = _config(golden)
        fresh = jax.eval_shape(lambda: step.init_state(self.config, dim, text_dim))
        params = _within("param/", golden)
        names.require_fit(params, fresh.params["detector"], fresh.batch_stats)
        _require_inputs(golden, self.config, dim, text_dim)
        self.variables = _variables("param/", golden)

        def pairs(kind: str) -> np.ndarray:
            halves = [golden[f"{kind}_normal"], golden[f"{kind}_abnormal"]]
            return np.stack(halves, axis=1).reshape(-1, *halves[0].shape[1:])

        visual = pairs("visual")
        # UR-DMU's files have one crop and no axis for it.
        visual_VxNxTxD = visual[:, None] if visual.ndim == 3 else visual
        num_videos = len(visual)
        has_sources = "source_normal" in golden
        self.data = step.TrainingData(
            visual_VxNxTxD=jnp.asarray(visual_VxNxTxD),
            text_VxTxE=jnp.asarray(pairs("text")[:, 0]) if self.config.uses_text else None,
            synthetic_V=jnp.asarray(pairs("source") if has_sources else np.zeros(num_videos)) > 0,
            bank_KxE=jnp.asarray(golden["bank"]) if self.config.uses_bank else None,
        )
        gaussian = None
        if "noise" in golden:
            # Noise of the normal half, for one crop or for each.
            shape = num_videos // 2, *visual_VxNxTxD.shape[1:3], -1
            gaussian = jnp.asarray(golden["noise"].reshape(shape))
        self.noise = Noise(
            key=jax.random.key(0), videos_V=jnp.arange(num_videos), gaussian=gaussian
        )

    @jax.default_matmul_precision("highest")
    def errors(self) -> dict[str, float]:
        outputs, losses, grads = self._run()
        return {
            "outputs": _largest(outputs, _within("out/", self.golden)),
            "losses": _largest(losses, _within("loss/", self.golden)),
            "gradients": _largest_leaf(grads, _trained(_variables("grad/", self.golden))),
            "optimiser": self._optimiser(),
            "inference": self._inference(),
        }

    def _run(self) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """Outputs and losses under their published names, and gradients as flax variables."""
        file, data, config = detectors.by_name(self.config.detector), self.data, self.config

        def loss(params):
            out, _ = file.Detector(config).apply(
                {"params": params["detector"], "batch_stats": self.variables["batch_stats"]},
                data.visual_VxNxTxD,
                data.text_VxTxE,
                noise=self.noise,
                train=True,
                mutable=["batch_stats"],
            )
            terms = file.loss_terms(out, data.text_VxTxE, data.bank_KxE, config)
            lambda_ = ssls.lambda_of(params["ssls"], jnp.zeros((), int), config)
            total, parts = ssls.scaled_loss(terms, data.synthetic_V.reshape(-1, 2), lambda_, config)
            unweighted = {
                name: part / terms[name].weight for name, part in parts.items() if name in terms
            }
            return total, (out, parts | {"total": total}, unweighted)

        (_, (out, parts, unweighted)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            _trained(self.variables)
        )
        outputs, losses = names.measured(config, out, parts, unweighted)
        return outputs, losses, grads

    def _optimiser(self) -> float:
        """Adam on the file's own gradients, and one step's BatchNorm statistics."""
        expected, params = _variables("param_after/", self.golden), _trained(self.variables)
        optimizer = make_optimizer(self.config)
        opt_state = jax.jit(optimizer.init)(params)

        @jax.jit
        def applied(grads, opt_state, params):
            return optax.apply_updates(params, optimizer.update(grads, opt_state, params)[0])

        after = applied(_trained(_variables("grad/", self.golden)), opt_state, params)
        error = _largest_leaf(after, _trained(expected))
        if not expected["batch_stats"]:
            return error
        state = step.TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=self.variables["batch_stats"],
            opt_state=opt_state,
            averaged={},
            key=jax.random.PRNGKey(0),
        )
        videos_Bx2 = jnp.arange(len(self.data.synthetic_V)).reshape(-1, 2)
        batch = Batch(videos_Bx2, jnp.arange(len(videos_Bx2)))
        # The step of training itself; XLA drops what isn't compared.
        train_step = step.make_train_step(self.config)
        statistics = jax.jit(lambda *inputs: train_step(*inputs)[0].batch_stats)
        updated = statistics(state, self.data, batch)
        return max(error, _largest_leaf(updated, expected["batch_stats"]))

    def _inference(self) -> float:
        arrays = _within("eval/", self.golden)
        detector = detectors.by_name(self.config.detector).Detector(self.config)
        apply = jax.jit(detector.apply)
        # UR-DMU's file scores each crop as a video of its own.
        visual_VxNxTxD = (
            arrays["visual_crops"][:, None] if "visual_crops" in arrays else arrays["visual"]
        )
        text_VxTxE = arrays["text"][:, 0] if self.config.uses_text else None

        def scores(prefix: str, length: int | None = None) -> jax.Array:
            variables = _variables(prefix, self.golden)
            variables.pop("ssls")
            return apply(variables, visual_VxNxTxD[:, :, :length], text_VxTxE).scores_VxT

        scored = {}
        for name, expected in arrays.items():
            if name == "snippet_scores_per_crop":
                scored[name] = scores("param/")
            elif name.startswith("snippet_scores"):
                before = name == "snippet_scores"
                prefix = "param/" if before else "param_after/"
                scored[name] = scores(prefix, expected.shape[1])[..., None]
        return _largest(scored, {name: arrays[name] for name in scored})


def _config(golden: Arrays) -> tuple[TrainConfig, int, int]:
    """The config of a golden file's run, its visual width and its text width.

    Sizes come from its arrays, the rest from meta/*.
    """
    detector = str(golden["meta/detector"])
    if detector not in ("rtfm", "tevad", "lap", "ur_dmu"):
        raise UserError(
            f"meta/detector: expected one of rtfm, tevad, lap, ur_dmu, found {detector!r}; no "
            "other detector has been measured"
        )
    is_ur_dmu = detector == "ur_dmu"
    heads = _number("meta/heads", golden) if is_ur_dmu else 1
    fields = names.sizes(_within("param/", golden), int(heads))
    dim, text_dim = fields.pop("dim"), fields.pop("text_dim")
    named = fields.pop("detector")
    if named != (
        "tevad" if detector == "lap" and text_dim else "rtfm" if detector == "lap" else detector
    ):
        raise UserError(f"param/*: expected those of {detector}, found {named}'s; is meta/* right?")
    if text_dim and dim:
        fusion = str(golden["meta/fusion"])
        if fields.setdefault("fusion", fusion) != fusion:
            raise UserError(
                f"meta/fusion: expected {fields['fusion']} by the parameters, found {fusion!r}"
            )
    mode = str(golden.get("meta/lambda_mode", "fixed"))
    if (mode == "learnable") != ("param/VLR" in golden):
        raise UserError(
            f"param/VLR: expected exactly where meta/lambda_mode is learnable, found {mode!r}"
        )
    run = TrainConfig(
        **fields,
        detector=detector,
        fidelity="reference",
        learning_rate=_number("meta/learning_rate", golden),
        l2=_number("meta/l2", golden),
        top_k=3 if is_ur_dmu else int(_number("meta/top_k", golden)),
        lambda_mode=mode,
        lambda_value=_number("lambda", golden) if "source_normal" in golden else 1.0,
        dropout=0.0,
    )
    return run, dim, text_dim


def _number(name: str, golden: Arrays) -> float:
    try:
        return float(golden[name])
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: expected one number, found {golden[name]!r}") from error


def _require_inputs(golden: Arrays, config: TrainConfig, dim: int, text_dim: int) -> None:
    """Raises UserError unless the shapes of inputs agree with each other and the parameters."""
    shape = golden["visual_normal"].shape
    if len(shape) not in (3, 4) or (len(shape) == 3 and config.detector != "ur_dmu"):
        raise UserError(f"visual_normal: expected [B, crops, T, {dim}], found {list(shape)}")
    expected = {"visual_normal": (*shape[:-1], dim), "visual_abnormal": (*shape[:-1], dim)}
    if config.uses_text:
        for half in ("normal", "abnormal"):
            expected[f"text_{half}"] = (*shape[:-1], text_dim)
    if config.uses_bank:
        expected["bank"] = (len(golden["bank"]), text_dim)
    if "lambda" in golden or "source_normal" in golden:
        expected |= {"source_normal": shape[:1], "source_abnormal": shape[:1]}
    if config.detector == "ur_dmu":
        expected["noise"] = (*shape[:-1], config.body_width)
        expected["eval/visual_crops"] = (*golden["eval/visual_crops"].shape[:2], dim)
    else:
        visual = golden["eval/visual"]
        expected["eval/visual"] = (*visual.shape[:3], dim)
        if config.uses_text:
            expected["eval/text"] = (*visual.shape[:2], *golden["eval/text"].shape[2:3], text_dim)
    for name, wanted in expected.items():
        if golden[name].shape != wanted:
            raise UserError(
                f"{name}: expected shape {list(wanted)} by the parameters and visual_normal, "
                f"found {list(golden[name].shape)}; is the file whole?"
            )


def _error(name: str, computed: ArrayLike, expected: ArrayLike) -> float:
    """Largest difference, relative to the largest expected value; 0 within the floor."""
    computed, expected = np.asarray(computed, np.float64), np.asarray(expected, np.float64)
    if computed.shape != expected.shape:
        raise UserError(
            f"{name}: expected shape {list(computed.shape)} (in our layout), found "
            f"{list(expected.shape)}; is the file whole?"
        )
    difference = np.max(np.abs(computed - expected), initial=0.0)
    if difference <= FLOOR:
        return 0.0
    largest = np.max(np.abs(expected), initial=0.0)
    # JSON has no infinity; what can't be divided counts as an enormous error.
    return float(np.nan_to_num(difference / (largest or FLOOR), nan=1e9, posinf=1e9))


def _largest(computed: Mapping[str, ArrayLike], expected: Mapping[str, ArrayLike]) -> float:
    if not expected:
        raise UserError(
            "expected arrays out/*, loss/* and eval/*, found a kind missing; copy it again"
        )
    if unknown := expected.keys() - computed.keys():
        raise UserError(
            f"expected outputs and losses that our detector has, found {sorted(unknown)}"
        )
    return max(_error(name, computed[name], value) for name, value in expected.items())


def _largest_leaf(computed: Any, expected: Any) -> float:
    if jax.tree.structure(computed) != jax.tree.structure(expected):
        raise UserError("param/*, grad/*, param_after/*: expected the same names, found others")
    errors = jax.tree_util.tree_map_with_path(
        lambda path, *leaves: _error(jax.tree_util.keystr(path), *leaves), computed, expected
    )
    return max(jax.tree.leaves(errors))
