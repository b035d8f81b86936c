import concurrent.futures
import json
import socket
import sys
import threading
import time
from email.utils import formatdate

import pydantic
import pytest

from generation.chat import client
from gvvad_jax.command import UserError
from tests.support.chat_server import ChatServer, text_of

KEY = "sk-secret-0123456789"


class Colour(pydantic.BaseModel):
    name: str
    length: int


def name_colour(body):
    name = text_of(body).split()[-1]
    return {"name": name, "length": len(name)}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def fake():
    with ChatServer(name_colour) as server:
        yield server


def make(fake, **changes):
    options = {"model": "painter", "base_url": fake.url, "backoff": 0.001, "timeout": 10.0}
    return client.Server(**(options | changes))


def request(name):
    return client.Request(name, [{"role": "user", "content": f"Name it: {name}"}], Colour)


def ask_all(server, *names):
    return server.ask_all([request(name) for name in names], progress=False)


def ask(server, name):
    return server.ask(request(name).messages, Colour, name=name)


def test_answers_fit_the_schema_and_only_what_is_asked_for_is_sent(fake):
    assert ask(make(fake), "red") == Colour(name="red", length=3)
    body = fake.asked[0]
    assert set(body) == {"model", "messages", "response_format", "stream"} and not body["stream"]
    sent = body["response_format"]["json_schema"]
    assert sent["strict"] and set(sent["schema"]["properties"]) == {"name", "length"}
    # A field that the openai package doesn't know reaches the server as well.
    ask(make(fake, sampling={"temperature": 0.5, "min_p": 0.1}), "red")
    assert (fake.asked[1]["temperature"], fake.asked[1]["min_p"]) == (0.5, 0.1)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [image, {"type": "text", "text": "Name it: blue"}]
    make(fake).ask([{"role": "user", "content": parts}], Colour, name="image")
    assert fake.asked[2]["messages"][0]["content"] == parts


TOLD = ("refusal", "length", "filter", "not json", "schema", "empty")  # replies that tell tokens
BROKEN = ("429", "500", "policy", "html", "deep", "routed", "drop", "half", "slow")


@pytest.mark.parametrize("mode", TOLD + BROKEN)
def test_faults_that_pass(fake, mode):
    fake.slow = 1.5
    fake.fail("green", mode)
    server = make(fake, timeout=1.0 if mode == "slow" else 10.0)
    answers = ask_all(server, "red", "green", "blue")
    assert [answer.value.name for answer in answers] == ["red", "green", "blue"]
    usage = server.usage.to_json()
    assert (usage["requests"], usage["retries"], usage["failures"]) == (4, 1, 0)
    # What a reply cost counts, whether or not it could be used.
    assert usage["input_tokens"] == (400 if mode in TOLD else 300)
    assert usage["unmetered"] == 0


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("429", "HTTP 429 (too many requests); tried 3 times"),
        ("500", "HTTP 500 (oops with <key>)"),
        ("refusal", "refused: I can't help with that."),
        ("policy", "refused: not this"),
        ("filter", "refused by the content filter"),
        ("length", "cut short by the limit of tokens"),
        ("not json", "not what the schema asks for: all of it: Invalid JSON"),
        ("schema", "not what the schema asks for: name: Field required"),
        ("deep", "the reply is no JSON"),
        ("routed", "the server tells of an error: provider is busy with <key>; tried 3 times"),
        ("drop", "the connection broke"),
        ("slow", "no reply within 1 s"),
    ],
)
def test_faults_that_stay_are_reported_by_name_and_the_others_kept(fake, tmp_path, mode, reason):
    fake.slow = 1.5
    fake.fail("green", *[mode] * 9)
    server = make(fake, attempts=3, cache_dir=tmp_path, timeout=1.0 if mode == "slow" else 10.0)
    red, green, blue = ask_all(server, "red", "green", "blue")
    assert (red.value.name, blue.value.name) == ("red", "blue")
    assert isinstance(green, client.Failed) and green.name == "green" and reason in green.reason
    assert KEY not in str(green)
    assert len(fake.asked) == 2 + 3 and server.usage.to_json()["failures"] == 1
    with pytest.raises(client.Failed, match="^green: "):
        ask(server, "green")


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("400", "HTTP 400 (this model takes no temperature); correct --sampling"),
        ("401", "OPENAI_API_KEY: expected a key that 127.0.0.1"),
        ("403", "OPENAI_API_KEY: expected a key that 127.0.0.1"),
        ("404", "--chat_model, --base_url: expected a model"),
        ("422", "HTTP 422 ([{'msg': 'no response_format'}]); correct --sampling"),
        ("quota", "expected an account with credit, found insufficient_quota"),
    ],
)
def test_what_no_retry_mends_fails_at_once(fake, tmp_path, mode, message):
    fake.fail("green", *[mode] * 9)
    server = make(fake, cache_dir=tmp_path, max_concurrent=1)
    with pytest.raises(UserError) as caught:
        ask_all(server, "red", "green", "blue")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    # One request of it, and what was answered before is kept.
    assert sum("green" in text_of(body) for body in fake.asked) == 1
    before = len(fake.asked)
    assert ask(make(fake, cache_dir=tmp_path), "red").name == "red" and len(fake.asked) == before


