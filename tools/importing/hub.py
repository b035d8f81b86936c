"""Feature sets on the Hugging Face Hub."""

import pathlib

from gvvad_jax.command import UserError


def fetch(repo: str, paths: list[str]) -> pathlib.Path:
    """Downloads a feature set, or finds it in the library's cache.

    Args:
      repo: the id of a data set or model repository, with @REVISION if wanted.
      paths: folders or files of it that are wanted; empty for all of it.

    Returns:
      The folder of its files.

    Raises:
      UserError: there is no such repository, no network, or no access.
    """
    import huggingface_hub
    from huggingface_hub import errors

    repo_id, _, revision = repo.partition("@")
    wanted = [pattern for path in paths for pattern in (path, f"{path.rstrip('/')}/*")]
    refusals = []
    for repo_type in ("dataset", "model"):
        try:
            folder = huggingface_hub.snapshot_download(
                repo_id,
                repo_type=repo_type,
                revision=revision or None,
                allow_patterns=wanted or None,
            )
            return pathlib.Path(folder)
        except errors.RepositoryNotFoundError:
            refusals.append("no such repository, or no access; correct the id, or hf auth login")
        except errors.LocalEntryNotFoundError:
            refusals.append(
                "it isn't in the cache, and the Hub can't be reached; download it where there is a "
                f"network (hf download --repo-type={repo_type} {repo_id})"
            )
        except (OSError, ValueError) as error:  # The library's errors are one or the other.
            refusals.append(f"{' '.join(str(error).split())[:200]}; correct it or try again")
    # What was found out about the data set says more than that there is no model of that name.
    raise UserError(f"--from_hub={repo}: expected a repository of features, found {refusals[0]}")
