"""Named columns in the tool: names of ids are kept in a run, and data must have what a model reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smalti.app.commands.train_prior import _encode_training_data
from smalti.app.data import open_loader
from smalti.app.runs import DATA_DIRECTORY
from smalti.conditioners.embedding import Embedding
from smalti.core.conditioners import condition_names
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.data.store import Store
from smalti.data.store_layout import Decoded
from smalti.tokenizer import load
from tests.runs import TINY, TINY_PRIOR, Result


def test_names_of_ids_are_kept_by_a_run_and_a_saved_model(run: Path, tmp_path: Path) -> None:
    file = run / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"columns": {"mood": ["calm", "wild"]}}))
    tokenizer = load(run)
    assert tokenizer.trained.columns == {"mood": ("calm", "wild")}
    tokenizer.save_pretrained(tmp_path / "saved")
    assert load(tmp_path / "saved").trained.columns == tokenizer.trained.columns
    for damaged in (["mood"], {"mood": "calm"}, {"mood": [1]}):
        file.write_text(json.dumps(config | {"columns": damaged}))
        with pytest.raises(InputError, match="'columns'"):
            load(run)


def test_data_that_lacks_a_condition_of_the_model_is_not_opened(run: Path) -> None:
    tokenizer = load(run, device="cpu")
    store, modality, model = Store.open(run / DATA_DIRECTORY), tokenizer.modality, tokenizer.autoencoder
    cpu = torch.device("cpu")
    assert open_loader(store, modality, model, 4, cpu).batch(0).data.shape[0] == 4
    decoder: Any = model.decoder
    decoder.conditioners.by_name["mood"] = Embedding(decoder.config.channels, num_ids=2)
    with pytest.raises(InputError) as error:
        open_loader(store, modality, model, 4, cpu)
    assert all(name in str(error.value) for name in ("'mood'", "label"))


def test_conditioners_of_the_command_line_are_restored(
    smalti: Callable[..., Result], pictures: Path, tmp_path: Path
) -> None:
    """Both stages read the label by a conditioner; what is loaded depends on it."""
    label = ("conditioners.label.kind=embedding", "conditioners.label.num_ids=2")
    train = ["train", "image", "--data", pictures, "--out", tmp_path / "run", *TINY, "training.steps=1"]
    assert smalti(*train, *(f"decoder.{each}" for each in label), "--quiet").status == 0
    prior = ["train-prior", tmp_path / "run", *TINY_PRIOR, "training.steps=1", "--quiet"]
    assert smalti(*prior, *(f"network.{each}" for each in label)).status == 0
    tokenizer = load(tmp_path / "run", device="cpu")
    assert tokenizer.learned is not None
    network, decoder = tokenizer.learned.network, tokenizer.autoencoder.decoder
    assert condition_names(network) == condition_names(decoder) == {"label"}
    codes = torch.zeros(2, *tokenizer.code_shape, dtype=torch.int64)
    labels = Conditions(label=torch.tensor([0, 1]))
    for one, other in (tokenizer.decode_signals(codes, conditions=labels), network(codes, labels)):
        assert not torch.equal(one, other)
    assert smalti(*prior).status == 2  # without the conditioners it is another prior


def test_codes_for_a_prior_keep_the_columns_that_fit_them(run: Path, tmp_path: Path) -> None:
    """Codes that span several frames (here: rows) have no values per frame."""
    tokenizer = load(run, device="cpu")
    shape = tokenizer.modality.stored_shape
    items = [
        Decoded(f"{i}", np.full(shape, i, np.uint8), columns={"mood": mood, "row": ("a",) * 16})
        for i, mood in enumerate(("wild", "calm", "wild"))
    ]
    names = {"mood": ("wild", "calm", "bored")}
    data = Store.write(run / DATA_DIRECTORY, items, shape, np.uint8, column_names=names)
    encoded = list(tokenizer.encode_items(data))
    assert [item.columns for item in encoded] == [data.columns_of(i) for i in range(3)]
    _encode_training_data(tokenizer, run, tmp_path / "codes", quiet=True)
    codes = Store.open(tmp_path / "codes")
    assert set(codes.columns) == {"mood"}
    assert codes.columns["mood"].spec.names == names["mood"]
    assert codes.columns["mood"].data.tolist() == [0, 1, 0]