class Waits(threading.Event):
    """A `stop` that waits for nothing and notes for how long it was to."""

    def __init__(self, meanwhile=lambda: None):
        super().__init__()
        self.seconds, self.meanwhile = [], meanwhile

    def wait(self, timeout=None):
        self.seconds.append(timeout)
        self.meanwhile()
        return False


def waits(server, name):
    stop = Waits()
    server._answer(request(name), stop)
    return stop.seconds


def jittered(*seconds):
    return [pytest.approx(1.125 * s, rel=1 / 9, abs=1e-9) for s in seconds]


def test_retry_after_is_heeded_up_to_a_bound(fake):
    server = make(fake, longest_wait=20)
    fake.retry_after = "10"
    fake.fail("red", "429")
    assert waits(server, "red") == jittered(10)
    for asked in ("90", formatdate(time.time() + 90, usegmt=True)):
        fake.retry_after = asked
        fake.fail("blue", "429")
        assert waits(server, "blue") == jittered(20)
    for nonsense in ("soon", "-1", "inf", "nan"):
        fake.retry_after = nonsense
        fake.fail("green", "429")
        assert waits(server, "green") == jittered(0.001)


def test_waits_grow_and_requests_wait_apart(fake):
    server = make(fake, backoff=5, attempts=3)
    fake.retry_after = "0"
    fake.fail("red", "500", "500")
    assert waits(server, "red") == jittered(5, 10)
    fake.fail("pink", "routed", "routed")
    assert waits(server, "pink") == jittered(5, 10)
    fake.fail("grey", "schema", "schema")  # an answer, if a wrong one
    assert waits(server, "grey") == [0, 0]
    # A waiting request leaves its place to the others.
    narrow = make(fake, max_concurrent=1, attempts=2)
    fake.fail("green", "500")
    narrow._answer(request("green"), Waits(lambda: ask(narrow, "blue")))
    names = [text_of(body).split()[-1] for body in fake.asked]
    assert names[-3:] == ["green", "blue", "green"]


def test_no_more_requests_in_flight_than_allowed_and_answers_in_order(fake):
    together = threading.Barrier(3, timeout=60)
    fake.answer = lambda body: (together.wait(), name_colour(body))[1]
    names = [f"colour{i}" for i in range(9)]
    server = make(fake, max_concurrent=3, timeout=60.0)
    assert [answer.value.name for answer in ask_all(server, *names)] == names
    assert fake.most_at_once == 3
    # Threads of others share the bound.
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: ask(server, name), names))
    assert fake.most_at_once == 3


