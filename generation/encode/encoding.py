"""Videos -> feature store.

    python -m generation.encode --videos=videos.json --encoder=motion --out=STORE
    python -m generation.encode --videos=videos.json --encoder=clip-l14 --crops=ten \\
        --pooling=middle --captioner=git --text_encoder=simcse --out=STORE
    RANK=1 WORLD_SIZE=2 python -m generation.encode ...          # one of several ranks

Each video is read, resampled by the fps policy, cut into snippets and encoded; beside its features
go a caption's text row a snippet and the measures that the filter judges. Decoding runs ahead of
the models, and where they look at single snippets, a video is never in memory as a whole. A video
is the unit of resuming: killed anywhere, the same command goes on and ends with the same rows.
A video whose file, prompt record or source is another than its row was made of is encoded again.
Videos that can't be read, or only in part, are named at the end and never silently absent.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import tqdm

from generation import ranks
from generation.encode import provenance
from generation.encode.recipe import (
    EncodeOptions,
    Recipe,
)
from generation.encoders import banks
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from gvvad_jax.store.format import Row
from gvvad_jax.store.reader import Store
from gvvad_jax.store.writer import StoreWriter, clear_leftovers


def encode(
    videos_path: str | os.PathLike,
    out: str | os.PathLike,
    recipe: Recipe | EncodeOptions,
    *,
    prompts_path: str | os.PathLike | None = None,
    progress: bool = True,
    ray_workers: int = 0,
    gpus_a_worker: float = 0,
    spent: MutableMapping[str, Any] | None = None,
) -> bool:
    """Encodes the videos of a videos.json into a store, resuming what is there.

    Ranks (RANK, WORLD_SIZE) or Ray's workers share the videos; who finishes last packs the store.
    A store that the same options finished is recognised before any model is loaded.

    Args:
      videos_path: the videos.json.
      out: the store's folder.
      recipe: how to encode; workers need Options.
      prompts_path: prompts.jsonl of generated videos: description, twin and seed of the record
        with a video's id go into its row, its phrase into the text rows of captioner description.
      progress: a bar; what is wrong with videos is told in any case.
      ray_workers, gpus_a_worker: see ranks.each.
      spent: gets `usage` (chat_usage.py) of a captioner's server, also told; not of Ray's workers.

    Returns:
      Whether the store is finished; False while other ranks' videos are missing.

    Raises:
      UserError: a file is missing, none is readable, a rate isn't known, a video couldn't be
        captioned, or `out` holds a store of another making.
    """
    assert isinstance(recipe, EncodeOptions) or not ray_workers, "a Recipe can't go to workers"
    videos = require_files(annotations.load(videos_path))
    records = provenance.descriptions(prompts_path)
    made_of = provenance.made_of(videos, records, recipe.source)
    chosen = recipe if isinstance(recipe, EncodeOptions) else None
    if chosen and provenance.is_made_by(out, chosen.fingerprint(), videos, made_of):
        clear_leftovers(pathlib.Path(out))
        _tell(Store(out))
        return True
    loaded = _load(recipe, out, ray_workers)
    if loaded.describes:
        provenance.require_descriptions(videos.videos, records, prompts_path)
    writer = _begin(out, loaded, videos, made_of)
    video_ids = list(videos.videos)
    mine = video_ids if ray_workers else ranks.share(video_ids)
    if not all(map(writer.has, mine)):
        paths = [path and os.path.abspath(path) for path in (videos_path, out, prompts_path)]
        with _usage_told(None if ray_workers else loaded.captioner, spent):
            ranks.each(
                functools.partial(_start, recipe if ray_workers else loaded, made_of, *paths),
                video_ids,
                ray_workers=ray_workers,
                gpus_a_worker=gpus_a_worker,
                label="encode",
                unit="video",
                progress=progress,
            )
    return _finish(writer, mine, chosen)


def _load(recipe: Recipe | EncodeOptions, out: str | os.PathLike, ray_workers: int) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    # With workers only names and widths are needed here.
    return (dataclasses.replace(recipe, device="cpu") if ray_workers else recipe).recipe(out)


def _begin(
    out: str | os.PathLike,
    recipe: Recipe,
    videos: annotations.Annotations,
    made_of: Mapping[str, str],
) -> StoreWriter:
    """The store's writer, after telling what it dropped; the bank is beside the manifest."""
    writer = StoreWriter(out, recipe.manifest(), videos, made_of)
    for video_id in writer.outdated:
        _warn(video_id, "its row is of another file, prompt record or source; encoded again")
    _write_bank(writer.path, recipe)
    return writer


