"""Locate saved models on disk or on the Hugging Face Hub, and upload them to the Hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from smalti.core.arguments import as_path
from smalti.core.errors import InputError

IMAGE_TYPE, AUDIO_TYPE = "smalti", "smalti-audio"
"""`model_type` in the config.json of a saved tokenizer, by which the package transformers finds its class: of
images and clips, and of audio."""
MODEL_TYPES = {"image": IMAGE_TYPE, "video": IMAGE_TYPE, "audio": AUDIO_TYPE, "log_mel": AUDIO_TYPE}
"""The same, by the kind of the modality."""

SHIPPED = Path(__file__).parents[1] / "shipped"
"""Trained models in this package."""


def shipped() -> tuple[str, ...]:
    """Names of the trained models in this package, for `smalti.load`."""
    return tuple(sorted(path.parent.name for path in SHIPPED.glob("*/config.json")))


def locate(path_or_hub_name: str | Path, patterns: Sequence[str], **settings: Any) -> Path:
    """Return the path of a directory, of a model in this package, or of a downloaded repository on the Hub.

    Args:
        path_or_hub_name: a directory, one of `shipped()`, or `owner/name`.
        patterns: glob patterns of the repository files to download.
        settings: of the download, such as `revision`; see `huggingface_hub.snapshot_download`.

    Raises:
        InputError: if there is neither such a directory nor such a repository.
    """
    path = as_path(path_or_hub_name)
    text = str(path_or_hub_name)
    if not path.exists() and text in shipped():
        return SHIPPED / text
    # If there is a folder `runs`, `runs/mien` is a typing error and not a repository.
    if path.exists() or path.parent.is_dir() or text.count("/") != 1 or text.startswith((".", "~", "/")):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(text, allow_patterns=list(patterns), **settings))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"expected a run, found neither a directory {text} nor a repository of that name on the Hub "
            f"({_first_line(error)}): check the path"
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

    Raises:
        InputError: if the name is invalid, or you may not write to the repository.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(token=token)
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
    except (HfHubHTTPError, HFValidationError) as error:
        raise InputError(
            f"expected a repository OWNER/NAME that you may write to, received {repository!r} "
            f"({_first_line(error)}): check the name, or log in with hf auth login"
        ) from None
    with TemporaryDirectory() as directory:
        save(directory)
        api.upload_folder(repo_id=repository, folder_path=directory, commit_message=message)
    return str(address)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
