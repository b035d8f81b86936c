"""Validates a feature store and prints a summary.

    python -m gvvad_jax.store PATH [--upgrade]

Compares all digests, and checks shapes, order, and that values are finite. Prints one JSON object,
or one line for each fault, with exit status 2; the command that wrote a store repairs it.
"""

import json
import sys
from collections.abc import Sequence

from absl import flags

from gvvad_jax.command import UserError, run_command
from gvvad_jax.store import folders, sealing
from gvvad_jax.store.files import write_atomically
from gvvad_jax.store.format import FORMAT_VERSION
from gvvad_jax.store.reader import Store


def main(arguments: Sequence[str]) -> None:
    store = Store(arguments[0])
    faults = store.faults()
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        raise UserError(
            f"{store.path}: expected a sound store, found {len(faults)} faults; the "
            "command that wrote it repairs it"
        )
    summary = store.summary()
    if flags.FLAGS.upgrade:
        summary["upgraded"] = upgrade(store)
    print(json.dumps(summary))


def upgrade(store: Store) -> bool:
    """Writes the digests that a sound store's manifest lacks.

    A store of version 1 gets those of itself, its index and its bank; a bank that was added to a
    finished store gets one, too. What version 1 knew of weights stays marked as known by their
    ends.

    Returns:
      Whether anything was missing.
    """
    with folders.locked(store.path / ".lock", folders.busy(store.path, "write there")):
        manifest, files = sealing.read(store.path)
        present = sealing.covered(store.path)
        if files == present:
            return False
        write_atomically(store.path / "manifest.json", sealing.to_bytes(manifest, present))
    weights = manifest.weights_known_by == "ends" and manifest.names_weights()
    print(
        f"{store.path}: {'upgraded to' if files is None else 'of'} format version "
        f"{FORMAT_VERSION}, with digests of manifest, index and bank"
        + ("; its weights are known by size and ends alone, so that it can't be trained on "
           "together with newer stores" if weights else ""),
        file=sys.stderr,
    )  # fmt: skip
    return True


if __name__ == "__main__":
    flags.DEFINE_bool(
        "upgrade",
        False,
        "Add the digests that a store of format version 1, or one whose bank was added later, "
        "lacks.",
    )
    run_command(main, usage=__doc__, positional=1)
