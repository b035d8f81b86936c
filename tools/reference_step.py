"""One training step of ours beside the numbers measured on a published detector.

    python -m tools.reference_step --golden=FILE.npz

Prints {"outputs", "losses", "gradients", "optimiser", "inference", "ok"}: the largest error of
each, relative to the largest value of its array, and whether all are within bounds. Sizes come
from the file's arrays, the rest from its meta/*. Exit status 1 when not ok.
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
    errors = compare(flags.FLAGS.golden)
    errors["ok"] = all(errors[kind] <= bound for kind, bound in BOUNDS.items())
    print(json.dumps(errors))
    if not errors["ok"]:
        sys.exit(1)


def compare(path: str) -> dict[str, float]:
    """The largest relative error of each kind for one golden file.

    Args:
      path: an .npz as DETECTORS of the reference describes it.

    Returns:
      A number for each of BOUNDS.

    Raises:
      UserError: no such file, or a detector that isn't ours.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            golden = dict(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected an .npz of a reference run, found {error}") from error
    if "meta/detector" not in golden:
        raise UserError(f"{path}: expected meta/detector, found {sorted(golden)[:3]} ...")
    return _Comparison(golden).errors()


def _within(prefix: str, golden: Mapping[str, Any]) -> dict[str, Any]:
    return {name[len(prefix) :]: golden[name] for name in golden if name.startswith(prefix)}


