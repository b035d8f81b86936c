"""Whatever is done to a file: no traceback, no code run, nothing waited for, no silent number."""

import functools
import pathlib
import shutil

import hypothesis
import pytest
from hypothesis import strategies

from gvvad_jax.command import UserError
from gvvad_jax.flagfiles import FlagError
from tests.robustness import WHOLE
from tests.robustness.mutations import damaged
from tests.robustness.subjects import SUBJECTS

pytestmark = pytest.mark.robustness
EXAMPLES = 600 if WHOLE else 12


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A function from a subject's name to a folder of sound files and what is read of them."""

    @functools.cache
    def make(name):
        folder = tmp_path_factory.mktemp("sound")
        SUBJECTS[name].make(folder)
        return folder, SUBJECTS[name].read(folder)

    return make


@pytest.mark.parametrize("name", SUBJECTS)
def test_damage_is_one_line_and_never_another_number(name, sound, tmp_path):
    subject, (folder, expected) = SUBJECTS[name], sound(name)
    paths = sorted(p for pattern in subject.patterns for p in folder.glob(pattern) if p.is_file())
    assert len(paths) >= len(subject.patterns), f"some of {subject.patterns} aren't there"
    marker, copy = tmp_path / "unpickled", tmp_path / "copy"

    @hypothesis.settings(
        max_examples=EXAMPLES,
        derandomize=not WHOLE,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=WHOLE,
    )
    @hypothesis.given(data=strategies.data())
    def damage(data):
        path = data.draw(strategies.sampled_from(paths))
        content = path.read_bytes()
        changed = data.draw(damaged(content, marker))
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        (copy / path.relative_to(folder)).write_bytes(changed)
        hypothesis.note(f"{path.relative_to(folder)}: {changed[:200]!r}")
        try:
            found = subject.read(copy)
        except (UserError, FlagError) as error:
            message = str(error)
            assert "\n" not in message and len(message) < 2000, "not one line"
            assert str(copy) in message or pathlib.Path(path).stem in message, "names no file"
        else:
            assert not subject.sealed or found == expected, "another number, silently"
        assert not marker.exists(), "code was run"

    damage()
