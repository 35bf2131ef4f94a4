"""The masked prior: learning, rounds, kept codes, guidance, padding; laws of all: tests/conformance."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from smalti.autoregressive.frame_pixelcnn import FramePixelCNNConfig
from smalti.autoregressive.guidance import GuidedNetwork
from smalti.autoregressive.pixelcnn import GatedPixelCNNConfig
from smalti.autoregressive.sampling import sample, sample_naive
from smalti.autoregressive.transformer import TransformerConfig
from smalti.core.conditions import Batch, Conditions, PerItem, TokenSequence
from smalti.core.errors import InputError
from smalti.priors.autoregressive import LearnedPrior
from smalti.priors.masked import MaskedPrior
from smalti.priors.uniform import UniformPrior

SIZES = {"channels": 16, "layers": 1, "heads": 2}


def prior(grid: tuple[int, ...] = (4, 4), labels: int = 0, **settings: object) -> MaskedPrior:
    torch.manual_seed(0)
    made = MaskedPrior(5, settings.pop("num_codebooks", 1), grid, {"label": labels}, **(SIZES | settings))
    with torch.no_grad():
        made.head_weights.mul_(30)
    return made.eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stripes(num: int, seed: int = 0) -> torch.Tensor:
    """Grids whose rows are constant, of codes 0 to 3."""
    rows = torch.randint(4, (num, 1, 4, 1), generator=seeded(seed))
    return rows.expand(num, 1, 4, 4).contiguous()


@pytest.fixture(scope="module")
def striped() -> MaskedPrior:
    """A prior of stripes, with the row's first code as the label of the item."""
    torch.manual_seed(0)
    made = MaskedPrior(4, 1, (4, 4), {"label": 4}, channels=32, layers=2, heads=2, rounds=16)
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    for step in range(250):
        codes = stripes(64, step)
        optimizer.zero_grad()
        made.loss(Batch(codes, Conditions(label=codes[:, 0, 0, 0]))).total.backward()
        optimizer.step()
    return made.eval()


def is_striped(codes: torch.Tensor) -> torch.Tensor:
    return (codes == codes[..., :1]).flatten(1).all(1)


def test_it_learns_stripes(striped: MaskedPrior) -> None:
    drawn = striped.sample(64, generator=seeded())
    assert is_striped(drawn).float().mean() > 0.8
    assert len(drawn[:, 0, :, 0].unique(dim=0)) > 20


def test_kept_codes_stay_and_decide_their_rows(striped: MaskedPrior) -> None:
    codes = stripes(32, 1)
    keep = torch.zeros_like(codes, dtype=torch.bool)
    keep[..., 2] = True
    drawn = striped.inpaint(torch.where(keep, codes, -7), keep, generator=seeded())
    assert torch.equal(drawn[keep], codes[keep])
    assert (drawn == codes).float().mean() > 0.97
    everything = torch.ones_like(keep)
    assert torch.equal(striped.inpaint(codes, everything), codes)


def test_guidance_follows_the_label_more_closely(striped: MaskedPrior) -> None:
    labels = torch.arange(4).repeat_interleave(32)

    def share(guidance: float) -> float:
        drawn = striped.sample(
            128, Conditions(label=labels), temperature=3.0, generator=seeded(), guidance=guidance
        )
        return (drawn[:, 0, 0] == labels[:, None]).float().mean().item()

    assert share(0.0) < share(1.0) < share(3.0)


@torch.no_grad()
def test_logits_depend_on_visible_codes_only() -> None:
    made = prior()
    codes = torch.randint(5, (2, 1, 4, 4), generator=seeded())
    hidden = torch.rand(2, 1, 4, 4, generator=seeded(1)) < 0.5
    other = torch.where(hidden, (codes + 1) % 5, codes)
    assert torch.equal(made.logits(codes, hidden), made.logits(other, hidden))
    assert not torch.equal(made.logits(codes, hidden), made.logits((codes + 1) % 5, hidden))


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    made = prior((6,))
    codes = torch.randint(5, (3, 1, 6), generator=seeded())
    hidden = torch.zeros_like(codes, dtype=torch.bool)
    hidden[..., 1] = True
    lengths = torch.tensor([4, 6, 3])
    padded = made.logits(codes, hidden, lengths=lengths)
    for item, length in enumerate(lengths.tolist()):
        alone = made.logits(codes[item : item + 1, :, :length], hidden[item : item + 1, :, :length])
        torch.testing.assert_close(padded[item : item + 1, :, :length], alone)


