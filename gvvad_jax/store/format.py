"""The format of a feature store: its manifest, its rows, and checks of both. numpy only."""

import dataclasses
import hashlib
import json
import operator
import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from gvvad_jax.store import alignment, digests
from gvvad_jax.store.files import Json, as_type

# Version 1 had no digests of the manifest, the index and the bank, and knew weights and videos by
# their size and ends.
FORMAT_VERSION = 2
DTYPES = ("float16", "float32")
SOURCES = ("real", "synthetic")
# The captioner of a store whose text rows are the generated videos' own descriptions.
STAND_IN = "description"
# A checkpoint's digest in a manifest, alone or within an encoder's name.
_WEIGHTS = re.compile(r"(?<![0-9a-f])[0-9a-f]{12}(?![0-9a-f])")

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]
_Length = Annotated[int, msgspec.Meta(ge=1, le=1 << 48)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """Settings that all rows of a store share; BUILD.md describes the whole format.

    Attributes:
      encoder: {id, weights, pooling, normalised}; "unknown" is allowed for imports.
      dim: width of a visual row.
      crops: {count, order}.
      snippet: {frames, stride, pooling: middle|mean}, and alignment where rows aren't as many as
        reach a video's end: exact|even, see alignment.row_times.
      fps_policy: "native", or the frames per second that videos were resampled to.
      dtype: type of the rows, float16 or float32.
      text: {encoder, dim, normalised}, or None without text.
      weights_known_by: what digests of weights in `encoder` and `text` depend on: content, or, in
        stores of version 1, only size and ends.
    """

    encoder: Mapping[str, Json]
    dim: int
    crops: Mapping[str, Json]
    snippet: Mapping[str, Json]
    fps_policy: float | str
    dtype: str = "float32"
    text: Mapping[str, Json] | None = None
    weights_known_by: str = "content"

    def to_json(self) -> dict[str, Json]:
        """Returns the settings, as manifest.json and model.json hold them."""
        return {"format_version": FORMAT_VERSION} | dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Json) -> "Manifest":
        """Reads back what `to_json` returned, of this version or of version 1.

        Raises:
          ValueError: the content is none of a manifest; the message says where.
        """
        as_type(_Settings)(content)
        if content["format_version"] == 1:
            content = content | {"weights_known_by": "ends"}
        names = [field.name for field in dataclasses.fields(cls)]
        manifest = cls(**{name: content[name] for name in names if name in content})
        for fault in alignment.snippet_faults(manifest.snippet, manifest.fps_policy):
            raise ValueError(fault)
        return manifest

    def digest(self) -> str:
        """Returns a digest of all that shapes rows and says where they lie."""
        content = self.to_json()
        del content["format_version"], content["weights_known_by"]
        return digests.of_json(content)

    def differences(self, other: "Manifest", unknown_agrees: bool = False) -> list[str]:
        """Lists the fields in which two stores of one run must agree but differ, as text.

        Their dtypes may differ, and a generated video's description may take the place of any
        captioner's text.

        Args:
          other: the other store's manifest.
          unknown_agrees: whether a value "unknown", as imports have, agrees with any other.
        """
        left, right = self.to_json(), other.to_json()
        for content in (left, right):  # Where rows lie in a video doesn't shape them.
            content["snippet"] = {k: v for k, v in content["snippet"].items() if k != "alignment"}
        if left["text"] and right["text"]:
            captioners = {text.get("captioner") for text in (left["text"], right["text"])}
            if STAND_IN in captioners:
                left["text"] = dict(left["text"], captioner=STAND_IN)
                right["text"] = dict(right["text"], captioner=STAND_IN)
        fields = ("encoder", "dim", "crops", "snippet", "fps_policy", "text")
        same = _same_or_unknown if unknown_agrees else operator.eq
        unknown_weights = self.unknown_weights(other)
        differences = []
        for field in fields:
            values, why = (left[field], right[field]), ""
            if field in unknown_weights:
                if unknown_agrees and same(*map(_without_weights, values)):
                    continue
                why = " (one of them knows its weights by size and ends alone, as version 1 did)"
            elif same(*map(unnamed, values)):
                continue
            differences.append((_difference(field, *values) or field) + why)
        return differences

    def unknown_weights(self, other: "Manifest") -> list[str]:
        """Lists the fields whose weights can't be compared: one side knows them by ends alone."""
        if self.weights_known_by == other.weights_known_by:
            return []
        return [f for f in ("encoder", "text") if self.names_weights(f) or other.names_weights(f)]

    def names_weights(self, *fields: str) -> bool:
        """Tells whether digests of weights are in any of these fields, or in encoder or text."""
        values = [getattr(self, field) for field in fields or ("encoder", "text")]
        return any(_without_weights(value) != value for value in values)

    def times(self, row: "Row") -> np.ndarray:
        """Computes start and end of each of a video's snippets in seconds, float64 [T, 2]."""
        return self.aligned(row)[0]

    def aligned(self, row: "Row") -> tuple[np.ndarray, str | None]:
        """Returns `times`, and what people must know about them, or None."""
        return alignment.row_times(
            row.num_snippets, row.num_frames, row.fps, self.snippet, self.fps_policy
        )


