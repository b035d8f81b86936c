"""GV-VAD in JAX: the detector side, from feature stores to anomaly scores.

    import gvvad_jax as gv

    with gv.StoreWriter.for_features("STORE", dim=768) as writer:
        writer.add_video("a", features_TxD, label=1, split="train")
    result = gv.fit(gv.TrainConfig(store="STORE", detector="rtfm", workdir="RUN"))
    model = gv.load("RUN")
    scores = model.score({"b": other_features_TxD})
    measures = model.evaluate("STORE")

Importing this package imports neither JAX nor numpy; each name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gvvad_jax.command import Interrupted, UserError
    from gvvad_jax.config import TrainConfig
    from gvvad_jax.evaluation import measure
    from gvvad_jax.measures import MeasureOptions, Measures
    from gvvad_jax.scoring import Model, load
    from gvvad_jax.store.annotations import Annotations, VideoAnnotation
    from gvvad_jax.store.format import Manifest
    from gvvad_jax.store.reader import Store, Video
    from gvvad_jax.store.writer import StoreWriter
    from gvvad_jax.streaming import ScoreStream
    from gvvad_jax.training import Result, fit

    __version__: str

# The module that defines each name. No name here is also the name of a module of this package:
# importing such a module would replace the function.
_MODULES = {
    "Annotations": "gvvad_jax.store.annotations",
    "Interrupted": "gvvad_jax.command",
    "Manifest": "gvvad_jax.store.format",
    "MeasureOptions": "gvvad_jax.measures",
    "Measures": "gvvad_jax.measures",
    "Model": "gvvad_jax.scoring",
    "Result": "gvvad_jax.training",
    "ScoreStream": "gvvad_jax.streaming",
    "Store": "gvvad_jax.store.reader",
    "StoreWriter": "gvvad_jax.store.writer",
    "TrainConfig": "gvvad_jax.config",
    "UserError": "gvvad_jax.command",
    "Video": "gvvad_jax.store.reader",
    "VideoAnnotation": "gvvad_jax.store.annotations",
    "fit": "gvvad_jax.training",
    "load": "gvvad_jax.scoring",
    "measure": "gvvad_jax.evaluation",
}

__all__ = [
    "Annotations",
    "Interrupted",
    "Manifest",
    "MeasureOptions",
    "Measures",
    "Model",
    "Result",
    "ScoreStream",
    "Store",
    "StoreWriter",
    "TrainConfig",
    "UserError",
    "Video",
    "VideoAnnotation",
    "__version__",
    "fit",
    "load",
    "measure",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = _version()
    elif name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """The installed package's version, which pyproject.toml sets; "unknown" where none is."""
    import importlib.metadata

    try:
        return importlib.metadata.version("gvvad-jax")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
