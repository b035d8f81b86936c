"""Whether the Hub can be reached, asked once instead of by every library for a minute.

Where it can't, transformers and diffusers are told to look on this machine alone, and a model that
isn't there is an error at once.
"""

import functools
import os
import sys
import threading
import urllib.error
import urllib.request

_SECONDS = 4.0


def settle(weights: str) -> None:
    """Before a checkpoint is read by its Hub name, finds out whether the Hub can be reached.

    Args:
      weights: a checkpoint's name or folder; of a folder, nothing is asked.
    """
    if is_folder(weights):
        return
    try:
        from huggingface_hub import constants
    except ImportError:  # Whatever needs the weights reports this.
        return
    if not constants.HF_HUB_OFFLINE and not _answers(constants.ENDPOINT):
        print(
            f"{constants.ENDPOINT} can't be reached: models are looked for on this machine alone",
            file=sys.stderr,
        )
        constants.HF_HUB_OFFLINE = True


def is_offline() -> bool:
    """Returns whether models are looked for on this machine alone."""
    hub = sys.modules.get("huggingface_hub.constants")
    return bool(getattr(hub, "HF_HUB_OFFLINE", False))


def is_folder(weights: str) -> bool:
    """Returns whether a checkpoint is given by its folder, even if that is missing."""
    return os.path.isdir(weights) or weights.startswith(("/", ".", "~"))


def not_found(flag: str) -> str:
    """Returns what to say of a name whose files aren't on this machine, after "found"."""
    return (
        "nothing: not found offline; download it where there is a network (docs/offline.md), and "
        f"give its folder: {flag}=FOLDER"
    )


@functools.cache
def _answers(address: str) -> bool:
    """Returns whether a server, or the proxy before it, answers within seconds.

    Looking up a name may block for much longer than any timeout of a connection, so it is done in
    a thread that is left behind.
    """
    answered = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(address, method="HEAD"), timeout=_SECONDS
            ):
                answered.set()
        except urllib.error.HTTPError:
            answered.set()
        except Exception as error:
            # A certificate that Python doesn't know is the libraries' own affair.
            if "CERTIFICATE" in str(error).upper():
                answered.set()
        finished.set()

    finished = threading.Event()
    threading.Thread(target=ask, daemon=True).start()
    finished.wait(_SECONDS)
    return answered.is_set()
