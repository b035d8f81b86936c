"""The demo's work, shared among processes as ranks; see generation/ranks.py."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from gvvad_jax.store.workers import Worker, finished


def as_ranks(workers: Sequence[Worker], function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Has every worker make the same call as a rank of its own; see generation.ranks."""
    calls = [
        (rank, _as_rank, rank, len(workers), function, *arguments) for rank in range(len(workers))
    ]
    values = dict(finished(workers, calls))
    return [values[rank] for rank in range(len(workers))]


def _as_rank(rank: int, size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    own = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": "0"}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        return function(*arguments)
    finally:
        for name, text in before.items():
            if text is None:
                del os.environ[name]
            else:
                os.environ[name] = text
