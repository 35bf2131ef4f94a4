"""Masked prediction: its targets and its loss by hand, what it draws, and that it learns."""

import math

import pytest
import torch
import torch.nn.functional as F

from smalti.core.conditions import Batch, Conditions
from smalti.core.signals import SignalSpec
from smalti.encoders.context import ContextEncoderConfig
from smalti.encoders.voice import speech_positions
from smalti.models.masked import MaskedPrediction, MaskedPredictionConfig

NUM_MELS, LENGTH, STRIDE = 6, 80, 4


def signals(num: int = 6, seed: int = 1) -> torch.Tensor:
    """Silence, then stretches of three spectra that follow each other in order."""
    generator = torch.Generator().manual_seed(seed)
    spectra = torch.rand(3, NUM_MELS, generator=torch.Generator().manual_seed(0)) - 0.2
    x = torch.full((num, NUM_MELS, LENGTH), -1.0)
    for item in x:
        first = int(torch.randint(3, (1,), generator=generator))
        for index, begin in enumerate(range(8, LENGTH, 8)):
            item[:, begin : begin + 8] = spectra[(first + index) % 3].unsqueeze(1)
    return (x + 0.05 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


def task(**settings) -> MaskedPrediction:
    torch.manual_seed(0)
    config = MaskedPredictionConfig.tiny().model_copy(update=settings)
    made = MaskedPrediction(config, ContextEncoderConfig.tiny(), SignalSpec(NUM_MELS, (64,)))
    x = signals(seed=3)
    voices = made.voice.fit(dict(enumerate([item] for item in x)))
    clean = made.voice.normalised(x, torch.stack([voices[i] for i in range(len(x))]))
    made.cluster(made.voice.cepstra(clean)[speech_positions(x, STRIDE)])
    return made


def loss(made: MaskedPrediction, x: torch.Tensor, seed: int = 0, voices: torch.Tensor | None = None):
    torch.manual_seed(seed)
    return made.loss(Batch(x, Conditions(voice=voices)))


@torch.no_grad()
def test_the_loss_is_the_cross_entropy_of_the_nearest_clusters():
    made, x = task().eval(), signals()
    voices = made.voice.voices(x)
    clean = made.voice.normalised(x, voices)
    cepstra = made.voice.cepstra(clean)
    targets = torch.stack([torch.cdist(cepstra, centres).argmin(2) for centres in made.centres], 2)
    logits = made.heads(made.network(clean)).unflatten(1, (2, 4))
    nats = torch.stack(
        [F.cross_entropy(logits[:, s], targets[..., s], reduction="none") for s in range(2)]
    ).mean(0)
    speech = speech_positions(x, STRIDE)
    weight = torch.where(speech, 1.0, made.config.silence_weight)
    result = loss(made, x, voices=voices)
    torch.testing.assert_close(result.total, (nats * weight).sum() / weight.sum())
    torch.testing.assert_close(result.terms["cluster_nats"], nats[speech].mean())
    # A voice that nobody tells is found in the item itself.
    torch.testing.assert_close(loss(made, x).total, result.total)
    assert not torch.equal(loss(made, x, voices=voices.flip(0)).total, result.total)


def test_clusters_are_those_of_the_cepstra_and_every_head_has_its_own():
    made = task(clusterings=3)
    assert made.centres.shape[:2] == (3, 4)
    assert not torch.equal(made.centres[0], made.centres[1])
    cepstra = torch.randn(50, made.centres.shape[2], generator=torch.Generator().manual_seed(0))
    for seed in (1, 1, 2):
        made.cluster(cepstra, seed)
        nearest = torch.cdist(cepstra, made.centres[0]).argmin(1)
        for index in nearest.unique():
            torch.testing.assert_close(
                made.centres[0, index], cepstra[nearest == index].mean(0), rtol=1e-3, atol=1e-3
            )
    last = made.centres.clone()
    made.cluster(cepstra, 1)
    assert not torch.equal(made.centres, last)
    made.cluster(cepstra, 2)
    assert torch.equal(made.centres, last)


@torch.no_grad()
def test_it_draws_in_training_only_and_by_the_seed():
    made, x = task(), signals()
    voices = made.voice.voices(x)

    def total(seed: int) -> float:
        return loss(made, x, seed, voices).total.item()

    made.train()
    made.network.blocks.eval()  # their dropout draws too
    assert total(1) == total(1)
    assert total(1) != total(2)
    made.eval()
    assert total(1) == total(2)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_hidden_stretches_have_their_length(share):
    made = task(mask_share=share, mask_length=4).train()
    torch.manual_seed(0)
    hidden, frames = made._augmented(torch.randn(200, NUM_MELS, LENGTH), LENGTH // STRIDE)
    expected = 1 - (1 - share) ** 4
    assert hidden[:, 3:].float().mean().item() == pytest.approx(expected, abs=0.03)
    assert frames.shape == (200, NUM_MELS, LENGTH)
    for row in hidden.tolist():
        stretches = "".join("#" if each else "." for each in row).split(".")
        whole = stretches[:-1]  # the last may be cut by the end
        assert all(len(stretch) >= 4 for stretch in whole if stretch)


def test_several_processes_hide_what_one_would(monkeypatch):
    made, frames = task().train(), torch.randn(6, NUM_MELS, LENGTH)

    def disturbed(rank: int, world: int) -> list[torch.Tensor]:
        monkeypatch.setattr("smalti.nn.collectives.rank_and_world", lambda: (rank, world))
        torch.manual_seed(7)
        return list(made._augmented(frames.chunk(world)[rank], LENGTH // STRIDE))

    hidden, changed = disturbed(0, 1)
    parts = [disturbed(rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat([part[0] for part in parts]), hidden)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), changed)
    assert not torch.allclose(changed, frames, atol=1e-2)


def test_without_warp_and_tilt_frames_stay():
    made, frames = task(warp=0.0, tilt=0.0).train(), torch.randn(3, NUM_MELS, LENGTH)
    _, same = made._augmented(frames, LENGTH // STRIDE)
    torch.testing.assert_close(same, frames, rtol=0, atol=1e-2)


def test_what_is_hidden_is_learned():
    made, x = task(mask_share=0.15, warp=0.02, tilt=0.0).train(), signals(12)
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    losses, voices = [], made.voice.voices(x)
    for step in range(60):
        total = loss(made, x, step, voices).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[0] == pytest.approx(math.log(4), abs=0.6)
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]


def test_every_parameter_learns():
    made = task().train()
    loss(made, signals()).total.backward()
    assert [name for name, p in made.named_parameters() if p.grad is None or not p.grad.any()] == []