def _finish(writer: StoreWriter, mine: Sequence[str], chosen: EncodeOptions | None) -> bool:
    """Packs, unless other ranks aren't done, and notes the options that made the store."""
    failed = [video_id for video_id in mine if not writer.has(video_id)]
    if failed:
        raise UserError(
            f"{writer.path}: expected all videos encoded, found {len(failed)} that couldn't be "
            f"captioned: {', '.join(failed)}; run the same command again"
        )
    if chosen:
        provenance.note(writer.path, **chosen.fingerprint())
    if not writer.pack():
        print(f"{writer.path}: waiting for the videos of other ranks", file=sys.stderr)
        return False
    _tell(Store(writer.path))
    return True


@contextlib.contextmanager
def _usage_told(captioner: Any, spent: MutableMapping[str, Any] | None) -> Iterator[None]:
    """Tells, however it ends, what a captioner that asks a server has used; None: nothing."""
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
    """The same videos; raises UserError where a file is missing or outside its folder."""
    missing = [v.file for v in videos.videos.values() if not videos.resolve(v).exists()]
    if missing:
        raise UserError(
            f"{videos.path}: expected {len(videos.videos)} files, found {len(missing)} of them "
            f"missing, {missing[0]!r} first; fetch them or remove their entries"
        )
    return videos


def _write_bank(path: pathlib.Path, recipe: Recipe) -> None:
    """bank.npy [K, E] and bank.json beside the manifest, for training to find."""
    if recipe.captioner is None:
        return
    vocabulary = recipe.captioner.vocabulary
    prompts = banks.prompt_bank(recipe.bank, vocabulary)
    bank_KxE = recipe.text_embedder([prompt.phrase for prompt in prompts])
    banks.save_bank(
        path, recipe.bank, prompts, recipe.text_embedder.id, bank_KxE, vocabulary=vocabulary
    )


def _start(
    source: Recipe | EncodeOptions,
    made_of: Mapping[str, str],
    videos_path: str | os.PathLike,
    out: str | os.PathLike,
    prompts_path: str | os.PathLike | None,
) -> ranks.Work:
    """The work of one process, on ids of videos."""
    import cv2

    # Processes are the parallelism; their threads would only get in each other's way.
    cv2.setNumThreads(1)
    recipe = source.recipe(out) if isinstance(source, EncodeOptions) else source
    videos = annotations.load(videos_path)
    writer = StoreWriter(out, recipe.manifest(), videos, made_of)
    records = provenance.descriptions(prompts_path)

    def work(ids: Sequence[str]) -> Iterator[None]:
        todo = [videos.videos[str(name)] for name in ids if not writer.has(str(name))]
        yield from [None] * (len(ids) - len(todo))
        if todo:
            yield from _encode_videos(writer, todo, recipe, records, made_of)

    return work


def _encode_videos(
    writer: StoreWriter,
    videos: Sequence[annotations.VideoAnnotation],
    recipe: Recipe,
    records: Mapping[str, Any],
    made_of: Mapping[str, str],
) -> Iterator[None]:
    """Videos from files to parts, or to quarantine; yields after each."""
    from generation.encode import decode_ahead

    computed_in = {getattr(m, "dtype", None) for m in (recipe.encoder, recipe.captioner)} - {None}
    if computed_in:
        provenance.note(writer.path, computed_in=list(computed_in))
    messages = decode_ahead.Source(writer.videos, recipe).messages(videos)
    alive = decode_ahead.VIDEOS_ALIVE if recipe.whole_video else decode_ahead.CHUNKS_ALIVE
    rows = None
    with contextlib.closing(decode_ahead.ahead(messages, alive)) as coming:
        for message in coming:
            if isinstance(message, decode_ahead.Unreadable):
                writer.quarantine(message.video.id, message.reason)
                yield
                continue
            # Another plan for the same video makes a new start.
            if rows is None or rows.plan is not message.plan:
                rows = _Rows(recipe, message.plan)
            if isinstance(message, decode_ahead.Chunk):
                rows.add(message)
            else:
                name = message.plan.video.id
                rows.finish(writer, message, records.get(name), made_of[name])
                yield
            del message  # Its frames are free before the next ones come.


