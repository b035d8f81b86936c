"""What a run trains on: its videos, how they are drawn, and what their data's digests are."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gvvad_jax import batches, pairing, parallel, segments, windows
from gvvad_jax.choosing import Choice
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.run.lambda_choice import choose_once
from gvvad_jax.splits import Member, Splits, open_splits, read_decisions
from gvvad_jax.standardisation import Standards, standards
from gvvad_jax.store import annotations, digests
from gvvad_jax.store.files import load_array, read_json
from gvvad_jax.store.format import Manifest, bank_faults, model_identity
from gvvad_jax.store.reader import Store

Feed = segments.Resident | segments.Ahead


class Inputs(NamedTuple):
    """The videos of a run and how they are drawn.

    Attributes:
      splits, stores: the videos by use, and the stores that hold them.
      standards: the standardisation of their visual features.
      bank_KxE: embedded anomaly prompts; None where the detector uses none.
      synthetic_V: whether each of `members` is generated.
      drawn: which of `members` make each batch.
      members: all videos whose features a step may ask for, by their number.
      made_of: digests of what was read.
      config: the settings to train with: with a fixed lambda where `auto` chose it.
      choice: what `auto` chose; None in other modes of lambda.
    """

    splits: Splits
    stores: Sequence[Store]
    standards: Standards
    bank_KxE: np.ndarray | None
    synthetic_V: np.ndarray
    drawn: batches.Batches
    members: Sequence[Member]
    made_of: dict[str, Any]
    config: TrainConfig
    choice: Choice | None

    @property
    def manifest(self) -> Manifest:
        return self.stores[0].manifest


def open_inputs(config: TrainConfig) -> Inputs:
    """Opens the stores, and chooses lambda; features are read when they are asked for."""
    splits, stores = open_splits(config)
    if choice := choose_once(config, splits, stores):
        splits, config = choice.apply(splits, config)
    members = [*splits.train, *splits.held_out]
    synthetic_V = np.array([member.row.source == "synthetic" for member in members])
    drawn = batches.Batches(
        np.array([member.video.label for member in members]),
        synthetic_V,
        config,
        held_out_V=np.arange(len(members)) >= len(splits.train),
        twins_V=pairing.twins_of(members),
    )
    bank_KxE = read_bank(stores[0]) if config.uses_bank else None
    return Inputs(
        splits=splits,
        stores=stores,
        standards=standards(splits.train, config),
        bank_KxE=bank_KxE,
        synthetic_V=synthetic_V,
        drawn=drawn,
        members=members,
        made_of=made_of(config, splits, stores, bank_KxE),
        config=config,
        choice=choice,
    )


def made_of(
    config: TrainConfig, splits: Splits, stores: Sequence[Store], bank_KxE: np.ndarray | None
) -> dict[str, Any]:
    """Digests of the data that a run's flags only name, by role; None for what it doesn't use.

    They are the content of begun.json (run.folder.Begun), and part of result.json.
    """
    named = [*splits.train, *splits.held_out, *splits.validation]
    labels = sorted((member.video.id, member.video.label) for member in named)
    keep, annotated = config.synthetic_keep, config.annotations
    used: dict[str, Any] = splits.to_json()
    if config.pair_twins:
        used["twins"] = {m.video.id: m.row.twin for m in splits.train if m.row.twin}
    of_stores = [store.digest() for store in stores]
    return {
        "stores": of_stores[: len(config.store.split(","))],
        # Several stores' digests are one, in their order.
        "synthetic_store": ",".join(of_stores[len(config.store.split(",")) :]) or None,
        "splits": digests.of_json(used),
        "labels": digests.of_json(labels),
        "decisions": digests.of_json(read_decisions(keep)) if keep else None,
        "annotations": digests.of_json(annotations.load(annotated).to_json())
        if annotated
        else None,
        "bank": None if bank_KxE is None else digests.of_bytes(bank_KxE.tobytes()),
    }


def make_feed(
    config: TrainConfig, inputs: Inputs, runner: parallel.Runner, workdir: pathlib.Path
) -> Feed:
    """The source of each step's videos: the devices where all of them fit, else mapped files.

    Windows of consecutive snippets are read from the stores as they are drawn.
    """
    fixed = segments.Fixed(synthetic_V=inputs.synthetic_V, bank_KxE=inputs.bank_KxE)
    kept = segments.Segments(inputs.members, inputs.standards, config)
    fits = kept.num_bytes / runner.num_devices <= config.device_gigabytes * 1e9
    if fits and not config.causal_window:
        return segments.Resident(kept, fixed, inputs.drawn, runner)
    return ahead(config, inputs, runner, workdir)


def ahead(
    config: TrainConfig, inputs: Inputs, runner: segments.Placing, workdir: pathlib.Path
) -> segments.Ahead:
    """The source of each step's videos where they aren't on the devices."""
    fixed = segments.Fixed(synthetic_V=inputs.synthetic_V, bank_KxE=inputs.bank_KxE)
    if config.causal_window:
        taken = windows.Windows(inputs.members, inputs.standards, config)
        return segments.Ahead(taken, fixed, inputs.drawn, runner)
    folder = workdir / f"segments-{jax.process_index()}-of-{jax.process_count()}"
    kept = segments.Segments(inputs.members, inputs.standards, config, folder)
    return segments.Ahead(kept, fixed, inputs.drawn, runner)


def read_bank(store: Store) -> np.ndarray:
    """The anomaly-prompt bank [K, E] that was embedded with the store's text."""
    path = store.path / "bank.npy"
    bank_KxE = load_array(
        path,
        "LAP's anomaly-prompt bank [K, text_dim] (else encode with text, or use --detector=tevad "
        "or --feature_group=visual)",
    )
    if faults := bank_faults(bank_KxE, store.manifest):
        raise UserError(f"{path}: {faults[0]}; embed the bank again, by the store's text encoder")
    require_encoder(path.with_suffix(".json"), store)
    return np.asarray(bank_KxE, np.float32)


def require_encoder(path: pathlib.Path, store: Store) -> None:
    """Raises UserError for a bank of another text encoder than the store's.

    A bank without a .json, as imports have it, is taken as it is.
    """
    if not path.exists() or not store.manifest.text:
        return
    content, expected = read_json(path), store.manifest.text["encoder"]
    encoder = content.get("encoder") if isinstance(content, dict) else content
    same = model_identity(str(encoder)) == model_identity(str(expected))
    if "unknown" not in (encoder, expected) and not same:
        raise UserError(
            f"{path}: expected a bank embedded by {expected!r} as the store's text, found "
            f"{encoder!r}; encode the store again, or copy bank.npy and bank.json from one of that "
            "encoder"
        )
