"""`save_pretrained`, `from_pretrained` and `push_to_hub` for modules: JSON settings, safetensors weights.

A module is saved as it is in memory. Loading cannot run foreign code: settings refer only to registered
parts, and weights are plain tensors.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from smalti.core.arguments import as_device, as_path
from smalti.core.building import build_stored
from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.hub import locate, upload
from smalti.core.metadata import parse_json
from smalti.core.weights import read_tensors, write_tensors

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT = 2

P = TypeVar("P", bound="Pretrained")


class Pretrained(nn.Module, ABC):
    """A module that can be saved and loaded; subclasses define their settings as plain JSON values."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return everything that `from_settings` needs to build the module, as plain JSON values.

        Raises:
            InputError: if a part of the module has no registered config.
        """

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: dict[str, Any]) -> Pretrained:
        """Build the untrained module from settings; `from_pretrained` checks the class of the result.

        Raises:
            InputError: if a part is not registered.
            pydantic.ValidationError: if a value is invalid.
        """

    def save_pretrained(self, directory: str | Path) -> None:
        """Write settings and weights, as they are in memory, to config.json and model.safetensors.

        Raises:
            InputError: if a part has no registered config, or the directory holds a training run or a saved
                tokenizer.
        """
        target = as_path(directory)
        content = json.dumps({"format": FORMAT, "kind": "module", "settings": self.settings()}, indent=2)
        check_no_run(target)
        _check_same_kind(target)
        with atomic_file(target / WEIGHTS_FILE) as temporary:
            write_tensors(self.state_dict(), temporary)
        with atomic_file(target / CONFIG_FILE) as temporary:
            temporary.write_text(content + "\n")

    @classmethod
    def from_pretrained(
        cls: type[P], path_or_hub_name: str | Path, device: str | torch.device | None = None
    ) -> P:
        """Load a module written by `save_pretrained`, in evaluation mode.

        Args:
            path_or_hub_name: a directory, or `owner/name` on the Hugging Face Hub.
            device: None selects the CPU.

        Raises:
            InputError: if there is no such directory, or its files are broken or of another class.
        """
        directory = locate(path_or_hub_name, (CONFIG_FILE, WEIGHTS_FILE))
        settings = _read_settings(directory / CONFIG_FILE)
        try:
            tensors = read_tensors(directory / WEIGHTS_FILE)
            module = build_stored(lambda: cls.from_settings(settings), tensors, directory)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            reason = " ".join(str(error).split())
            raise InputError(
                f"{directory / CONFIG_FILE} does not describe a {cls.__name__} of this version ({reason}): "
                "load it with the class that saved it"
            ) from None
        if not isinstance(module, cls):
            raise InputError(
                f"expected a {cls.__name__} in {directory}, received a {type(module).__name__}: load it with "
                "that class"
            )
        return module.to(as_device(device or "cpu")).eval()

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the files of `save_pretrained` to the Hugging Face Hub; return the URL of the repository.

        Args:
            repository: `owner/name`.
            private: whether to make a newly created repository private.
            token: access token; None uses the stored login.
        """
        return upload(self.save_pretrained, repository, f"Upload a {type(self).__name__}", private, token)


def settings_of(part: nn.Module) -> dict[str, Any]:
    """Return the registered config of a part as plain JSON values.

    Raises:
        InputError: if the module has no registered config.
    """
    config = getattr(part, "config", None)
    if not isinstance(config, Configuration) or "kind" not in type(config).model_fields:
        raise InputError(
            f"expected parts with a registered config, received a {type(part).__name__} without one: save "
            "the state_dict() yourself, or register a config for that class and set it as `config`"
        )
    return config.model_dump(mode="json")


def check_no_run(directory: Path) -> None:
    """Check that a directory does not hold a training run, which saving a model would make unresumable.

    Raises:
        InputError: if the directory holds a training run.
    """
    marks = [directory / "state", directory / "metrics.jsonl", directory / "data" / "index.json"]
    if any(mark.exists() for mark in marks) or any(directory.glob("*/state")):
        raise InputError(
            f"expected a directory for a saved model, {directory} holds a training run, which could not be "
            "resumed afterwards: choose another directory"
        )


def _check_same_kind(directory: Path) -> None:
    """Check that a directory does not hold a saved tokenizer, which saving a module would overwrite.

    Raises:
        InputError: if the directory holds a saved tokenizer.
    """
    path = directory / CONFIG_FILE
    try:
        kind = parse_json(path.read_bytes()).get("kind") if path.is_file() else "module"
    except (ValueError, AttributeError):
        kind = None
    if kind != "module":
        raise InputError(
            f"expected a directory for a saved module, {path} describes something else ({kind}): choose "
            "another directory"
        )


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"expected a saved module, found no {path}: check the path")
    try:
        stored = parse_json(path.read_bytes())
        version, settings = stored["format"], stored["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not describe a saved module ({error!r}): pass a directory that the module's "
            "save_pretrained wrote"
        ) from None
    if version != FORMAT or not isinstance(settings, dict):
        is_older = isinstance(version, int) and version < FORMAT
        advice = "save the module again with this version" if is_older else "pip install -U smalti"
        raise InputError(f"{path} has format {version}, this version of smalti reads {FORMAT}: {advice}")
    return settings
