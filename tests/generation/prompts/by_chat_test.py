import collections
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from generation.chat import client
from generation.chat.options import ChatOptions
from generation.prompts import by_chat, checks
from generation.prompts.descriptions import CLASSES, load_descriptions
from generation.prompts.grammar import write_grammar
from generation.prompts.words import VIEWPOINTS
from gvvad_jax.command import UserError
from tests.support.chat_server import ChatServer, text_of, write_pair
from tests.support.pairs import FIGHT, answer, change, swap

KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def write(fake, num_pairs, seed=0, *, classes=CLASSES, attempts=4, clip_tokenizer="", **changes):
    options = {"chat_model": "m", "base_url": fake.url, "backoff": 0.001}
    server = client.Server(ChatOptions(**(options | changes)))
    given = {"attempts": attempts, "clip_tokenizer": clip_tokenizer, "progress": False}
    given["classes"] = classes
    return by_chat.write_pairs(num_pairs, seed, server, **given), server


@pytest.fixture(scope="module")
def written():
    """27 pairs, with the requests for them."""
    with pytest.MonkeyPatch.context() as patch, ChatServer() as fake:
        patch.setenv("OPENAI_API_KEY", KEY)
        return write(fake, 27, 1)[0], fake.asked


def test_twins_share_everything_but_the_event_and_the_plan_is_kept(written):
    descriptions, missing = written[0].descriptions, written[0].missing
    assert not missing and len({d.id for d in descriptions}) == 54
    grammar = write_grammar(27, 1)
    by_id = {d.id: d for d in descriptions}
    for d, planned in zip(descriptions, grammar, strict=True):
        twin = by_id[d.twin]
        assert twin.twin == d.id and twin.label == 1 - d.label
        shared = (d.viewpoint, d.location, d.subject, d.seed)
        assert shared == (twin.viewpoint, twin.location, twin.subject, twin.seed)
        assert d.event != twin.event and d.description != twin.description
        # What the plan settles is the same for both writers.
        for field in ("id", "twin", "cls", "label", "seed", "location"):
            assert getattr(d, field) == getattr(planned, field)
        assert d.model == "m-2026-01-01"
        assert d.template_version == by_chat.CHAT_TEMPLATE_VERSION


def test_requests_name_class_viewpoint_and_location(written):
    texts = {text_of(body) for body in written[1]}
    assert len(texts) == 27
    for d in written[0].descriptions:
        wanted = (f"Class: {d.cls} (", f"Viewpoint: {d.viewpoint}\n", f"Location: {d.location}\n")
        assert any(all(part in text for part in wanted) for text in texts)
    schema = written[1][0]["response_format"]["json_schema"]["schema"]
    assert set(schema["properties"]["anomaly_class"]["enum"]) == set(CLASSES)
    assert set(by_chat._MEANINGS) == set(CLASSES)


def test_requests_are_for_the_given_classes_and_share_answers_with_other_sets(tmp_path):
    with ChatServer() as fake:
        few, _ = write(fake, 5, 1, classes=("Arson", "Fighting"), cache=str(tmp_path))
        asked = [text_of(body).split("Class: ")[1].split(" (")[0] for body in fake.asked]
        assert collections.Counter(asked) == {"Arson": 3, "Fighting": 2}
        assert [d.id for d in few.descriptions[::2]] == [
            f"{name}-abnormal"
            for name in ("Arson-0000", "Fighting-0000", "Arson-0001", "Fighting-0001", "Arson-0002")
        ]
        assert [d.twin for d in few.descriptions[::2]] == [d.id for d in few.descriptions[1::2]]
        more, _ = write(fake, 13, 1, cache=str(tmp_path))
        # Arson-0000 and Fighting-0000 are known already.
        assert len(fake.asked) == 5 + 11 and few.descriptions[0] in more.descriptions


def test_a_clip_tokenizer_measures_exactly(tmp_path):
    import transformers

    # Merges of single letters only: nearly a token a letter.
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,.'-"
    symbols = [*letters, *(f"{letter}</w>" for letter in letters), "th"]
    vocab = {s: i for i, s in enumerate([*symbols, "<|startoftext|>", "<|endoftext|>"])}
    transformers.CLIPTokenizer(vocab=vocab, merges=[("t", "h")]).save_pretrained(tmp_path)
    count = by_chat.load_token_counter(tmp_path)
    assert count("that") == 3 and checks.token_bound("that") == 2
    long = change("normal", phrase="two men walk slowly past shop windows and " * 2 + "away")
    assert checks.pair_faults(answer(long), FIGHT) == []
    assert "phrase is too long" in checks.pair_faults(answer(long), FIGHT, count)[-1]
    with pytest.raises(UserError, match="^--clip_tokenizer: "):
        by_chat.load_token_counter(tmp_path / "nothing")


