"""The cost of a label: counted once for each item, by the prior or for the decoder."""

import math

import pytest
import torch

from smalti.autoregressive.wavenet import WaveNetConfig
from smalti.core.conditions import Batch, Conditions
from smalti.core.signals import SignalSpec
from smalti.decoders.conv import ConvDecoderConfig
from smalti.evaluation.bounds import measure
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.priors.autoregressive import LearnedPrior
from smalti.priors.labelled import LabelledPrior
from smalti.priors.uniform import UniformPrior
from smalti.priors.unigram import UnigramPrior
from tests.models import tiny

NUM_CLASSES = 3
LABELS = Conditions(label=torch.tensor([0, 1, -1, 2]))
COST = math.log(NUM_CLASSES) * torch.tensor([1.0, 1.0, 0.0, 1.0])


def model(use_labels: bool) -> VQVAE:
    torch.manual_seed(0)
    decoder = ConvDecoderConfig.tiny().model_copy(update={"use_labels": use_labels})
    quantizer = VQVAEConfig.tiny().quantizer.model_copy(update={"num_codebooks": 1})
    config = VQVAEConfig.tiny().model_copy(update={"decoder": decoder, "quantizer": quantizer})
    made = config.build(SignalSpec(1, (32,)), {"label": NUM_CLASSES})
    made.loss(Batch(tiny.signals(made.signal, 8, seed=5), Conditions(label=torch.zeros(8).long())))
    return made.eval()


@pytest.mark.parametrize("use_labels", [True, False])
@torch.no_grad()
def test_a_label_is_paid_for_once(use_labels):
    """By a prior over labels, or for a label-conditional decoder; never twice."""
    made = model(use_labels)
    sizes = (made.num_codes, made.num_codebooks, made.grid)
    network = WaveNetConfig.tiny().build(*sizes[:2], {"label": NUM_CLASSES}).eval()
    tiny.exaggerate(network)
    learned = LearnedPrior(network, made.grid)
    priors = [UniformPrior(*sizes), UnigramPrior(*sizes), learned, LabelledPrior(learned)]
    x = tiny.signals(made.signal)
    bounds = measure(made, Batch(x, LABELS), priors).bounds
    codes = made.encode(x)
    for_decoder = COST if use_labels else torch.zeros(4)
    assert made.num_label_classes == (NUM_CLASSES if use_labels else 0)
    for prior in priors[:3]:
        torch.testing.assert_close(bounds[prior.name].rate, for_decoder - prior.log_prob(codes))
    torch.testing.assert_close(bounds["learned+class"].rate, COST - learned.log_prob(codes, LABELS))
    assert not torch.allclose(learned.log_prob(codes, LABELS), learned.log_prob(codes))
    # Without labels nobody pays.
    unlabelled = measure(made, Batch(x), priors).bounds
    for name, bound in unlabelled.items():
        torch.testing.assert_close(bound.rate, unlabelled["learned" if "+" in name else name].rate)
    torch.testing.assert_close(unlabelled["learned"].rate, -learned.log_prob(codes))