def test_the_loss_is_of_hidden_codes_that_are_no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = prior((6,), num_codebooks=2), []
    plain = MaskedPrior.logits

    def noted(self, codes, hidden, conditions, lengths):
        seen.append(hidden)
        return plain(self, codes, hidden, conditions, lengths)

    monkeypatch.setattr(MaskedPrior, "logits", noted)
    codes = torch.randint(5, (40, 2, 6), generator=seeded())
    lengths = torch.tensor([1, 2, 3, 4, 6] * 8)
    loss = made.loss(Batch(codes, lengths=lengths))
    (hidden,) = seen
    counts = hidden.flatten(1).sum(1)
    assert (counts >= 1).all()
    assert (counts <= 2 * lengths).all()
    assert not (hidden & (torch.arange(6) >= lengths[:, None, None])).any()
    with torch.no_grad():
        logits = plain(made, codes, hidden, Conditions(), lengths)
    expected = torch.nn.functional.cross_entropy(logits[hidden], codes[hidden])
    torch.testing.assert_close(loss.total.detach(), expected)
    assert loss.terms[made.score].item() == pytest.approx(expected.item() / math.log(2), rel=1e-5)


def test_the_share_of_hidden_codes_follows_the_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = prior(rounds=8, certainty_noise=1.0), []
    plain = MaskedPrior.logits

    def noted(self, codes, hidden, *rest):
        seen.append(hidden.flatten(1).sum(1))
        return plain(self, codes, hidden, *rest)

    monkeypatch.setattr(MaskedPrior, "logits", noted)
    made.sample(3, generator=seeded())
    expected = [16, *(int(16 * math.cos(math.pi / 2 * t / 8)) for t in range(1, 8))]
    assert [counts.tolist() for counts in seen] == [[count] * 3 for count in expected]


def test_few_codes_need_no_more_rounds_than_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = prior(rounds=12)
    keep = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    keep[0, 0, 0, :3] = False
    passes: list[int] = []
    plain = MaskedPrior.logits
    monkeypatch.setattr(MaskedPrior, "logits", lambda *given: passes.append(1) or plain(*given))
    drawn = made.inpaint(torch.zeros(2, 1, 4, 4, dtype=torch.int64), keep, generator=seeded())
    assert len(passes) == 3
    assert (drawn[1] == 0).all()


def test_saved_and_loaded_it_draws_the_same(tmp_path: Path) -> None:
    made = prior(labels=3)
    made.save_pretrained(tmp_path)
    again = MaskedPrior.from_pretrained(tmp_path)
    one, other = (each.sample(4, generator=seeded()) for each in (made, again))
    assert torch.equal(one, other)
    assert again.config == made.config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"guidance": 2.0}, "class"),
        ({"guidance": -1.0}, "guidance"),
        ({"guidance": math.inf}, "guidance"),
        ({"conditions": Conditions(label=torch.tensor([9, 0]))}, "labels from 0 to 2"),
        ({"conditions": Conditions(text=TokenSequence(torch.zeros(2, 3, dtype=torch.int64)))}, "text"),
        ({"temperature": -1.0}, "temperature"),
        ({"given": torch.zeros(2, 1, 4, 4, dtype=torch.int64)}, "first part"),
    ],
)
def test_settings_that_it_refuses(settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        prior(labels=3).sample(2, **settings)


def test_heads_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="heads"):
        prior(channels=18, heads=4)


@pytest.mark.parametrize("config", [GatedPixelCNNConfig.tiny(), TransformerConfig.tiny()], ids=["cnn", "tf"])
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_a_guided_step_is_the_guided_forward_pass(config, weight: float) -> None:
    torch.manual_seed(0)
    network = config.build(5, 2, {"label": 3}).double().eval()
    guided = GuidedNetwork(network, weight)
    labels = Conditions(label=torch.tensor([0, 2]))
    drawn = sample(guided, 2, (2, 3), labels, generator=seeded())
    assert torch.equal(drawn, sample_naive(guided, 2, (2, 3), labels, generator=seeded()))
    with torch.no_grad():
        given, free = network(drawn, labels), network(drawn)
        torch.testing.assert_close(guided(drawn, labels), free + weight * (given - free))