def model_identity(model_id: str) -> str:
    """Returns a model's id, as "git:NAME@DIGEST", without the name: weights are their content."""
    return re.sub(r":[^:@]+@(?=[0-9a-f]{12}(:|$))", ":@", model_id)


def unnamed(value: Json) -> Json:
    """Returns a manifest's entry without the names of weights that it has digests of."""
    if not isinstance(value, Mapping):
        return value
    entry = {k: model_identity(v) if isinstance(v, str) else v for k, v in value.items()}
    if entry.get("digest"):
        entry["id"] = str(entry.get("id")).removesuffix(str(entry.pop("weights", "")))
    return entry


class _Encoder(msgspec.Struct):
    id: str


class _Crops(msgspec.Struct):
    count: _Length | Literal["unknown"]


class _Text(msgspec.Struct):
    encoder: str
    dim: _Length
    captioner: str | None = None


class _Settings(msgspec.Struct):
    """The types of a manifest; see Manifest. Other keys are left alone."""

    format_version: Literal[1, 2]
    encoder: _Encoder
    dim: _Length
    crops: _Crops
    snippet: dict[str, Any]
    fps_policy: float | str
    dtype: Literal["float16", "float32"] = "float32"
    text: _Text | None = None
    weights_known_by: Literal["content", "ends"] = "content"


def _difference(field: str, expected: Json, found: Json) -> str:
    """One field of two manifests: what it is instead of what it should be."""
    if not isinstance(expected, Mapping) or not isinstance(found, Mapping):
        return f"{field} {found!r} instead of {expected!r}"
    keys = (key for key in sorted({*expected, *found}) if expected.get(key) != found.get(key))
    return ", ".join(
        f"{field} {key} {found.get(key)!r} instead of {expected.get(key)!r}" for key in keys
    )


def _without_weights(value: Json) -> Json:
    """Returns a field of a manifest without the digests of weights."""
    return json.loads(_WEIGHTS.sub("", json.dumps(value)))


def _same_or_unknown(left: Json, right: Json) -> bool:
    if "unknown" in (left, right):
        return True
    if not isinstance(left, Mapping) or not isinstance(right, Mapping):
        return bool(left == right)
    if "unknown" in (*left.values(), *right.values()):
        return all(_same_or_unknown(left[key], right[key]) for key in left.keys() & right.keys())
    return left == right


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One video's line in a shard's .jsonl.

    Attributes:
      id: the video's id in videos.json.
      offset: index of its first snippet in the shard.
      num_snippets: T, its number of snippets.
      num_frames: frames of the source video, as decoded.
      fps: frames per second of the source video.
      source: real or synthetic.
      declared_frames: frames that the container declares; more than decoded means damage.
      decoded_frames: frames that were decoded.
      sha256: digest of the visual rows' bytes followed by the text rows' bytes.
      description: the text that a generated video was made from.
      twin: id of the generated video's twin, of the other label.
      seed: the generated video's random seed.
      pixel_statistics: the filter's measures of pixels, by name.
      feature_statistics: the filter's measures of single frames' features, by name.
      made_of: digest of the video's content and of everything else that its rows depend on.
    """

    id: str
    offset: _Count = 0
    num_snippets: _Length
    num_frames: Annotated[int, msgspec.Meta(ge=1, le=alignment.MOST_FRAMES)]
    fps: Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)]
    source: Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(SOURCES)})$")]
    declared_frames: _Count
    decoded_frames: _Count
    sha256: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")] = ""
    description: str | None = None
    twin: str | None = None
    seed: int | None = None
    pixel_statistics: Mapping[str, float] | None = None
    feature_statistics: Mapping[str, float] | None = None
    made_of: str | None = None

    @classmethod
    def from_json(cls, content: Json) -> "Row":
        """Reads a line of JSON; raises ValueError if it isn't the row of a video."""
        row = as_type(cls)(content)
        if unknown := content.keys() - {field.name for field in dataclasses.fields(cls)}:
            raise ValueError(f"expected no {sorted(unknown)[0]!r}")
        return row

    def facts(self) -> str:
        """Returns what training and measuring depend on, as JSON; not where the row lies."""
        content = dataclasses.asdict(self)
        names = ("id", "sha256", "num_snippets", "num_frames", "fps", "source")
        return json.dumps([content[name] for name in names])


