"""Every part with every kind of signal: a model is built, trains and encodes, or its parts are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.parts import DECODERS, ENCODERS, LIKELIHOODS
from smalti.core.signals import Continuous, SignalSpec
from smalti.models.vqvae import VQVAEConfig
from smalti.quantizers.vq import VectorQuantizerConfig

SIGNALS = {
    "image": SignalSpec(3, (8, 8)),
    "waveform": SignalSpec(1, (64,), 256, 16_000),
    "log-mel": SignalSpec(8, (64,), sample_rate_hz=16_000),
    "clip": SignalSpec(3, (4, 8, 8)),
    "codes": SignalSpec(2, (8, 8), 5),
    "series": SignalSpec(2, (64,), domain=Continuous((0.0, 0.0), (1.0, 1.0))),
}
FITTING = {"codes": "categorical", "series": "normal"}
FAMILIES: dict[str, Any] = {"encoder": ENCODERS, "decoder": DECODERS, "likelihood": LIKELIHOODS}


def tiny(config: Any) -> Any:
    return config.tiny() if hasattr(config, "tiny") else config()


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_part_fits_a_signal_or_is_refused(family: str, signal: str) -> None:
    spec = SIGNALS[signal]
    kinds = {"encoder": "conv", "decoder": "conv", "likelihood": FITTING.get(signal, "logistic_mixture")}
    fitting = 0
    for kind, part in FAMILIES[family].kinds().items():
        if not part.__module__.startswith("smalti."):
            continue
        parts = {name: tiny(FAMILIES[name].get(own)) for name, own in kinds.items()} | {family: tiny(part)}
        config = VQVAEConfig(**parts, quantizer=VectorQuantizerConfig(num_codes=8, code_dim=4))
        try:
            model = config.build(spec, {"label": 3})
        except InputError:
            assert kind != kinds[family]
            continue
        data = torch.zeros(2, spec.channels, *spec.size)
        assert model.loss(Batch(data)).total.isfinite()
        model.eval().encode(data)
        fitting += 1
    assert fitting
