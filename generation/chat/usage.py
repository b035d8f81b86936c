"""Count the requests, tokens and dollars that a chat server was asked for."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

_TOKENS = ("prompt_tokens", "completion_tokens")


def token_counts(usage: Any) -> dict[str, int]:
    """Returns the valid token counts in a reply's `usage`, which servers fill with anything."""
    fields = usage if isinstance(usage, Mapping) else {}
    counts = {name: fields.get(name) for name in _TOKENS}
    return {name: count for name, count in counts.items() if type(count) is int and count >= 0}


class Usage:
    """Counts requests and tokens; any thread may add to it.

    Replies that could not be used are counted too. The cost of requests that were never answered is
    unknown and not counted.

    Args:
      price_input, price_output: dollars per million tokens; None if unknown.
    """

    def __init__(self, price_input: float | None = None, price_output: float | None = None):
        self._prices = price_input, price_output
        self._events = dict.fromkeys(("requests", "retries", "failures", "unmetered"), 0)
        self._cache_hits = 0
        self._asked, self._cached = [0, 0], [0, 0]  # Input and output tokens.
        self._lock = threading.Lock()

    def add(self, event: str) -> None:
        """Counts a request, a retry (any request but a question's first) or a failure.

        Args:
          event: "requests", "retries" or "failures".
        """
        with self._lock:
            self._events[event] += 1

    def add_tokens(self, usage: Any) -> None:
        """Counts the `usage` of a reply; one that lacks a token count is "unmetered"."""
        counts = token_counts(usage)
        with self._lock:
            self._add(self._asked, counts)
            self._events["unmetered"] += int(len(counts) < len(_TOKENS))

    def add_hit(self, usage: Any) -> None:
        """Counts an answer from the cache, and the tokens that it saved."""
        with self._lock:
            self._cache_hits += 1
            self._add(self._cached, token_counts(usage))

    def _add(self, totals: list[int], counts: Mapping[str, int]) -> None:
        for index, name in enumerate(_TOKENS):
            totals[index] += counts.get(name, 0)

    def _cost(self, tokens: Sequence[int]) -> float | None:
        if None in self._prices or self._events["unmetered"]:
            return None
        return round(sum(t * p for t, p in zip(tokens, self._prices, strict=True)) / 1e6, 6)

    def to_json(self) -> dict[str, Any]:
        """Returns all counts; the dollars are None without prices or after an unmetered reply."""
        with self._lock:
            return self._events | {
                "input_tokens": self._asked[0],
                "output_tokens": self._asked[1],
                "cost": self._cost(self._asked),
                "cache_hits": self._cache_hits,
                "cached_input_tokens": self._cached[0],
                "cached_output_tokens": self._cached[1],
                "cached_cost": self._cost(self._cached),
            }
