import json

import pytest

from gvvad_jax.command import UserError
from tests.support.receivers import Broker, Hook, listening, wait_for
from tools.watching import mqtt, sinks


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(sinks, "_PAUSES", (0.05, 0.1))
    monkeypatch.setattr(mqtt, "_PAUSES", (1, 1))


def _message(number, name="front"):
    return {"state": "begin", "video": name, "number": number}


def _numbers(messages):
    return [json.loads(text)["number"] for topic, text, _ in messages if topic != "gvvad"]


def test_messages_wait_while_the_broker_is_away_and_arrive_in_order_afterwards(tmp_path, capfd):
    with Broker(tmp_path) as broker:
        sink = mqtt.Broker(f"mqtt://127.0.0.1:{broker.port}/gvvad", ["front"])
        sink.start()
        with listening(broker.port) as messages:
            sink.send(_message(0))
            wait_for(lambda: len(messages) == 2)
            assert sorted(message[:2] for message in messages) == [
                ("gvvad", "online"),
                ("gvvad/front", json.dumps(_message(0))),
            ]
        broker.kill()
        for number in range(1, 4):
            sink.send(_message(number))
        wait_for(lambda: "messages wait" in capfd.readouterr().err)
        assert sink.counts() == {"delivered": 1, "dropped": 0, "waiting": 3}
        broker.start()
        with listening(broker.port) as messages:
            wait_for(lambda: sink.counts()["delivered"] == 4)
            wait_for(lambda: _numbers(messages)[-3:] == [1, 2, 3])
            sink.close()
            wait_for(lambda: messages[-1][:2] == ("gvvad", "offline"))
        assert sink.counts() == {"delivered": 4, "dropped": 0, "waiting": 0}
    assert "delivers again" in capfd.readouterr().err


def test_a_broker_with_passwords_takes_those_of_the_environment(tmp_path, monkeypatch, capfd):
    passwords = tmp_path / "passwords"
    # mosquitto_passwd's format, of user "camera" and password "secret".
    import base64
    import hashlib

    salt = b"0123456789ab"
    digest = hashlib.pbkdf2_hmac("sha512", b"secret", salt, 101)
    parts = "7", "101", *(base64.b64encode(part).decode() for part in (salt, digest))
    passwords.write_text("camera:$" + "$".join(parts) + "\n")
    passwords.chmod(0o644)
    settings = "allow_anonymous false", f"password_file {passwords}"
    with Broker(tmp_path, *settings) as broker:
        url = f"mqtt://127.0.0.1:{broker.port}/home/gvvad"
        monkeypatch.delenv("MQTT_USERNAME", raising=False)
        refused = mqtt.from_environment(url, ["front"], False)
        refused.start()
        wait_for(lambda: "Not authorized" in capfd.readouterr().err)
        refused.close(0)
        monkeypatch.setenv("MQTT_USERNAME", "camera")
        monkeypatch.setenv("MQTT_PASSWORD", "secret")
        sink = mqtt.from_environment(url, ["front"], True)
        sink.start()
        sink.send(_message(5))
        wait_for(lambda: sink.counts()["delivered"] == 1)
        with listening(broker.port, "homeassistant/#", "camera", "secret") as messages:
            (topic, text, kept) = wait_for(lambda: messages and messages[0])
        sink.close()
    assert kept and topic == "homeassistant/binary_sensor/gvvad_home_gvvad_front/config"
    assert json.loads(text)["state_topic"] == "home/gvvad/front"
    assert "secret" not in capfd.readouterr().err


def test_a_webhook_that_fails_gets_each_message_once_it_recovers(monkeypatch, capsys):
    monkeypatch.setenv("WEBHOOK_HEADER", "Authorization: Bearer secret")
    with Hook() as hook:
        hook.answers += [503, 429, 500]
        sink = sinks.from_environment(hook.url + "/a-secret-path")
        sink.start()
        for number in range(3):
            sink.send(_message(number))
        wait_for(lambda: sink.counts()["delivered"] == 3)
        # What the receiver doesn't want, or sends elsewhere with the header, isn't tried again.
        hook.answers += [404, 302]
        for number in range(3, 6):
            sink.send(_message(number))
        wait_for(lambda: sink.counts()["delivered"] == 4)
        sink.close()
    assert [content["number"] for _, content in hook.requests] == [0, 1, 2, 5]
    assert {headers["Authorization"] for headers, _ in hook.requests} == {"Bearer secret"}
    assert sink.counts() == {"delivered": 4, "dropped": 2, "waiting": 0}
    errors = capsys.readouterr().err
    assert "it answers 404; the message is dropped" in errors
    assert "secret" not in errors


def test_the_oldest_messages_are_dropped_when_too_many_wait(monkeypatch, capsys):
    monkeypatch.setattr(sinks, "MOST_WAITING", 2)
    with Hook() as hook:
        sink = sinks.Webhook(hook.url)
        for number in range(5):
            sink.send(_message(number))
        assert sink.counts() == {"delivered": 0, "dropped": 3, "waiting": 2}
        sink.start()
        sink.close()
    assert [content["number"] for _, content in hook.requests] == [3, 4]
    assert "the oldest are dropped" in capsys.readouterr().err


def test_what_is_left_at_the_end_is_counted(capsys):
    sink = sinks.Webhook("http://127.0.0.1:9")
    sink.start()
    sink.send(_message(0))
    sink.close(0.2)
    assert sink.counts()["waiting"] == 1
    assert "1 messages were not delivered before the end" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    ["http://host/topic", "mqtt://host", "mqtt://host/a/#", "mqtt://u:secret@host/a", "mqtt:///a"],
)
def test_other_addresses_of_a_broker_are_refused(url):
    with pytest.raises(UserError, match="--mqtt: expected") as caught:
        mqtt.Broker(url, ["front"])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("header", ["secret", "A: b\r\nC: d", ": b"])
def test_a_header_is_one_line(header):
    with pytest.raises(UserError, match="WEBHOOK_HEADER") as caught:
        sinks.Webhook("https://host", header)
    assert "secret" not in str(caught.value)
