import io

import av
import numpy as np

from generation.media.writing import write_video
from tests.support.tiny_videos import moving
from tools import bench_live


def test_a_video_is_sent_again_and_again_as_one_stream(tmp_path):
    video, sent = tmp_path / "video.mp4", io.BytesIO()
    write_video(video, moving(20), fps=10)
    bench_live._send(sent, str(video), 5.0, real_time=False)
    sent.seek(0)
    with av.open(sent) as container:
        stamps = [frame.time for frame in container.decode(video=0)]
    assert len(stamps) == 60
    steps = np.diff(stamps)
    assert steps.max() < 0.5 and steps.min() > 0


def test_what_was_left_out_does_not_count_as_scored():
    source = {"seconds": 10.0, "snippets": 30, "dropped_snippets": 10}
    assert bench_live._scored(source) == 7.5
