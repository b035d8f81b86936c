"""The checkpoints of a run (last, best) and model.json: writing and reading them."""

import contextlib
import dataclasses
import errno
import hashlib
import logging
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import msgspec
import numpy as np
import orbax.checkpoint as ocp

from gvvad_jax.calibration import Calibrations
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.step import TrainState
from gvvad_jax.store import digests
from gvvad_jax.store.files import as_type, read_json_as, write_json
from gvvad_jax.store.format import Manifest


class _Note(msgspec.Struct, forbid_unknown_fields=True):
    """What lies beside a checkpoint's values; version 1 had the measure alone.

    Attributes:
      measure: what the checkpoint was selected by.
      sha256: digest of its values.
    """

    measure: list[float | None]
    sha256: str | None = None


class Checkpoints:
    """The checkpoints of one run: the last one, and the best by each measure.

    Each kind is a folder of its own that holds one checkpoint: the new one is whole before the
    old one goes, also under kill -9. Of several processes only the first one has them.

    Args:
      workdir: the run's folder.
    """

    def __init__(self, workdir: str | os.PathLike[str]):
        self._root = pathlib.Path(workdir).resolve() / "checkpoints"
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_is_not_of_orbax_threads)
        if sys.unraisablehook is sys.__unraisablehook__:
            sys.unraisablehook = _report_all_but_closed_loops
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def _manager(self, kind: str) -> ocp.CheckpointManager:
        if kind not in self._managers:
            alone = _this_process_alone()
            (self._root / kind).mkdir(parents=True, exist_ok=True)
            # By default orbax waits for all processes, and creates folders with all of them.
            options = ocp.CheckpointManagerOptions(
                max_to_keep=1,
                create=alone is None,
                multiprocessing_options=alone or ocp.options.MultiprocessingOptions(),
            )
            try:
                self._managers[kind] = ocp.CheckpointManager(self._root / kind, options=options)
            except OSError:
                raise  # A fault of the disk.
            except Exception as error:  # Damaged files raise many kinds.
                raise self._damaged(kind, None, str(error)[:160]) from error
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
            self.wait()
        on_host = jax.device_get(state)
        note = _Note(measure=measure, sha256=_digest(on_host))
        if jax.process_count() > 1:
            state = on_host  # Orbax takes arrays of one process from the host only.
        with _disk_errors(self._root / kind):
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    measure=ocp.args.JsonSave(msgspec.to_builtins(note)),
                ),
            )

    def measure(self, kind: str) -> list[float | None] | None:
        """Returns what the checkpoint of this kind was selected by; None where there is none."""
        step = self.latest(kind)
        if step is None:
            return None
        return self._note(kind, step).measure

    def _note(self, kind: str, step: int) -> _Note:
        content = self._restore(kind, step, measure=ocp.args.JsonRestore())["measure"]
        try:
            return as_type(_Note)({"measure": content} if isinstance(content, list) else content)
        except ValueError as error:
            raise self._damaged(kind, step, str(error)) from error

    def restore(self, kind: str, template: TrainState) -> TrainState:
        """Restores the checkpoint of this kind onto the first device.

        Args:
          kind: one of CHECKPOINTS.
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
        state = self._restore(kind, step, state=ocp.args.StandardRestore(abstract))["state"]
        saved = self._note(kind, step).sha256
        # Those of version 1 have none.
        if saved and saved != _digest(jax.device_get(state)):
            raise self._damaged(kind, step, "its values aren't those that were saved")
        return state

    def _restore(self, kind: str, step: int, **items: Any) -> Any:
        try:
            return self._manager(kind).restore(step, args=ocp.args.Composite(**items))
        except jax.errors.JaxRuntimeError:
            raise  # A fault of the device, not of the files.
        except Exception as error:  # Damaged files raise many kinds in orbax and tensorstore.
            raise self._damaged(kind, step, str(error)[:160]) from error

    def _damaged(self, kind: str, step: int | None, found: str) -> UserError:
        folder = self._root / kind / ("" if step is None else str(step))
        # Only a run from the start selects a best one again.
        remove = folder if kind == "last" else self._root
        return UserError(
            f"{folder}: expected a whole checkpoint, found it damaged ({found}); remove {remove} "
            "and train again: it goes on from the one before, or else from the start"
        )

    def wait(self) -> None:
        """Waits until all checkpoints are on disk."""
        for kind, manager in self._managers.items():
            with _disk_errors(self._root / kind):
                manager.wait_until_finished()

    def close(self) -> None:
        """Waits until all checkpoints are on disk, then releases the folders."""
        self.wait()
        for manager in self._managers.values():
            manager.close()
        self._managers.clear()


def _digest(state: TrainState) -> str:
    """Returns the digest of a state's values, each with its place, type and shape.

    Those of a float64 run count in 32 bits, in which it may be restored.
    """
    digest = hashlib.sha256()
    for place, leaf in jax.tree_util.tree_leaves_with_path(state):
        values = np.asarray(leaf)
        if values.dtype.itemsize == 8:
            values = values.astype(f"{values.dtype.kind}4")
        digest.update(f"{jax.tree_util.keystr(place)} {values.dtype} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _is_not_of_orbax_threads(record: logging.LogRecord) -> bool:
    """Drops the tracebacks that are logged of errors in orbax' threads: it raises them as well."""
    is_repeated = "orbax" in record.pathname or "never retrieved" in record.getMessage()
    return not (record.exc_info and is_repeated)


