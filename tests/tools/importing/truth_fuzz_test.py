"""Damaged ground truth of every format: one line, and no file; never a traceback."""

import io
import json
import pathlib
import pickle
import tempfile

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from tools.importing.truth import FORMATS, TruthImport, import_truth

LABELS = {"Abuse028": np.array([0, 1, 1, 0, 1]), "Normal_Videos_003": np.zeros(4, np.int64)}
LIST = "path,num_frames\nAbuse028_x264.mp4,5\nNormal_Videos_003_x264.mp4,4\n"


def _saved(save, *arguments, **options):
    buffer = io.BytesIO()
    save(buffer, *arguments, **options)
    return buffer.getvalue()


CELLS = np.empty((1, 2), object)
CELLS[0, 0], CELLS[0, 1] = np.array([[2, 5], [3, 5]], np.uint8), np.zeros((2, 0), np.uint8)
VALID = {
    "ucf": b"Abuse028_x264.mp4  Abuse  1  3  4  5\nNormal_Videos_003_x264.mp4 Normal -1 -1 -1 -1\n",
    "xd": b"Abuse028 1 3 4 5\n",
    "npy": _saved(np.save, np.concatenate(list(LABELS.values()))),
    "npz": _saved(np.savez, **LABELS),
    "pickle": pickle.dumps(LABELS),
    "mat": _saved(scipy.io.savemat, {"gt": CELLS}),
    "activitynet": json.dumps(
        {"database": {"Abuse028": {"subset": "testing", "duration": 5.0, "annotations": [
            {"segment": [1.0, 3.0], "label": "Abuse"}]}}}).encode(),
    "fiftyone": json.dumps(
        {"labels": {"Abuse028": [{"label": "Abuse", "support": [2, 3]}]}}).encode(),
    "cvat": b"<annotations><meta><task><id>1</id><name>Abuse028</name><size>5</size></task></meta>"
            b'<track label="Abuse"><box frame="1" outside="0"/><box frame="3" outside="1"/></track>'
    b"</annotations>",
    "videos": json.dumps({"videos": {"Abuse028": {
        "file": "a", "label": 1, "split": "test", "abnormal_frames": [[1, 3]]}}}).encode(),
}  # fmt: skip
NAMES = {"ucf": "a.txt", "xd": "a.txt", "npy": "a.npy", "npz": "a.npz", "pickle": "a.pickle",
         "mat": "a.mat", "cvat": "a.xml"}  # fmt: skip


def _import(content, kind, listed=True, truth_format=None):
    """Imports bytes; returns the list written, or the line that refuses them."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        path = root / NAMES.get(kind, "a.json")
        path.write_bytes(content)
        (root / "test.csv").write_text(LIST)
        before = set(root.iterdir())
        request = TruthImport(
            truth=str(path),
            format=truth_format or ("npy" if kind == "npz" else kind),
            list=str(root / "test.csv") if listed else "",
            fps=1.0,
            out=str(root / "out.json"),
        )
        refused = None
        try:
            import_truth(request)
        except UserError as error:
            refused = str(error)
        if refused is not None:
            assert set(root.iterdir()) == before and "\n" not in refused
            return refused
        assert set(root.iterdir()) == before | {root / "out.json"}
        return annotations.load(root / "out.json")


@pytest.mark.parametrize("kind", VALID)
def test_what_is_damaged_here_is_valid_before(kind):
    assert not isinstance(found := _import(VALID[kind], kind), str), found
    assert found.videos["Abuse028"].abnormal_frames[0] == (1, 3)


# scipy's own parser takes a while for a damaged size.
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted(VALID)),
    edits=st.lists(
        st.tuples(st.integers(0, 3000), st.integers(0, 6), st.binary(max_size=6)), max_size=5
    ),
    end=st.integers(0, 3000),
    listed=st.booleans(),
)
# A NUL in an .npy's header: numpy's reader of it raises TokenError on Python 3.13.
@example(kind="npy", edits=[(10, 1, b"")], end=128, listed=False)
def test_damaged_files_give_one_line(kind, edits, end, listed):
    content = bytearray(VALID[kind])
    for place, removed, added in edits:
        place %= len(content) + 1
        content[place : place + removed] = added
    _import(bytes(content[:end]), kind, listed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["videos", "database", "labels", "a", "annotations", "segment", "label",
                         "support", "timestamps", "classes", "fps", "duration", "subset"]),
        inner, max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=JSON, kind=st.sampled_from(["activitynet", "fiftyone", "videos", "auto"]))
def test_any_json_gives_a_list_or_one_line(content, kind):
    key = {"activitynet": "database", "fiftyone": "labels", "videos": "videos"}.get(kind)
    text = json.dumps({key: content} if key else content)
    _import(text.encode(), "json", False, kind)


@settings(max_examples=100, deadline=None)
@given(
    lines=st.lists(
        st.lists(
            st.sampled_from(["Abuse028_x264.mp4", "Normal", "Abuse", "-1", "0", "3", "99999999999",
                             "a b", "1.5", "\t", ",", "\ufeff", "\x00", "_label_A", "../x"]),
            max_size=7,
        ).map(" ".join),
        max_size=4,
    ),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    kind=st.sampled_from(["ucf", "xd", "auto"]),
    listed=st.booleans(),
)  # fmt: skip
def test_any_text_gives_a_list_or_one_line(lines, end, kind, listed):
    _import(end.join(lines).encode(), "ucf", listed, kind)


@settings(max_examples=100, deadline=None)
@given(
    values=st.one_of(
        st.dictionaries(
            st.sampled_from(["Abuse028", "Normal_Videos_003", "b"]),
            st.lists(st.integers(-2, 300) | st.lists(st.integers(-2, 9), max_size=3), max_size=6),
            max_size=3,
        ),
        st.lists(st.lists(st.floats() | st.integers(0, 1), max_size=4), max_size=3),
    ),
    listed=st.booleans(),
)
def test_any_container_gives_a_list_or_one_line(values, listed):
    _import(pickle.dumps(values), "pickle", listed)


def test_every_format_has_a_damaged_case():
    assert set(VALID) - {"npz"} == set(FORMATS) - {"auto", "masks"}
