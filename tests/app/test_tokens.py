"""`smalti tokens`: files of tokens from codes, and a language model that learns them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smalti.app.commands.tokens import tokens
from smalti.data.codes import read_codes
from smalti.tokenizer import load
from smalti.tokens import TokenLayout
from tests.runs import Result, command, digests

Mistake = Callable[..., str]
Smalti = Callable[..., Result]


@pytest.fixture(scope="module")
def shards(trained: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("codes") / "shards"
    assert command("encode", trained, "--data", pictures, "--out", out, "--shards", 3, "--quiet").status == 0
    return out


@pytest.fixture(scope="module")
def written(codes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of all pictures, as arrays."""
    out = tmp_path_factory.mktemp("tokens") / "tokens"
    words = ["--to", "npy", "--separators", "bos,eos,row", "--offset", 10, "--out", out]
    assert command("tokens", codes, *words).status == 0
    return out


def sequences(folder: Path) -> np.ndarray:
    """The tokens of items of equal length, `(N, T)`."""
    offsets = np.load(folder / "offsets.npy")
    return np.load(folder / "tokens.npy").reshape(len(offsets) - 1, -1).astype(np.int64)


def test_tokens_are_those_of_the_codes(codes: Path, written: Path) -> None:
    layout = TokenLayout.read(written / "tokens.json")
    assert (layout.separators, layout.offset) == ({"bos": 10, "eos": 11, "row": 12}, 13)
    rows = [grid for batch in read_codes(codes)[1] for grid in batch[1]]
    for row, grid in zip(sequences(written), rows, strict=True):
        assert np.array_equal(layout.codes(row), grid)


def test_shards_give_the_tokens_of_one_table(shards: Path, written: Path, tmp_path: Path) -> None:
    tokens(shards, tmp_path / "tokens", "npy", "bos,eos,row", 10, quiet=True)
    assert digests(tmp_path / "tokens") == digests(written)


def test_only_the_files_of_the_plan_are_read(shards: Path, written: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(shards, tmp_path / "shards"))
    shutil.copy(next(own.glob("*.parquet")), own / "copy.parquet")
    for out in (own / "tokens", own / "again"):
        tokens(own, out, "npy", "bos,eos,row", 10, quiet=True)
        assert digests(out) == digests(written)


def test_known_tokens(codes: Path, tmp_path: Path) -> None:
    tokens(codes, tmp_path / "tokens", "npy", "eos=2,row", 32_000, 0, quiet=True)
    layout = TokenLayout.read(tmp_path / "tokens" / "tokens.json")
    assert (layout.separators, layout.offset, layout.stride) == ({"row": 32_000, "eos": 2}, 32_001, 0)
    tokens(codes, tmp_path / "bare", "npy", "none", quiet=True)
    assert np.load(tmp_path / "bare" / "tokens.npy").size == 40 * 16


@pytest.mark.parametrize(
    "words",
    [
        ["--to", "json"],
        ["--separators", "bos,end"],
        ["--separators", "eos=two"],
        ["--stride", "3"],
        ["--separators", "frame"],
    ],
)
def test_what_is_impossible(words: list[str], codes: Path, tmp_path: Path, mistake: Mistake) -> None:
    mistake("tokens", codes, "--out", tmp_path / "tokens", *words)
    assert not list(tmp_path.iterdir())


def test_what_is_incomplete(
    shards: Path, codes: Path, written: Path, tmp_path: Path, mistake: Mistake
) -> None:
    mistake("tokens", codes, "--out", written)
    mistake("tokens", tmp_path, "--out", tmp_path / "tokens")
    own = Path(shutil.copytree(shards, tmp_path / "shards"))
    (own / "manifest" / "00001.json").unlink()
    mistake("tokens", own, "--out", tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


class Recurrent(nn.Module):
    """A next-token model of one recurrent layer."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 32)
        self.layer = nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(64, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(tokens))[0])


def gpt2(vocabulary: int) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=vocabulary, **sizes))


@pytest.mark.parametrize("kind", ["recurrent", "gpt2"])
def test_a_model_of_the_tokens_generates_pictures(kind: str, trained: Path, written: Path) -> None:
    torch.manual_seed(0)
    layout = TokenLayout.read(written / "tokens.json")
    model = {"recurrent": Recurrent, "gpt2": gpt2}[kind](layout.vocabulary_size)
    data = torch.from_numpy(sequences(written))

    def logits(given: Tensor) -> Tensor:
        out = model(given)
        return out if isinstance(out, Tensor) else out.logits

    def loss() -> Tensor:
        return nn.functional.cross_entropy(logits(data[:, :-1]).flatten(0, 1), data[:, 1:].flatten())

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(loss())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    drawn = [layout.separators["bos"]]
    with torch.no_grad():
        while len(allowed := layout.allowed(drawn)):
            scores = logits(torch.tensor([drawn]))[0, -1, allowed]
            drawn.append(int(allowed[torch.multinomial(scores.softmax(0), 1)]))
    codes = layout.codes(np.array(drawn))
    picture = load(trained, "cpu").decode(codes[None])
    assert picture.shape == (1, 3, 16, 16)
    assert picture.dtype == torch.uint8
