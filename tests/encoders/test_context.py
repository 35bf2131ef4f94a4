"""The encoder that sees what is around a code: lengths, what is hidden from it, and what is frozen."""

import itertools

import pytest
import torch
from pydantic import ValidationError

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.encoders.context import ContextEncoder, ContextEncoderConfig, ContextNetwork

NUM_MELS, DIM = 6, 5
STRIDES = [*itertools.product((1, 2, 3)), *itertools.product((1, 2, 3), repeat=2), (2, 1, 3)]


def config(**settings) -> ContextEncoderConfig:
    return ContextEncoderConfig.tiny().model_copy(update=settings)


def network(**settings) -> ContextNetwork:
    torch.manual_seed(0)
    made = ContextNetwork(config(**settings), NUM_MELS).eval()
    with torch.no_grad():
        made.hidden.normal_()
    return made


def encoder(length: int = 24, **settings) -> ContextEncoder:
    torch.manual_seed(0)
    return ContextEncoder(config(**settings), SignalSpec(NUM_MELS, (length,)), DIM).eval()


def frames(num: int = 2, length: int = 24, seed: int = 1) -> torch.Tensor:
    return torch.rand(num, NUM_MELS, length, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class TestNetwork:
    @pytest.mark.parametrize("strides", STRIDES, ids=lambda strides: "x".join(map(str, strides)))
    @torch.no_grad()
    def test_as_many_places_as_whole_strides(self, strides):
        factor = torch.Size(strides).numel()
        made = network(strides=strides)
        for num in (1, 2, 5):
            assert made(frames(1, num * factor)).shape == (1, 8, num)
        assert encoder(4 * factor, strides=strides).grid((4 * factor,)) == (4,)

    @torch.no_grad()
    def test_frames_under_a_hidden_stretch_are_not_seen(self):
        """With strides 2, 2 and windows of 4 the place n is made of the frames 4n - 3 to 4n + 6.

        So of the hidden places 5 to 9 the frames 23 to 36 are those that no place that is seen is made of.
        """
        made, x = network(dilations=(1, 2, 4)), frames(2, 60)
        hidden = torch.zeros(2, 15, dtype=torch.bool)
        hidden[:, 5:10] = True
        first, last = 23, 36

        def changed(at: slice, mask: torch.Tensor | None) -> bool:
            other = x.clone()
            other[:, :, at] = frames(2, 60, seed=2)[:, :, at]
            return not torch.equal(made(other, mask), made(x, mask))

        assert not changed(slice(first, last + 1), hidden)
        assert changed(slice(first, last + 1), None)
        assert changed(slice(first - 1, first), hidden)
        assert changed(slice(last + 1, last + 2), hidden)

    @torch.no_grad()
    def test_only_the_item_with_hidden_places_changes(self):
        made, x = network(), frames(2)
        hidden = torch.zeros(2, 6, dtype=torch.bool)
        hidden[1, 3] = True
        seen, masked = made(x), made(x, hidden)
        torch.testing.assert_close(masked[0], seen[0], rtol=0, atol=0)
        assert not torch.allclose(masked[1], seen[1])

    @torch.no_grad()
    def test_a_layer_is_what_the_blocks_up_to_it_give(self):
        made, x = network(dilations=(1, 2, 3)), frames()
        inside = made.first(x)[..., :6]
        for layer, block in enumerate(made.blocks, 1):
            inside = block(inside)
            assert torch.equal(made(x, layers=layer), inside)
        assert torch.equal(made(x), torch.nn.functional.gelu(made.norm(inside)))


class TestEncoder:
    def test_it_stays_frozen_whatever_its_model_does(self):
        made = encoder(dropout=0.5)
        made.train()
        assert not any(module.training for module in made.modules())
        assert not any(parameter.requires_grad for parameter in made.parameters())
        latents = made(frames().requires_grad_())
        assert not latents.requires_grad
        assert torch.equal(latents, made(frames()))

    @torch.no_grad()
    def test_latents_are_the_smoothed_layer_projected(self):
        made, x = encoder(smoothing=0.25), frames()
        made.mean.normal_()
        voices = made.voice.voices(x)
        layer = made.network(made.voice.normalised(x, voices), layers=2)
        num = layer.shape[2]
        smoothed = torch.stack(
            [
                (layer[..., max(0, n - 1)] + 2 * layer[..., n] + layer[..., min(num - 1, n + 1)]) / 4
                for n in range(num)
            ],
            2,
        )
        expected = (smoothed - made.mean.view(1, -1, 1)).transpose(1, 2) @ made.projection
        torch.testing.assert_close(made(x), expected.transpose(1, 2), rtol=1e-4, atol=1e-5)
        assert made(x).shape == (2, DIM, *made.grid((24,)))

    @torch.no_grad()
    def test_one_place_has_no_neighbours(self):
        assert encoder()(frames(3, 4)).shape == (3, DIM, 1)

    @torch.no_grad()
    def test_a_given_voice_is_used_and_a_missing_one_is_computed(self):
        made, x = encoder(), frames()
        own = made.voice.voices(x)
        assert torch.equal(made(x, Conditions(voice=own)), made(x))
        assert torch.equal(made(x, Conditions(label=torch.tensor([0, 1]))), made(x))
        swapped = made(x, Conditions(voice=own.flip(0)))
        assert not torch.allclose(swapped, made(x))

    def test_a_size_that_does_not_divide(self):
        with pytest.raises(InputError, match="multiples of 4"):
            encoder(length=22).grid((22,))


def test_a_layer_that_there_is_not():
    with pytest.raises(ValidationError, match="expected a layer from 1 to 2, the number of dilations"):
        ContextEncoderConfig(dilations=(1, 2), layer=3)
