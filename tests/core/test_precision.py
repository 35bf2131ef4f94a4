"""Settings of torch that a caller makes for its own networks change neither weights, codes nor signals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import smalti
from smalti.core.precision import unrounded_products
from smalti.core.weights import fingerprint
from smalti.data.sources import open_source
from smalti.quantizers.vq import VectorQuantizer
from tests.runs import smooth


@contextmanager
def autocast() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16):
        yield


@contextmanager
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def results(run: Path, pictures: Path) -> dict[str, Any]:
    """All that a tokenizer gives; it is loaded under the settings, too."""
    tokenizer = smalti.load(run, "cpu")
    rng = np.random.default_rng(0)
    images = [smooth(rng) for _ in range(4)]
    codes = tokenizer.encode(images)
    source = open_source(str(pictures), tokenizer.modality.extensions)
    return {
        "fingerprint": tokenizer.fingerprint,
        "codes": codes,
        "of a source": torch.stack([item.codes for item in tokenizer.encode_items(source)]),
        "decoded": tokenizer.decode(codes),
        "reconstructed": tokenizer.reconstruct(images),
        "sampled": tokenizer.sample(2, seed=0),
        "alone": tokenizer.autoencoder.encode(
            torch.linspace(-1, 1, 768, dtype=torch.float32).view(1, 3, 16, 16)
        ),
    }


@pytest.mark.parametrize("settings", [autocast, double_by_default])
def test_a_tokenizer_computes_in_float32(settings: Any, trained: Path, pictures: Path) -> None:
    expected = results(trained, pictures)
    with settings():
        received = results(trained, pictures)
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert received[name].dtype == value.dtype, name
            assert torch.equal(received[name], value), name
        else:
            assert received[name] == value, name


def test_a_part_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    quantizer = VectorQuantizer(dim=4, num_codes=8).eval()
    quantizer.save_pretrained(tmp_path)
    with double_by_default():
        loaded = VectorQuantizer.from_pretrained(tmp_path)
    assert fingerprint(loaded) == fingerprint(quantizer)


@pytest.mark.parametrize(
    ("device", "names"), [("cpu", ("mkldnn.matmul",)), ("cuda", ("cuda.matmul", "cudnn.conv", "cudnn.rnn"))]
)
def test_products_are_not_rounded_and_settings_come_back(device: str, names: tuple[str, ...]) -> None:
    settings = [attrgetter(name)(torch.backends) for name in names]
    torch.set_float32_matmul_precision("medium")
    try:
        before = [each.fp32_precision for each in settings]
        assert set(before) <= {"tf32", "bf16"}
        with unrounded_products(device):
            assert {each.fp32_precision for each in settings} == {"ieee"}
        assert [each.fp32_precision for each in settings] == before
    finally:
        torch.set_float32_matmul_precision("highest")
