"""Imports a published PyTorch checkpoint into a workdir that evaluate and score can use.

    python -m tools.import_checkpoint --source=model.pkl --workdir=W [--store=STORE]

--source is a state dict of RTFM, TEVAD, LAP or UR-DMU, alone or under a trainer's key, loaded with
weights_only. Sizes are read from its arrays; every name and shape is checked. Flags give what the
arrays can't: --fusion (add and product have the same shapes), --heads (UR-DMU). The features are
those of --store; without it their encoder is unknown, snippets have 16 frames, and any such store
of the same widths is accepted. Where snippets are 16 frames every 16, evaluate aligns scores with
frames as published (--fidelity=reference). Prints one JSON object.
"""

import json
import sys

from absl import flags

from gvvad_jax.command import UserError, run_command


def main(_: list[str]) -> None:
    from tools.published import checkpoints

    values = flags.FLAGS
    for name in ("source", "workdir"):
        if not values[name].value:
            raise UserError(f"--{name}: expected a path, found none; give one")
    imported = checkpoints.import_checkpoint(
        values.source,
        values.workdir,
        store_path=values.store,
        detector=values.detector,
        fusion=values.fusion,
        heads=values.heads,
        allow_leftovers=values.allow_leftovers,
    )
    if imported["leftovers"]:
        print(f"parameters not imported: {', '.join(imported['leftovers'])}", file=sys.stderr)
    print(json.dumps(imported))


if __name__ == "__main__":
    flags.DEFINE_string("source", "", "PyTorch state dict to import (.pkl, .pth, .pt).")
    flags.DEFINE_string("workdir", "", "Folder to write.")
    flags.DEFINE_string(
        "store", "", "Feature store of the checkpoint's encoder (default: unknown)."
    )
    flags.DEFINE_enum(
        "detector", "auto", ["auto", "rtfm", "tevad", "lap", "ur_dmu"],
        "Detector that the checkpoint is of; auto goes by its parameters.",
    )  # fmt: skip
    flags.DEFINE_enum(
        "fusion", "auto", ["auto", "concat", "add", "product", "add_up"],
        "How the visual and the text stream are joined; auto goes by the shapes.",
    )  # fmt: skip
    flags.DEFINE_integer("heads", 4, "Number of attention heads of UR-DMU.", 1)
    flags.DEFINE_bool("allow_leftovers", False, "Skip parameters that the detector doesn't have.")
    run_command(main, usage=__doc__)
