"""Codebook usage and perplexity over a split, against NumPy."""

import numpy as np
import pytest
import torch

from smalti.core.conditions import Batch
from smalti.evaluation.codebook import CodebookUse
from smalti.evaluation.evaluate import evaluate
from smalti.models.vqvae import VQVAEConfig
from smalti.priors.uniform import UniformPrior
from smalti.quantizers.lfq import LFQConfig
from tests.conformance.models import SPEC, signals


def by_hand(codes: np.ndarray, num_codes: int) -> tuple[float, float]:
    """Usage and perplexity of codes `(N, G, *grid)`, means over codebooks."""
    usage, perplexity = [], []
    for g in range(codes.shape[1]):
        p = np.bincount(codes[:, g].ravel(), minlength=num_codes) / codes[:, g].size
        usage.append((p > 0).mean())
        perplexity.append(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()))
    return float(np.mean(usage)), float(np.mean(perplexity))


@pytest.mark.parametrize("grid", [(5,), (3, 4), (2, 2, 3)])
@pytest.mark.parametrize("num_codebooks", [1, 3])
def test_over_the_split_and_not_the_batch(num_codebooks, grid):
    codes = np.random.default_rng(0).geometric(0.2, (30, num_codebooks, *grid)).clip(max=20) - 1
    use, of_batches = CodebookUse(num_codebooks, 24), []
    for batch in np.split(codes, [7, 14, 29]):
        use.update(torch.from_numpy(batch))
        of_batches.append(by_hand(batch, 24)[1])
    usage, perplexity = by_hand(codes, 24)
    computed = use.compute()
    assert computed["usage"] == pytest.approx(usage)
    assert computed["perplexity"] == pytest.approx(perplexity)
    assert computed["perplexity"] != pytest.approx(np.mean(of_batches), rel=0.01)
    assert use.counts.sum() == codes.size


def test_more_codes_than_a_table_holds():
    """2^36 codes give the figures of a table with as many codes as occur, also where codebooks are shared."""
    codes = torch.from_numpy(np.random.default_rng(0).geometric(0.2, (30, 3, 5)))
    small, large = CodebookUse(3, 64), CodebookUse(3, 2**36)
    for batch in codes.split([7, 14, 9]):
        small.update(batch)
        large.update(batch * (2**36 // 64))
    assert large.counts is None
    assert large.perplexities() == pytest.approx(small.perplexities())
    assert large.compute()["usage"] == pytest.approx(small.compute()["usage"] * 64 / 2**36)
    small.merge((0, 1, 0))
    large.merge((0, 1, 0))
    assert len(large.perplexities()) == 2
    assert large.perplexities() == pytest.approx(small.perplexities())


@pytest.mark.parametrize(
    ("codes", "usage", "perplexity"),
    [([0, 1, 2, 3], 1.0, 4.0), ([2, 2, 2], 0.25, 1.0), ([0, 0, 3, 3], 0.5, 2.0)],
)
def test_at_the_extremes(codes, usage, perplexity):
    use = CodebookUse(1, 4)
    use.update(torch.tensor(codes).view(1, 1, -1))
    assert use.compute() == pytest.approx({"usage": usage, "perplexity": perplexity})


def test_every_figure_has_its_protocol():
    use = CodebookUse(1, 4)
    use.update(torch.zeros(1, 1, 1, dtype=torch.int64))
    assert set(use.protocol()) == set(use.compute())


def test_a_model_of_very_many_codes_is_evaluated():
    model = VQVAEConfig.tiny().model_copy(update={"quantizer": LFQConfig(bits=36)}).build(SPEC).eval()
    x = signals(SPEC, 3)
    result = evaluate(model, [UniformPrior(2**36, 1, model.grid)], [Batch(x)])
    assert result.counts is None
    codes = model.encode(x)
    assert result.codebook["usage"] == len(codes.unique()) / 2**36
    rate = 36 * codes[0].numel() / x[0].numel()
    assert result.density["uniform"]["rate"] == pytest.approx(rate)
