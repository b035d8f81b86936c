"""Where the files of a list are looked for."""

import os

import numpy as np
import pytest

from tools.importing import sources


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_beside_a_list_in_a_folder_of_everybody_other_peoples_files_are_left_alone(tmp_path):
    shared = tmp_path / "shared"
    for folder in ("mine", "theirs"):
        (shared / folder / "Abuse").mkdir(parents=True)
        np.save(shared / folder / "Abuse" / "a.npy", np.ones((2, 3)))
    np.save(shared / "b.npy", np.ones((2, 3)))
    for path in (shared / "theirs", shared / "b.npy"):
        os.chown(path, 12345, 12345)
    (shared / "list.txt").write_text("/home/author/UCF/Abuse/a.npy\nb_x264\n")
    found, faults = sources.find(str(shared / "list.txt"), "", "visual")
    # In a folder of one's own, both are there: which one is meant isn't known.
    assert [fault.kind for fault in faults] == ["ambiguous"] and len(found) == 1
    shared.chmod(0o1777)
    found, faults = sources.find(str(shared / "list.txt"), "", "visual")
    assert [each.array.path for each in found] == [shared / "mine" / "Abuse" / "a.npy"]
    [fault] = faults
    assert fault.kind == "missing" and "in folders of yours (--root names another)" in fault.what
    found, faults = sources.find(str(shared / "list.txt"), str(shared), "visual")
    assert [fault.kind for fault in faults] == ["ambiguous"] and len(found) == 1