def test_the_cache_answers_what_was_asked_before_and_nothing_else(fake, tmp_path, monkeypatch):
    first = make(fake, cache_dir=tmp_path)
    answers = ask_all(first, "red", "green", "red")
    assert len(fake.asked) == 2 and answers[0] == answers[2]
    assert answers[0].model == "painter-2026-01-01"
    prices = {"price_input": 2.0, "price_output": 10.0}
    # Neither the server nor a key is needed any more.
    monkeypatch.delenv("OPENAI_API_KEY")
    offline = client.Server(model="painter", cache_dir=tmp_path, **prices)
    assert ask_all(offline, "red", "green", "red") == answers
    usage = offline.usage.to_json()
    assert (usage["requests"], usage["cost"], usage["cache_hits"]) == (0, 0.0, 3)
    assert (usage["cached_input_tokens"], usage["cached_cost"]) == (300, 0.0021)
    for changes in ({"model": "other"}, {"sampling": {"seed": 1}}):
        ask(make(fake, cache_dir=tmp_path, **changes), "red")
    assert len(fake.asked) == 4

    class Shade(Colour):
        shade: str = "plain"

    make(fake, cache_dir=tmp_path).ask(request("red").messages, Shade, name="red")
    assert len(fake.asked) == 5
    for path in tmp_path.rglob("*.json"):
        path.write_text('{"content": "{}"')
    assert ask(make(fake, cache_dir=tmp_path), "red").name == "red" and len(fake.asked) == 6


def test_tokens_and_dollars(fake):
    server = make(fake, price_input=2.0, price_output=10.0)
    fake.fail("green", "schema")
    ask_all(server, "red", "green")
    usage = server.usage.to_json()
    assert (usage["input_tokens"], usage["output_tokens"]) == (300, 150)
    assert usage["cost"] == pytest.approx((300 * 2 + 150 * 10) / 1e6)
    assert make(fake, price_input=2.0).usage.to_json()["cost"] is None
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
def test_an_answer_without_a_count_of_tokens_is_kept(fake, tmp_path, usage, tokens):
    fake.reshape = lambda completion: completion | {"usage": usage}
    prices = {"price_input": 1.0, "price_output": 1.0}
    for name in ("input", "cached_input"):
        server = make(fake, cache_dir=tmp_path, **prices)
        assert ask(server, "red").name == "red" and len(fake.asked) == 1
        told = server.usage.to_json()
        assert (told[f"{name}_tokens"], told[name.replace("in", "out") + "_tokens"]) == tokens
        assert told["unmetered"] == (name == "input")
        assert (told["cost"] is None) == (name == "input")


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
def test_what_open_models_put_around_their_answer_is_taken_off(fake, tmp_path, wrap):
    reshape(fake, wrap)
    answers = ask_all(make(fake, cache_dir=tmp_path), "red", "green")
    assert [(a.value.name, json.loads(a.content)["name"]) for a in answers] == [
        ("red", "red"),
        ("green", "green"),
    ]
    assert ask_all(make(fake, cache_dir=tmp_path), "red", "green") == answers
    assert len(fake.asked) == 2


@pytest.mark.parametrize(
    ("wrap", "reason"),
    [
        (lambda content: f"<think>Perhaps {content}, or", "all of it: Invalid JSON"),
        (lambda content: f"{content}</think>I can't", "all of it: Invalid JSON"),
        (lambda content: f"{content}\n{content}", "all of it: Invalid JSON"),
        (lambda content: f"[{content}]", "all of it: Input should be an object"),
        (lambda _: '```json\n{"name": "red"}\n```', "length: Field required"),
        (parts("reasoning"), "the reply is empty"),
        (lambda content: {"text": content}, "the reply is empty"),
        (lambda _: [1, None, {"type": "text", "text": 1}], "the reply is empty"),
    ],
)
def test_anything_else_around_or_inside_it_is_refused(fake, wrap, reason):
    reshape(fake, wrap)
    (red,) = ask_all(make(fake, attempts=1), "red")
    assert isinstance(red, client.Failed) and reason in red.reason


