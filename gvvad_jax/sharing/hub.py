"""Detectors on the Hugging Face Hub: "hf:USER/NAME[@REVISION]".

The library's own settings hold: HF_TOKEN or the token of `hf auth login`, HF_ENDPOINT,
HF_HUB_OFFLINE, HF_HOME.
"""

import contextlib
import pathlib
import re
from collections.abc import Iterator

from gvvad_jax.command import UserError
from gvvad_jax.sharing import files as sharing

PREFIX = "hf:"
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def is_name(name: object) -> bool:
    """Returns whether a detector is named on the Hub, rather than by its folder."""
    return str(name).startswith(PREFIX)


def fetch(name: str) -> pathlib.Path:
    """Downloads a shared detector, or finds it in the library's cache.

    Only the files that config.json has digests of are fetched, all of one commit.

    Args:
      name: "hf:USER/NAME", with @REVISION (a branch, tag or commit) if wanted.

    Returns:
      The folder of its files.

    Raises:
      UserError: no such repository, no network, no access, or not a detector of this library.
    """
    import huggingface_hub

    repo_id, _, revision = name.removeprefix(PREFIX).partition("@")
    _require_id(repo_id, name)

    def download(file: str, revision: str | None) -> pathlib.Path:
        planned = huggingface_hub.hf_hub_download(repo_id, file, revision=revision, dry_run=True)
        most, size = sharing.MAX_BYTES[file], planned.file_size
        if size is None or size > most:
            found = "an unknown size" if size is None else f"{size >> 20} MiB"
            raise UserError(
                f"{name}: expected {file} of at most {most >> 20} MiB, found {found}; it isn't "
                "fetched: give another"
            )
        return pathlib.Path(huggingface_hub.hf_hub_download(repo_id, file, revision=revision))

    with _refusals(name):
        folder = download(sharing.CONFIG, revision or None).parent
    files = sharing.read_config(folder).files
    with _refusals(name):
        for file in files:
            download(file, folder.name)
    return folder


def push(
    folder: pathlib.Path, repo_id: str, *, private: bool | None, revision: str | None, message: str
) -> str:
    """Uploads a shared detector's folder as one commit; returns the commit's address.

    Args:
      folder: of sharing.write.
      repo_id: "USER/NAME"; created if need be.
      private: whether a repository that is created is private; None leaves it to the Hub.
      revision: the branch; None for the main one.
      message: of the commit.

    Raises:
      UserError: no token, no access, or no network.
    """
    import huggingface_hub

    _require_id(repo_id, repo_id)
    with _refusals(repo_id):
        api = huggingface_hub.HfApi(library_name=sharing.LIBRARY)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=message,
            revision=revision,
            allow_patterns=[sharing.CARD, sharing.CONFIG, sharing.WEIGHTS, *sharing.BANK],
        )
    return str(commit.commit_url)


def _network_error() -> type[Exception]:
    """Returns the class of errors of the HTTP library that the Hub's library uses."""
    from huggingface_hub import errors

    return getattr(errors, "HTTPError", OSError)


def _require_id(repo_id: str, name: str) -> None:
    if not _ID.fullmatch(repo_id):
        raise UserError(
            f"{name}: expected a repository as USER/NAME, found {repo_id!r}; correct it"
        )


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Turns the library's errors into one line."""
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    except errors.LocalTokenNotFoundError as error:
        raise UserError(
            f"{name}: expected a token of the Hugging Face Hub, found none; hf auth login, or set "
            "HF_TOKEN"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise UserError(
            f"{name}: expected a repository of the Hugging Face Hub, found no such repository or "
            "revision, or no access; correct it, or hf auth login"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"{name}: expected it in the cache, or a network, found neither; fetch it where there "
            "is a network (hf download), or unset HF_HUB_OFFLINE"
        ) from error
    except errors.EntryNotFoundError as error:
        raise UserError(
            f"{name}: expected a detector that save_pretrained wrote, found a repository without "
            "its files; give another"
        ) from error
    except (_network_error(), errors.HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            f"{name}: the Hugging Face Hub refused or can't be reached "
            f"({' '.join(str(error).split())[:200]}); try again, or hf auth login"
        ) from error
