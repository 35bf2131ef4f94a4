"""Jitter: how often, from where, at the ends, and the same for one process and several."""

import pytest
import torch

from smalti.nn.jitter import jitter


def numbered(batch_size: int, length: int) -> torch.Tensor:
    """Latents `(B, 2, T)` that tell their own position, and beside it their item."""
    at = torch.arange(length, dtype=torch.float32).expand(batch_size, length)
    item = torch.arange(batch_size, dtype=torch.float32).unsqueeze(1).expand(batch_size, length)
    return torch.stack([at, item], 1)


@pytest.mark.parametrize("share", [0.0, 0.12, 0.5, 1.0])
def test_each_neighbour_takes_over_half_of_the_share(share):
    torch.manual_seed(0)
    num, length = 200, 102
    latents = numbered(num, length)
    jittered = jitter(latents, share)
    assert torch.equal(jittered[:, 1], latents[:, 1]), "all channels of a position move, within their item"
    steps = (jittered[:, 0] - latents[:, 0])[:, 1:-1]
    assert set(steps.unique().tolist()) <= {-1.0, 0.0, 1.0}
    for step in (-1, 1):
        half = share / 2
        error = 4.5 * (half * (1 - half) / steps.numel()) ** 0.5
        assert (steps == step).float().mean().item() == pytest.approx(half, abs=error)


@pytest.mark.parametrize("length", [2, 3, 5])
def test_at_the_ends_the_one_neighbour_serves_for_both(length):
    torch.manual_seed(0)
    for share in (0.5, 1.0):
        jittered = jitter(numbered(4000, length), share)[:, 0]
        for end, neighbour in ((0, 1), (length - 1, length - 2)):
            assert set(jittered[:, end].tolist()) <= {float(end), float(neighbour)}
            taken = (jittered[:, end] == neighbour).float().mean().item()
            assert taken == pytest.approx(share, abs=0.04)


def test_a_line_of_one_stays_and_draws_nothing():
    latents = torch.randn(3, 2, 1)
    before = torch.get_rng_state()
    assert torch.equal(jitter(latents, 1.0), latents)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_go_to_where_the_latents_came_from():
    torch.manual_seed(0)
    latents = numbered(5, 7).requires_grad_()
    jittered = jitter(latents, 0.7)
    jittered[:, 0].sum().backward()
    source = jittered[:, 0].detach().long()
    used = torch.stack([torch.bincount(row, minlength=7) for row in source])
    assert torch.equal(latents.grad[:, 0], used.float())
    assert not latents.grad[:, 1].any()


def test_ranks_jitter_what_one_process_would(monkeypatch):
    def on(rank: int, world: int, latents: torch.Tensor) -> torch.Tensor:
        monkeypatch.setattr("smalti.nn.collectives.rank_and_world", lambda: (rank, world))
        torch.manual_seed(0)
        return jitter(latents, 0.5)

    latents = torch.randn(6, 2, 9)
    shares = [on(rank, 3, share) for rank, share in enumerate(latents.chunk(3))]
    whole = on(0, 1, latents)
    assert torch.equal(torch.cat(shares), whole)
    assert not torch.equal(whole, latents)
