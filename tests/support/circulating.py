"""Small feature sets in the layouts in which features circulate, and the flags that import them."""

import json
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

CROPS, DIM, TEXT_DIM = 10, 8, 6
_NAMES = {
    "train": ["Abuse001", "Fighting002", "Arson003", *(f"Normal_Videos_00{n}" for n in (1, 2, 3))],
    "test": ["Abuse028", "Fighting033", "Normal_Videos_010", "Normal_Videos_011"],
}
Features = Mapping[str, np.ndarray]


def features(split: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Float32 features [T, crops, DIM] by id; abnormal videos stand out in their snippets 2 and 3.

    The lengths differ, and none is the number of crops.
    """
    made = {}
    for number, name in enumerate(_NAMES[split]):
        rng = np.random.default_rng((seed, number, len(split)))
        rows = rng.normal(size=(5 + number, CROPS, DIM)).astype(np.float32)
        if "Normal" not in name:
            rows[2:4] += 3.0
        made[name] = rows
    return made


def frames(rows: np.ndarray) -> int:
    """Frames of a video whose extractor dropped the last partial snippet."""
    return 16 * len(rows) + 5


def video_list(path: pathlib.Path, *, suffix: str = "") -> pathlib.Path:
    """Writes the videos.json of the set, with frame counts; ids end in `suffix`."""
    entries = {}
    for split in _NAMES:
        for name, rows in features(split).items():
            label = int("Normal" not in name)
            entries[f"{name}{suffix}"] = {
                "file": f"{name}{suffix}.mp4",
                "label": label,
                "split": split,
                "fps": 30,
                "num_frames": frames(rows),
                "abnormal_frames": [[32, 64]] if label else [],
            }
    path.write_text(json.dumps({"videos": entries}))
    return path


def _lists(folder: pathlib.Path, named: Callable[[str], str], **how) -> dict[str, str]:
    """Writes train.list and test.list, abnormal first, with the paths of another machine."""
    for split in _NAMES:
        lines = [f"/home/author/{split}/{named(name)}" for name in _NAMES[split]]
        text = how.get("end", "\n").join(lines) + how.get("end", "\n")
        (folder / f"{split}.list").write_bytes(how.get("mark", b"") + text.encode())
    return {"visual": f"{folder}/train.list,{folder}/test.list"}


def _save(folder: pathlib.Path, arrays: Features, named: Callable[[str], str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / named(name), array)


def rtfm(folder: pathlib.Path) -> dict[str, str]:
    """Lists of [T, crops, D], as RTFM and TEVAD have them."""
    named = "{}_x264_i3d.npy".format
    for split in _NAMES:
        _save(folder / split, features(split), named)
    return _lists(folder, named, mark=b"\xef\xbb\xbf", end="\r\n")


def tevad(folder: pathlib.Path) -> dict[str, str]:
    """RTFM's, with text [T, E] beside them, of which one is a row longer and one a row shorter."""
    flags = rtfm(folder)
    (folder / "text").mkdir()
    for split in _NAMES:
        for number, (name, rows) in enumerate(features(split).items()):
            length = len(rows) + (1 if number == 0 else -1 if number == 1 else 0)
            text = np.random.default_rng(number).normal(size=(length, TEXT_DIM))
            np.save(folder / "text" / f"{name}_x264_emb.npy", text.astype(np.float32))
    return flags | {"text": f"{folder}/text"}


def lap(folder: pathlib.Path) -> dict[str, str]:
    """A folder of [crops, T, D] for each split, as LAP and GV-VAD have them."""
    for split in _NAMES:
        swapped = {name: rows.transpose(1, 0, 2) for name, rows in features(split).items()}
        _save(folder / split, swapped, "{}_x264.npy".format)
    return {"visual": f"{folder}/train,{folder}/test"}


def _per_crop(folder: pathlib.Path, mark: str) -> None:
    for split in _NAMES:
        for name, rows in features(split).items():
            for crop in range(CROPS):
                _save(folder / split, {name: rows[:, crop]}, f"{{}}_x264{mark}{crop}.npy".format)


def ur_dmu(folder: pathlib.Path) -> dict[str, str]:
    """A folder with one file a crop, _0 to _9."""
    _per_crop(folder, "_")
    return {"visual": f"{folder}/train,{folder}/test"}


def vadclip(folder: pathlib.Path) -> dict[str, str]:
    """CSVs path,label with one line a crop, __0 to __9."""
    _per_crop(folder, "__")
    for split in _NAMES:
        lines = ["path,label"]
        for name in _NAMES[split]:
            label = "Normal" if "Normal" in name else name[:-3]
            lines += [f"/home/author/UCF/{label}/{name}_x264__{crop}.npy,{label}"
                      for crop in range(CROPS)]  # fmt: skip
        (folder / f"{split}.csv").write_text("\n".join(lines))
    return {"visual": f"train={folder}/train.csv,test={folder}/test.csv"}


def mixed(folder: pathlib.Path) -> dict[str, str]:
    """Training videos [crops, T, D] beside test videos [T, crops, D], in one folder."""
    swapped = {name: rows.transpose(1, 0, 2) for name, rows in features("train").items()}
    _save(folder / "all" / "train", swapped, "{}_i3d.npy".format)
    _save(folder / "all" / "test", features("test"), "{}_i3d.npy".format)
    return {"visual": f"{folder}/all"}


def segmented(folder: pathlib.Path) -> dict[str, str]:
    """Training videos of 32 segments, [crops, 32, D]; test videos of their own length."""
    _save(folder / "train", {n: _resized(r, 32).transpose(1, 0, 2)
                             for n, r in features("train").items()}, "{}.npy".format)  # fmt: skip
    _save(folder / "test", features("test"), "{}.npy".format)
    return {"visual": f"{folder}/train,{folder}/test"}


def one_crop(folder: pathlib.Path) -> dict[str, str]:
    """All videos of 200 segments of one crop, [200, D]."""
    for split in _NAMES:
        arrays = {name: _resized(rows, 200)[:, 0] for name, rows in features(split).items()}
        _save(folder / split, arrays, "{}.npy".format)
    return {"visual": f"{folder}/train,{folder}/test"}


def _resized(rows: np.ndarray, length: int) -> np.ndarray:
    return rows[np.linspace(0, len(rows) - 1, length).round().astype(int)]


def npz(folder: pathlib.Path) -> dict[str, str]:
    """One .npz a split, with an array a video."""
    folder.mkdir(exist_ok=True)
    for split in _NAMES:
        np.savez(folder / f"{split}.npz", **features(split))
    return {"visual": f"{folder}/train.npz,{folder}/test.npz"}


def hdf5(folder: pathlib.Path) -> dict[str, str]:
    """One .h5 of all videos, with a group a split."""
    import h5py

    folder.mkdir(exist_ok=True)
    with h5py.File(folder / "features.h5", "w") as file:
        for split in _NAMES:
            for name, rows in features(split).items():
                file[f"{split}/{name}"] = rows
    return {"visual": f"{folder}/features.h5"}


# By name; those of segments know no time of a row.
LAYOUTS = {
    "rtfm": rtfm, "tevad": tevad, "lap": lap, "ur_dmu": ur_dmu, "vadclip": vadclip, "mixed": mixed,
    "npz": npz, "hdf5": hdf5,
}  # fmt: skip
SEGMENTED = {"segmented": segmented, "one_crop": one_crop}
