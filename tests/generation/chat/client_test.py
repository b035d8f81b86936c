import concurrent.futures
import socket
import sys
import threading
import time
from email.utils import formatdate

import pytest

from generation.chat import client
from generation.chat.options import ChatOptions
from gvvad_jax.command import UserError
from tests.support.chat_server import text_of
from tests.support.colours import KEY, Colour, ask, ask_all, connect, name_colour, request


def test_answers_fit_the_schema_and_only_what_is_asked_for_is_sent(fake):
    assert ask(connect(fake), "red") == Colour(name="red", length=3)
    body = fake.asked[0]
    assert set(body) == {"model", "messages", "response_format", "stream"} and not body["stream"]
    sent = body["response_format"]["json_schema"]
    assert sent["strict"] and set(sent["schema"]["properties"]) == {"name", "length"}
    # A field that the openai package doesn't know reaches the server as well.
    ask(connect(fake, sampling='{"temperature": 0.5, "min_p": 0.1}'), "red")
    assert (fake.asked[1]["temperature"], fake.asked[1]["min_p"]) == (0.5, 0.1)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [image, {"type": "text", "text": "Name it: blue"}]
    connect(fake).ask_all([client.Request("image", [{"role": "user", "content": parts}], Colour)])
    assert fake.asked[2]["messages"][0]["content"] == parts


METERED = ("refusal", "length", "filter", "not json", "schema", "empty")  # They report tokens.
BROKEN = ("429", "500", "policy", "html", "deep", "routed", "drop", "half", "slow")


@pytest.mark.parametrize("mode", METERED + BROKEN)
def test_a_request_is_retried_after_a_fault(fake, mode):
    fake.slow = 1.5
    fake.fail("green", mode)
    server = connect(fake, timeout=1.0 if mode == "slow" else 10.0)
    answers = ask_all(server, "red", "green", "blue")
    assert [answer.value.name for answer in answers] == ["red", "green", "blue"]
    usage = server.usage.to_json()
    assert (usage["requests"], usage["retries"], usage["failures"]) == (4, 1, 0)
    # What a reply cost counts, whether or not it could be used.
    assert usage["input_tokens"] == (400 if mode in METERED else 300)
    assert usage["unmetered"] == 0


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("429", "HTTP 429 (too many requests); tried 3 times"),
        ("500", "HTTP 500 (oops with <key>)"),
        ("refusal", "refused: I can't help with that."),
        ("policy", "refused: not this"),
        ("filter", "refused by the content filter"),
        ("length", "cut short by the token limit"),
        ("not json", "does not fit the schema: the whole reply: Invalid JSON"),
        ("schema", "does not fit the schema: name: Field required"),
        ("deep", "the reply is not JSON"),
        ("routed", "the server reports an error: provider is busy with <key>; tried 3 times"),
        ("drop", "the connection broke"),
        ("slow", "no reply within 1 s"),
    ],
)
def test_a_request_that_always_fails_is_named_and_the_others_are_kept(fake, tmp_path, mode, reason):
    fake.slow = 1.5
    fake.fail("green", *[mode] * 9)
    server = connect(fake, attempts=3, cache=str(tmp_path), timeout=1.0 if mode == "slow" else 10.0)
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
def test_an_error_that_a_retry_cannot_fix_stops_at_once(fake, tmp_path, mode, message):
    fake.fail("green", *[mode] * 9)
    server = connect(fake, cache=str(tmp_path), max_concurrent=1)
    with pytest.raises(UserError) as caught:
        ask_all(server, "red", "green", "blue")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    # It was sent once, and earlier answers are kept.
    assert sum("green" in text_of(body) for body in fake.asked) == 1
    before = len(fake.asked)
    assert (
        ask(connect(fake, cache=str(tmp_path)), "red").name == "red" and len(fake.asked) == before
    )


class Waits(threading.Event):
    """A `stop` event that does not wait and records for how long it should have."""

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


def test_retry_after_is_respected_up_to_a_bound(fake):
    server = connect(fake)
    server.longest_wait = 20
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


def test_waits_double_and_a_waiting_request_blocks_no_other(fake):
    server = connect(fake, backoff=5, attempts=3)
    fake.retry_after = "0"
    fake.fail("red", "500", "500")
    assert waits(server, "red") == jittered(5, 10)
    fake.fail("pink", "routed", "routed")
    assert waits(server, "pink") == jittered(5, 10)
    fake.fail("grey", "schema", "schema")  # An answer came, so there is no need to wait.
    assert waits(server, "grey") == [0, 0]
    # A waiting request leaves its place to the others.
    narrow = connect(fake, max_concurrent=1, attempts=2)
    fake.fail("green", "500")
    narrow._answer(request("green"), Waits(lambda: ask(narrow, "blue")))
    names = [text_of(body).split()[-1] for body in fake.asked]
    assert names[-3:] == ["green", "blue", "green"]


