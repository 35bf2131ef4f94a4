"""Encoding of recordings and clips while they arrive, and their reconstruction block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, final

from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.core.models import Autoencoder
from smalti.core.precision import full_precision
from smalti.data.padding import padded
from smalti.encoders.pooling import PoolingEncoder
from smalti.models.decoded_windows import decode_parts
from smalti.models.streaming import CodeStream


def is_local(model: Autoencoder) -> bool:
    """True if each code depends on a bounded part of its signal, and on nothing else."""
    return model.receptive_field is not None and not isinstance(model.encoder, PoolingEncoder)


@final
class EncodingStream:
    """Encodes one recording or clip that arrives in blocks, such as the samples of a microphone.

    The codes that `push` and `flush` return, joined along their third axis, are those that
    `Tokenizer.encode` returns for the whole, bit for bit.

    Args:
        model: in evaluation mode.
        modality: of the signal.
        conditions: of the signal; None if there are none.

    Raises:
        InputError: if codes, or the signal that the model sees, depend on the whole signal.
    """

    def __init__(self, model: Autoencoder, modality: Modality, conditions: Conditions | None = None) -> None:
        field = model.receptive_field
        if not (modality.is_ragged and modality.spec.has_time):
            raise InputError(
                f"expected a model of signals of any length for a stream, received one of "
                f"{modality.plural_name}: pass them to encode"
            )
        if field is None or not is_local(model):
            raise InputError(
                "expected a model whose codes depend on a bounded part of the signal for a stream, received "
                f"one with a {type(model.encoder).__name__} whose codes depend on all of it: pass whole "
                "signals to encode"
            )
        self._model, self._modality = model, modality
        self._signal, self._codes = modality.stream(), CodeStream(model, conditions)
        self.look_ahead = self._signal.look_ahead(field.after)
        """Samples (of clips, frames) after the span of a code that must arrive before it is returned."""
        self._length, self._others, self._has_ended = 0, (), False
        self._none: Tensor | None = None

    @property
    def size(self) -> tuple[int, ...]:
        """Size of the model's signal so far, without padding."""
        return (self._length, *self._others)

    def push(self, block: Any) -> Int64[Tensor, "1 g _ *grid"]:
        """Add a block, and return the codes that are determined since the last one, often none.

        Args:
            block: the next part of the signal, as a tensor or an array, as for `Tokenizer.encode`; after the
                first one it may have no samples or frames.

        Raises:
            InputError: if its type, range or shape is wrong, or the stream has ended.
        """
        self._check_open()
        axis = 1 + len(self._others)  # of time, from the end
        if self._none is not None and tuple(getattr(block, "shape", ()))[-axis:][:1] == (0,):
            return self._none
        with full_precision(self._model):
            signal = self._signal.push(block)
            self._length, self._others = self._length + signal.shape[2], tuple(signal.shape[3:])
            signal = padded(self._modality, signal, (1, *self._model.strides[1:]))
        codes = self._codes.push(signal[0]).unsqueeze(0)
        self._none = codes[:, :, :0]
        return codes

    def flush(self) -> Int64[Tensor, "1 g _ *grid"]:
        """End the signal, and return the remaining codes.

        Raises:
            InputError: if the signal is too short to be encoded, or the stream has ended.
        """
        self._check_open()
        with full_precision(self._model):
            rest = self._signal.flush()
            self._length += rest.shape[2]
            rest = padded(self._modality, rest, self._model.strides, self._codes.known)
        self._has_ended = True
        return self._codes.flush(rest[0]).unsqueeze(0)

    def _check_open(self) -> None:
        if self._has_ended:
            raise InputError(
                "expected a stream that goes on, received one that was flushed: open another one"
            )


def reconstructed_blocks(
    model: Autoencoder, modality: Modality, blocks: Iterable[Any], conditions: Conditions | None = None
) -> Iterator[Float[Tensor, "1 c _ *size"]]:
    """Encode and decode a recording or clip block by block, in bounded memory.

    Args:
        model: in evaluation mode.
        modality: of the signal.
        blocks: of the signal, see `Modality.blocks`.
        conditions: of the decoder.

    Yields:
        The reconstruction in the model's range, without padding, on the CPU.

    Raises:
        InputError: if codes or decoded positions depend on the whole signal, or the signal is too short.
    """
    if model.decoded_field is None:
        raise InputError(
            "expected a decoder whose positions depend on a bounded part of the codes to decode in blocks, "
            f"received a {type(model.decoder).__name__}: pass whole signals to reconstruct"
        )
    stream = EncodingStream(model, modality)

    def parts() -> Iterator[Int64[Tensor, "1 g _ *grid"]]:
        for block in blocks:
            yield stream.push(block)
        yield stream.flush()

    length = 0
    for block in decode_parts(model, parts(), conditions):
        # While the signal goes on, all codes lie within it; its padding follows its last position.
        (own,) = cropped_blocks([block], (stream.size[0] - length, *stream.size[1:]))
        length += own.shape[2]
        yield own


def cropped_blocks(
    blocks: Iterable[Float[Tensor, "1 c _ *size"]], size: Sequence[int] | None
) -> Iterator[Float[Tensor, "1 c _ *size"]]:
    """Remove the padding of a signal in blocks, moved to the CPU.

    Args:
        blocks: along the first axis.
        size: of the original, along the first axes after the channels; None for no padding.
    """
    done = 0
    for block in blocks:
        if size is not None:
            remaining, *others = size
            sides = (remaining - done, *others)
            block = block[(slice(None), slice(None), *(slice(side) for side in sides))]
        done += block.shape[2]
        if block.shape[2]:
            yield block.cpu()
