"""Mistakes at the public face get one sentence: what was expected, what was received, what to do.

They are made in another process, because the tests check the types of all arguments before smalti sees them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import smalti
from tests import forked

PROGRAM = """
import json, sys
import numpy as np
import torch
from torch import nn
import smalti
from smalti.modalities.audio import waveforms
from smalti.models.vae import VAE
from smalti.models.vimco import VIMCO

nan = float("nan")
vq, fsq, residual = smalti.VectorQuantizer(4, 8), smalti.FSQ((3, 4)), smalti.ResidualVQ(4, 8, 2)
last = smalti.VectorQuantizer(4, 8, channel_last=True)
frozen = smalti.VectorQuantizer(4, 8, codebook="frozen")
network = smalti.GatedPixelCNN(num_codes=8, channels=4, layers=2)
prior = smalti.LearnedPrior(network, (4, 2))
signal = smalti.SignalSpec(3, (16, 16))
likelihood = smalti.GaussianFamily(channels=3)

def model(encoder, decoder):
    return smalti.VQVAE(encoder, smalti.VectorQuantizer(4, 8), decoder, likelihood, signal)

foreign = model(nn.Conv2d(3, 4, 4, 4), nn.ConvTranspose2d(4, 3, 4, 4)).eval()
tokenizer = smalti.load(sys.argv[1], "cpu")
codes = torch.zeros(2, 1, 4, 4, dtype=torch.int64)
pixels = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
caught = {}
for mistake in json.loads(sys.argv[2]):
    try:
        caught[mistake] = ["nothing", str(eval(mistake))]
    except Exception as error:
        caught[mistake] = [type(error).__name__, str(error)]
