"""What a recipe is: one complete experiment, from the size of a picture to the steps of its prior."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from smalti.autoregressive.frame_pixelcnn import FramePixelCNN, FramePixelCNNConfig
from smalti.autoregressive.hierarchy import HierarchicalPixelCNN, HierarchicalPixelCNNConfig
from smalti.autoregressive.pixelcnn import GatedPixelCNN, GatedPixelCNNConfig
from smalti.autoregressive.transformer import Transformer, TransformerConfig
from smalti.autoregressive.wavenet import WaveNet, WaveNetConfig
from smalti.interfaces import (
    AutoregressiveNetwork,
    Configuration,
    InputError,
    LatentVariableModel,
    Modality,
    SignalSpec,
)
from smalti.modalities.audio import AudioConfig, AudioModality
from smalti.modalities.code_grids import CodeGridConfig, CodeGridModality
from smalti.modalities.image import ImageConfig, ImageModality
from smalti.modalities.spectrogram import LogMelConfig, LogMelModality
from smalti.modalities.video import VideoConfig, VideoModality
from smalti.models.hierarchy import Hierarchy, HierarchyConfig
from smalti.models.masked import MaskedPredictionConfig
from smalti.models.vae import VAE, VAEConfig
from smalti.models.vimco import VIMCO, VIMCOConfig
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.training.loop import TrainingConfig

ModelConfig = Annotated[VQVAEConfig | VAEConfig | VIMCOConfig | HierarchyConfig, Field(discriminator="kind")]
NetworkConfig = Annotated[
    GatedPixelCNNConfig
    | TransformerConfig
    | WaveNetConfig
    | FramePixelCNNConfig
    | HierarchicalPixelCNNConfig,
    Field(discriminator="kind"),
]
DataConfig = Annotated[
    ImageConfig | AudioConfig | LogMelConfig | VideoConfig | CodeGridConfig, Field(discriminator="kind")
]


def build_modality(config: DataConfig) -> Modality:
    """The modality that a config names."""
    match config:
        case ImageConfig():
            return ImageModality(config)
        case AudioConfig():
            return AudioModality(config)
        case LogMelConfig():
            return LogMelModality(config)
        case VideoConfig():
            return VideoModality(config)
        case CodeGridConfig():
            return CodeGridModality(config)


def build_model(config: ModelConfig, signal: SignalSpec, num_classes: int = 0) -> LatentVariableModel:
    """The untrained model that a config names; `num_classes` are the labels that its decoder may be told."""
    match config:
        case VQVAEConfig():
            return VQVAE(config, signal, num_classes)
        case VAEConfig():
            return VAE(config, signal, num_classes)
        case VIMCOConfig():
            return VIMCO(config, signal, num_classes)
        case HierarchyConfig():
            return Hierarchy(config, signal, num_classes)


def build_network(
    config: NetworkConfig, num_codes: int, num_codebooks: int, num_classes: int, num_actions: int = 0
) -> AutoregressiveNetwork:
    """The untrained network over codes that a config names; those that are not of clips heed no actions."""
    match config:
        case GatedPixelCNNConfig():
            return GatedPixelCNN(config, num_codes, num_codebooks, num_classes)
        case TransformerConfig():
            return Transformer(config, num_codes, num_codebooks, num_classes)
        case WaveNetConfig():
            return WaveNet(config, num_codes, num_codebooks, num_classes)
        case FramePixelCNNConfig():
            return FramePixelCNN(config, num_codes, num_codebooks, num_classes, num_actions)
        case HierarchicalPixelCNNConfig():
            return HierarchicalPixelCNN(config, num_codes, num_codebooks, num_classes)


class PriorRecipe(Configuration):
    """The second stage: a network over the codes, and how it is trained.

    `length`: codes of a chunk, where items differ in length; None for those of one training crop.
    """

    length: int | None = Field(default=None, ge=1)
    network: NetworkConfig = GatedPixelCNNConfig()
    training: TrainingConfig = TrainingConfig()


class Pretraining(Configuration):
    """A stage before the autoencoder: its encoder learns by masked prediction, and is then frozen."""

    task: MaskedPredictionConfig = MaskedPredictionConfig()
    training: TrainingConfig = TrainingConfig()


class Recipe(Configuration):
    """A complete experiment; the whole of it is saved with its run.

    Attributes:
        name: as the command line knows it.
        data: how signals are read.
        validation_fraction: share of the training split that is held out, to watch and never to learn from.
        class_names: names to show in place of those of the source.
        model: what is trained: a VQ-VAE, or one that it is compared with.
        training: of the autoencoder.
        pretraining: of its encoder, where that is trained before.
        prior: the second stage.
    """

    name: str
    data: DataConfig = ImageConfig()
    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    class_names: dict[str, str] = Field(default_factory=dict)
    model: ModelConfig = VQVAEConfig()
    training: TrainingConfig = TrainingConfig()
    pretraining: Pretraining | None = None
    prior: PriorRecipe = PriorRecipe()


C = TypeVar("C", bound=Configuration)


def override(config: C, assignments: Sequence[str], leave_out: Sequence[str] = ()) -> C:
    """A config with some keys set anew, as `key=value` texts from a command line.

    A key is a dotted path (`model.quantizer.num_codes`), or the end of one when only one key ends so
    (`num_codes`).

    Args:
        config: what to start from.
        assignments: the texts.
        leave_out: first parts of keys that short names do not reach (they may still be given in full).

    Raises:
        InputError: for a text that is no assignment, a key that does not exist or is ambiguous, or a value
            of the wrong type.
    """
    values = config.model_dump(mode="json")
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise InputError(
                f"expected key=value, received {assignment!r}: write for example training.steps=1000"
            )
        path = _find(values, key, leave_out)
        inner = values
        for part in path[:-1]:
            inner = inner[part]
        current = inner[path[-1]]
        others: dict[str, Any] = {}
        if path[-1] in ("kind", "mode") and text != current:
            # Another member of a union has other keys: the old ones would be refused.
            others = dict(inner)
            inner.clear()
        values = _assigned(type(config), values, inner, path[-1], _readings(text, current))
        values = _kept(type(config), values, path[:-1], others)
    return type(config).model_validate(values)


def parse(model: type[C], values: Any, where: str) -> C:
    """Validate stored values.

    Raises:
        InputError: when they do not fit.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        told = _sentence(error, values)
        raise InputError(f"{where} does not describe a model of this version: {told}") from None


