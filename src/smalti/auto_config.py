"""Configurations of tokenizers for `AutoConfig` of the package transformers.

`import smalti` registers them, without importing transformers. They hold what `config.json` does: the recipe,
the classes, and what else `smalti.load` reads.
"""

from __future__ import annotations

from typing import final

from transformers import AutoConfig, PretrainedConfig

from smalti.core.hub import AUDIO_TYPE, IMAGE_TYPE


@final
class SmaltiConfig(PretrainedConfig):
    """Of a tokenizer of images or clips."""

    model_type = IMAGE_TYPE


@final
class SmaltiAudioConfig(PretrainedConfig):
    """Of a tokenizer of audio."""

    model_type = AUDIO_TYPE


def register() -> None:
    """Make the configurations known to `AutoConfig`."""
    for config in (SmaltiConfig, SmaltiAudioConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)


register()
