"""Locate saved models on disk or on the Hugging Face Hub, and upload them to the Hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from smalti.core.errors import InputError


def locate(path_or_hub_name: str | Path, patterns: Sequence[str]) -> Path:
    """Return the path of a local directory, or of a downloaded snapshot of a repository on the Hub.

    Args:
        path_or_hub_name: a directory, or `owner/name`.
        patterns: glob patterns of the repository files to download.

    Raises:
        InputError: if there is neither such a directory nor such a repository.
    """
    path = Path(path_or_hub_name).expanduser()
    text = str(path_or_hub_name)
    # If there is a folder `runs`, `runs/mien` is a typing error and not a repository.
    if path.exists() or path.parent.is_dir() or text.count("/") != 1 or text.startswith((".", "~", "/")):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(text, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"expected a run, found neither a directory {text} nor a repository of that name on the Hub "
            f"({reason}): check the path"
        ) from None


def upload(
    save: Callable[[str], None],
    repository: str,
    message: str,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload the files that `save` writes to a Hub repository; return the URL of the repository.

    Args:
        save: writes the files to the directory that it receives.
        repository: `owner/name`.
        message: commit message.
        private: whether to make a newly created repository private.
        token: access token; None uses the stored login.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    address = api.create_repo(repository, private=private, exist_ok=True)
    with TemporaryDirectory() as directory:
        save(directory)
        api.upload_folder(repo_id=repository, folder_path=directory, commit_message=message)
    return str(address)