class _Comparison:
    """One golden file and our detector at its initial parameters."""

    def __init__(self, golden: Mapping[str, Any]):
        import jax.numpy as jnp
        import numpy as np

        from gvvad_jax import step
        from tools import torch_names

        self.golden = golden
        self.config = _config(golden)
        self.lambda_ = {}
        params = _within("param/", golden)
        if self.config.lambda_mode == "learnable":
            self.lambda_ = {"lambda": jnp.asarray(params.pop("VLR")).reshape(())}
        self.variables = torch_names.to_flax(params)
        self.params = {"detector": self.variables["params"], "ssls": self.lambda_}

        def pairs(kind: str) -> np.ndarray:
            halves = [golden[f"{kind}_normal"], golden[f"{kind}_abnormal"]]
            return np.stack(halves, axis=1).reshape(-1, *halves[0].shape[1:])

        visual_VxNxTxD = jnp.asarray(pairs("visual"))
        num_videos = len(visual_VxNxTxD)
        has_sources = "source_normal" in golden
        self.data = step.TrainingData(
            visual_VxNxTxD=visual_VxNxTxD,
            text_VxTxE=jnp.asarray(pairs("text")[:, 0]) if self.config.uses_text else None,
            synthetic_V=jnp.asarray(pairs("source") if has_sources else np.zeros(num_videos)) > 0,
            bank_KxE=jnp.asarray(golden["bank"]) if "bank" in golden else None,
        )

    def errors(self) -> dict[str, float]:
        found, found_losses, grads = self._run()
        return {
            "outputs": _largest(found, _within("out/", self.golden)),
            "losses": _largest(found_losses, _within("loss/", self.golden)),
            "gradients": _largest_leaf(grads, self._torch_gradients()),
            "optimiser": self._optimiser(),
            "inference": self._inference(),
        }

    def _run(self) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """Outputs and losses under their published names, and gradients under ours."""
        import jax

        from gvvad_jax import detectors, ssls
        from gvvad_jax.detectors import rtfm

        file, data = detectors.by_name(self.config.detector), self.data

        def loss(params):
            out, _ = file.Detector(self.config).apply(
                self.variables | {"params": params["detector"]},
                data.visual_VxNxTxD,
                data.text_VxTxE,
                train=True,
                mutable=["batch_stats"],
            )
            terms = file.loss_terms(out, data.text_VxTxE, data.bank_KxE, self.config, None)
            lambda_ = ssls.lambda_of(params["ssls"], self.config)
            synthetic_Bx2 = data.synthetic_V.reshape(-1, 2)
            total, parts = ssls.scaled_loss(terms, synthetic_Bx2, lambda_, "reference")
            selected_Vxk = rtfm.select(out.features_VxNxTxD, self.config.top_k, None, 0.0)
            return total, (out, selected_Vxk, parts)

        (total, (out, selected_Vxk, parts)), grads = jax.jit(
            jax.value_and_grad(loss, has_aux=True)
        )(self.params)
        return _outputs(out, selected_Vxk), self._losses(total, parts), grads

    def _losses(self, total: Any, parts: Mapping[str, Any]) -> dict[str, Any]:
        found = {
            "smooth": parts["smoothness"],
            "sparsity": parts["sparsity"],
            "cost": parts["cost"],
            "mil_plus_magnitude": parts["bag"] + parts["magnitude"],
            "total": total,
        }
        if "pseudo" in parts:
            found["pseudo_anomaly_as_coded"] = parts["pseudo"] / self.config.pseudo_weight
            found["triplet_incl_gamma"] = parts["triplet"] / self.config.triplet_weight
        return found

    def _torch_gradients(self) -> Any:
        from tools import torch_names

        grads = _within("grad/", self.golden)
        ssls_grads = {}
        if "VLR" in grads:
            ssls_grads = {"lambda": grads.pop("VLR").reshape(())}
        return {"detector": torch_names.to_flax(grads)["params"], "ssls": ssls_grads}

    def _optimiser(self) -> float:
        """Adam on the file's own gradients, and one step's BatchNorm statistics."""
        import jax
        import jax.numpy as jnp
        import optax

        from gvvad_jax import step
        from tools import torch_names

        after = _within("param_after/", self.golden)
        lambda_after = {"lambda": after.pop("VLR").reshape(())} if self.lambda_ else {}
        expected = torch_names.to_flax(after)
        optimizer = step.make_optimizer(self.config)
        opt_state = optimizer.init(self.params)
        updates, _ = optimizer.update(self._torch_gradients(), opt_state, self.params)
        params = optax.apply_updates(self.params, updates)
        error = _largest_leaf(params, {"detector": expected["params"], "ssls": lambda_after})
        state = step.TrainState(
            step=jnp.zeros((), jnp.int32),
            params=self.params,
            batch_stats=self.variables["batch_stats"],
            opt_state=opt_state,
            key=jax.random.PRNGKey(0),
        )
        pairs_B = jnp.arange(len(self.data.synthetic_V) // 2)
        videos_Bx2 = jnp.arange(len(self.data.synthetic_V)).reshape(-1, 2)
        state, _ = jax.jit(step.make_train_step(self.config))(state, self.data, videos_Bx2, pairs_B)
        return max(error, _largest_leaf(state.batch_stats, expected["batch_stats"]))

    def _inference(self) -> float:
        import jax

        from gvvad_jax import detectors
        from tools import torch_names

        after = {k: v for k, v in _within("param_after/", self.golden).items() if k != "VLR"}
        detector = detectors.by_name(self.config.detector).Detector(self.config)
        visual_VxNxTxD = self.golden["eval/visual"]
        text_VxTxE = self.golden["eval/text"][:, 0] if self.config.uses_text else None
        updated = torch_names.to_flax(after)
        found = {
            "snippet_scores": (self.variables, visual_VxNxTxD),
            "snippet_scores_after_step": (updated, visual_VxNxTxD),
        }
        if "eval/snippet_scores_longer_text" in self.golden:
            length = self.golden["eval/snippet_scores_longer_text"].shape[1]
            shorter = visual_VxNxTxD[:, :, :length]
            found["snippet_scores_longer_text"] = (updated, shorter)
        apply = jax.jit(detector.apply)
        scores = {
            name: apply(variables, visual, text_VxTxE).scores_VxT[..., None]
            for name, (variables, visual) in found.items()
        }
        return _largest(scores, _within("eval/", self.golden))


def _outputs(out: Any, selected_Vxk: Any) -> dict[str, Any]:
    """Our outputs under the published names: normal videos first, selections crop-major."""
    import numpy as np

    from gvvad_jax import losses

    def halves(pairs_V):
        return np.concatenate([pairs_V[0::2], pairs_V[1::2]])

    scores_VxT, selected_Vxk = np.asarray(out.scores_VxT), np.asarray(selected_Vxk)
    features = np.asarray(out.features_VxNxTxD)
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


def _config(golden: Mapping[str, Any]):
    from gvvad_jax import config

    detector = str(golden["meta/detector"])
    if detector not in config.DETECTORS:
        raise UserError(
            f"meta/detector: expected one of {', '.join(config.DETECTORS)}, found {detector!r}"
        )
    return config.TrainConfig(
        detector=detector,
        fidelity="reference",
        fusion=str(golden.get("meta/fusion", "concat")),
        learning_rate=float(golden["meta/learning_rate"]),
        l2=float(golden["meta/l2"]),
        top_k=int(golden["meta/top_k"]),
        lambda_mode=str(golden.get("meta/lambda_mode", "fixed")),
        lambda_value=float(golden.get("lambda", 1.0)),
        dropout=0.0,
    )


def _error(found: Any, expected: Any) -> float:
    import numpy as np

    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise ValueError(f"expected shape {expected.shape}, found {found.shape}")
    difference = np.max(np.abs(found - expected), initial=0.0)
    # Within the absolute floor an error counts as none.
    largest = np.max(np.abs(expected), initial=0.0)
    return float(difference / largest) if difference > FLOOR else 0.0


def _largest(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    inputs = ("visual", "text")
    return max(_error(found[name], value) for name, value in expected.items() if name not in inputs)


def _largest_leaf(found: Any, expected: Any) -> float:
    import jax

    return max(jax.tree.leaves(jax.tree.map(_error, found, expected)))


if __name__ == "__main__":
    flags.DEFINE_string("golden", "", "an .npz of a reference run")
    run_command(main, usage=__doc__)