def test_guidance_of_a_learned_prior() -> None:
    torch.manual_seed(0)
    network = GatedPixelCNNConfig.tiny().build(5, 1, {"label": 3})
    learned, labels = LearnedPrior(network, (3, 3)).eval(), Conditions(label=torch.tensor([0, 2]))
    plain, one, more = (
        learned.sample(2, labels, generator=seeded(), **settings)
        for settings in ({}, {"guidance": 1.0}, {"guidance": 30.0})
    )
    assert torch.equal(plain, one)
    assert not torch.equal(one, more)
    with pytest.raises(InputError, match="class"):
        learned.sample(2, guidance=2.0)
    unhidden = GatedPixelCNNConfig.tiny().changed({"label_dropout": 0}).build(5, 1, {"label": 3})
    with pytest.raises(InputError, match="label_dropout"):
        LearnedPrior(unhidden, (3, 3)).sample(2, labels, guidance=2.0)
    # That of the frames hides labels, but no actions.
    frames = FramePixelCNNConfig.tiny().changed({"action_dropout": 0}).build(5, 1, {"action": 3})
    actions = Conditions(action=torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(InputError, match="action_dropout=0"):
        LearnedPrior(frames, (2, 3, 3)).sample(2, actions, guidance=2.0)


def test_others_have_neither_guidance_nor_inpainting() -> None:
    uniform = UniformPrior(5, 1, (3, 3))
    with pytest.raises(InputError, match="guidance"):
        uniform.sample_grids(2, Conditions(), guidance=2.0)
    codes = torch.zeros(2, 1, 3, 3, dtype=torch.int64)
    with pytest.raises(InputError, match="masked"):
        uniform.inpaint(codes, codes == 0)
    with pytest.raises(InputError, match="guidance"):
        list(uniform.stages(codes, codes != 0, guidance=2.0))


def test_ids_become_unspecified_and_vectors_stay() -> None:
    vectors = PerItem(torch.randn(2, 3))
    both = Conditions(label=torch.tensor([1, 2]), voice=vectors).with_unspecified()
    assert both["label"].data.tolist() == [1, 2, -1, -1]
    assert torch.equal(both["voice"].data, torch.cat([vectors.data, vectors.data]))
    assert Conditions(label=torch.tensor([1, 2])).unspecified()["label"].data.tolist() == [-1, -1]


def test_it_knows_where_codes_belong() -> None:
    """Before any code is visible, all inputs are equal: only added positions tell places apart."""
    torch.manual_seed(0)
    made = MaskedPrior(4, 1, (4, 4), channels=32, layers=2, heads=2, rounds=4)
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    codes = torch.arange(4).view(1, 1, 4, 1).expand(32, 1, 4, 4).contiguous()
    for _ in range(120):
        optimizer.zero_grad()
        made.loss(Batch(codes)).total.backward()
        optimizer.step()
    assert (made.sample(32, generator=seeded()) == codes).float().mean() > 0.95


@pytest.mark.parametrize("shape", [(2, 1, 3, 3), (1, 1, 4, 4), (2, 1, 4)])
def test_masks_of_another_shape(shape: tuple[int, ...]) -> None:
    codes = torch.zeros(2, 1, 4, 4, dtype=torch.int64)
    with pytest.raises(InputError, match="same shape"):
        prior().inpaint(codes, torch.ones(shape, dtype=torch.bool))
    with pytest.raises(InputError, match="same shape"):
        prior().inpaint(codes, torch.ones_like(codes))


def test_validation_does_not_depend_on_the_number_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    made, codes = prior(), torch.randint(5, (6, 1, 4, 4), generator=seeded())

    def loss() -> float:
        torch.manual_seed(0)
        return made.loss(Batch(codes)).total.item()

    alone = loss()
    monkeypatch.setattr("smalti.nn.collectives.rank_and_world", lambda: (0, 4))
    assert loss() == alone
