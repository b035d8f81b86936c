"""The environment of ranks: numbers, or one line that names the variable."""

import pytest

from generation import ranks
from gvvad_jax.command import UserError


@pytest.mark.parametrize("value", ["one", "", "-1", "1.5"])
def test_a_local_rank_that_is_no_number_is_one_line(monkeypatch, value):
    pytest.importorskip("torch")
    monkeypatch.setenv("LOCAL_RANK", value)
    with pytest.raises(UserError, match=f"^LOCAL_RANK: expected a whole number, found {value!r}"):
        ranks.this_ranks_device.__wrapped__()


@pytest.mark.parametrize(("rank", "size"), [("a", "1"), ("1", "1"), ("-1", "2"), ("0", "")])
def test_ranks_that_cannot_be_are_one_line(monkeypatch, rank, size):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UserError, match="^RANK, WORLD_SIZE: expected 0 <= RANK < WORLD_SIZE"):
        ranks.share([1, 2])
