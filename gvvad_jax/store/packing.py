"""Packs the parts of a store into shards. numpy only."""

import dataclasses
import hashlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np

from gvvad_jax.store.files import Json, write_atomically
from gvvad_jax.store.format import Manifest, Quarantined, Row, add_rows, array_path
from gvvad_jax.store.parts import Parts

SHARD_BYTES = 1 << 30


def write_shards(
    path: pathlib.Path,
    manifest: Manifest,
    parts: Parts,
    entries: Sequence[Row | Quarantined],
    shard_bytes: int,
) -> None:
    """Writes shard-*.npy, shard-*.jsonl and quarantine.jsonl.

    Args:
      path: the store's folder.
      manifest: its settings.
      parts: its parts.
      entries: what they say of every video, sorted by id.
      shard_bytes: a shard is closed when its visual rows pass this size.

    Raises:
      UserError: a part is damaged; it was removed.
    """
    rows = [entry for entry in entries if isinstance(entry, Row)]
    for index, shard_rows in enumerate(_split(rows, manifest, shard_bytes)):
        write_shard(path / f"shard-{index:05d}.jsonl", manifest, parts, shard_rows)
    quarantined = [entry for entry in entries if isinstance(entry, Quarantined)]
    if quarantined:
        lines = _lines(msgspec.to_builtins(entry) for entry in quarantined)
        write_atomically(path / "quarantine.jsonl", lines)


def _split(rows: Sequence[Row], manifest: Manifest, shard_bytes: int) -> Iterator[list[Row]]:
    row_bytes = manifest.crops["count"] * manifest.dim * np.dtype(manifest.dtype).itemsize
    shard: list[Row] = []
    size = 0
    for row in rows:
        shard.append(dataclasses.replace(row, offset=size))
        size += row.num_snippets
        if size * row_bytes >= shard_bytes:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def write_shard(shard: pathlib.Path, manifest: Manifest, parts: Parts, rows: Sequence[Row]) -> None:
    """Writes one shard; its .jsonl comes last, when all rows were compared with their digests."""
    hashes = {row.id: hashlib.sha256() for row in rows}

    def part_rows(row: Row, kind: str) -> np.ndarray:
        array = parts.rows(row, kind)
        if len(array) != row.num_snippets or array.dtype != manifest.dtype:
            raise parts.damaged(row.id, f"{kind} rows of another length or type")
        add_rows(hashes[row.id], array)
        return array

    for kind in ("visual", "text") if manifest.text else ("visual",):
        arrays = (part_rows(row, kind) for row in rows)
        _write_rows(array_path(shard, kind), arrays, sum(row.num_snippets for row in rows))
    for row in rows:
        if hashes[row.id].hexdigest() != row.sha256:
            raise parts.damaged(row.id, "other rows than its digest says")
    write_atomically(shard, _lines(dataclasses.asdict(row) for row in rows))


def _lines(entries: Iterable[Json]) -> bytes:
    return "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in entries).encode()


def _write_rows(path: pathlib.Path, arrays: Iterator[np.ndarray], num_rows: int) -> None:
    """Concatenates arrays into one .npy file without holding them all in memory."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    # Written, not mapped: on a full disk a mapped file ends the process with a signal.
    with open(partial, "xb") as file:
        for index, array in enumerate(arrays):
            if not index:
                header = np.lib.format.header_data_from_array_1_0(array)
                header["shape"] = (num_rows, *array.shape[1:])
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(array).data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