def differences(old: BaseModel, new: BaseModel) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    return {
        key: (before.get(key), after.get(key))
        for key in [*before, *(key for key in after if key not in before)]
        if before.get(key) != after.get(key)
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _find(values: dict[str, Any], key: str, leave_out: Sequence[str]) -> list[str]:
    keys = _flat(values)
    if key in keys:
        return key.split(".")
    reachable = [name for name in keys if not name.startswith(tuple(f"{first}." for first in leave_out))]
    ends = [name for name in reachable if name.endswith(f".{key}")]
    if len(ends) == 1:
        return ends[0].split(".")
    if ends:
        raise InputError(f"the key {key!r} is ambiguous: write one of {', '.join(ends)}")
    near = difflib.get_close_matches(key, keys, n=3, cutoff=0.5) if "." in key else []
    # Of keys that end alike the first is meant: the autoencoder's rather than the prior's.
    by_last = {name.rsplit(".", 1)[-1]: name for name in reversed(keys)}
    near = near or [by_last[last] for last in difflib.get_close_matches(key.rsplit(".", 1)[-1], by_last)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"keys are {', '.join(list(keys)[:8])}, ..."
    raise InputError(f"unknown key {key!r}: {hint}")


def _readings(text: str, current: Any) -> list[Any]:
    """What a text may mean in the place of a value: pydantic tells which fits."""
    if isinstance(current, list):
        return [[part.strip() for part in text.strip("[]()").split(",") if part.strip()], text]
    if isinstance(current, int) and re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
        return [int(text)]  # a choice among numbers, unlike a number, is not recognised in a text
    # There is a setting of which "none" is one of the words to choose from.
    return [None, text] if text.lower() in ("none", "null") else [text]


def _assigned(
    model: type[C], values: dict[str, Any], inner: dict[str, Any], name: str, readings: list[Any]
) -> dict[str, Any]:
    """The values with one of them set to the first reading that is valid."""
    errors: list[ValidationError] = []
    for reading in readings:
        inner[name] = reading
        try:
            return model.model_validate(values).model_dump(mode="json")
        except ValidationError as error:
            errors.append(error)
    # A validator of ours says best what is expected; else the first reading is the likeliest.
    told = next((error for error in errors if error.errors()[0]["type"] == "value_error"), errors[0])
    raise InputError(_sentence(told, values)) from None


def _kept(
    model: type[C], values: dict[str, Any], path: Sequence[str], settings: dict[str, Any]
) -> dict[str, Any]:
    """The values with those settings that the new member of a union has as well as the old one."""
    for key, setting in settings.items():
        candidate = copy.deepcopy(values)
        inner = candidate
        for part in path:
            inner = inner[part]
        if key in inner and key not in ("kind", "mode"):
            inner[key] = setting
            with suppress(ValidationError):
                values = model.model_validate(candidate).model_dump(mode="json")
    return values


def _sentence(error: ValidationError, values: Any) -> str:
    first = error.errors()[0]
    where = ".".join(_keys(first["loc"], values))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message[0].lower()}{message[1:]}, received {first['input']!r}"


def _keys(location: Sequence[int | str], values: Any) -> list[str]:
    """A location of pydantic's as keys: without the names of union members, which no key has."""
    keys: list[str] = []
    for part in location:
        here = values if isinstance(values, dict) else {}
        if part not in here and part in (here.get("kind"), here.get("mode")):
            continue
        keys.append(str(part))
        values = here.get(part)
    return keys
