"""Measures the peak memory of encoding one video by each encoder and captioner against its length.

Each measurement is a process of its own. The models are tiny or left out: what counts is what grows
with a video. Captioners that look at single pictures (GIT, BLIP, chat) are measured by one that
takes GIT's six pictures of a snippet and says the same of all of them.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from generation.encode.recipe import EncodeOptions, Recipe
from tools.bench import encode
from tools.bench.workers import peak_bytes

if TYPE_CHECKING:
    from generation.encoders.protocols import Captioner

MINUTES = (1, 4, 16)
SIZE, FPS = (720, 1280), 25.0
MODELS = (
    ("motion", "none"),
    ("motion", "rules"),
    ("motion", "pictures"),
    ("clip-l14", "none"),
    ("clip-l14", "rules"),
)


def encoders(folder: pathlib.Path, minutes: Sequence[int] = MINUTES) -> dict[str, dict[str, float]]:
    """Returns a process's peak in megabytes by encoder + captioner and minutes of 720p25 video."""
    folder.mkdir(parents=True, exist_ok=True)
    encode.write_videos(folder, 1, 60.0, SIZE, FPS)
    weights = encode.save_model(folder, "tiny")
    peaks: dict[str, dict[str, float]] = {f"{e} + {c}": {} for e, c in MODELS}
    for length in minutes:
        long = folder / f"minutes-{length}"
        long.mkdir(exist_ok=True)
        repeat(folder / "0.mp4", long / "0.mp4", length)
        entry = {"file": "0.mp4", "label": 0, "split": "train"}
        (long / "videos.json").write_text(json.dumps({"videos": {"0": entry}}))
        for encoder, captioner in MODELS:
            command = [sys.executable, "-m", "tools.bench.encoding_memory"]
            command += [str(long), encoder, captioner, weights]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            megabytes = float(done.stdout.split()[-1])
            peaks[f"{encoder} + {captioner}"][str(length)] = megabytes
    return peaks


def repeat(path: pathlib.Path, out: pathlib.Path, times: int) -> None:
    """Writes a file that shows a video several times, without encoding it again."""
    import av

    with av.open(str(path)) as source, av.open(str(out), "w") as target:
        stream = source.streams.video[0]
        copied = target.add_stream_from_template(stream)
        packets = [
            (bytes(p), p.pts, p.dts, p.duration, p.is_keyframe)
            for p in source.demux(stream)
            if p.size
        ]
        span = sum(duration for *_, duration, _ in packets)
        for number in range(times):
            for content, pts, dts, duration, is_keyframe in packets:
                packet = av.Packet(content)
                packet.stream, packet.time_base, packet.duration = (
                    copied,
                    stream.time_base,
                    duration,
                )
                packet.pts, packet.dts = pts + number * span, dts + number * span
                packet.is_keyframe = is_keyframe
                target.mux(packet)


def _pictures() -> "Captioner":
    from generation.encoders.captions import SnippetCaptioner

    class Pictures(SnippetCaptioner):
        """Looks at as many pictures of a snippet as GIT."""

        id = "pictures"
        num_frames = 6

        def caption_snippets(self, snippets: Sequence) -> list[str]:
            return [f"{len(self._select(snippet))} pictures" for snippet in snippets]

    return Pictures()


def megabytes(folder: pathlib.Path, encoder: str, captioner: str, weights: str) -> float:
    """Encodes the folder's video in this process; returns the process's peak."""
    import dataclasses

    from generation.encode import encoding

    shown = captioner if captioner != "pictures" else "rules"
    options = EncodeOptions(
        encoder=encoder,
        captioner=shown,
        weights=weights if encoder == "clip-l14" else "",
        crops="ten" if encoder == "clip-l14" else "",
    )
    recipe: Recipe = options.recipe()
    if captioner == "pictures":
        recipe = dataclasses.replace(recipe, captioner=_pictures())
    out = folder / f"{encoder}-{captioner}"
    encoding.encode(folder / "videos.json", out, recipe, progress=False)
    return round(peak_bytes() / 1e6)


if __name__ == "__main__":
    print(megabytes(pathlib.Path(sys.argv[1]), *sys.argv[2:]))
