"""`save_pretrained`, `from_pretrained` and `push_to_hub` for modules: JSON settings, safetensors weights.

A module is saved as it is in memory. Nothing that is loaded can run code: the settings name registered parts
only, and the weights are plain tensors.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.hub import locate, upload
from smalti.core.weights import load_weights, read_tensors, write_tensors

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT = 1

P = TypeVar("P", bound="Pretrained")


class Pretrained(nn.Module, ABC):
    """A module that can be saved and loaded. A subclass says what it is built from, as plain JSON values."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that `from_settings` needs to build the module, as plain JSON values.

        Raises:
            InputError: when a part of it has no registered config.
        """

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: dict[str, Any]) -> Pretrained:
        """The module of these settings, untrained; `from_pretrained` refuses one of another class.

        Raises:
            InputError: for a part that is not registered.
            pydantic.ValidationError: for values that do not fit.
        """

    def save_pretrained(self, directory: str | Path) -> None:
        """Write settings and weights, as they are in memory, to config.json and model.safetensors.

        Raises:
            InputError: when a part has no registered config, or the directory holds a training run.
        """
        target = Path(directory)
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
        """Load what `save_pretrained` wrote, in evaluation mode.

        Args:
            path_or_hub_name: a directory, or `owner/name` on the Hugging Face Hub.
            device: None is the CPU.

        Raises:
            InputError: when there is no such directory, or it is broken or holds something else.
        """
        directory = locate(path_or_hub_name, (CONFIG_FILE, WEIGHTS_FILE))
        settings = _read_settings(directory / CONFIG_FILE)
        try:
            module = cls.from_settings(settings)
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
        load_weights(module, read_tensors(directory / WEIGHTS_FILE), directory)
        return module.to(device or "cpu").eval()

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload to the Hugging Face Hub what `save_pretrained` writes; returns the address.

        Args:
            repository: `owner/name`.
            private: whether a repository that does not exist yet becomes private.
            token: None takes that of the user who is logged in.
        """
        return upload(self.save_pretrained, repository, f"Upload a {type(self).__name__}", private, token)


def settings_of(part: nn.Module) -> dict[str, Any]:
    """The registered config of a part as plain JSON values.

    Raises:
        InputError: for a module that has none.
    """
    config = getattr(part, "config", None)
    if not isinstance(config, Configuration) or "kind" not in type(config).model_fields:
        raise InputError(
            f"expected parts with a registered config, received a {type(part).__name__} without one: save "
            "the state_dict() yourself, or register a config of that class and keep it as `config`"
        )
    return config.model_dump(mode="json")


def check_no_run(directory: Path) -> None:
    """Refuse to write a saved model over a training run, which could not be resumed afterwards.

    Raises:
        InputError: when the directory holds one.
    """
    if (directory / "state").is_dir() or (directory / "metrics.jsonl").is_file():
        raise InputError(
            f"expected a directory for a saved model, {directory} holds a training run, which could not be "
            "resumed afterwards: choose another directory"
        )


def _check_same_kind(directory: Path) -> None:
    """Refuse to write a module over a saved tokenizer.

    Raises:
        InputError: when the directory holds one.
    """
    path = directory / CONFIG_FILE
    try:
        kind = json.loads(path.read_text()).get("kind") if path.is_file() else "module"
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
        stored = json.loads(path.read_text())
        version, settings = stored["format"], stored["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not describe a saved module ({error!r}): give a directory that save_pretrained of "
            "a module wrote"
        ) from None
    if version != FORMAT or not isinstance(settings, dict):
        raise InputError(
            f"{path} has format {version}, this version of smalti reads {FORMAT}: "
            "upgrade smalti (pip install -U smalti)"
        )
    return settings