def test_no_more_requests_in_flight_than_allowed_and_answers_in_order(fake):
    together = threading.Barrier(3, timeout=60)
    fake.answer = lambda body: (together.wait(), name_colour(body))[1]
    names = [f"colour{i}" for i in range(9)]
    server = connect(fake, max_concurrent=3, timeout=60.0)
    assert [answer.value.name for answer in ask_all(server, *names)] == names
    assert fake.most_at_once == 3
    # Threads of the caller share the bound.
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: ask(server, name), names))
    assert fake.most_at_once == 3


def test_the_cache_answers_equal_requests_and_no_others(fake, tmp_path, monkeypatch):
    first = connect(fake, cache=str(tmp_path))
    answers = ask_all(first, "red", "green", "red")
    assert len(fake.asked) == 2 and answers[0] == answers[2]
    assert answers[0].model == "painter-2026-01-01"
    prices = {"price_input": 2.0, "price_output": 10.0}
    # Neither the server nor a key is needed now.
    monkeypatch.delenv("OPENAI_API_KEY")
    offline = client.Server(ChatOptions(chat_model="painter", cache=str(tmp_path), **prices))
    assert ask_all(offline, "red", "green", "red") == answers
    usage = offline.usage.to_json()
    assert (usage["requests"], usage["cost"], usage["cache_hits"]) == (0, 0.0, 3)
    assert (usage["cached_input_tokens"], usage["cached_cost"]) == (300, 0.0021)
    for changes in ({"chat_model": "other"}, {"sampling": '{"seed": 1}'}):
        ask(connect(fake, cache=str(tmp_path), **changes), "red")
    assert len(fake.asked) == 4

    class Shade(Colour):
        shade: str = "plain"

    connect(fake, cache=str(tmp_path)).ask_all([request("red", Shade)])
    assert len(fake.asked) == 5
    for path in tmp_path.rglob("*.json"):
        path.write_text('{"content": "{}"')
    assert ask(connect(fake, cache=str(tmp_path)), "red").name == "red" and len(fake.asked) == 6


def test_the_key_is_sent_and_appears_nowhere_else(fake, tmp_path, capfd):
    fake.fail("green", "500", "401")
    server = connect(fake, cache=str(tmp_path / "cache"))
    ask_all(server, "red")
    assert fake.keys == {KEY}
    with pytest.raises(UserError) as caught:
        server.ask_all([request("green")])
    texts = [str(caught.value), repr(server), *capfd.readouterr()]
    texts += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in texts if KEY in text]


def test_missing_and_malformed_keys(fake, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a sk-b")
    with pytest.raises(UserError, match="^OPENAI_API_KEY: expected plain ASCII"):
        ask(connect(fake), "red")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="^OPENAI_API_KEY: expected a key in the environment"):
        ask(client.Server(ChatOptions(chat_model="painter")), "red")
    # A local server may need no key.
    assert ask(connect(fake), "red").name == "red" and fake.keys == {"none"}
    monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
    assert ask(client.Server(ChatOptions(chat_model="painter")), "red").name == "red"


def test_a_server_that_drops_a_request_is_there(fake):
    # It is asked alone, so that no other answer shows that the server is there.
    fake.fail("green", *["drop"] * 9)
    (green,) = ask_all(connect(fake, attempts=2), "green")
    assert (
        isinstance(green, client.Failed) and green.reason == "the connection broke; tried 2 times"
    )


def test_an_absent_server_is_the_users_mistake():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    server = client.Server(
        ChatOptions(chat_model="painter", base_url=url, backoff=0.001, attempts=2)
    )
    with pytest.raises(UserError, match="^--base_url: expected an OpenAI-compatible server at 127"):
        ask_all(server, "red", "green")


def test_valid_addresses_are_accepted(monkeypatch):
    for url in ("http://[::1]:8000/v1", "https://m\u00fcller.example/a@b/v1", "http://h"):
        client.Server(ChatOptions(chat_model="painter", base_url=url)).client()
    monkeypatch.setenv("OPENAI_BASE_URL", "http://[::1/v1")
    with pytest.raises(UserError, match="^OPENAI_BASE_URL: expected http"):
        client.Server(ChatOptions(chat_model="painter"))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("all_proxy", "socks5://localhost:1", "SOCKS"),
        ("all_proxy", f"ftp://me:{KEY}@localhost", "ValueError"),
        ("http_proxy", f"http://me:{KEY}/@localhost", "URL"),
        ("SSL_CERT_FILE", "/nowhere", "FileNotFoundError"),
    ],
)
def test_invalid_proxies_are_one_line(fake, monkeypatch, name, value, reason):
    monkeypatch.setitem(sys.modules, "socksio", None)  # not installed
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^--base_url, ALL_PROXY, .*{reason}") as caught:
        ask_all(connect(fake), "red")
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)
