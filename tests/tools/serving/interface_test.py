"""Pages of dropped videos, without Gradio."""

import os

from tools.serving import interface


def test_a_page_does_not_go_while_its_video_is_scored(tmp_path, monkeypatch):
    (tmp_path / "pages").mkdir()
    (tmp_path / "cam.mp4").touch()
    pages = interface.Pages(None, tmp_path / "pages", keep_seconds=60)

    class Long:
        def __init__(self, detector, folder, *, clips):
            self._path = folder.path

        def do(self, video, name):
            os.utime(self._path, (0, 0))  # It takes longer than pages are kept.
            pages.remove_old()
            (self._path / f"{name}.json").write_text('{"video": "cam"}')

    monkeypatch.setattr(interface, "Work", Long)
    page, content = pages.add(str(tmp_path / "cam.mp4"))
    folder = (tmp_path / "pages" / page).parent
    assert content == {"video": "cam"} and not (tmp_path / "cam.mp4").exists()
    os.utime(folder, (0, 0))
    pages.remove_old()
    assert not folder.exists()
