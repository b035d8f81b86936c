"""What published encoders were trained on, so that a test set isn't measured by one that saw it."""

import re
from typing import NamedTuple

from gvvad_jax.command import UserError

BENCHMARKS = (
    *("ucf-crime", "xd-violence", "shanghaitech", "ped1", "ped2", "avenue", "tad", "msad"),
    *("ubnormal", "dota"),
)


class Origin(NamedTuple):
    """Where an encoder comes from.

    Attributes:
      data: the data that it was trained on.
      source: the publication that says so.
      benchmarks: the data sets of this field among that data.
    """

    data: str
    source: str
    benchmarks: tuple[str, ...] = ()


_CLIP = Origin("400 million image-text pairs of the web", "Radford et al., arXiv:2103.00020")
_SIGLIP_2 = Origin("WebLI, image-text pairs of the web", "Tschannen et al., arXiv:2502.14786")
_KINETICS = Origin("Kinetics-400", "Carreira and Zisserman, arXiv:1705.07750")
_MIST = Origin("the benchmark's own training videos, by pseudo labels", "Feng et al., "
               "arXiv:2104.01633", ("ucf-crime", "shanghaitech"))  # fmt: skip
_GCN = Origin("the benchmark's own training videos, by cleaned labels", "Zhong et al., "
              "arXiv:1903.07256", ("ucf-crime", "shanghaitech", "ped2"))  # fmt: skip
ORIGINS: dict[str, Origin] = {
    "i3d": _KINETICS,
    "i3d-rgb": _KINETICS,
    "i3d-kinetics": _KINETICS,
    "i3d-resnet50": Origin("Kinetics-400", "Wang et al., arXiv:1711.07971"),
    "c3d": Origin("Sports-1M", "Tran et al., arXiv:1412.0767"),
    "video-swin": Origin("ImageNet and Kinetics", "Liu et al., arXiv:2106.13230"),
    "videomae": Origin("Kinetics-400", "Tong et al., arXiv:2203.12602"),
    "clip-b32": _CLIP,
    "clip-b16": _CLIP,
    "clip-l14": _CLIP,
    "siglip": Origin("WebLI, image-text pairs of the web", "Zhai et al., arXiv:2303.15343"),
    "siglip2": _SIGLIP_2,
    "pe-core": Origin("image-text pairs of the web, and 22 million videos", "Bolya et al., "
                      "arXiv:2504.13181"),
    "dinov2": Origin("LVD-142M, images of the web", "Oquab et al., arXiv:2304.07193"),
    "dinov3": Origin("LVD-1689M, images of the web", "Simeoni et al., arXiv:2508.10104"),
    "v-jepa2": Origin("Something-Something v2, Kinetics, HowTo100M, YT-Temporal-1B, ImageNet",
                      "Assran et al., arXiv:2506.09985"),
    "imagebind": Origin("image-text pairs of the web, AudioSet, SUN RGB-D, LLVIP, Ego4D",
                        "Girdhar et al., arXiv:2305.05665"),
    "mist-i3d": _MIST,
    "mist-c3d": _MIST,
    "gcn-tsn": _GCN,
    "gcn-c3d": _GCN,
    "holmes-vad": Origin("VAD-Instruct50k, made of both data sets", "Zhang et al., "
                         "arXiv:2406.12235", ("ucf-crime", "xd-violence")),
    "holmes-vau": Origin("HIVAU-70k, made of both data sets", "Zhang et al., arXiv:2412.06171",
                         ("ucf-crime", "xd-violence")),
    "hawk": Origin("seven anomaly data sets", "Tang et al., arXiv:2405.16886",
                   ("ucf-crime", "shanghaitech", "avenue", "ped1", "ped2", "dota", "ubnormal")),
    # This project's, without weights.
    "motion": Origin("nothing: it computes optical flow and gradients", "docs/encoders.md"),
}  # fmt: skip


def check_leakage(encoder: str, benchmark: str | None, allowed: bool) -> str:
    """Says what an encoder was trained on; refuses one that saw the data set to be measured on.

    Args:
      encoder: the encoder's name.
      benchmark: the data set; None if it isn't known.
      allowed: whether an encoder that was trained on it is imported all the same.

    Returns:
      A line about the encoder.

    Raises:
      UserError: it was trained on the data set, and that isn't allowed.
    """
    origin = {_plain(name): each for name, each in ORIGINS.items()}.get(_plain(encoder))
    if origin is None and benchmark and _plain(benchmark) in _plain(encoder):
        origin = Origin(f"{benchmark}, as its name says", "its name", (benchmark,))
    if origin is None:
        known = benchmark or "the data set"
        return (
            f"encoder {encoder!r}: unknown what it was trained on, so that it may have seen "
            f"{known}; name a known one with --encoder ({', '.join(list(ORIGINS)[:8])} ...)"
        )
    says = f"encoder {encoder!r}: trained on {origin.data} ({origin.source})"
    if benchmark not in origin.benchmarks:
        return says
    if not allowed:
        raise UserError(
            f"--encoder={encoder}: expected an encoder that never saw {benchmark}, found one "
            f"trained on {origin.data} ({origin.source}); numbers on it can't be compared: take "
            "other features, or give --allow_leakage"
        )
    return f"{says}, which is {benchmark}: numbers on it can't be compared with others"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
