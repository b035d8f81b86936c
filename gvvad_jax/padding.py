"""Lengths that videos are padded to, to be scored together: little padding, few programs."""

from collections.abc import Mapping

import numpy as np

# Crops x snippets that go through the detector at once: bounds memory, not results.
ROWS_AT_ONCE = 4096
# Lengths that a set of videos is padded to: a program is compiled for each.
MOST_BUCKETS = 20


def bucket_length(length: int) -> int:
    """The smallest of 8, 10, 12, 14, 16, 18 ... 32, 36, 40 ... (eight an octave) that fits."""
    step = max(2, 1 << max(0, (length - 1).bit_length() - 4))
    return max(8, -(-length // step) * step)


def batch_size(videos: int, length: int, crops: int) -> int:
    """Number of videos in each of the equal batches that so many of one length are split into."""
    most = max(1, ROWS_AT_ONCE // (length * crops))
    return -(-videos // -(-videos // most))


def padded_snippets(videos: int, length: int, crops: int) -> int:
    """Snippets of so many videos padded to one length, empty places of batches included."""
    size = batch_size(videos, length, crops)
    return -(-videos // size) * size * length


def buckets(
    lengths: Mapping[str, int], crops: int, most: int = MOST_BUCKETS
) -> dict[int, list[str]]:
    """Groups videos by the length they are padded to: little padding, few compiled programs.

    Args:
      lengths: snippets of each video by id.
      crops: crops of each video.
      most: most lengths to use. Lengths of bucket_length are merged into longer ones where that
        adds the fewest of padded_snippets (dynamic programming over the sorted lengths).

    Returns:
      Video ids by padded length.
    """
    by_length: dict[int, list[str]] = {}
    for video_id, length in lengths.items():
        by_length.setdefault(bucket_length(int(length)), []).append(video_id)
    steps = sorted(by_length)
    counts = np.cumsum([0] + [len(by_length[step]) for step in steps])
    # best[j]: (padded snippets, borders) of the first j lengths in so many buckets.
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}
    for _ in range(most):
        longer = dict(best)
        for start, (cost, borders) in best.items():
            for stop in range(start + 1, len(steps) + 1):
                videos = int(counts[stop] - counts[start])
                padded = cost + padded_snippets(videos, steps[stop - 1], crops)
                if stop not in longer or padded < longer[stop][0]:
                    longer[stop] = padded, (*borders, stop)
        best = longer
    grouped, start = {}, 0
    for stop in best[len(steps)][1]:
        grouped[steps[stop - 1]] = [i for step in steps[start:stop] for i in by_length[step]]
        start = stop
    return grouped
