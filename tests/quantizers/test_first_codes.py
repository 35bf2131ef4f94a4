"""The first codes of residual quantizers, used alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from smalti.core.errors import InputError
from smalti.core.parts import Quantizer
from smalti.quantizers.fsq import FSQ
from smalti.quantizers.residual import ResidualVQ
from smalti.quantizers.residual_fsq import ResidualFSQ
from smalti.tokenizer import Tokenizer, load
from tests.runs import TINY, Result

QUANTIZERS: dict[str, Callable[[], Quantizer]] = {
    "plain": lambda: ResidualVQ(4, 11, 3),
    "projected": lambda: ResidualVQ(4, 11, 3, codebook="gradient", code_dim=2, normalize="search"),
    "split": lambda: ResidualVQ(4, 11, 3, codebook="gradient", code_dim=2, split_first=True),
    "channel_last": lambda: ResidualVQ(4, 11, 3, channel_last=True),
    "fsq": lambda: ResidualFSQ((5, 4, 4, 3), 3),
}


@pytest.mark.parametrize("kind", QUANTIZERS)
@pytest.mark.parametrize("num", [1, 2, 3])
@torch.no_grad()
def test_they_are_those_of_the_whole(kind: str, num: int) -> None:
    torch.manual_seed(0)
    whole = QUANTIZERS[kind]()
    latents = torch.randn(2, 4, 4)
    whole(latents)
    whole.eval()
    first = whole.first(num)
    assert first.num_codebooks == first.config.num_quantizers == num
    assert not first.training
    axis = -1 if kind == "channel_last" else 1
    codes = whole.encode(latents)
    assert torch.equal(first.encode(latents), codes.narrow(axis, 0, num))
    again = type(whole).from_settings(first.settings())
    again.load_state_dict(first.state_dict())
    again.eval()
    assert torch.equal(again.decode(first.encode(latents)), first.decode(first.encode(latents)))
    if num == 3:
        assert torch.equal(first.decode(codes), whole.decode(codes))
    before = torch.get_rng_state()
    whole.train().first(num).eval().double()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(part.training for part in whole.modules())
    assert {each.dtype for each in whole.parameters()} <= {torch.float32}


@pytest.mark.parametrize("kind", ["plain", "fsq"])
@torch.no_grad()
def test_what_is_decoded_is_what_dropout_decodes(kind: str) -> None:
    torch.manual_seed(0)
    made: dict[str, Quantizer] = {
        "plain": ResidualVQ(4, 11, 3, quantizer_dropout=1.0, codebook="gradient"),
        "fsq": ResidualFSQ((5, 4, 4, 3), 3, quantizer_dropout=1.0),
    }
    whole = made[kind].train()
    latents = torch.randn(64, 4, 5)
    quantized = whole(latents)
    seen = set()
    for item, codes in zip(quantized.latents, quantized.codes, strict=True):
        options = [whole.first(num).decode(codes[None, :num])[0] for num in (1, 2, 3)]
        seen.add(int(np.argmin([(item - each).abs().max() for each in options])))
        assert min(float((item - each).abs().max()) for each in options) < 1e-5
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("num", [0, 4, -1, 1.0, True, "2"])
def test_numbers_that_do_not_fit(num: object) -> None:
    for quantizer in (ResidualVQ(4, 11, 3), ResidualFSQ((5, 4, 4, 3), 3)):
        with pytest.raises(InputError, match="from 1 to 3"):
            quantizer.first(num)


def test_other_quantizers_need_all_codes() -> None:
    with pytest.raises(InputError, match="residual quantizer"):
        FSQ((5, 4)).first(1)


def test_a_tokenizer_of_the_first_codes(
    smalti: Callable[..., Result], pictures: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = [*TINY, "model.quantizer.kind=residual", "model.quantizer.num_quantizers=3", "code_dim=none"]
    trained = smalti("train", "image", "--data", pictures, "--out", run, *settings, "--quiet")
    assert trained.status == 0, trained.err
    whole = load(run)
    low = Tokenizer(whole.trained.first_codes(2))
    files = sorted(pictures.rglob("*.png"))[:3]
    codes = low.encode(files)
    assert codes.shape == (3, 2, *whole.code_shape[1:])
    assert torch.equal(codes, whole.encode(files)[:, :2])
    low.save_pretrained(tmp_path / "low")
    again = load(tmp_path / "low")
    assert torch.equal(again.decode(codes), low.decode(codes))
    result = smalti("encode", tmp_path / "low", "--data", pictures, "--out", tmp_path / "codes", "--quiet")
    assert result.status == 0, result.err
    result = smalti("decode", tmp_path / "low", tmp_path / "codes", "--out", tmp_path / "decoded", "--quiet")
    assert result.status == 0, result.err
    with pytest.raises(InputError, match="from 1 to 2"):
        low.trained.first_codes(3)
