"""Imports a published PyTorch checkpoint into a workdir that evaluate and score can use.

    python -m tools.import_checkpoint --source=model.pkl --workdir=W [--store=STORE]

--source is a state dict of RTFM, TEVAD, LAP or UR-DMU, loaded with weights_only: alone or below a
trainer's keys, with prefixes of wrappers, beside optimiser state and numpy values. Sizes are read
from its arrays; every name and shape is checked. Flags give what the arrays can't: --fusion (add
and product have the same shapes), --heads (UR-DMU). The features are those of --store; without it
their encoder is unknown, snippets have 16 frames, any such store of the same widths is accepted,
and --num_crops says how many crops arrays [T, crops, D] have. Where snippets are 16 frames every
16, evaluate aligns scores with frames as published (--fidelity=reference). Prints one JSON object.
"""

import json
import sys

from gvvad_jax.command import define_flags, from_flags, run_command
from tools.published.checkpoints import CheckpointImport, import_checkpoint


def main(_: list[str]) -> None:
    imported = import_checkpoint(from_flags(CheckpointImport))
    if imported["leftovers"]:
        print(f"parameters not imported: {', '.join(imported['leftovers'])}", file=sys.stderr)
    print(json.dumps(imported))


if __name__ == "__main__":
    define_flags(CheckpointImport)
    run_command(main, usage=__doc__)
