"""The log of a run: what a resumed run keeps."""

import json
import struct

from tensorboardX.proto import event_pb2

from gvvad_jax.run.log import RunLog


def _events(path):
    """The events of a file of TensorBoard: length, checksum, event, checksum."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield event_pb2.Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def _shown(folder):
    """{step: value} as TensorBoard shows them: a start purges what was logged from its step on."""
    shown = {}
    for event in (event for path in sorted(folder.iterdir()) for event in _events(path)):
        if event.session_log.status == event_pb2.SessionLog.START:
            shown = {step: value for step, value in shown.items() if step < event.step}
        for value in event.summary.value:
            shown[event.step] = value.simple_value
    return shown


def test_a_resumed_run_keeps_the_line_of_the_step_it_starts_at(tmp_path):
    for start, value in ((0, 1.0), (2, 5.0)):
        log = RunLog(tmp_path, start)
        for step in range(start + 1, 5):
            log.write(step, {"loss": value})
        log.close()
        # Another run in the same second would write the same file.
        (path,) = (tmp_path / "tensorboard").glob("events.*")
        path.rename(path.with_name(f"events-{start}"))
    expected = {1: 1.0, 2: 1.0, 3: 5.0, 4: 5.0}
    assert _shown(tmp_path / "tensorboard") == expected
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert {line["step"]: line["loss"] for line in lines} == expected


def test_damaged_lines_are_left_out_and_reported(tmp_path, capsys):
    lines = [
        b'{"step": 1, "loss": 2.0}',
        b'{"step": "2"}',
        b"[3]",
        b"\xff",
        b'{"step": 3}',
        b'{"st',
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    RunLog(tmp_path, 5).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == lines[0] + b"\n" + lines[4] + b"\n"
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[2][:7] for line in told] == [" line 2", " line 3", " line 4"]
