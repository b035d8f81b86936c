"""What asking a chat server came to: requests, tokens, dollars."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

_TOKENS = ("prompt_tokens", "completion_tokens")


def counted(usage: Any) -> dict[str, int]:
    """What of a reply's `usage` is a count of tokens; servers put anything there."""
    given = usage if isinstance(usage, Mapping) else {}
    tokens = {name: given.get(name) for name in _TOKENS}
    return {name: count for name, count in tokens.items() if type(count) is int and count >= 0}


class Usage:
    """Counts requests and tokens, from any thread.

    Replies that couldn't be used count too. What a request cost that never answered isn't known.

    Args:
      price_input, price_output: dollars per million tokens, None if unknown.
    """

    def __init__(self, price_input: float | None = None, price_output: float | None = None):
        self._prices = price_input, price_output
        self._counts = dict.fromkeys(("requests", "retries", "failures", "unmetered"), 0)
        self._hits = 0
        self._asked, self._cached = [0, 0], [0, 0]  # tokens in, tokens out
        self._lock = threading.Lock()

    def add(self, event: str) -> None:
        """Counts requests, retries (requests beyond the first of a question), failures."""
        with self._lock:
            self._counts[event] += 1

    def add_tokens(self, usage: Any) -> None:
        """Counts the `usage` of a reply, usable or not; unmetered where it doesn't tell both."""
        told = counted(usage)
        with self._lock:
            self._add(self._asked, told)
            self._counts["unmetered"] += int(len(told) < len(_TOKENS))

    def add_hit(self, usage: Any) -> None:
        """Counts an answer out of the cache, and the tokens it saved."""
        with self._lock:
            self._hits += 1
            self._add(self._cached, counted(usage))

    def _add(self, tokens: list[int], told: Mapping[str, int]) -> None:
        for place, name in enumerate(_TOKENS):
            tokens[place] += told.get(name, 0)

    def _cost(self, tokens: Sequence[int]) -> float | None:
        if None in self._prices or self._counts["unmetered"]:
            return None
        return round(sum(t * p for t, p in zip(tokens, self._prices, strict=True)) / 1e6, 6)

    def to_json(self) -> dict[str, Any]:
        """All counts; dollars are null without prices, or when a reply didn't tell its tokens."""
        with self._lock:
            return self._counts | {
                "input_tokens": self._asked[0],
                "output_tokens": self._asked[1],
                "cost": self._cost(self._asked),
                "cache_hits": self._hits,
                "cached_input_tokens": self._cached[0],
                "cached_output_tokens": self._cached[1],
                "cached_cost": self._cost(self._cached),
            }
