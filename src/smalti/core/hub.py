"""The Hugging Face Hub: find a saved model here or there, and upload one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from smalti.core.errors import InputError


def locate(path_or_hub_name: str | Path, patterns: Sequence[str]) -> Path:
    """A local directory as it is, or a snapshot of a repository on the Hub.

    Args:
        path_or_hub_name: a directory, or `owner/name`.
        patterns: the files of a repository to download.

    Raises:
        InputError: when it is neither.
    """
    path = Path(path_or_hub_name).expanduser()
    text = str(path_or_hub_name)
    # Where there is a folder `runs`, `runs/mien` is a slip of the pen and not a repository.
    if path.exists() or path.parent.is_dir() or text.count("/") != 1 or text.startswith((".", "~", "/")):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(text, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"expected a run, found no directory {text} here and none of that name on the Hub "
            f"({reason}): check the path"
        ) from None


def upload(
    save: Callable[[str], None],
    repository: str,
    message: str,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload what `save` writes into a directory; returns the address.

    Args:
        save: writes the files.
        repository: `owner/name`.
        message: of the commit.
        private: whether a repository that does not exist yet becomes private.
        token: None takes that of the user who is logged in.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    address = api.create_repo(repository, private=private, exist_ok=True)
    with TemporaryDirectory() as directory:
        save(directory)
        api.upload_folder(repo_id=repository, folder_path=directory, commit_message=message)
    return str(address)
