import json

import pytest

from generation.chat import client
from tests.support.colours import ask_all, connect


def reshape(fake, change):
    """The server's answers with their content changed."""

    def changed(completion):
        message = completion["choices"][0]["message"]
        message["content"] = change(message["content"])
        return completion

    fake.reshape = changed


def parts(*kinds):
    return lambda content: [{"type": kind, "text": content} for kind in kinds]


WRAPPED = [
    lambda content: f"```json\n{content}\n```",
    lambda content: f"Here it is:\n```\n{content}\n```\nAnything else?",
    lambda content: f'<think>\nPerhaps {{"name": 1}}?\n</think>\n\n{content}',
    lambda content: f"so it is {{red}}\n</think>```json\n{content}```",
    parts("text"),
    parts("reasoning", "text"),
    lambda content: [{"type": "text", "text": text} for text in (content[:9], content[9:])],
]


@pytest.mark.parametrize("wrap", WRAPPED)
def test_thoughts_and_fences_around_an_answer_are_removed(fake, tmp_path, wrap):
    reshape(fake, wrap)
    answers = ask_all(connect(fake, cache=str(tmp_path)), "red", "green")
    assert [(a.value.name, json.loads(a.content)["name"]) for a in answers] == [
        ("red", "red"),
        ("green", "green"),
    ]
    assert ask_all(connect(fake, cache=str(tmp_path)), "red", "green") == answers
    assert len(fake.asked) == 2


@pytest.mark.parametrize(
    ("wrap", "reason"),
    [
        (lambda content: f"<think>Perhaps {content}, or", "the whole reply: Invalid JSON"),
        (lambda content: f"{content}</think>I can't", "the whole reply: Invalid JSON"),
        (lambda content: f"{content}\n{content}", "the whole reply: Invalid JSON"),
        (lambda content: f"[{content}]", "the whole reply: Input should be an object"),
        (lambda _: '```json\n{"name": "red"}\n```', "length: Field required"),
        (parts("reasoning"), "the reply is empty"),
        (lambda content: {"text": content}, "the reply is empty"),
        (lambda _: [1, None, {"type": "text", "text": 1}], "the reply is empty"),
    ],
)
def test_a_reply_that_does_not_fit_is_refused(fake, wrap, reason):
    reshape(fake, wrap)
    (red,) = ask_all(connect(fake, attempts=1), "red")
    assert isinstance(red, client.Failed) and reason in red.reason