def test_the_key_is_sent_and_nowhere_else(fake, tmp_path, capfd):
    fake.fail("green", "500", "401")
    server = make(fake, cache_dir=tmp_path / "cache")
    ask_all(server, "red")
    assert fake.keys == {KEY}
    with pytest.raises(UserError) as caught:
        server.ask_all([request("green")])
    texts = [str(caught.value), repr(server), *capfd.readouterr()]
    texts += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in texts if KEY in text]


def test_keys(fake, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a sk-b")
    with pytest.raises(UserError, match="^OPENAI_API_KEY: expected plain ASCII"):
        ask(make(fake), "red")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="^OPENAI_API_KEY: expected a key in the environment"):
        ask(client.Server(model="painter"), "red")
    # A server of one's own may need none.
    assert ask(make(fake), "red").name == "red" and fake.keys == {"none"}
    monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
    assert ask(client.Server(model="painter"), "red").name == "red"


def test_a_dropped_request_is_no_absent_server(fake):
    # Asked alone, so no other request's answer says that the server is there.
    fake.fail("green", *["drop"] * 9)
    (green,) = ask_all(make(fake, attempts=2), "green")
    assert (
        isinstance(green, client.Failed) and green.reason == "the connection broke; tried 2 times"
    )


def test_a_server_that_isnt_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    server = client.Server(model="painter", base_url=url, backoff=0.001, attempts=2)
    with pytest.raises(UserError, match="^--base_url: expected an OpenAI-compatible server at 127"):
        ask_all(server, "red", "green")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "--chat_model: "),
        ({"base_url": "localhost:8000"}, "--base_url: "),
        ({"base_url": f"http://me:{KEY}@localhost/v1"}, "--base_url: "),
        ({"base_url": "http://[::1/v1"}, "--base_url: "),
        ({"base_url": "http://localhost:80a/v1"}, "--base_url: "),
        ({"base_url": "http://localhost:99999/v1"}, "--base_url: "),
        ({"base_url": "http://\u00e9..x/v1"}, "--base_url: "),
        ({"base_url": "http://local host/v1"}, "--base_url: "),
        ({"base_url": "http://localhost\n:1/v1"}, "--base_url: "),
        ({"base_url": "http:///v1"}, "--base_url: "),
        ({"sampling": {"model": "another"}}, "--sampling: "),
        ({"max_concurrent": 0}, "--max_concurrent: "),
        ({"attempts": 0}, "--attempts: "),
        ({"timeout": 0}, "--timeout: "),
    ],
)
def test_wrong_values_are_named(options, message):
    with pytest.raises(UserError, match=f"^{message}") as caught:
        client.Server(**({"model": "painter"} | options))
    assert KEY not in str(caught.value)
    for text in ("[1]", "{", '{"stream": true}'):
        with pytest.raises(UserError, match="^--sampling: "):
            client.parse_sampling(text)
    assert client.parse_sampling('{"top_p": 0.9}') == {"top_p": 0.9}


def test_sound_addresses_are_taken(monkeypatch):
    for url in ("http://[::1]:8000/v1", "https://m\u00fcller.example/a@b/v1", "http://h"):
        client.Server(model="painter", base_url=url).client()
    monkeypatch.setenv("OPENAI_BASE_URL", "http://[::1/v1")
    with pytest.raises(UserError, match="^OPENAI_BASE_URL: expected http"):
        client.Server(model="painter")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("all_proxy", "socks5://localhost:1", "SOCKS"),
        ("all_proxy", f"ftp://me:{KEY}@localhost", "ValueError"),
        ("http_proxy", f"http://me:{KEY}/@localhost", "URL"),
        ("SSL_CERT_FILE", "/nowhere", "FileNotFoundError"),
    ],
)
def test_proxies_that_cant_be_used_are_one_line(fake, monkeypatch, name, value, told):
    monkeypatch.setitem(sys.modules, "socksio", None)  # not installed
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^--base_url, ALL_PROXY, .*{told}") as caught:
        ask_all(make(fake), "red")
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)