class _Rows:
    """The rows of one video, as its chunks come in.

    Args:
      recipe: how to encode.
      plan: of the video, see decode.Plan.
    """

    def __init__(self, recipe: Recipe, plan: Any):
        self.plan, self._recipe = plan, recipe
        self._visual: list[np.ndarray] = []
        self._captions: list[str] = []
        self._failed = False

    def add(self, chunk: Any) -> None:
        """The next decode.Chunk."""
        if self._failed:
            return
        if chunk.pictures:
            self._caption(self._recipe.captioner.caption_snippets, chunk.pictures)
        if not self._recipe.encoder.whole_video:
            visual_TxNxD = self._recipe.encoder.encode_snippets(chunk.prepared)
            # As it will be written: of a long video there is a lot.
            self._visual.append(visual_TxNxD.astype(self._recipe.dtype, copy=False))

    def finish(self, writer: StoreWriter, ending: Any, record: Any, made_of: str) -> None:
        """Writes the part; a video that couldn't be captioned gets none, and is to be done again.

        Args:
          writer: of the store.
          ending: the decode.Ending.
          record: the prompts.Description that the video was generated from, or None.
          made_of: for the row.
        """
        recipe, plan = self._recipe, self.plan
        whole = ending.frames_FxHxWx3, plan.spans_Tx2, plan.rate
        if recipe.describes:
            self._captions = [record.phrase] * len(plan.spans_Tx2)
        elif recipe.captioner is not None and recipe.captioner.whole_video:
            self._caption(recipe.captioner.captions, *whole)
        if self._failed:
            return
        text_TxE = None if recipe.captioner is None else recipe.text_embedder(self._captions)
        consistency = None
        if recipe.encoder.whole_video:
            visual_TxNxD = recipe.encoder.encode_video(*whole)
        else:
            visual_TxNxD = np.concatenate(self._visual)
            consistency = {"consistency": round(recipe.encoder.consistency(ending.probes), 6)}
        for fault in ending.faults:
            _warn(plan.video.id, fault)
        made_from = {}
        if record is not None:
            made_from = {key: getattr(record, key) for key in ("description", "twin", "seed")}
        row = Row(
            id=plan.video.id,
            num_snippets=len(plan.spans_Tx2),
            num_frames=plan.num_frames,
            fps=plan.fps,
            source=recipe.source,
            declared_frames=ending.declared_frames,
            decoded_frames=plan.num_frames,
            pixel_statistics=ending.pixel_statistics,
            feature_statistics=consistency,
            made_of=made_of,
            **made_from,
        )
        writer.add(row, visual_TxNxD, text_TxE)

    def _caption(self, caption: Any, *arguments: Any) -> None:
        from generation.chat import client

        try:
            self._captions += caption(*arguments)
        except Exception as error:
            # A request that failed for good is this video's misfortune; a wrong key is everybody's.
            if not isinstance(error, client.Failed) and not isinstance(
                error.__cause__, client.Failed
            ):
                raise
            self._failed = True
            _warn(self.plan.video.id, f"not encoded: {error}")


def _warn(video_id: str, fault: str) -> None:
    tqdm.tqdm.write(f"warning: {video_id}: {fault}", file=sys.stderr)


def _tell(finished: Store) -> None:
    """Names every video that isn't what its container or videos.json promised."""
    for video_id, reason in finished.quarantined.items():
        _warn(video_id, f"not encoded: {reason}")
    for row in finished.rows.values():
        for fault in _broken_promises(row, finished.videos.videos[row.id]):
            _warn(row.id, fault)
    if not finished.rows:
        raise UserError(
            f"{finished.path}: expected at least one readable video, found none among "
            f"{len(finished.quarantined)}; correct the files, remove this folder and encode again"
        )


def _broken_promises(row: Row, video: annotations.VideoAnnotation) -> list[str]:
    faults = []
    if row.declared_frames and row.decoded_frames != row.declared_frames:
        faults.append(
            f"the file declares {row.declared_frames} frames, {row.decoded_frames} could be decoded"
        )
    if video.num_frames is not None and video.num_frames != row.num_frames:
        faults.append(f"videos.json says {video.num_frames} frames, the file has {row.num_frames}")
    # Containers round rates such as 29.97.
    if video.fps is not None and abs(video.fps - row.fps) > 0.01 * row.fps:
        faults.append(f"videos.json says {video.fps:g} fps, the file {row.fps:g}, which is used")
    return faults
