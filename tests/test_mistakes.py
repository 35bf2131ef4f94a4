"""Mistakes at the public face get one sentence: what was expected, what was received, what to do.

They are made in another process, because the tests check the types of all arguments before smalti sees them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import smalti

PROGRAM = """
import json, sys
import numpy as np
import torch
from torch import nn
import smalti

nan = float("nan")
vq, fsq, residual = smalti.VectorQuantizer(4, 8), smalti.FSQ((3, 4)), smalti.ResidualVQ(4, 8, 2)
last = smalti.VectorQuantizer(4, 8, channel_last=True)
network = smalti.GatedPixelCNN(num_codes=8, channels=4, layers=2)
prior = smalti.LearnedPrior(network, (4, 2))
signal = smalti.SignalSpec(3, (16, 16))
likelihood = smalti.GaussianFamily(channels=3)

def model(encoder, decoder):
    return smalti.VQVAE(encoder, smalti.VectorQuantizer(4, 8), decoder, likelihood, signal)

foreign = model(nn.Conv2d(3, 4, 4, 4), nn.ConvTranspose2d(4, 3, 4, 4)).eval()
tokenizer = smalti.load(sys.argv[1], "cpu")
caught = {}
for mistake in json.load(sys.stdin):
    try:
        caught[mistake] = ["nothing", str(eval(mistake))]
    except Exception as error:
        caught[mistake] = [type(error).__name__, str(error)]
print(json.dumps(caught))
"""

MISTAKES = {
    "smalti.FSQ(8)": "received 8",
    "smalti.FSQ('8,5')": "received '8,5'",
    "vq(np.zeros((2, 4, 3)))": "ndarray",
    "vq.encode(np.zeros((2, 4, 3)))": "ndarray",
    "fsq(np.zeros((2, 2, 3)))": "ndarray",
    "fsq.encode([[0.0, 1.0]])": "list",
    "residual.encode(np.zeros((2, 4, 3)))": "ndarray",
    "vq.decode(torch.zeros(2, 1, 3))": "float32",
    "vq.decode(np.zeros((2, 1, 3), np.int64))": "ndarray",
    "last.decode(np.zeros((2, 3, 1), np.int64))": "ndarray",
    "last.decode(torch.zeros(2, 3, 1))": "float32",
    "fsq.decode(torch.zeros(2, 1, 3, dtype=torch.uint8))": "uint8",
    "residual.decode(torch.zeros(2, 2, 3).double())": "float64",
    "network(torch.zeros(1, 1, 2, 2))": "float32",
    "foreign.decode(torch.zeros(1, 1, 4, 4))": "float32",
    "tokenizer.decode(torch.zeros(1, 1, 4, 4))": "float32",
    "tokenizer.decode(np.zeros((1, 1, 4, 4), np.int64))": "ndarray",
    "tokenizer.decode(torch.full((1, 1, 4, 4), 16))": "from 16 to 16",
    "prior.sample(1, given=torch.full((1, 1, 2, 2), 8))": "from 8 to 8",
    "prior.sample(1, given=torch.full((1, 1, 2, 2), -1))": "from -1 to -1",
    "prior.sample(1, given=torch.zeros(1, 1, 2, 2))": "float32",
    "smalti.sample(network, 1, (4, 2), given=np.zeros((1, 1, 2, 2), np.int64))": "ndarray",
    "smalti.SignalSpec(3, (32, 0))": "(32, 0)",
    "smalti.SignalSpec(3, (32, -1))": "(32, -1)",
    "smalti.SignalSpec(3, (32.5, 32))": "(32.5, 32)",
    "smalti.SignalSpec(3, ())": "()",
    "smalti.SignalSpec(3, 32)": "32",
    "smalti.SignalSpec(0, (8, 8))": "0",
    "smalti.SignalSpec(3, (8, 8), 4, domain=smalti.Levels(4))": "both",
    "smalti.SignalSpec(2, (8,), domain=smalti.Continuous((0.0,), (1.0,)))": "received 1",
    "smalti.Levels(0)": "received 0",
    "smalti.Levels(1)": "received 1",
    "smalti.Levels(2.5)": "received 2.5",
    "smalti.Continuous((0.0,), (0.0,))": "(0.0,)",
    "smalti.Continuous((0.0, 0.0), (1.0, -1.0))": "-1.0",
    "smalti.Continuous((0.0,), (nan,))": "nan",
    "smalti.Continuous((nan,), (1.0,))": "nan",
    "smalti.Continuous(0.0, 1.0)": "0.0",
    "smalti.Continuous((0.0,), ())": "1 and 0",
    "foreign.encode(torch.zeros(1, 3, 18, 16))": "18x16",
    "foreign.loss(smalti.Batch(torch.zeros(1, 3, 16, 15)))": "16x15",
    "foreign.encode(torch.zeros(3, 16, 16))": "received 16",
    "model(nn.Conv2d(3, 4, 3, 2), nn.Identity())": "(1, 4, 7, 7)",
    "model(nn.Conv2d(3, 4, 4, 4), smalti.ConvDecoder(4, 3, strides=(2,)))": "(1, 3, 8, 8)",
    "model(smalti.ConvEncoder(3, 4, strides=(2, 2, 2)), smalti.ConvDecoder(4, 3))": "(1, 3, 8, 8)",
}
EQUALITIES = (
    "smalti.SignalSpec(3, [8, 8]) == smalti.SignalSpec(3, (8, 8))",
    "smalti.SignalSpec(np.int64(3), (np.int32(8),)).to_json() == smalti.SignalSpec(3, (8,)).to_json()",
    "smalti.Continuous([0, 1], np.ones(2)) == smalti.Continuous((0.0, 1.0), (1.0, 1.0))",
    "smalti.FSQ([3, 4]).config == smalti.FSQ((3, 4)).config",
)


@pytest.fixture(scope="module")
def caught(trained: Path) -> dict[str, list[str]]:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, trained],
        input=json.dumps([*MISTAKES, *EQUALITIES]),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ran.stdout)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_a_sentence(mistake: str, caught: dict[str, list[str]]) -> None:
    kind, message = caught[mistake]
    assert kind == "InputError", message
    assert message.startswith("expected ")
    assert "received " in message
    assert MISTAKES[mistake] in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("equality", EQUALITIES)
def test_lists_and_tuples_are_the_same(equality: str, caught: dict[str, list[str]]) -> None:
    assert caught[equality] == ["nothing", "True"]


def test_a_tokenizer_takes_lists_and_tuples(trained: Path, pictures: Path) -> None:
    tokenizer = smalti.load(trained, "cpu")
    files = sorted(pictures.rglob("*.png"))[:2]
    codes = tokenizer.encode(files)
    assert torch.equal(tokenizer.encode(tuple(files)), codes)
    parts = codes.split(1)
    decoded = tokenizer.decode(tuple(parts))
    assert isinstance(decoded, list)
    assert all(torch.equal(*pair) for pair in zip(decoded, tokenizer.decode(list(parts)), strict=True))
    assert torch.equal(torch.cat(decoded), tokenizer.decode(codes))
