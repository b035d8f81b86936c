"""Counts the floating-point operations that a training step needs at least.

A multiply-add counts as two, and only matrix products and convolutions count. Of these the count
has what the mathematics needs: taps of a convolution inside the video; text once a video (also in
the head, when scoring, where no dropout makes it differ between crops); no gradient of the features
and of scores that are in no loss (a normal video's unselected ones); the latent variance of normal
videos alone.
"""

# Products of an inner layer: its output, the gradient of its weights, the gradient of its input.
INNER = 3
# Products of a first layer, which needs no gradient of its input.
FIRST = 2
# Number of snippets that RTFM's losses select of a video.
SELECTED = 3


def _conv(sequences: int, length: int, size: int, dilation: int, inputs: int, outputs: int) -> int:
    reach = dilation * (size // 2)
    inside = size * length - 2 * dilation * sum(range(1, size // 2 + 1))
    assert length > reach
    return sequences * inside * inputs * outputs


def mtn(sequences: int, length: int, width: int) -> tuple[int, int]:
    """Multiplications of one forward pass: (of the layers on the features, of all others)."""
    part, inner = width // 4, width // 8
    rows = sequences * length
    first = sum(_conv(sequences, length, 3, dilation, width, part) for dilation in (1, 2, 4))
    first += rows * width * part
    rest = 4 * rows * part * inner + 2 * rows * min(length, inner) * inner
    rest += _conv(sequences, length, 3, 1, width, width)
    return first, rest


def count_step(
    detector: str, videos: int, crops: int, length: int, dim: int, text_dim: int
) -> dict[str, float]:
    """Counts the operations of one training step and of scoring as many videos.

    Args:
      detector: name of a detector; its published widths are used.
      videos: number of videos in the batch.
      crops: number of crops.
      length: number of snippets of a video.
      dim: width of the visual features.
      text_dim: width of the text features.

    Returns:
      {"train", "score"}.
    """
    rows = videos * crops * length
    head = with_gradient = shared = 0
    if detector == "mil_rank":
        first, rest = rows * dim * 512, rows * (512 * 32 + 32)
    elif detector == "ur_dmu":
        first, rest = _ur_dmu(videos, crops, length, dim)
    else:
        first, rest = mtn(videos * crops, length, dim)
        width = dim
        if detector != "rtfm":
            text = mtn(videos, length, text_dim)
            first, rest, width = first + text[0], rest + text[1], dim + text_dim
            shared = (rows - videos * length) * text_dim * 512
        head = rows * (width * 512 + 512 * 128 + 128)
        with_gradient = head * (length + SELECTED) // (2 * length)
    trained = FIRST * first + INNER * rest + head + (INNER - 1) * with_gradient
    return {"train": 2.0 * trained, "score": 2.0 * (first + rest + head - shared)}


def _ur_dmu(videos: int, crops: int, length: int, dim: int) -> tuple[int, int]:
    rows, width, memory = videos * crops * length, 512, 60
    first = _conv(videos * crops, length, 3, 1, dim, width)
    # Queries, keys, values and near snippets; both attentions; the output layer; the MLP.
    layer = rows * (4 * width * width + 3 * length * width + 2 * width * width + 2 * width * width)
    memories = 2 * rows * (2 * width * memory + width * width) + rows // 2 * width * width
    return first, 2 * layer + memories + rows * (2 * width * 128 + 128)
