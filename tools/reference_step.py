"""One training step of ours beside the numbers measured on a published detector.

    python -m tools.reference_step --golden=FILE.npz

Prints {"outputs", "losses", "gradients", "optimiser", "inference", "ok"}: the largest error of
each, relative to the largest value of its array, and whether all are within bounds. Sizes come
from the file's arrays, the rest from its meta/*. The optimiser (BatchNorm's running statistics
included) is applied to the file's own gradients: Adam's first step turns one near zero, which
float32 doesn't settle, into a whole learning rate. Exit status 1 when not ok.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from gvvad_jax.command import UserError, run_command

BOUNDS = {
    "outputs": 1e-5,
    "losses": 1e-5,
    "gradients": 1e-4,
    "optimiser": 1e-5,
    "inference": 1e-5,
}
# Below this an array's error is rounding (a bias in front of a BatchNorm has no other gradient).
FLOOR = 1e-6


def main(_: Sequence[str]) -> None:
    if not flags.FLAGS.golden:
        raise UserError("--golden: expected an .npz of a reference run, found none; name one")
    errors: dict[str, Any] = compare(flags.FLAGS.golden)
    errors["ok"] = all(errors[kind] <= bound for kind, bound in BOUNDS.items())
    print(json.dumps(errors))
    if not errors["ok"]:
        sys.exit(1)


def compare(path: str) -> dict[str, float]:
    """The largest relative error of each kind for one golden file.

    Args:
      path: an .npz with meta/*, param/*, inputs, out/*, loss/*, grad/*, param_after/* and eval/*.

    Returns:
      A number for each of BOUNDS.

    Raises:
      UserError: no such file, a detector that isn't ours, an array that is missing or of another
        shape than ours.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            golden = dict(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected an .npz of a reference run, found {error}") from error
    try:
        return _Comparison(golden).errors()
    except KeyError as error:
        raise UserError(f"{path}: expected an array {error}, found none; is it whole?") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _within(prefix: str, golden: Mapping[str, Any]) -> dict[str, Any]:
    return {name[len(prefix) :]: golden[name] for name in golden if name.startswith(prefix)}


def _variables(prefix: str, golden: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters, or what is named like them, as flax variables."""
    from tools import torch_names

    variables, leftovers = torch_names.to_flax(_within(prefix, golden))
    if leftovers:
        raise UserError(f"{prefix}*: expected names of the published detectors, found {leftovers}")
    return variables


def _trained(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {"detector": variables["params"], "ssls": variables["ssls"]}


class _Comparison:
    """One golden file and our detector at its initial parameters."""

    def __init__(self, golden: Mapping[str, Any]):
        import jax
        import jax.numpy as jnp
        import numpy as np

        from gvvad_jax import step
        from gvvad_jax.detectors.mtn import Noise

        self.golden = golden
        self.config = _config(golden)
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
            noise_BxTxC = golden["noise"]
            both = np.stack([noise_BxTxC, np.zeros_like(noise_BxTxC)], axis=1)
            gaussian = jnp.asarray(both.reshape(num_videos, 1, *noise_BxTxC.shape[1:]))
        self.noise = Noise(
            key=jax.random.key(0), videos_V=jnp.arange(num_videos), gaussian_Vx=gaussian
        )

    def errors(self) -> dict[str, float]:
        found, found_losses, grads = self._run()
        return {
            "outputs": _largest(found, _within("out/", self.golden)),
            "losses": _largest(found_losses, _within("loss/", self.golden)),
            "gradients": _largest_leaf(grads, _trained(_variables("grad/", self.golden))),
            "optimiser": self._optimiser(),
            "inference": self._inference(),
        }

    def _run(self) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """Outputs and losses under their published names, and gradients under ours."""
        import jax
        import jax.numpy as jnp

        from gvvad_jax import detectors, ssls

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
            terms = file.loss_terms(out, data.text_VxTxE, data.bank_KxE, config, self.noise)
            lambda_ = ssls.lambda_of(params["ssls"], jnp.zeros((), int), config)
            total, parts = ssls.scaled_loss(terms, data.synthetic_V.reshape(-1, 2), lambda_, config)
            unweighted = {
                name: part / terms[name].weight for name, part in parts.items() if name in terms
            }
            return total, (out, parts | {"total": total}, unweighted)

        (_, (out, parts, unweighted)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            _trained(self.variables)
        )
        if config.detector == "ur_dmu":
            return *_of_ur_dmu(out, parts, unweighted), grads
        return _of_mtn(out, config.top_k), _mtn_losses(parts, unweighted, config), grads

    def _optimiser(self) -> float:
        """Adam on the file's own gradients, and one step's BatchNorm statistics."""
        import jax
        import jax.numpy as jnp
        import optax

        from gvvad_jax import step
        from gvvad_jax.batches import Batch

        expected, params = _variables("param_after/", self.golden), _trained(self.variables)
        optimizer = step.make_optimizer(self.config)
        opt_state = optimizer.init(params)
        grads = _trained(_variables("grad/", self.golden))
        updates, _ = optimizer.update(grads, opt_state, params)
        error = _largest_leaf(optax.apply_updates(params, updates), _trained(expected))
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
        state, _ = jax.jit(step.make_train_step(self.config))(state, self.data, batch)
        return max(error, _largest_leaf(state.batch_stats, expected["batch_stats"]))

    def _inference(self) -> float:
        import jax

        from gvvad_jax import detectors

        given = _within("eval/", self.golden)
        detector = detectors.by_name(self.config.detector).Detector(self.config)
        apply = jax.jit(detector.apply)
        # UR-DMU's file scores each crop as a video of its own.
        visual_VxNxTxD = (
            given["visual_crops"][:, None] if "visual_crops" in given else given["visual"]
        )
        text_VxTxE = given["text"][:, 0] if self.config.uses_text else None

        def scores(prefix: str, length: int | None = None) -> Any:
            variables = _variables(prefix, self.golden)
            variables.pop("ssls")
            return apply(variables, visual_VxNxTxD[:, :, :length], text_VxTxE).scores_VxT

        found = {}
        for name, expected in given.items():
            if name == "snippet_scores_per_crop":
                found[name] = scores("param/")
            elif name.startswith("snippet_scores"):
                before = name == "snippet_scores"
                prefix = "param/" if before else "param_after/"
                found[name] = scores(prefix, expected.shape[1])[..., None]
        return _largest(found, {name: given[name] for name in found})


def _of_mtn(out: Any, top_k: int) -> dict[str, Any]:
    """Outputs of RTFM, TEVAD and LAP: normal videos first, selections crop-major."""
    import numpy as np

    from gvvad_jax import losses
    from gvvad_jax.detectors import rtfm

    def halves(pairs_V):
        return np.concatenate([pairs_V[0::2], pairs_V[1::2]])

    selected_Vxk = np.asarray(rtfm.select(out.features_VxNxTxD, top_k, None, 0.0))
    scores_VxT, features = np.asarray(out.scores_VxT), np.asarray(out.features_VxNxTxD)
    bags_V = np.take_along_axis(scores_VxT, selected_Vxk, 1).mean(axis=1)
    found = {
        "snippet_scores": halves(scores_VxT)[..., None],
        "feature_magnitude": halves(np.asarray(losses.norm(out.features_VxNxTxD)).mean(axis=1)),
        "bag_score_normal": bags_V[0::2, None],
        "bag_score_abnormal": bags_V[1::2, None],
    }
    chosen = np.take_along_axis(features, selected_Vxk[:, None, :, None], axis=2)
    for half, name in enumerate(("normal", "abnormal")):
        crop_major = chosen[half::2].swapaxes(0, 1)
        found[f"selected_features_{name}"] = crop_major.reshape(-1, *chosen.shape[2:])
    return found


def _mtn_losses(parts: Any, unweighted: Any, config: Any) -> dict[str, Any]:
    found = {
        "smooth": parts["smoothness"],
        "sparsity": parts["sparsity"],
        "cost": parts["cost"],
        "mil_plus_magnitude": parts["bag"] + parts["magnitude"],
        "total": parts["total"],
    }
    if "pseudo" in parts:
        found["pseudo_anomaly_as_coded"] = unweighted["pseudo"]
        # The published number holds gamma once, the total twice.
        found["triplet_incl_gamma"] = unweighted["triplet"] * config.triplet_weight
    return found


def _of_ur_dmu(out: Any, parts: Any, unweighted: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    import numpy as np

    scores_VxT = np.asarray(out.scores_VxT)
    abnormal_VxT = np.asarray(out.extra["abnormal_attention"])[:, 0]
    normal_VxT = np.asarray(out.extra["normal_attention"])[:, 0]
    found = {
        "frame": np.concatenate([scores_VxT[0::2], scores_VxT[1::2]]),
        "triplet_margin": unweighted["triplet"],
        "kl_loss": unweighted["kl"],
        "distance": unweighted["distance"],
        "A_att": abnormal_VxT[1::2],
        "N_att": normal_VxT[0::2],
        "A_Natt": abnormal_VxT[0::2],
        "N_Aatt": normal_VxT[1::2],
    }
    found_losses = {
        "att_loss": unweighted["bag"],
        "A_loss": unweighted["abnormal_seen"],
        "N_Aatt": unweighted["abnormal_unseen"],
        "N_loss": unweighted["normal_seen"],
        "A_Nloss": unweighted["normal_unseen"],
        "triplet": unweighted["triplet"],
        "kl_loss": unweighted["kl"],
        "distance": unweighted["distance"],
        "cost": parts["cost"],
        "total": parts["total"],
    }
    return found, found_losses


def _config(golden: Mapping[str, Any]):
    """The run that a golden file is of: sizes from its arrays, the rest from meta/*."""
    from gvvad_jax import config
    from tools import torch_names

    detector = str(golden["meta/detector"])
    if detector not in config.DETECTORS:
        raise UserError(
            f"meta/detector: expected one of {', '.join(config.DETECTORS)}, found {detector!r}"
        )
    heads = int(golden.get("meta/heads", 4))
    fields = torch_names.sizes(_within("param/", golden), heads)
    del fields["dim"], fields["text_dim"]
    fields["detector"] = detector
    if "meta/fusion" in golden:
        fields["fusion"] = str(golden["meta/fusion"])
    if "meta/top_k" in golden:
        fields["top_k"] = int(golden["meta/top_k"])
    return config.TrainConfig(
        **fields,
        fidelity="reference",
        learning_rate=float(golden["meta/learning_rate"]),
        l2=float(golden["meta/l2"]),
        lambda_mode=str(golden.get("meta/lambda_mode", "fixed")),
        lambda_value=float(golden.get("lambda", 1.0)),
        dropout=0.0,
    )


def _error(found: Any, expected: Any) -> float:
    import numpy as np

    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise UserError(
            f"expected arrays of our shapes ({list(found.shape)}), found {list(expected.shape)}"
        )
    difference = np.max(np.abs(found - expected), initial=0.0)
    # Within the absolute floor an error counts as none; NaN counts as infinite.
    largest = np.max(np.abs(expected), initial=0.0)
    if difference <= FLOOR:
        return 0.0
    return float(np.nan_to_num(difference / largest, nan=np.inf))


def _largest(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    return max(_error(found[name], value) for name, value in expected.items())


def _largest_leaf(found: Any, expected: Any) -> float:
    import jax

    if jax.tree.structure(found) != jax.tree.structure(expected):
        raise UserError("param/*, grad/*, param_after/*: expected the same names, found others")
    return max(jax.tree.leaves(jax.tree.map(_error, found, expected)))


if __name__ == "__main__":
    flags.DEFINE_string("golden", "", "an .npz of a reference run")
    run_command(main, usage=__doc__)