def test_faults_are_named_and_the_pair_asked_for_again():
    with ChatServer() as fake:
        fake.fail("Class: Fighting", change("normal", viewpoint="a drone"), swap)
        result, server = write(fake, 8)
        asked = [body["messages"] for body in fake.asked if "Class: Fighting" in text_of(body)]
    assert not result.missing and len(result.descriptions) == 16
    assert [len(messages) for messages in asked] == [2, 4, 6]
    assert "viewpoint isn't the given one" in asked[1][3]["content"]
    assert json.loads(asked[1][2]["content"])["normal"]["viewpoint"] == "a drone"
    assert "look swapped" in asked[2][5]["content"]
    assert asked[2][:4] == asked[1]
    usage = server.usage.to_json()
    assert (usage["requests"], usage["retries"], usage["input_tokens"]) == (10, 0, 1000)


def test_pairs_that_stay_faulty_are_missing_by_name():
    with ChatServer() as fake:
        fake.fail("Class: Arson", *[swap] * 9)
        fake.fail("Class: Shooting", *["refusal"] * 9)
        result, _ = write(fake, 13, attempts=3)
        names = [text_of(body).split("Class: ")[1].split(" ")[0] for body in fake.asked]
    assert set(result.missing) == {"Arson-0000", "Shooting-0000"}
    assert "look swapped" in result.missing["Arson-0000"]
    assert "refused: I can't help" in result.missing["Shooting-0000"]
    assert result.unanswered == {"Shooting-0000"}
    assert result.remedy(3) == (
        "the same command asks again for 1 without an answer, "
        "--attempts=6 asks again for 1 answered wrongly, --allow_missing does without them"
    )
    assert len(result.descriptions) == 22
    assert not {d.cls for d in result.descriptions} & {"Arson", "Shooting"}
    # Three answers, none usable; four requests, none answered.
    assert (names.count("Arson"), names.count("Shooting")) == (3, 4)


def repeating(body):
    """Writes the same scene for all pairs until it is asked again."""
    pair = write_pair(body)
    if sum(message["role"] == "assistant" for message in body["messages"]) < 2:
        for twin in (pair["abnormal"], pair["normal"]):
            twin["description"] = (
                f"Seen from {twin['viewpoint']} over {twin['location']}, {twin['subject']} are "
                "doing as they please while grey rain falls on dark wet ground and birds fly "
                f"across from the left to the far right, {twin['label'][:2]}"
            )
    return pair


def test_repetitions_do_not_depend_on_the_order_of_answers():
    def hasty(body):
        time.sleep(random.random() * 0.01)
        return repeating(body)

    with ChatServer(hasty) as fake:
        alone, _ = write(fake, 12, max_concurrent=1)
        count = len(fake.asked)
        crowd, _ = write(fake, 12, max_concurrent=12)
        assert len(fake.asked) == 2 * count and count > 24
        assert crowd == alone and not alone.missing
        # The first pair is kept, and the first pairs do not depend on those that follow.
        few, _ = write(fake, 5)
    assert "grey rain" in alone.descriptions[0].description
    assert sum("grey rain" in d.description for d in alone.descriptions) == 2
    assert few.descriptions == alone.descriptions[:10]


def test_a_second_run_asks_nothing(tmp_path):
    with ChatServer(repeating) as fake:
        first, _ = write(fake, 10, cache=str(tmp_path))
        count = len(fake.asked)
        second, server = write(fake, 10, cache=str(tmp_path))
        assert second == first and len(fake.asked) == count
        assert server.usage.to_json()["cache_hits"] == count


@pytest.mark.parametrize(("num_pairs", "seed"), [(0, 0), (1, -1)])
def test_wrong_numbers(num_pairs, seed):
    with pytest.raises(UserError, match="^--num_pairs, --seed"):
        by_chat.write_pairs(num_pairs, seed, None)


# The command.


def command(fake, out, *more):
    flags = ["--writer=chat", "--chat_model=m", "--num_pairs=14", f"--base_url={fake.url}"]
    flags += [f"--out={out}", "--backoff=0.001", "--max_concurrent=2"]
    return [sys.executable, "-m", "generation.prompts", *flags, *more]


