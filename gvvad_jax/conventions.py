"""Which convention a number of frame labels or scores looks like. No JAX.

Ground truth circulates with a label for each frame, and with lengths rounded up or down to whole
snippets of 16 frames, as published evaluation repeats each snippet's score 16 times.
"""

from collections.abc import Mapping

from gvvad_jax.store.alignment import REFERENCE_REPEAT

# Labels of the whole test set in the files that circulate: data set and convention.
CIRCULATING = {
    1_111_808: ("UCF-Crime", "raw"),
    1_114_144: ("UCF-Crime", "up"),
    1_109_824: ("UCF-Crime", "down"),
    142_912: ("ShanghaiTech", "raw"),
    143_888: ("ShanghaiTech", "up"),
    140_112: ("ShanghaiTech", "down"),
    2_330_384: ("XD-Violence", "rows"),
    88_052: ("TAD", "raw"),
    3_000: ("UCSD Ped2", "raw"),
    3_200: ("UCSD Ped2", "up"),
}
# Normal and abnormal videos of each split, as published.
SIZES: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "UCF-Crime": {"train": (800, 810), "test": (150, 140)},
    "ShanghaiTech": {"train": (175, 63), "test": (155, 44)},
    "XD-Violence": {"train": (2049, 1905), "test": (300, 500)},
}
NAMES = {
    "raw": "one for each frame",
    "up": f"each video's frames rounded up to {REFERENCE_REPEAT}",
    "down": f"each video's frames rounded down to {REFERENCE_REPEAT}",
    "rows": f"{REFERENCE_REPEAT} for each snippet",
}


def rounded(num_frames: int, convention: str) -> int:
    """Returns the labels that a video has by a convention: raw, up or down."""
    whole, rest = divmod(num_frames, REFERENCE_REPEAT)
    if convention == "raw":
        return num_frames
    return REFERENCE_REPEAT * (whole + (convention == "up" and rest > 0))


def circulating(length: int) -> str:
    """Says which ground truth has a length, as a clause for messages; empty if none is known."""
    if length not in CIRCULATING:
        return ""
    name, convention = CIRCULATING[length]
    return f", the length of {name}'s ground truth with {NAMES[convention]}"


def explain(found: int, num_frames: int, what: str = "score") -> str:
    """Says what a video's number of scores looks like, and what to do; empty if nothing known.

    Args:
      found: the number of scores.
      num_frames: the video's frames.
      what: what they are, a score or a label.
    """
    published = " (--alignment=published does)" if what == "score" else ""
    repeat, snippets = REFERENCE_REPEAT, -(-num_frames // REFERENCE_REPEAT)
    if found == rounded(num_frames, "up") != num_frames:
        return f"these are its frames rounded up to {repeat}: leave out the last ones"
    if found % repeat == 0 and 0 < num_frames - found < 2 * repeat:
        return (
            f"these are whole snippets of {repeat} frames, the last one left out: repeat the last "
            f"{what} {num_frames - found} times"
        )
    if found in (snippets, num_frames // repeat):
        return (
            f"these look like one {what} for each snippet of {repeat} frames: repeat each {repeat} "
            f"times{published} and cut them at {num_frames}"
        )
    if found == 32:
        return "these look like 32 segments of the video: repeat each for the frames it stands for"
    if found == snippets * repeat * repeat or found == num_frames * repeat:
        return f"these look repeated {repeat} times too often"
    return ""
