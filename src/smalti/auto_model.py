"""Tokenizers as models of the package transformers, which its `AutoModel` finds after `import smalti`.

    import smalti
    from transformers import AutoModel

    model = AutoModel.from_pretrained("exported")     # from `smalti export --transformers`, or the Hub
    codes = model.encode(pixel_values).image_codes
    pixel_values = model.decode(codes).pixel_values

No code is downloaded: `import smalti` registers the classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils.generic import ModelOutput

from smalti.auto_config import SmaltiAudioConfig, SmaltiConfig
from smalti.core.arguments import as_path
from smalti.core.errors import InputError
from smalti.core.hub import locate
from smalti.core.models import LatentVariableModel
from smalti.tokenizer import Tokenizer
from smalti.trained import PATTERNS, TrainedModel

# Any, since the annotations of these classes contradict each other, and what their methods do.
_Model: Any = PreTrainedModel
_AudioTokenizer: Any = PreTrainedAudioTokenizerBase
HUB_SETTINGS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
"""Settings of `from_pretrained` that choose what is downloaded from the Hub, and where to."""
DIVIDING = ("balanced", "balanced_low_0", "sequential")
"""Values of `device_map` that divide a model among devices."""


@dataclass
class ImageCodes(ModelOutput):
    """Output of `SmaltiModel.encode`.

    Attributes:
        image_codes: int64 `(B, G, h, w)`; of clips `(B, G, f, h, w)`.
    """

    image_codes: Tensor | None = None


@dataclass
class Images(ModelOutput):
    """Output of `SmaltiModel.decode`.

    Attributes:
        pixel_values: `(B, C, H, W)` in [-1, 1]; of clips `(B, C, F, H, W)`.
    """

    pixel_values: Tensor | None = None


@dataclass
class AudioCodes(ModelOutput):
    """Output of `SmaltiAudioModel.encode`.

    Attributes:
        audio_codes: int64 `(B, G, n)`; 0 after the end of a recording.
        audio_codes_mask: int64 `(B, n)`: 1 for the codes of the recording.
    """

    audio_codes: Tensor | None = None
    audio_codes_mask: Tensor | None = None


@dataclass
class Audio(ModelOutput):
    """Output of `SmaltiAudioModel.decode`.

    Attributes:
        audio_values: `(B, 1, T)` in [-1, 1].
    """

    audio_values: Tensor | None = None


class _Loading(_Model):
    """Loading and saving of a tokenizer in the format of `smalti.load`."""

    base_model_prefix: str = "autoencoder"
    autoencoder: LatentVariableModel

    def __init__(self, config: PretrainedConfig, tokenizer: Tokenizer | None = None) -> None:
        """Wrap a tokenizer; `from_pretrained` loads one.

        Raises:
            InputError: without a tokenizer, since a configuration alone has no weights.
        """
        if tokenizer is None:
            raise InputError(
                "expected a trained tokenizer, received a configuration alone: use from_pretrained, or train "
                "one with smalti train"
            )
        super().__init__(config)
        self.tokenizer = tokenizer
        self.autoencoder = tokenizer.autoencoder

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **settings: Any) -> Any:
        """Load an exported tokenizer in full precision, which codes require.

        Args:
            pretrained_model_name_or_path: a folder of `smalti export --transformers`, or `owner/name`.
            args: ignored.
            settings: `device_map`, as one device, and those of the Hub (`revision`, ...); others, such as
                `dtype`, are ignored.

        Raises:
            InputError: if nothing or something else is there, or `device_map` divides the model.
        """
        chosen = {name: settings[name] for name in HUB_SETTINGS if settings.get(name) is not None}
        subfolder = chosen.pop("subfolder", "")
        path = locate(pretrained_model_name_or_path, PATTERNS, **chosen)
        device = settings.get("device_map", "cpu")
        if isinstance(device, dict):
            device = device.get("", device)
        if device is None:
            device = "cpu"
        if not isinstance(device, str | int | torch.device) or device in DIVIDING:
            raise InputError(
                f"expected a device_map of one device, received {settings['device_map']!r}: pass "
                "'cuda', 'cpu' or 'auto'"
            )
        trained = TrainedModel.load(path / subfolder, None if device == "auto" else torch.device(device))
        config = settings.get("config")
        if not isinstance(config, PretrainedConfig):
            config = cls.config_class.from_pretrained(path / subfolder)
        made = cls(config, Tokenizer(trained)).eval()
        return (made, {}) if settings.get("output_loading_info") else made

    def save_pretrained(self, save_directory: Any, **settings: Any) -> None:
        """Write the tokenizer and its priors to a folder that `from_pretrained` and `smalti.load` read."""
        self.tokenizer.save_pretrained(save_directory)
        if settings.get("push_to_hub"):
            self.push_to_hub(settings.get("repo_id") or as_path(save_directory).name)

    def push_to_hub(self, repo_id: str, **settings: Any) -> str:
        """Upload the tokenizer to the Hub; see `Tokenizer.push_to_hub`."""
        chosen = {key: settings[key] for key in ("private", "token") if settings.get(key) is not None}
        return self.tokenizer.push_to_hub(repo_id, **chosen)

    def _returned(self, made: Any, return_dict: bool | None) -> Any:
        """Return an output, or its values as a tuple if `return_dict`, by default the config's, is False."""
        chosen = self.config.return_dict if return_dict is None else return_dict
        return made if chosen else made.to_tuple()