print(json.dumps(caught))
"""

MISTAKES = {
    "smalti.VectorQuantizer('4', 8)": "'4'",
    "smalti.VectorQuantizer(4, 'many')": "'many'",
    "smalti.VectorQuantizer(4, 8, 0)": "received 0",
    "smalti.VectorQuantizer(4, 8, commitment_weight=None)": "commitment_weight",
    "smalti.VectorQuantizer(4, 8, codebook=5)": "received 5",
    "smalti.VectorQuantizer(4, 8, gradient=5)": "received 5",
    "smalti.VectorQuantizer(4, 8, normalize='unit')": "'unit'",
    "smalti.ResidualVQ(None)": "dim",
    "smalti.ResidualVQ(4, 8, 'two')": "'two'",
    "smalti.ResidualVQ(4, 8, 2, code_dim='two')": "'two'",
    "smalti.MultiScaleVQ(4, 8, 3)": "received 3",
    "smalti.MultiScaleVQ(4, 8, '1,2')": "'1,2'",
    "smalti.IBQ(None)": "dim",
    "smalti.IBQ(4, 1)": "received 1",
    "smalti.IBQ()(None)": "NoneType",
    "smalti.LFQ('ten')": "'ten'",
    "smalti.BSQ(4, temperature=0)": "received 0",
    "smalti.FSQ((8, 1))": "received 1",
    "smalti.FSQ((8, 'five'))": "'five'",
    "smalti.FSQ((8, 5), 'relu')": "'relu'",
    "smalti.ResidualFSQ((8, 5), 0)": "received 0",
    "vq(torch.zeros(2, 4, 3, dtype=torch.complex64))": "complex64",
    "smalti.nearest_codes(torch.zeros(5, 3), torch.zeros(4, 2))": "(5, 3) and (4, 2)",
    "smalti.nearest_codes(torch.zeros(2**12, 64), torch.zeros(2**8, 32))": "(256, 32)",
    "smalti.nearest_codes(torch.zeros(5, 3, 2), torch.zeros(4, 2))": "(5, 3, 2)",
    "smalti.nearest_codes(torch.zeros(5, 2), torch.zeros(0, 2))": "(0, 2)",
    "smalti.nearest_codes(np.zeros((5, 2)), torch.zeros(4, 2))": "ndarray",
    "frozen.codebook.set(torch.zeros(1, 4))": "(1, 4)",
    "frozen.codebook.set(torch.full((1, 8, 4), nan))": "finite",
    "smalti.LearnedPrior(network, (0, 4))": "(0, 4)",
    "smalti.LearnedPrior(network, (4, 2, 2))": "(4, 2, 2)",
    "smalti.LearnedPrior(network, 4)": "received 4",
    "smalti.UniformPrior(0, 1, (2,))": "received 0",
    "smalti.UniformPrior(8, 1.5, (2,))": "1.5",
    "smalti.UniformPrior(8, 1, ())": "()",
    "smalti.UnigramPrior(8, 1, (2, -1))": "(2, -1)",
    "smalti.UnigramPrior('8', 1, (2,))": "'8'",
    "smalti.UnigramPrior(8, 1, (2,), -1.0)": "-1.0",
    "smalti.FSQ(8)": "received 8",
    "smalti.FSQ('8,5')": "received '8,5'",
    "smalti.ResidualFSQ('8,5')": "received '8,5'",
    "smalti.ResidualFSQ((8, 8), 8)": "received 8",
    "smalti.LFQ(64)": "received 64",
    "smalti.BSQ(64)": "received 64",
    "smalti.UnigramPrior(2**40, 1, (2,))": "1,099,511,627,776",
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
    "tokenizer.decode(np.zeros((1, 1, 4, 4)))": "float64",
    "tokenizer.decode(torch.zeros(1, 1, 4, 4, dtype=torch.bool))": "bool",
    "tokenizer.decode([[[0, 1], [2]]])": "list",
    "tokenizer.decode(np.full((1, 1, 4, 4), 2**64 - 1, np.uint64))": str(2**64 - 1),
    "tokenizer.decode('codes')": "str",
    "tokenizer.decode(None)": "NoneType",
    "tokenizer.decode([])": "list",
    "tokenizer.decode(np.zeros((0, 1, 4, 4), np.int64))": "at least one",
    "tokenizer.decode(np.zeros((1, 16), np.int64))": "(1, 16)",
    "tokenizer.decode(codes, batch_size=0)": "received 0",
    "tokenizer.decode(codes, seed=1.5)": "1.5",
    "tokenizer.decode(codes, seed=2**70)": str(2**70),
    "tokenizer.decode(codes, temperature='hot')": "'hot'",
    "tokenizer.decode(codes, temperature=-1)": "-1",
    "tokenizer.decode(codes, class_name=['cat'])": "['cat']",
    "tokenizer.decode(codes, conditions={'label': 1})": "dict",
    "tokenizer.decode(codes, conditions=smalti.Conditions(label=torch.zeros(3, dtype=torch.int64)))": "3",
    "tokenizer.encode(pixels, batch_size=0)": "received 0",
    "tokenizer.encode(pixels, batch_size=2.5)": "2.5",
    "tokenizer.encode(pixels, class_name=7)": "7",
    "tokenizer.encode(pixels, sample_rate=16000)": "16000",
    "tokenizer.encode_items('folder')": "str",
    "tokenizer.reconstruct(pixels, batch_size=True)": "True",
    "tokenizer.sample(0)": "received 0",
    "tokenizer.sample(1.5)": "1.5",
    "tokenizer.sample('1')": "'1'",
    "tokenizer.sample_codes(2, batch_size=-1)": "-1",
    "tokenizer.sample_codes(2, seed='0')": "'0'",
    "tokenizer.sample_codes(2, temperature=nan)": "nan",
    "tokenizer.sample_codes(2, top_k=0)": "0",
    "tokenizer.sample_codes(2, top_k=2.5)": "2.5",
    "tokenizer.sample_codes(2, top_p='half')": "'half'",
    "tokenizer.sample_codes(2, prior=network)": "GatedPixelCNN",
    "tokenizer.sample_codes(2, prior='mine')": "'mine'",
    "tokenizer.sample_codes(2, length=3)": "3",
    "tokenizer.sample_codes(2, conditions=7)": "int",
    "tokenizer.rollout(codes, 'left')": "'left'",
    "tokenizer.rollout(np.zeros((1, 1, 4)), ['left'])": "float64",
    "tokenizer.rollout(codes, ['left'], num=1.5)": "1.5",
    "tokenizer.save_pretrained(7)": "7",
    "tokenizer.export(None)": "None",
    "smalti.Conditions(label=[1, 2])": "list",
    "tokenizer.sample(2, prior=None)": "NoneType",
    "smalti.VQVAEConfig.model_validate({}) and smalti.ENCODERS.parse('conv')": "kind` of an encoder",
    "smalti.evaluate(foreign, ['uniform'], [])": "str",
    "smalti.evaluate(foreign, smalti.UniformPrior(8, 1, (4, 4)), [])": "UniformPrior",
    "smalti.evaluate('model', [], [])": "str",
    "smalti.evaluate(foreign, [], smalti.Batch(torch.zeros(1, 3, 16, 16)))": "Batch",
    "smalti.evaluate(foreign, [], [torch.zeros(1, 3, 16, 16)])": "Tensor",
    "smalti.evaluate(foreign, [], [], draws=0)": "received 0",
    "smalti.PerItem(7)": "int",
    "smalti.TokenSequence.with_lengths(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([4, 1]))": "[4, 1]",
    "smalti.TokenSequence.with_lengths(torch.zeros(2, 3, dtype=torch.int64), [-1, 1])": "[-1, 1]",
    "smalti.TokenSequence.with_lengths(torch.zeros(2, 3, dtype=torch.int64), [3])": "[3]",
    "smalti.Batch([1])": "list",
    "smalti.Batch(torch.zeros(1, 3, 16, 16), {'label': 1})": "dict",
    "smalti.GatedPixelCNN(num_codes=8, channels=8, conditioners={'a': nn.Linear(2, 2)})": "Linear",
    "smalti.load(sys.argv[1], 'meta')": "'meta'",
    "model('encoder', nn.Identity())": "str",
    "model(nn.Conv2d(3, 4, 4, 4), None)": "NoneType",
    "smalti.VQVAE(nn.Identity(), nn.Identity(), nn.Identity(), likelihood, signal)": "Identity",
    "smalti.VQVAE(nn.Identity(), vq, nn.Identity(), 'gaussian', signal)": "str",
    "smalti.VQVAE(nn.Identity(), vq, nn.Identity(), likelihood, (3, 16, 16))": "tuple",
    "VAE(nn.Identity(), None, likelihood, signal, 4)": "NoneType",
    "VIMCO(7, nn.Identity(), likelihood, signal)": "int",
    "smalti.load(7)": "7",
    "smalti.load('x' * 300)": "xxx",
    "smalti.load('~nobody-of-this-name/run')": "~nobody-of-this-name",
    "tokenizer.save_pretrained('~nobody-of-this-name/run')": "~nobody-of-this-name",
    "smalti.load(sys.argv[1], 'nowhere')": "'nowhere'",
    "smalti.load(sys.argv[1], 'cuda:99')": "'cuda:99'",
    "vq.save_pretrained(b'x')": "b'x'",
    "prior.sample(1.5)": "1.5",
    "prior.sample(1, grid=7)": "7",
    "prior.sample(1, grid=(2, 'x'))": "'x'",
    "prior.sample(2, temperature='hot')": "'hot'",
    "tokenizer.trained.unigram.sample(1.5)": "1.5",
    "tokenizer.trained.unigram.sample(1, temperature=-2)": "-2",
    "tokenizer.priors['uniform'].sample(0)": "received 0",
    "waveforms.at_rate(np.zeros(9, np.float32), 0, 16000)": "received 0",
    "waveforms.at_rate(np.zeros(9, np.float32), '16k', 16000)": "'16k'",
    "waveforms.at_rate(np.zeros(9, np.int16), 8000, 16000)": "int16",
    "waveforms.at_rate(np.zeros(1, np.float32), 96000, 1000)": "no samples",
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
    "smalti.ResidualFSQ([3, 4]).config == smalti.ResidualFSQ((3, 4)).config",
)


@pytest.fixture(scope="module")
def caught(trained: Path) -> dict[str, list[str]]:
    printed = forked.run("-c", PROGRAM, trained, json.dumps([*MISTAKES, *EQUALITIES]))
    return json.loads(printed.splitlines()[-1])


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


@pytest.mark.parametrize("of", [np.int8, np.uint8, np.int16, ">i4", np.int64, np.uint64, "list", "rows"])
def test_codes_of_any_integer_type_are_decoded(of: Any, trained: Path) -> None:
    tokenizer = smalti.load(trained, "cpu")
    codes = torch.arange(32).view(2, 1, 4, 4) % 16
    given = codes.tolist() if of == "list" else codes.numpy()
    if of == "rows":
        # A column of lists, as in a table of codes.
        column = pa.array([row.ravel().tolist() for row in codes.numpy()], pa.list_(pa.int32()))
        given = column.flatten().to_numpy().reshape(2, *tokenizer.code_shape)
    elif of != "list":
        given = codes.numpy().astype(of)
    expected = tokenizer.decode(codes)
    assert torch.equal(tokenizer.decode(given), expected)
    if of != "list":
        parts = tokenizer.decode(list(np.split(given, 2)))
        assert torch.equal(torch.cat(parts), expected)
    assert torch.equal(tokenizer.decode(torch.as_tensor(codes, dtype=torch.uint16)), expected)
