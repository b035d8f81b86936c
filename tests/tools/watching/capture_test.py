import threading
import time

import pytest

from gvvad_jax.command import UserError
from tests.support.stream_servers import HttpCamera, RtspCamera, write_stream
from tests.support.tiny_videos import moving
from tools.watching import addresses, capture
from tools.watching.capture import Capture, Lost, Refused


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("streams") / "stream.ts"
    return write_stream(path, moving(60), fps=25).read_bytes()


def _open(*arguments):
    (address,) = addresses.parse(arguments)
    return Capture(address, threading.Event())


def _count(*arguments):
    with _open(*arguments) as source:
        frames = []
        try:
            for frame in source.frames():
                frames.append(frame)
        except Lost:
            pass
        return frames, source


@pytest.mark.parametrize("kind", ["http", "file", "rtsp"])
def test_frames_come_with_their_times_and_the_measured_rate(content, kind):
    with (RtspCamera if kind == "rtsp" else HttpCamera)(content) as camera:
        url = camera.url + {"http": "/live", "file": "/file", "rtsp": ""}[kind]
        frames, source = _count(url)
    assert source.rate.fps == 25 and source.finite == (kind == "file") and not source.damaged
    # A transport stream's last packet ends with the next one's start.
    assert len(frames) in ((60,) if kind != "rtsp" else (59, 60))
    assert [round(frame.seconds * 25) for frame in frames[:50]] == list(range(50))


def _playlists(server, secret):
    target = f"{server}/other.ts"
    return {
        "/a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{target}\n#EXTINF:3,\n{secret}\n"
        "#EXT-X-ENDLIST\n",
        "/b": f"ffconcat version 1.0\nfile {secret}\nfile {target}\n",
        "/c.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 33\n",
        "/d.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
        f"<Period><AdaptationSet><BaseURL>{target}</BaseURL></AdaptationSet></Period></MPD>",
        "/e": f"[playlist]\nFile1={target}\n",
        "/f.ts": f"{secret}\n{target}\n",
    }


@pytest.mark.parametrize("page", ["/a.m3u8", "/b", "/c.sdp", "/d.mpd", "/e", "/f.ts", "/moved"])
def test_nothing_that_a_source_names_is_opened(content, page, tmp_path):
    secret = write_stream(tmp_path / "secret.ts", moving(5))
    opened = []
    with HttpCamera(content) as other, HttpCamera(content) as camera:
        pages = _playlists(other.url, secret)
        camera.pages = {path: text.encode() for path, text in pages.items()}
        # The file isn't read, either: nobody changes when it was read last.
        before = secret.stat().st_atime_ns
        with pytest.raises((Refused, Lost)) as caught:
            _open(camera.url + page)
        opened = [path for path in camera.asked if path != page] + other.asked
        assert secret.stat().st_atime_ns == before
    assert not opened
    assert "followed" in str(caught.value)


def test_an_rtsp_source_leads_nowhere_else(content):
    with RtspCamera(content) as other, RtspCamera(content, moved=other.url) as camera:
        with pytest.raises((Refused, Lost)):
            _open(camera.url)
        assert not other.requests and camera.requests


def test_a_wrong_password_is_refused_and_no_password_is_shown(content):
    for kind, path in ((HttpCamera, "/live"), (RtspCamera, "")):
        with kind(content, password="user:right") as camera:
            url = camera.url.replace("//", "//user:wr%40ng@") + path
            with pytest.raises(Refused, match="a user and password that are accepted") as caught:
                _open(url)
        assert "wr" not in str(caught.value).replace("wrong address", "")
        with pytest.raises(Lost, match="refused") as caught:
            _open(url)  # Nobody listens there any more.
        assert "wr%40ng" not in f"{caught.value!r}{caught.value.__cause__!r}"


def test_a_silent_source_is_lost_after_a_while(content, monkeypatch):
    monkeypatch.setattr(capture, "_TIMEOUT", (0.5, 0.5))
    with HttpCamera(b"") as camera:
        camera.pieces = lambda: iter([time.sleep(3) or b""])
        begun = time.monotonic()
        with pytest.raises(Lost, match="no data for 0.5 s"):
            _open(camera.url + "/live")
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("kind", ["rtsp", "http"])
def test_a_host_that_nobody_knows_is_called_so(kind):
    with pytest.raises(Lost, match="^no host of this name is known$"):
        _open(f"{kind}://user:secret@nohost.invalid/x").close()


def test_addresses_are_called_without_their_secrets():
    named = addresses.parse(
        [
            "rtsp://u:p@cam:554/a/b?key=k",
            "http://cam/x?c=1",
            "http://cam/x?c=2",
            "door=https://h/y",
            "rtsp://cam/user=admin_password=hidden_channel=1.sdp",
        ]
    )
    assert [address.name for address in named] == ["cam_554_a_b", "cam_x", "cam_x-2", "door", "cam"]
    assert "key" not in repr(named) and "u:p" not in repr(named)
    assert addresses.redacted("door=rtsp://u:p@ss@cam/a?k") == "door=rtsp://cam"
    # Which part is the host isn't known where a "@" may belong to a password or to a key.
    assert addresses.redacted("rtsp://u:se/cret@cam/a") == "rtsp://..."
    assert addresses.redacted("http://cam/a?key=se@cret") == "http://..."


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("udp://u:secret@239.0.0.1:1234", "udp://239.0.0.1:1234: expected rtsp"),
        ("file:///etc/passwd", "expected rtsp"),
        ("concat:///a|/b", "expected rtsp"),
        ("http://", "expected a host"),
        ("http://u:secret@host:port/", "expected a host"),
        ("http://host/a b", "expected a host"),
        ("rtsp://user:12/secret@host/a", r"rtsp://\.\.\.: expected a host"),
        ("http://host/live?key=a@secret", "any @ but the one before the host, as %XX"),
    ],
)
def test_other_addresses_are_refused(argument, expected):
    assert addresses.is_live(argument)
    with pytest.raises(UserError, match=expected) as caught:
        addresses.parse([argument])
    assert "secret" not in str(caught.value)


def test_what_is_live_and_what_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "007").mkdir()
    (tmp_path / "a=b.mp4").touch()
    live = ["-", "0", "cam=rtsp://x", "RTSP://x", "cam=-", "/dev/null"]
    files = ["a.mp4", str(tmp_path), str(tmp_path / "a=b.mp4"), "1234", "./-", "007"]
    assert [addresses.is_live(argument) for argument in live + files] == [True] * 6 + [False] * 6
