"""Encodes the videos of a list into a store, resuming where an earlier run stopped."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from generation import ranks
from generation.encode import provenance
from generation.encode.recipe import EncodeOptions, Recipe
from generation.encode.reporting import report_faults, warn
from generation.encoders import banks
from generation.encoders.protocols import Captioner, StandIn
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, folders, sealing
from gvvad_jax.store.reader import Store
from gvvad_jax.store.writer import StoreWriter, clear_leftovers


def encode(
    videos_path: str | os.PathLike,
    out: str | os.PathLike,
    recipe: Recipe | EncodeOptions,
    *,
    prompts_path: str | os.PathLike | None = None,
    progress: bool = True,
    workers: int = 1,
    ray_workers: int = 0,
    gpus_a_worker: float = 0,
    spent: MutableMapping[str, Any] | None = None,
) -> bool:
    """Encodes the videos of a videos.json into a store, resuming what is there.

    Ranks (RANK, WORLD_SIZE), processes of this machine or Ray's workers share the videos; whoever
    finishes last packs the store, whose bytes don't depend on how they were shared. A store that
    was finished with the same options is recognised before models are loaded. A video that cannot
    be encoded is quarantined with the reason and does not stop the others.

    Args:
      videos_path: the videos.json.
      out: the store's folder.
      recipe: how to encode; workers need EncodeOptions.
      prompts_path: prompts.jsonl of generated videos. Description, twin and seed go into the row
        of the video with the same id; its phrase gives the text rows of --captioner=description.
      progress: whether to show progress bars. Faults of videos are printed in any case.
      workers, ray_workers, gpus_a_worker: see ranks.each.
      spent: gets the key `usage`, see chat/usage.py, if a captioner asks a server in this process.

    Returns:
      Whether the store is finished; False while videos of other ranks are missing.

    Raises:
      Interrupted: no video could be encoded, or a worker's process died.
      UserError: a file is missing, a server could not caption a video, another process encodes
        into `out`, or `out` holds a store with other settings or something else.
    """
    elsewhere = workers > 1 or ray_workers > 0
    assert isinstance(recipe, EncodeOptions) or not elsewhere, "a Recipe can't go to workers"
    folders.require_own(out, "store", signs=sealing.SIGNS)
    videos = require_files(annotations.load(videos_path))
    descriptions = provenance.descriptions_by_id(prompts_path)
    digest_by_id = provenance.video_digests(videos, descriptions, recipe.source)
    options = recipe if isinstance(recipe, EncodeOptions) else None
    if options and _is_finished(out, options, videos, digest_by_id):
        return True
    loaded = _load(recipe, out, elsewhere)
    if loaded.uses_descriptions:
        provenance.require_descriptions(videos.videos, descriptions, prompts_path)
    with _alone(out):
        writer = _begin(out, loaded, videos, digest_by_id)
        own_ids = list(videos.videos) if ray_workers else ranks.share(list(videos.videos))
        todo = [] if all(map(writer.has, own_ids)) else list(videos.videos)
        paths = [path and os.path.abspath(path) for path in (videos_path, out, prompts_path)]
        shown = progress and not elsewhere
        source = recipe if elsewhere else loaded
        make_work = functools.partial(_start, source, digest_by_id, *paths, progress=shown)
        shares = {"workers": workers, "ray_workers": ray_workers, "gpus_a_worker": gpus_a_worker}
        with _usage_reported(None if elsewhere else loaded.captioner, spent):
            ranks.each(make_work, todo, **shares, label="encode", unit="video", progress=progress)
        return _finish(writer, own_ids, options)


def _is_finished(
    out: str | os.PathLike,
    options: EncodeOptions,
    videos: annotations.Annotations,
    digest_by_id: Mapping[str, str],
) -> bool:
    """Returns whether the store is there already, and reports its videos' faults again."""
    if not provenance.is_finished(out, options.fingerprint(), videos, digest_by_id):
        return False
    clear_leftovers(pathlib.Path(out))
    report_faults(Store(out))
    return True


@contextlib.contextmanager
def _alone(out: str | os.PathLike) -> Iterator[None]:
    """Locks the store's folder; ranks share it, and each writes the files of its own videos."""
    folders.claim(out, "store", signs=sealing.SIGNS)
    if ranks.rank_and_size()[1] > 1:
        yield
        return
    with folders.locked(out, folders.busy(out, "encode there", ", or give another --out")):
        yield


