"""A store in lower precision, and the comparison seed by seed."""

import numpy as np
import pytest

from gvvad_jax.store.reader import Store
from tools.bench import accuracy


def test_a_store_as_float16_is_the_same_store(real_store, tmp_path):
    halved = Store(accuracy.as_float16(str(real_store), tmp_path / "float16"))
    original = Store(real_store)
    assert halved.manifest.dtype == "float16" and halved.rows.keys() == original.rows.keys()
    assert (tmp_path / "float16" / "bank.npy").exists()
    for video_id in halved.rows:
        for rows in ("visual", "text"):
            expected = getattr(original, rows)(video_id).astype(np.float16)
            np.testing.assert_array_equal(getattr(halved, rows)(video_id), expected)


def test_precisions_are_compared_seed_by_seed():
    summary = accuracy._summary([0.5, 0.7], baseline=[0.4, 0.8])
    assert summary["auc"] == pytest.approx(0.6) and summary["difference"] == pytest.approx(0)
    assert summary["difference_deviation"] == pytest.approx(0.02**0.5)
    assert summary["deviation"] == pytest.approx(summary["difference_deviation"])