@final
class SmaltiModel(_Loading):
    """A tokenizer of images or clips."""

    config_class = SmaltiConfig
    main_input_name = "pixel_values"

    @torch.no_grad()
    def encode(
        self, pixel_values: Float[Tensor, "b c *size"], return_dict: bool | None = None
    ) -> ImageCodes | tuple[Tensor, ...]:
        """Encode images `(B, C, H, W)` or clips `(B, C, F, H, W)`, in [-1, 1], to `image_codes`.

        Images of another size than in training are continued by reflection to a multiple of the stride.

        Args:
            pixel_values: the images or clips.
            return_dict: False returns a tuple.

        Raises:
            InputError: for other shapes or values.
        """
        tokenizer = self._for(tuple(pixel_values.shape[2:]), self.autoencoder.signal.size)
        codes = tokenizer.encode(pixel_values)
        made = ImageCodes(image_codes=torch.cat(codes) if isinstance(codes, list) else codes)
        return self._returned(made, return_dict)

    @torch.no_grad()
    def decode(
        self,
        image_codes: Int64[Tensor, "b g *grid"],
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> Images | tuple[Tensor, ...]:
        """Decode codes to `pixel_values` in [-1, 1].

        Args:
            image_codes: as `encode` returns them.
            labels: int64 `(B,)`, the class of each item, for a class-conditional decoder; None for no class.
            return_dict: False returns a tuple.

        Raises:
            InputError: for codes out of range or of another shape, or labels that the decoder does not read.
        """
        tokenizer = self._for(tuple(image_codes.shape[2:]), self.tokenizer.code_shape[1:])
        made = Images(pixel_values=_by_class(tokenizer.decode_signals, tokenizer, image_codes, labels))
        return self._returned(made, return_dict)

    def forward(
        self, pixel_values: Float[Tensor, "b c *size"], return_dict: bool | None = None
    ) -> Images | tuple[Tensor, ...]:
        """Encode and decode, without a class; images of other sizes keep theirs."""
        (codes,) = self.encode(pixel_values, return_dict=False)
        (values,) = self.decode(codes, return_dict=False)
        inside = tuple(slice(side) for side in pixel_values.shape[2:])
        return self._returned(Images(pixel_values=values[(..., *inside)]), return_dict)

    def _for(self, size: tuple[int, ...], trained_for: tuple[int, ...]) -> Tokenizer:
        # Items of any length need no other tokenizer; a clip of another height or width does.
        fixed = 1 if self.tokenizer.modality.is_ragged else 0
        if size[fixed:] == tuple(trained_for)[fixed:]:
            return self.tokenizer
        return self.tokenizer.native()


@final
class SmaltiAudioModel(_Loading, _AudioTokenizer):
    """A tokenizer of audio."""

    config_class = SmaltiAudioConfig
    main_input_name = "input_values"

    @torch.no_grad()
    def encode(
        self,
        input_values: Float[Tensor, "b 1 t"],
        padding_mask: Tensor | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> AudioCodes | tuple[Tensor, ...]:
        """Encode recordings to `audio_codes`.

        Args:
            input_values: `(B, 1, T)` in [-1, 1], at the sample rate of the model.
            padding_mask: `(B, T)` or `(B, 1, T)`, 1 for the samples of each recording and 0 for the padding
                after it, which does not affect the codes.
            return_dict: False returns a tuple.

        Raises:
            InputError: for other shapes or values, or an empty recording.
        """
        lengths = _lengths(input_values, padding_mask)
        codes = self.tokenizer.encode(
            [row[..., :length] for row, length in zip(input_values, lengths, strict=True)]
        )
        longest = max((row.shape[2] for row in codes), default=0)
        padded = [torch.nn.functional.pad(row, (0, longest - row.shape[2])) for row in codes]
        mask = [torch.arange(longest, device=row.device) < row.shape[2] for row in codes]
        made = AudioCodes(audio_codes=torch.cat(padded), audio_codes_mask=torch.stack(mask).long())
        return self._returned(made, return_dict)

    @torch.no_grad()
    def decode(
        self,
        audio_codes: Int64[Tensor, "b g n"],
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Audio | tuple[Tensor, ...]:
        """Decode codes to `audio_values`.

        Args:
            audio_codes: as `encode` returns them. Padding is decoded too: cut it off.
            labels: int64 `(B,)`, the speaker of each item, for a class-conditional decoder; None for none.
            return_dict: False returns a tuple.

        Raises:
            InputError: for codes out of range or of another shape, or labels that the decoder does not read.
        """
        values = _by_class(self.tokenizer.decode, self.tokenizer, audio_codes, labels)
        return self._returned(Audio(audio_values=values.reshape(len(audio_codes), 1, -1)), return_dict)

    def forward(
        self,
        input_values: Float[Tensor, "b 1 t"],
        padding_mask: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> Audio | tuple[Tensor, ...]:
        """Encode and decode, without a class; a log-mel model keeps whole frames only."""
        codes, _ = self.encode(input_values, padding_mask, return_dict=False)
        (values,) = self.decode(codes, return_dict=False)
        return self._returned(Audio(audio_values=values[..., : input_values.shape[-1]]), return_dict)


def _lengths(input_values: Tensor, padding_mask: Tensor | None) -> list[int]:
    """Return the number of samples of each recording before its padding.

    Raises:
        InputError: for a mask of another shape, or with padding before a recording.
    """
    num, length = len(input_values), input_values.shape[-1]
    if padding_mask is None:
        return [length] * num
    if tuple(padding_mask.shape) not in ((num, length), (num, 1, length)):
        raise InputError(
            f"expected a padding_mask of shape {(num, length)}, received {tuple(padding_mask.shape)}: pass "
            "what the feature extractor returned with the recordings"
        )
    mask = padding_mask.reshape(num, length).bool().long()
    if (mask.diff(dim=1) > 0).any():
        raise InputError(
            "expected a padding_mask with padding after each recording, received one with padding before it: "
            "pad on the right"
        )
    return mask.sum(1).tolist()


def _by_class(
    decode: Callable[..., Tensor], tokenizer: Tokenizer, codes: Tensor, labels: Tensor | None
) -> Tensor:
    """Decode items, each with its own class."""
    if labels is None:
        return decode(codes)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != codes.shape[:1]:
        raise InputError(
            f"expected one label for each of {len(codes)} items, received {labels!r}: pass an integer tensor "
            "(B,)"
        )
    names = tokenizer.trained.classes
    for label in labels.tolist():
        if not -1 <= label < len(names):
            raise InputError(f"expected labels from -1 to {len(names) - 1}, received {label}: see classes")
    rows = [
        decode(row, class_name=None if label < 0 else names[label])
        for row, label in zip(codes.split(1), labels.tolist(), strict=True)
    ]
    return torch.cat(rows)


CLASSES: dict[type[PretrainedConfig], type[PreTrainedModel]] = {
    SmaltiConfig: SmaltiModel,
    SmaltiAudioConfig: SmaltiAudioModel,
}


def register() -> None:
    """Make the models known to `AutoModel`."""
    for config, model in CLASSES.items():
        AutoModel.register(config, model, exist_ok=True)


register()
