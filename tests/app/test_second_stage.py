"""Pictures to codes, codes to codes of codes, and back: the second stage by the commands of a user."""

import numpy as np
import pytest
import torch

from smalti.data.codes import read_codes
from smalti.tokenizer import load
from tests.runs import TINY, TINY_PRIOR, command, smooth

STAGE = [
    "data.size=4,4",
    "data.num_codes=16",
    "encoder.network.strides=2,2",
    "encoder.network.channels=8",
    "encoder.channels=8",
    "decoder.channels=8",
    "decoder.network.channels=8",
    "decoder.network.layers=2",
    "decoder.network.head_channels=8",
    "quantizer.num_codes=8",
    "training.steps=10",
    "training.batch_size=8",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures, a run over them, its codes, and a run over those with a prior."""
    folder = tmp_path_factory.mktemp("stages")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for index in range(24):
        smooth(rng).save(folder / "pictures" / f"{index}.png")
    for words in (
        ("train", "image", "--data", folder / "pictures", "--out", folder / "one", *TINY),
        ("encode", folder / "one", "--data", folder / "pictures", "--out", folder / "codes.parquet"),
        ("train", "second-stage", "--data", folder / "codes.parquet", "--out", folder / "two", *STAGE),
        ("train-prior", folder / "two", *TINY_PRIOR),
    ):
        result = command(*words)
        assert result.status == 0, result.err
    return folder


def test_three_codes_name_a_grid(folder):
    result = command(
        "encode", folder / "two", "--data", folder / "codes.parquet", "--out", folder / "of_codes.parquet"
    )
    assert result.status == 0, result.err
    info, batches = read_codes(folder / "of_codes.parquet")
    assert (info.shape, info.num_codes) == ((3, 1, 1), 8)
    names = [name for batch in batches for name in batch[0]]
    assert names == [name for batch in read_codes(folder / "codes.parquet")[1] for name in batch[0]]


def test_what_it_draws_the_first_stage_decodes(folder):
    result = command("sample", folder / "two", "--num", 3, "--out", folder / "drawn")
    assert result.status == 0, result.err
    grids = np.stack([np.load(file) for file in sorted((folder / "drawn").glob("*.npy"))])
    assert grids.shape == (3, 1, 4, 4)
    decoded = load(str(folder / "one")).decode(torch.from_numpy(grids))
    assert decoded.shape == (3, 3, 16, 16)


def test_evaluate_says_what_its_codes_are_worth(folder):
    result = command("evaluate", folder / "two", "--data", folder / "codes.parquet")
    assert result.status == 0, result.err
    assert {"distortion_true", "distortion_shuffled", "distortion_none"} <= set(result.out.split())


def test_codes_of_another_size_are_refused(folder, tmp_path):
    words = ("train", "second-stage", "--data", folder / "codes.parquet", "--out", tmp_path / "run")
    result = command(*words, *STAGE[:1], "data.num_codes=8", *STAGE[2:])
    assert result.status == 2
    assert "8 codes" in result.err


def test_pictures_are_refused(folder, tmp_path):
    result = command("train", "second-stage", "--data", folder / "pictures", "--out", tmp_path / "run")
    assert result.status == 2
    assert "expected" in result.err
