"""Base of decoders that embed a label, apply conditioners, and reverse the strides of an encoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from smalti.core.conditioners import ConditionedConfig, Conditioner, Conditioners
from smalti.core.conditions import Conditions, id_sizes
from smalti.core.parts import Decoder, DecoderConfig, Encoder
from smalti.nn.blocks import Stride, channels_last, each_frame
from smalti.nn.symbols import hide_labels, label_indices


class ConditionedDecoder(Decoder):
    """A decoder whose activations on the latents' grid are conditioned on a label and by conditioners.

    Args:
        first: the layer that computes these activations from latents.
        channels: of these activations.
        conditions: number of ids of each id condition of the data, by name; the decoder embeds `label` (for
            example the speaker), so that codes need not represent it.
        label_dropout: share of the labels that training hides, so that items without a label can be decoded.
        conditioners: modules for the activations, by the name of the condition that each reads. Saving
            requires that each has a registered config.
        per_frame: whether each frame of a clip is decoded separately, as an image.
    """

    def __init__(
        self,
        first: nn.Module,
        channels: int,
        conditions: Mapping[str, int] | None = None,
        label_dropout: float = 0.1,
        conditioners: Mapping[str, Conditioner] | None = None,
        per_frame: bool = False,
    ) -> None:
        super().__init__()
        self.is_per_frame = per_frame
        self.condition_sizes = sizes = id_sizes(conditions, "label")
        self.conditioners = Conditioners(conditioners)
        self.label_dropout = label_dropout
        self.first = first
        self.label = nn.Embedding(sizes["label"] + 1, channels) if sizes else None

    @abstractmethod
    def upsampled(self, x: Float[Tensor, "b c *grid"]) -> Float[Tensor, "b p *size"]:
        """Compute the parameters of the likelihood from the conditioned activations, or those of frames."""

    def forward(
        self, latents: Float[Tensor, "b d *grid"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b p *size"]:
        """Parameters of the likelihood; `*size` is `*grid` times the product of the strides.

        Raises:
            InputError: if a label or another condition is out of range or has the wrong shape.
        """
        if not self.is_per_frame:
            return self.upsampled(self.conditioned(self._first(latents), conditions))
        return each_frame(self.upsampled, self.conditioned(each_frame(self._first, latents), conditions))

    def _first(self, latents: Float[Tensor, "b d *grid"]) -> Float[Tensor, "b c *grid"]:
        return self.first(channels_last(latents))

    def conditioned(
        self, x: Float[Tensor, "b c *grid"], conditions: Conditions | None
    ) -> Float[Tensor, "b c *grid"]:
        """Add the embedding of the label, and apply the conditioners.

        Raises:
            InputError: if a label or another condition is out of range or has the wrong shape.
        """
        if self.label is not None:
            num_classes = self.condition_sizes["label"]
            labels = label_indices(conditions, x.shape[0], num_classes, x.device)
            if self.training:
                labels = hide_labels(labels, self.label_dropout, num_classes)
            x = x + self.label(labels).view(*x.shape[:2], *(1,) * (x.ndim - 2))
        if len(self.conditioners):
            prepared = self.conditioners.prepare(conditions, x.shape[0], x.shape[2:], hide=self.training)
            x = self.conditioners(x, prepared)
        return x


class UpsamplingConfig(ConditionedConfig, DecoderConfig):
    """Settings of a decoder that reverses the strides of an encoder, and of its conditioners.

    Attributes:
        strides, time_strides, per_frame: None for those of the encoder, reversed.
        use_labels: whether the decoder is conditioned on each item's label (for example the speaker).
        label_dropout: share of the labels that training hides.
    """

    strides: tuple[Stride, ...] | None = Field(default=None, max_length=32)
    time_strides: tuple[Stride, ...] | None = Field(default=None, max_length=32)
    per_frame: bool | None = None
    use_labels: bool = False
    label_dropout: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _one_for_each_stage(self) -> UpsamplingConfig:
        if self.time_strides and self.per_frame:
            raise ValueError("expected no time_strides together with per_frame; leave one of them out")
        if self.time_strides and self.strides and len(self.time_strides) != len(self.strides):
            raise ValueError(
                f"expected as many time_strides as strides, {len(self.strides)}; received "
                f"{len(self.time_strides)}"
            )
        return self

    def resolved(self, encoder: Encoder, conditions: Mapping[str, int] | None) -> dict[str, Any]:
        """Arguments of the decoder that follow from its encoder and the data.

        Args:
            encoder: its downsampling is reversed where these settings are None.
            conditions: number of ids of each id condition of the data, by name.
        """
        return {
            "strides": encoder.strides[::-1] if self.strides is None else self.strides,
            "time_strides": encoder.time_strides[::-1] if self.time_strides is None else self.time_strides,
            "per_frame": encoder.is_per_frame if self.per_frame is None else self.per_frame,
            "conditions": conditions if self.use_labels else None,
            "label_dropout": self.label_dropout,
        }

    def for_any_encoder(self) -> UpsamplingConfig:
        """Return the settings of a decoder that reverses the downsampling of its encoder."""
        return self.changed({"strides": None, "time_strides": None, "per_frame": None})

    def between_levels(self) -> UpsamplingConfig:
        """Return the settings without conditions."""
        return self.changed({"use_labels": False, "conditioners": {}})