def _load(recipe: Recipe | EncodeOptions, out: str | os.PathLike, elsewhere: bool) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    # Workers load the models themselves; this process needs only names and widths.
    return (dataclasses.replace(recipe, device="cpu") if elsewhere else recipe).recipe(out)


def _begin(
    out: str | os.PathLike,
    recipe: Recipe,
    videos: annotations.Annotations,
    digest_by_id: Mapping[str, str],
) -> StoreWriter:
    """Opens the store, warns of outdated rows and writes the prompt bank."""
    writer = StoreWriter(out, recipe.manifest(), videos, digest_by_id)
    for video_id in writer.outdated:
        warn(video_id, "its row is of another file, description or source; encoded again")
    _write_bank(writer.path, recipe)
    return writer


def _finish(writer: StoreWriter, own_ids: Sequence[str], options: EncodeOptions | None) -> bool:
    """Packs the store unless videos of other ranks are missing, and notes the options."""
    missing_ids = [video_id for video_id in own_ids if not writer.has(video_id)]
    if missing_ids:
        raise UserError(
            f"{writer.path}: expected all videos encoded, found {len(missing_ids)} that couldn't "
            f"be captioned: {', '.join(missing_ids)}; run the same command again"
        )
    if options:
        provenance.add_notes(writer.path, **options.fingerprint())
    if not writer.pack():
        print(f"{writer.path}: waiting for the videos of other ranks", file=sys.stderr)
        return False
    report_faults(Store(writer.path))
    return True


@contextlib.contextmanager
def _usage_reported(
    captioner: Captioner | StandIn | None, spent: MutableMapping[str, Any] | None
) -> Iterator[None]:
    """Reports what a captioner's server has used, also after an error."""
    server = getattr(captioner, "server", None)
    try:
        yield
    finally:
        if server is not None:
            usage = server.usage.to_json()
            print(f"encode: usage {json.dumps(usage)}", file=sys.stderr)
            if spent is not None:
                spent["usage"] = usage


def require_files(videos: annotations.Annotations) -> annotations.Annotations:
    """Returns the videos; raises UserError if a file is missing or outside their folder."""
    missing = [v.file for v in videos.videos.values() if not videos.resolve(v).exists()]
    if missing:
        raise UserError(
            f"{videos.path}: expected {len(videos.videos)} files, found {len(missing)} of them "
            f"missing, {missing[0]!r} first; fetch them or remove their entries"
        )
    return videos


def _write_bank(path: pathlib.Path, recipe: Recipe) -> None:
    """Writes bank.npy [K, E] and bank.json beside the manifest, where training reads them."""
    if recipe.captioner is None:
        return
    vocabulary = recipe.captioner.vocabulary
    prompts = banks.prompt_bank(recipe.bank, vocabulary)
    bank_KxE = recipe.text_encoder([prompt.phrase for prompt in prompts])
    banks.save_bank(
        path, recipe.bank, prompts, recipe.text_encoder.id, bank_KxE, vocabulary=vocabulary
    )


def _start(
    source: Recipe | EncodeOptions,
    digest_by_id: Mapping[str, str],
    videos_path: str | os.PathLike,
    out: str | os.PathLike,
    prompts_path: str | os.PathLike | None,
    *,
    progress: bool,
) -> ranks.Work:
    """Returns the work of one process, whose items are ids of videos."""
    import cv2

    from generation.encode import rows

    # Work is parallel over processes; more threads in each would only slow them down.
    cv2.setNumThreads(1)
    recipe = source.recipe(out) if isinstance(source, EncodeOptions) else source
    videos = annotations.load(videos_path)
    writer = StoreWriter(out, recipe.manifest(), videos, digest_by_id)
    descriptions = provenance.descriptions_by_id(prompts_path)

    def work(ids: Sequence[str]) -> Iterator[None]:
        todo = [videos.videos[str(name)] for name in ids if not writer.has(str(name))]
        yield from [None] * (len(ids) - len(todo))
        if todo:
            yield from rows.encode_videos(
                writer, todo, recipe, descriptions, digest_by_id, progress=progress
            )

    return work