def _report_all_but_closed_loops(unraisable: "sys.UnraisableHookArgs") -> None:
    """Drops what tensorstore's threads print of a failed write: its error is raised as well."""
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def _disk_errors(folder: pathlib.Path) -> Iterator[None]:
    """Turns what orbax and tensorstore raise on a full disk into the operating system's error."""
    try:
        yield
    except Exception as error:
        for code in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(code) in f"{error} {error.__cause__}":
                raise OSError(code, os.strerror(code), str(folder)) from error
        raise


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
    calibrations: Calibrations | None = None,
) -> None:
    """Writes model.json, which holds all that scoring needs besides the weights."""
    content = {
        "config": dataclasses.asdict(config),
        "manifest": manifest.to_json(),
        "standardisation": standardisation,
    }
    if calibrations:
        content["calibration"] = msgspec.to_builtins(calibrations)
    path = pathlib.Path(workdir) / "model.json"
    write_json(path, content | {"sha256": digests.of_json(content)})


class _Model(msgspec.Struct, forbid_unknown_fields=True):
    """The types of model.json; version 1 had no digest, and a run that isn't finished is without
    calibration."""

    config: dict[str, Any]
    manifest: dict[str, Any]
    standardisation: dict[str, list[float]] | None
    calibration: dict[str, Any] | None = None
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """The content of model.json.

    Attributes:
      config: the settings of the training.
      manifest: what holds for the features that it was trained on.
      standardisation: content for Standardisation.from_json.
      calibrations: of its checkpoints; None where training has set none.
    """

    config: TrainConfig
    manifest: Manifest
    standardisation: Mapping[str, Any] | None
    calibrations: Calibrations | None = None


def read_model(workdir: str | os.PathLike[str]) -> SavedModel:
    """Reads model.json; raises UserError where there is none, or one of another version."""
    path = pathlib.Path(workdir) / "model.json"
    if not path.exists():
        raise UserError(
            f"{workdir}: expected a run's folder (model.json), found none; "
            "make one with gvvad train"
        )
    remedy = "train again, or restore the file"
    saved = read_json_as(path, _Model, "the model of a run", remedy)
    content = {name: getattr(saved, name) for name in ("config", "manifest", "standardisation")}
    if saved.calibration is not None:
        content["calibration"] = saved.calibration
    if saved.sha256 and saved.sha256 != digests.of_json(content):
        raise UserError(
            f"{path}: expected the values that it was written with, found others; {remedy}"
        )
    if saved.sha256 is None:
        print(
            f"{workdir}: a run of version 1: it scores, without digests to check its weights by, "
            "but can't be resumed",
            file=sys.stderr,
        )
    try:
        config = dict(saved.config)
        config["head_widths"] = tuple(config["head_widths"])
        return SavedModel(
            TrainConfig(**config),
            Manifest.from_json(saved.manifest),
            saved.standardisation,
            as_type(Calibrations)(saved.calibration) if saved.calibration is not None else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: expected a model of this version, found another ({error}); train again"
        ) from error