class Quarantined(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A video that couldn't be encoded: a line of quarantine.jsonl.

    Attributes:
      id: the video's id in videos.json.
      reason: why.
      made_of: as in Row.
    """

    id: str
    reason: str
    made_of: str | None = None


def rows_hash(*arrays: np.ndarray | None) -> str:
    """Returns the sha256 of a video's rows, visual then text, as hexadecimal digits."""
    digest = hashlib.sha256()
    for array in arrays:
        if array is not None:
            add_rows(digest, array)
    return digest.hexdigest()


def add_rows(digest: "hashlib._Hash", array: np.ndarray) -> None:
    """Adds the bytes of a video's rows to a digest, without a copy of those of a mapped file."""
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def shard_paths(path: pathlib.Path) -> list[pathlib.Path]:
    """Lists the .jsonl files of a store's shards in order; each identifies its shard."""
    return sorted(path.glob("shard-*.jsonl"))


def array_path(shard: pathlib.Path, kind: str) -> pathlib.Path:
    """Returns the path of a shard's rows of one kind, visual or text."""
    return shard.with_suffix(f".{kind}.npy")


def row_faults(
    row: Row, visual_TxNxD: np.ndarray, text_TxE: np.ndarray | None, manifest: Manifest
) -> list[str]:
    """Lists what is wrong with one video's rows, as "expected X, found Y"."""
    faults = []

    def expect(name: str, expected: Json, value: Json) -> None:
        if expected != value:
            faults.append(f"expected {name} {expected}, found {value}")

    shape = (row.num_snippets, manifest.crops["count"], manifest.dim)
    expect("visual shape", shape, visual_TxNxD.shape)
    expect("visual dtype", manifest.dtype, str(visual_TxNxD.dtype))
    if row.source not in SOURCES:
        faults.append(f"expected source {' or '.join(SOURCES)}, found {row.source!r}")
    if row.num_snippets <= 0:
        faults.append(f"expected at least one snippet, found {row.num_snippets}")
    if not np.isfinite(visual_TxNxD).all():
        faults.append("expected finite visual rows, found NaN or infinity")
    if text_TxE is None:
        if manifest.text:
            faults.append("expected text rows, found none")
    elif not manifest.text:
        faults.append(f"expected no text rows, found shape {text_TxE.shape}")
    else:
        expect("text shape", (row.num_snippets, manifest.text["dim"]), text_TxE.shape)
        if not np.isfinite(text_TxE).all():
            faults.append("expected finite text rows, found NaN or infinity")
    if not faults and row.sha256 and rows_hash(visual_TxNxD, text_TxE) != row.sha256:
        faults.append(f"expected rows of sha256 {row.sha256[:12]}, found others")
    return faults


def bank_faults(bank_KxE: np.ndarray, manifest: Manifest) -> list[str]:
    """Lists what is wrong with a prompt bank for a store with text, as "expected X, found Y"."""
    if not manifest.text:
        return ["expected a store with text, found one without"]
    dim = manifest.text["dim"]
    if bank_KxE.ndim != 2 or not len(bank_KxE) or bank_KxE.shape[1] != dim:
        return [f"expected at least one row of width {dim}, found shape {list(bank_KxE.shape)}"]
    return [] if np.isfinite(bank_KxE).all() else ["expected finite rows, found NaN or infinity"]
