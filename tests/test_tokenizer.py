"""A trained tokenizer: what it takes, what it gives, and what it takes along when it moves."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import smalti
from smalti.conditioners.projection import Projection
from smalti.core.conditions import Conditions, PerItem
from smalti.core.errors import InputError
from smalti.tokenizer import Tokenizer, load


@pytest.fixture(scope="module")
def tokenizer(trained: Path) -> Tokenizer:
    return load(trained)


@pytest.fixture(scope="module")
def files(pictures: Path) -> list[Path]:
    return sorted(pictures.rglob("*.png"))[:5]


@pytest.fixture(scope="module")
def pixels(files: list[Path]) -> torch.Tensor:
    def read(file: Path) -> np.ndarray:
        with Image.open(file) as picture:
            return np.array(picture)

    return torch.stack([torch.from_numpy(read(file)).permute(2, 0, 1) for file in files])


def test_load_gives_what_was_trained(tokenizer: Tokenizer, trained: Path) -> None:
    assert smalti.load is load
    assert isinstance(tokenizer, smalti.Tokenizer)
    assert tokenizer.classes == ("cat", "dog")
    assert tokenizer.code_shape == (1, 4, 4)
    assert list(tokenizer.priors) == ["uniform", "unigram", "learned", "learned+class"]
    assert not tokenizer.autoencoder.training
    assert tokenizer.learned is not None
    assert not tokenizer.learned.training
    assert tokenizer.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert load(str(trained), device="cpu").device.type == "cpu"
    # Every code of the 40 training pictures was counted.
    assert tokenizer.trained.unigram is not None
    assert tokenizer.trained.unigram.counts.sum() == 38 * 16  # two of 40 items are held out


@pytest.mark.parametrize(
    "form",
    [
        lambda pixels, files: pixels,
        lambda pixels, files: pixels.float() / 127.5 - 1,
        lambda pixels, files: pixels.numpy(),
        lambda pixels, files: pixels.permute(0, 2, 3, 1).numpy(),
        lambda pixels, files: files,
        lambda pixels, files: [str(file) for file in files],
        lambda pixels, files: [file.read_bytes() for file in files],
        lambda pixels, files: [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in pixels],
        lambda pixels, files: [pixels[0], files[1], pixels[2:4], str(files[4])],
    ],
    ids=["uint8", "floats", "array", "channels last", "paths", "names", "bytes", "PIL", "mixed"],
)
def test_encode_takes_a_picture_in_any_form(
    form: Callable[[torch.Tensor, list[Path]], Any],
    tokenizer: Tokenizer,
    pixels: torch.Tensor,
    files: list[Path],
) -> None:
    codes = tokenizer.encode(form(pixels, files))
    assert codes.dtype == torch.int64
    assert codes.shape == (5, 1, 4, 4)
    assert torch.equal(codes, tokenizer.autoencoder.encode(pixels.float() / 127.5 - 1))
    assert len(codes.unique()) > 1


def test_one_picture_is_a_batch_of_one(tokenizer: Tokenizer, pixels: torch.Tensor, files: list[Path]) -> None:
    codes = tokenizer.encode(pixels)[:1]
    for one in (pixels[0], files[0], str(files[0])):
        assert torch.equal(tokenizer.encode(one), codes)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_batches_change_nothing(batch_size: int, tokenizer: Tokenizer, pixels: torch.Tensor) -> None:
    codes = tokenizer.encode(pixels)
    assert torch.equal(tokenizer.encode(pixels, batch_size), codes)
    assert (tokenizer.decode(codes, batch_size).int() - tokenizer.decode(codes).int()).abs().max() <= 1


def test_what_is_no_picture_is_refused(tokenizer: Tokenizer, pixels: torch.Tensor, tmp_path: Path) -> None:
    for wrong, message in (
        (pixels.float(), r"floats in \[-1, 1\]"),
        (pixels.float() * float("nan"), r"floats in \[-1, 1\]"),
        (pixels.long(), "uint8"),
        (pixels[:, :, :8], r"shape \(B, 3, 16, 16\)"),
        ([], "empty list"),
        (tmp_path / "nowhere.png", "nowhere.png"),
        (7, "received int"),
    ):
        with pytest.raises(InputError, match=message):
            tokenizer.encode(wrong)


def test_decode_is_the_mean_of_the_likelihood(tokenizer: Tokenizer, pixels: torch.Tensor) -> None:
    codes = tokenizer.encode(pixels)
    decoded = tokenizer.decode(codes)
    assert decoded.dtype == torch.uint8
    assert decoded.shape == pixels.shape
    with torch.no_grad():
        mean = tokenizer.autoencoder.likelihood(codes).mean()
    assert torch.equal(decoded, ((mean + 1) * 127.5).round().clamp(0, 255).byte())
    assert torch.equal(tokenizer.reconstruct(pixels), decoded)


def test_wrong_codes_are_refused(tokenizer: Tokenizer, pixels: torch.Tensor) -> None:
    codes = tokenizer.encode(pixels)
    for wrong, message in (
        (codes[:, :, :2], r"codes of shape \(B, 1, 4, 4\), received \(5, 1, 2, 4\)"),
        (codes.expand(-1, 2, -1, -1), r"received \(5, 2, 4, 4\)"),
        (codes + 16, "expected codes from 0 to 15"),
        (codes - 16, "expected codes from 0 to 15"),
    ):
        with pytest.raises(InputError, match=message):
            tokenizer.decode(wrong)


def test_a_seed_draws_the_same_again(tokenizer: Tokenizer) -> None:
    first = tokenizer.sample_codes(6, seed=3)
    assert first.shape == (6, 1, 4, 4)
    assert torch.equal(tokenizer.sample_codes(6, seed=3), first)
    assert not torch.equal(tokenizer.sample_codes(6, seed=4), first)
    assert not torch.equal(tokenizer.sample_codes(6), tokenizer.sample_codes(6))
    assert torch.equal(tokenizer.sample(6, seed=3), tokenizer.decode(first))


def test_a_seed_leaves_other_draws_alone(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    tokenizer.sample(1, seed=3)
    assert torch.equal(torch.rand(3), expected)


def test_class_and_settings_reach_the_prior(tokenizer: Tokenizer) -> None:
    assert tokenizer.learned is not None
    # After a few training steps classes hardly differ, so this is exaggerated for a moment.
    tables = [
        p for name, p in tokenizer.learned.network.named_parameters() if name.endswith("condition.weight")
    ]
    assert tables
    kept = [table.detach().clone() for table in tables]
    try:
        for table in tables:
            table.data.mul_(100)
        drawn = [tokenizer.sample_codes(8, name, seed=0) for name in (None, "cat", "dog")]
    finally:
        for table, values in zip(tables, kept, strict=True):
            table.data.copy_(values)
    assert not torch.equal(drawn[1], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    greedy = tokenizer.sample_codes(2, temperature=0.0, seed=0)
    assert torch.equal(greedy[0], greedy[1])
    assert torch.equal(tokenizer.sample_codes(1, top_k=1, seed=5), greedy[:1])
    done: list[tuple[int, int]] = []
    tokenizer.sample_codes(1, progress=lambda now, total: done.append((now, total)))
    assert done == [(i, 16) for i in range(1, 17)]


def test_many_are_drawn_in_batches_of_one_generator(tokenizer: Tokenizer) -> None:
    done: list[tuple[int, int]] = []
    codes = tokenizer.sample_codes(
        5, seed=3, batch_size=2, progress=lambda now, total: done.append((now, total))
    )
    assert codes.shape == (5, 1, 4, 4)
    assert done == [(i, 48) for i in range(1, 49)]
    assert torch.equal(codes[:2], tokenizer.sample_codes(2, seed=3))
    assert not torch.equal(codes[:2], codes[2:4])
    with pytest.raises(InputError, match=r"num .*, received 0"):
        tokenizer.sample_codes(0)


def test_conditions_that_the_model_does_not_read_are_refused(
    tokenizer: Tokenizer, pixels: torch.Tensor
) -> None:
    codes = tokenizer.encode(pixels)
    given = Conditions(tempo=PerItem(torch.ones(len(codes), 1)))
    for call in (
        lambda: tokenizer.decode(codes, conditions=given),
        lambda: tokenizer.decode(list(codes.split(1)), conditions=given),
        lambda: tokenizer.sample(len(codes), conditions=given),
        lambda: tokenizer.sample_codes(len(codes), conditions=given),
    ):
        with pytest.raises(InputError, match="'tempo'"):
            call()


@pytest.fixture
def tempo(tokenizer: Tokenizer) -> Iterator[None]:
    """Give the decoder a conditioner on `tempo`, for one test."""
    decoder: Any = tokenizer.autoencoder.decoder
    projection = Projection(decoder.config.channels, dim=1).to(tokenizer.device).eval()
    torch.nn.init.constant_(projection.linear.weight, 5.0)
    decoder.conditioners.by_name["tempo"] = projection
    yield
    del decoder.conditioners.by_name["tempo"]


@pytest.mark.usefixtures("tempo")
def test_conditions_reach_the_decoder_item_by_item(tokenizer: Tokenizer, pixels: torch.Tensor) -> None:
    codes = tokenizer.encode(pixels)
    given = Conditions(tempo=PerItem(torch.arange(float(len(codes))).unsqueeze(1)))
    decoded = tokenizer.decode(codes, conditions=given)
    assert torch.equal(tokenizer.decode(codes, batch_size=2, conditions=given), decoded)
    alone = [tokenizer.decode(codes[[i]], conditions=given.part([i])) for i in range(len(codes))]
    assert torch.equal(torch.cat(alone), decoded)
    assert not torch.equal(tokenizer.decode(codes)[1:], decoded[1:])
    drawn = tokenizer.sample_codes(len(codes), seed=0)
    sampled = tokenizer.sample(len(codes), conditions=given, seed=0)
    assert torch.equal(sampled, tokenizer.decode(drawn, seed=0, conditions=given))


def test_labels(tokenizer: Tokenizer) -> None:
    assert [tokenizer.label(name) for name in ("cat", "dog")] == [0, 1]
    with pytest.raises(InputError, match="received 'cow': the classes are cat, dog"):
        tokenizer.sample(1, "cow")


def test_saved_holds_no_more_than_is_needed(
    tokenizer: Tokenizer, pixels: torch.Tensor, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "saved")
    files = {
        str(path.relative_to(tmp_path / "saved"))
        for path in (tmp_path / "saved").rglob("*")
        if path.is_file()
    }
    assert files == {
        "config.json",
        "model.safetensors",
        "unigram.json",
        "prior/config.json",
        "prior/model.safetensors",
    }
    again = load(tmp_path / "saved")
    assert again.fingerprint == tokenizer.fingerprint
    codes = tokenizer.encode(pixels)
    assert torch.equal(again.encode(pixels), codes)
    assert torch.equal(again.sample(3, "dog", seed=1), tokenizer.sample(3, "dog", seed=1))
    for name, prior in tokenizer.priors.items():
        assert torch.equal(again.priors[name].log_prob(codes), prior.log_prob(codes)), name


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_weights_that_were_changed_in_memory_are_saved(
    run: Path, pixels: torch.Tensor, tmp_path: Path
) -> None:
    tokenizer = load(run, "cpu")
    before, codes = tokenizer.fingerprint, tokenizer.encode(pixels)
    assert tokenizer.learned is not None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*tokenizer.autoencoder.state_dict().values(), *tokenizer.learned.parameters()):
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator))
        next(tokenizer.learned.parameters()).zero_()
    assert tokenizer.fingerprint != before
    assert not torch.equal(tokenizer.encode(pixels), codes)
    for name in ("first", "second"):
        with pytest.warns(UserWarning, match="unigram, learned"):
            tokenizer.save_pretrained(tmp_path / name)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    with pytest.warns(UserWarning, match="unigram, learned"):
        again = load(tmp_path / "first", "cpu")
    assert again.learned is not None
    for one, other in (
        (tokenizer.autoencoder, again.autoencoder),
        (tokenizer.learned, again.learned),
    ):
        stored = other.state_dict()
        assert list(stored) == list(one.state_dict())
        assert all(torch.equal(tensor, stored[name]) for name, tensor in one.state_dict().items())
    assert again.fingerprint == tokenizer.fingerprint
    assert again.trained.trained_on == {"unigram": before, "learned": before}
    assert torch.equal(again.encode(pixels), tokenizer.encode(pixels))
    assert torch.equal(again.sample(2, seed=3), tokenizer.sample(2, seed=3))
    # Without a prior it replaces the first, whose prior would not fit any more.
    alone = load(run, "cpu")
    alone.trained.learned.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone.save_pretrained(tmp_path / "first")
    assert not (tmp_path / "first" / "prior").exists()
    assert load(tmp_path / "first").fingerprint == before


def test_edited_priors_alone_belong_to_the_model(run: Path, tmp_path: Path) -> None:
    tokenizer = load(run, "cpu")
    assert tokenizer.learned is not None
    with torch.no_grad():
        next(tokenizer.learned.parameters()).zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer.save_pretrained(tmp_path / "saved")
        again = load(tmp_path / "saved", "cpu")
    assert again.learned is not None
    assert not next(again.learned.parameters()).any()
    assert again.trained.foreign_priors == []


def test_a_run_is_not_overwritten(run: Path) -> None:
    before = contents(run)
    with pytest.raises(InputError, match="training run"):
        load(run).save_pretrained(run)
    assert contents(run) == before


def test_several_priors_are_distinguished_and_saved(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "prior", run / "prior-b.2")
    weights = load_file(run / "prior" / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, run / "prior-b.2" / "model.safetensors")
    tokenizer = load(run)
    names = ["uniform", "unigram", "learned", "learned+class", "b.2", "b.2+class"]
    assert list(tokenizer.priors) == names
    assert tokenizer.learned is tokenizer.priors["learned"]
    first, other = (tokenizer.sample_codes(6, seed=1, prior=name) for name in ("learned", "b.2"))
    assert torch.equal(first, tokenizer.sample_codes(6, seed=1))
    assert not torch.equal(first, other)
    with pytest.raises(InputError, match=r"received 'c': .*learned, b\.2"):
        tokenizer.sample(1, prior="c")
    tokenizer.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert list(again.priors) == names
    assert torch.equal(again.sample_codes(6, seed=1, prior="b.2"), other)


def test_a_prior_under_another_name_alone(run: Path) -> None:
    (run / "prior").rename(run / "prior-other")
    tokenizer = load(run)
    assert tokenizer.learned is None
    assert list(tokenizer.priors) == ["uniform", "unigram", "other", "other+class"]
    with pytest.raises(InputError, match="smalti train-prior"):
        tokenizer.sample(1)
    assert tokenizer.sample(1, prior="other").shape == (1, 3, 16, 16)


def test_saved_without_a_prior(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "prior")
    load(run).save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.learned is None
    assert list(again.priors) == ["uniform", "unigram"]
    with pytest.raises(InputError, match="smalti train-prior"):
        again.sample(1)


def test_counts_of_an_earlier_checkpoint_are_not_used(run: Path) -> None:
    path = run / "unigram.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "model": "0123456789abcdef"}))
    tokenizer = load(run)
    assert tokenizer.trained.unigram is None
    assert list(tokenizer.priors) == ["uniform", "learned", "learned+class"]
    path.write_text(json.dumps({**stored, "counts": [[1, 2]]}))
    with pytest.raises(InputError, match=r"expected counts of shape \(1, 16\)"):
        load(run)
