import pytest

from tests.support.colours import ask, ask_all, connect


def test_tokens_and_dollars(fake):
    server = connect(fake, price_input=2.0, price_output=10.0)
    fake.fail("green", "schema")
    ask_all(server, "red", "green")
    usage = server.usage.to_json()
    assert (usage["input_tokens"], usage["output_tokens"]) == (300, 150)
    assert usage["cost"] == pytest.approx((300 * 2 + 150 * 10) / 1e6)
    assert connect(fake, price_input=2.0).usage.to_json()["cost"] is None
    server.usage.add_tokens(None)
    assert server.usage.to_json()["cost"] is None and server.usage.to_json()["unmetered"] == 1


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, (0, 0)),
        ("none", (0, 0)),
        ([1], (0, 0)),
        ({"total_tokens": 15}, (0, 0)),
        ({"prompt_tokens": "12", "completion_tokens": 3}, (0, 3)),
        ({"prompt_tokens": True, "completion_tokens": -3}, (0, 0)),
        ({"prompt_tokens": 12, "completion_tokens": 3.5}, (12, 0)),
    ],
)
def test_an_answer_without_token_counts_is_kept(fake, tmp_path, usage, tokens):
    fake.reshape = lambda completion: completion | {"usage": usage}
    prices = {"price_input": 1.0, "price_output": 1.0}
    for name in ("input", "cached_input"):
        server = connect(fake, cache=str(tmp_path), **prices)
        assert ask(server, "red").name == "red" and len(fake.asked) == 1
        counts = server.usage.to_json()
        assert (counts[f"{name}_tokens"], counts[name.replace("in", "out") + "_tokens"]) == tokens
        assert counts["unmetered"] == (name == "input")
        assert (counts["cost"] is None) == (name == "input")
