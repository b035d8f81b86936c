import pytest

from generation.chat import client
from generation.chat.options import ChatOptions
from gvvad_jax.command import UserError
from tests.support.colours import KEY


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chat_model": ""}, "--chat_model: "),
        ({"base_url": "localhost:8000"}, "--base_url: "),
        ({"base_url": f"http://me:{KEY}@localhost/v1"}, "--base_url: "),
        ({"base_url": "http://[::1/v1"}, "--base_url: "),
        ({"base_url": "http://localhost:80a/v1"}, "--base_url: "),
        ({"base_url": "http://localhost:99999/v1"}, "--base_url: "),
        ({"base_url": "http://\u00e9..x/v1"}, "--base_url: "),
        ({"base_url": "http://local host/v1"}, "--base_url: "),
        ({"base_url": "http://localhost\n:1/v1"}, "--base_url: "),
        ({"base_url": "http:///v1"}, "--base_url: "),
        ({"sampling": '{"model": "another"}'}, "--sampling: "),
        ({"sampling": "[1]"}, "--sampling: "),
        ({"sampling": "{"}, "--sampling: "),
        ({"sampling": '{"stream": true}'}, "--sampling: "),
        ({"max_concurrent": 0}, "--max_concurrent: "),
        ({"attempts": 0}, "--attempts: "),
        ({"timeout": 0}, "--timeout: "),
    ],
)
def test_wrong_values_are_named(options, message):
    with pytest.raises(UserError, match=f"^{message}") as caught:
        client.Server(ChatOptions(**({"chat_model": "painter"} | options)))
    assert KEY not in str(caught.value)


def test_sampling_fields():
    assert ChatOptions(sampling='{"top_p": 0.9}').sampling_fields() == {"top_p": 0.9}


def test_answers_are_cached_beside_the_output():
    assert ChatOptions().with_cache("out/prompts.jsonl").cache == "out/prompts.answers"
    assert ChatOptions(cache="answers").with_cache("out/prompts.jsonl").cache == "answers"
