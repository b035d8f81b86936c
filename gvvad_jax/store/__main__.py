"""Validates a feature store and prints a summary.

python -m gvvad_jax.store PATH
"""

import json
import sys
from collections.abc import Sequence

from gvvad_jax.command import UserError, run_command
from gvvad_jax.store.reader import Store


def main(arguments: Sequence[str]) -> None:
    store = Store(arguments[0])
    faults = store.faults()
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        raise UserError(f"{store.path}: expected a sound store, found {len(faults)} faults")
    print(json.dumps(store.summary()))


if __name__ == "__main__":
    run_command(main, usage=__doc__, positional=1)