def run(fake, out, *more):
    done = subprocess.run(command(fake, out, *more), capture_output=True, text=True)
    texts = [done.stdout, done.stderr]
    texts += [path.read_text() for path in out.parent.rglob("*") if path.is_file()]
    assert not [text for text in texts if KEY in text]
    return done


def kill(fake, out, enough):
    """Starts the command and kills it once `enough()`."""
    process = subprocess.Popen(
        command(fake, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not enough():
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()


@pytest.fixture(scope="module")
def whole(written):
    """The descriptions of an uninterrupted run."""
    with ChatServer(repeating) as fake:
        return write(fake, 14)[0].descriptions


def test_a_killed_command_continues_and_ends_the_same(tmp_path, whole):
    out = tmp_path / "prompts.jsonl"
    with ChatServer(repeating, delay=0.03) as fake:

        def enough():  # True in the second round, which then goes on slowly.
            fake.delay = 1.0 if len(fake.asked) > 18 else 0.03
            return fake.delay == 1.0

        kill(fake, out, enough)
        fake.delay = 0.03
        kept = len(list(out.with_suffix(".answers").glob("*/*.json")))
        count = len(fake.asked)
        done = run(fake, out, "--price_input=1", "--price_output=2")
        again = len(fake.asked) - count
    assert done.returncode == 0, done.stderr
    assert load_descriptions(out) == whole
    summary = json.loads(done.stdout)
    assert (summary["descriptions"], summary["complete"], summary["missing"]) == (28, True, {})
    usage = summary["usage"]
    # The server may hear late of what was under way.
    assert again - 2 <= usage["requests"] <= again and usage["cache_hits"] == kept >= 17
    assert usage["cost"] == pytest.approx(usage["requests"] * 200 / 1e6)
    assert "      4  Abuse (2 abnormal, 2 normal)" in done.stderr
    assert VIEWPOINTS[0] in done.stderr


def test_an_incomplete_file_has_another_name_and_another_exit_status(tmp_path):
    out, incomplete = tmp_path / "prompts.jsonl", tmp_path / "prompts.incomplete.jsonl"
    with ChatServer() as fake:
        fake.fail("Class: Shooting", *["refusal"] * 4)
        done = run(fake, out, "--attempts=2")
        summary = json.loads(done.stdout)
        assert done.returncode == 3 and not summary["complete"] and "Traceback" not in done.stderr
        reason = "refused: I can't help with that.; tried 2 times"
        assert summary["missing"] == {"Shooting-0000": reason} and not out.exists()
        assert summary["out"] == str(incomplete) and len(load_descriptions(incomplete)) == 26
        assert f"missing Shooting-0000: {reason}" in done.stderr
        assert summary["remedy"].startswith(
            "the same command asks again for 1 without an answer, --a"
        )
        # The same command asks for the missing pair alone; this one allows it to be missing.
        count = len(fake.asked)
        done = run(fake, out, "--attempts=2", "--allow_missing=1")
        assert done.returncode == 0 and len(fake.asked) == count + 2
        assert len(load_descriptions(out)) == 26 and not incomplete.exists()


def test_the_remedy_for_a_wrong_answer_works(tmp_path):
    out = tmp_path / "prompts.jsonl"
    with ChatServer() as fake:
        fake.fail("Class: Shooting", swap)
        for count in (14, 14):  # The same command finds the wrong answer in its cache.
            done = run(fake, out, "--attempts=1")
            assert done.returncode == 3 and len(fake.asked) == count
            advice = json.loads(done.stdout)["remedy"]
            assert done.stderr.endswith(f"found 1 missing; {advice}\n")
            assert "same command" not in advice and advice.startswith("--attempts=2 ")
        done = run(fake, out, "--attempts=2")
        assert done.returncode == 0 and len(fake.asked) == 15
        assert json.loads(done.stdout)["remedy"] == ""


def test_a_mistake_is_one_line(tmp_path):
    out = tmp_path / "prompts.jsonl"
    with ChatServer() as fake:
        fake.fail("", *["401"] * 20)
        done = run(fake, out)
    # The progress bar is not counted.
    lines = [line for line in done.stderr.splitlines() if "descriptions:" not in line]
    assert done.returncode == 2 and lines[-1].startswith("error: OPENAI_API_KEY: ")
    assert len(lines) <= 2 and not done.stdout and not out.exists()
