"""Which ids a video may have, wherever it is listed. numpy only.

Scores lie in .npz files under ids, and programs make paths of ids.
"""

from collections.abc import Collection

from gvvad_jax.command import UserError
from gvvad_jax.store.files import shorten

MOST_BYTES = 1024


def require_ids(ids: Collection[str], where: str) -> None:
    """Raises UserError unless videos may have these ids together.

    Args:
      ids: the ids of a list.
      where: the file that lists them, for the message.
    """
    known = set(ids)
    for video_id in ids:
        require_id(video_id, where)
        # In an .npz file, "a" is the member a.npy, which is what reading "a.npy" would give.
        if video_id.endswith(".npy") and video_id.removesuffix(".npy") in known:
            raise _refused(
                video_id, where, f"no id besides {shorten(video_id.removesuffix('.npy'))} that is "
                "the same but for .npy",
            )  # fmt: skip


def require_id(video_id: object, where: str) -> str:
    """Returns an id; raises UserError if no video may have it, see `require_ids`."""
    if not isinstance(video_id, str):
        raise UserError(f"{where}: expected an id that is a string, found {video_id!r}; rename it")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in video_id):
        raise _refused(video_id, where, "an id without control characters")
    if not video_id.strip():
        raise _refused(video_id, where, "an id that isn't empty")
    try:
        length = len(video_id.encode())
    except UnicodeEncodeError:  # JSON's escapes can hold them.
        raise _refused(video_id, where, "an id without lone surrogates") from None
    if length > MOST_BYTES:
        raise _refused(video_id, where, f"an id of at most {MOST_BYTES} bytes")
    if video_id.startswith(("/", "\\")) or ".." in video_id.replace("\\", "/").split("/"):
        raise _refused(video_id, where, "an id that leads out of no folder")
    return video_id


def _refused(video_id: str, where: str, expected: str) -> UserError:
    return UserError(
        f"{where}: video {shorten(video_id)}: expected {expected}, found another; rename it"
    )
