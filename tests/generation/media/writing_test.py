"""Writing .mp4 files completely and reproducibly."""

import pytest

from generation.media import reading
from generation.media.writing import write_video
from gvvad_jax.command import UserError
from tests.support.tiny_videos import moving


def test_files_are_written_completely_or_not_at_all(tmp_path):
    for frames, message in (([], "at least one frame"), (moving(2)[:, :63], "found 63x96")):
        with pytest.raises(UserError, match=message):
            write_video(tmp_path / "v.mp4", frames, fps=10)
    assert not list(tmp_path.iterdir())
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, moving(10), fps=29.97)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert reading.Reader(tmp_path / "a.mp4").fps == pytest.approx(29.97, abs=1e-3)
