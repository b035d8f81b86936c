"""The checkpoints of a run (last, best) and model.json: writing and reading them."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.step import TrainState
from gvvad_jax.store.files import read_json, write_json
from gvvad_jax.store.format import Manifest

KINDS = ("last", "best_on_validation", "best_on_test")


class Checkpoints:
    """The checkpoints of one run: the last one, and the best by each measure.

    Each kind is a folder of its own that holds one checkpoint: the new one is whole before the
    old one goes, also under kill -9. Of several processes only the first one has them.

    Args:
      workdir: the run's folder.
    """

    def __init__(self, workdir: str | os.PathLike[str]):
        self._root = pathlib.Path(workdir).resolve() / "checkpoints"
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def _manager(self, kind: str) -> ocp.CheckpointManager:
        if kind not in self._managers:
            alone = _this_process_alone()
            (self._root / kind).mkdir(parents=True, exist_ok=True)
            self._managers[kind] = ocp.CheckpointManager(
                self._root / kind,
                # By default orbax waits for all processes, and creates folders with all of them.
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=1,
                    create=alone is None,
                    multiprocessing_options=alone or ocp.options.MultiprocessingOptions(),
                ),
            )
        return self._managers[kind]

    def latest(self, kind: str) -> int | None:
        """Returns the step of the checkpoint of this kind; None where there is none."""
        if not (self._root / kind).exists():
            return None
        return self._manager(kind).latest_step()

    def save(self, kind: str, step: int, state: TrainState, measure: list[float | None]) -> None:
        """Saves a checkpoint in the background; `measure` is what it was selected by."""
        manager = self._manager(kind)
        if manager.latest_step() == step:
            return
        if kind == "last":
            # A run resumed from the last one doesn't consider earlier steps again, so the best
            # ones must be on disk first.
            for other in self._managers.values():
                other.wait_until_finished()
        if jax.process_count() > 1:
            state = jax.device_get(state)  # Orbax takes arrays of one process from the host only.
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), measure=ocp.args.JsonSave(measure)
            ),
        )

    def measure(self, kind: str) -> list[float | None] | None:
        """Returns what the checkpoint of this kind was selected by; None where there is none."""
        step = self.latest(kind)
        if step is None:
            return None
        return self._restore(kind, step, measure=ocp.args.JsonRestore())["measure"]

    def restore(self, kind: str, template: TrainState) -> TrainState:
        """Restores the checkpoint of this kind onto the first device.

        Args:
          kind: one of KINDS.
          template: a state of the same shapes, abstract or not.

        Raises:
          UserError: there is none, or it is damaged.
        """
        step = self.latest(kind)
        if step is None:
            raise UserError(
                f"{self._root}: expected a checkpoint {kind}, found none; "
                "train first, or choose another --checkpoint"
            )
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def abstract_of(leaf: Any) -> Any:
            if jax.process_count() > 1:
                return np.zeros(leaf.shape, leaf.dtype)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        abstract = jax.tree.map(abstract_of, template)
        return self._restore(kind, step, state=ocp.args.StandardRestore(abstract))["state"]

    def _restore(self, kind: str, step: int, **items: Any) -> Any:
        try:
            return self._manager(kind).restore(step, args=ocp.args.Composite(**items))
        except jax.errors.JaxRuntimeError:
            raise  # A fault of the device, not of the files.
        except Exception as error:  # Damaged files raise many kinds in orbax and tensorstore.
            folder = self._root / kind / str(step)
            # Only a run from the start selects a best one again.
            remove = folder if kind == "last" else self._root
            raise UserError(
                f"{folder}: expected a whole checkpoint, found it damaged ({str(error)[:160]}); "
                f"remove {remove} and train again: it goes on from the one before, or else from "
                "the start"
            ) from error

    def wait(self) -> None:
        """Waits until all checkpoints are on disk."""
        for manager in self._managers.values():
            manager.wait_until_finished()

    def close(self) -> None:
        """Waits until all checkpoints are on disk, then releases the folders."""
        self.wait()
        for manager in self._managers.values():
            manager.close()
        self._managers.clear()


def _this_process_alone() -> ocp.options.MultiprocessingOptions | None:
    index = jax.process_index()
    if jax.process_count() == 1:
        return None
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
    )


def write_model(
    workdir: str | os.PathLike[str],
    config: TrainConfig,
    manifest: Manifest,
    standardisation: dict[str, Any] | None,
) -> None:
    """Writes model.json, which holds all that scoring needs besides the weights."""
    content = {
        "config": dataclasses.asdict(config),
        "manifest": manifest.to_json(),
        "standardisation": standardisation,
    }
    path = pathlib.Path(workdir) / "model.json"
    write_json(path, content)


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """The content of model.json.

    Attributes:
      config: the settings of the training.
      manifest: what holds for the features that it was trained on.
      standardisation: content for splits.Standardisation.from_json.
    """

    config: TrainConfig
    manifest: Manifest
    standardisation: Mapping[str, Any] | None


def read_model(workdir: str | os.PathLike[str]) -> SavedModel:
    """Reads model.json; raises UserError where there is none, or one of another version."""
    path = pathlib.Path(workdir) / "model.json"
    if not path.exists():
        raise UserError(
            f"{workdir}: expected a run's folder (model.json), found none; "
            "make one with python -m gvvad_jax.train"
        )
    content = read_json(path)
    try:
        config = dict(content["config"])
        config["head_widths"] = tuple(config["head_widths"])
        manifest = {k: v for k, v in content["manifest"].items() if k != "format_version"}
        return SavedModel(TrainConfig(**config), Manifest(**manifest), content["standardisation"])
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected a model of this version, found another ({error}); train again"
        ) from error
