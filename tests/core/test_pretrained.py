"""Saving and loading of single modules: what is in memory comes back to the bit, and nothing else can."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from smalti.autoregressive.transformer import Transformer
from smalti.conditioners.embedding import Embedding
from smalti.core.conditioners import Conditioner
from smalti.core.conditions import Conditions, PerItem
from smalti.core.errors import InputError
from smalti.core.parts import QUANTIZERS, Quantizer
from smalti.core.pretrained import settings_of
from smalti.core.priors import NETWORKS
from smalti.core.signals import SignalSpec
from smalti.core.weights import fingerprint
from smalti.decoders.conv import ConvDecoder
from smalti.encoders.conv import ConvEncoder
from smalti.likelihoods.gaussian import GaussianFamily
from smalti.models.vqvae import VQVAE
from smalti.priors.autoregressive import LearnedPrior
from smalti.priors.unigram import UnigramPrior
from smalti.quantizers.fsq import FSQ
from smalti.quantizers.vq import VectorQuantizer


def quantizer(**settings: Any) -> VectorQuantizer:
    """One whose weights no constructor would give."""
    torch.manual_seed(0)
    made = VectorQuantizer(dim=6, num_codes=8, num_codebooks=2, **settings)
    with torch.no_grad():
        for tensor in made.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape))
    return made.eval()


@pytest.mark.parametrize("codebook", ["ema", "gradient", "frozen"])
@pytest.mark.parametrize("channel_last", [False, True])
def test_edited_weights_come_back_to_the_bit(codebook: str, channel_last: bool, tmp_path: Path) -> None:
    made = quantizer(codebook=codebook, channel_last=channel_last)
    made.save_pretrained(tmp_path / "one")
    made.save_pretrained(tmp_path / "two")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    loaded = VectorQuantizer.from_pretrained(tmp_path / "one")
    assert not loaded.training
    assert loaded.config == made.config
    stored = load_file(tmp_path / "one" / "model.safetensors")
    assert stored.keys() == made.state_dict().keys() == loaded.state_dict().keys()
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
        assert torch.equal(tensor, stored[name])
    assert fingerprint(loaded) == fingerprint(made)
    latents = torch.randn(3, 5, 6) if channel_last else torch.randn(3, 6, 5)
    assert torch.equal(loaded.encode(latents), made.encode(latents))


def test_a_family_loads_any_of_its_parts_and_a_class_only_its_own(tmp_path: Path) -> None:
    FSQ(levels=(3, 4)).save_pretrained(tmp_path)
    loaded = Quantizer.from_pretrained(tmp_path)
    assert isinstance(loaded, FSQ)
    assert loaded.num_codes == 12
    with pytest.raises(InputError, match="VectorQuantizer"):
        VectorQuantizer.from_pretrained(tmp_path)


def test_the_fingerprint_follows_the_weights() -> None:
    made = quantizer()
    before = fingerprint(made)
    assert fingerprint(quantizer()) == before
    next(t for t in made.state_dict().values() if t.is_floating_point()).data.view(-1)[0] += 1
    assert fingerprint(made) != before


def test_a_part_without_a_config_is_refused() -> None:
    with pytest.raises(InputError, match="Linear"):
        settings_of(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "format 1.* save the module again"),
        ({"format": 3}, "format 3.* pip install"),
        ({"settings": {"config": {"kind": "os.system"}, "channel_last": False}}, "os.system"),
        ({"settings": {"config": {"kind": "vq", "num_codes": 0}, "channel_last": False}}, "VectorQuantizer"),
        ({"settings": {}}, "VectorQuantizer"),
        ({"settings": None}, "format"),
        ({"settings": {"config": {"kind": "vq", "num_codes": 9}, "channel_last": False}}, "do not fit"),
    ],
)
def test_what_does_not_describe_the_module_is_a_sentence(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    quantizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError, match=message):
        VectorQuantizer.from_pretrained(tmp_path)


def test_broken_files_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        VectorQuantizer.from_pretrained(tmp_path / "nowhere")
    quantizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="safetensors"):
        VectorQuantizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match=r"config\.json"):
        VectorQuantizer.from_pretrained(tmp_path)


def test_a_run_that_can_be_resumed_is_left(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with pytest.raises(InputError, match="training run"):
        quantizer().save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "state"]


def test_every_network_comes_back_in_its_prior(tmp_path: Path) -> None:
    for kind, config in NETWORKS.kinds().items():
        torch.manual_seed(0)
        tiny = cast("Any", config).tiny()
        # Levels of one codebook and factor 2 make 1 + 4 codes of a coarse place.
        num_codebooks = 5 if kind == "hierarchical_pixelcnn" else 1
        if "conditioners" in type(tiny).model_fields:
            tiny = tiny.changed({"conditioners": {"mood": {"kind": "embedding", "num_ids": 4}}})
        network = tiny.build(7, num_codebooks, {"label": 3, "action": 2, "mood": 4})
        grid = {"frame_pixelcnn": (2, 3, 4), "wavenet": (12,)}.get(kind, (3, 4))
        prior = LearnedPrior(network, grid, "mine").eval()
        with torch.no_grad():
            for tensor in prior.parameters():
                tensor.add_(torch.randn(tensor.shape))
        prior.save_pretrained(tmp_path / kind)
        loaded = LearnedPrior.from_pretrained(tmp_path / kind)
        assert type(loaded.network) is type(network)
        sizes = {"label": 3, "action": 2} if kind == "frame_pixelcnn" else {"label": 3}
        assert (loaded.grid, loaded.name) == (grid, "mine")
        assert loaded.network.condition_sizes == network.condition_sizes == sizes
        assert loaded.network.config == network.config
        for name, tensor in prior.state_dict().items():
            assert torch.equal(tensor, loaded.state_dict()[name])


def test_every_registered_quantizer_can_be_saved(tmp_path: Path) -> None:
    for kind, config in QUANTIZERS.kinds().items():
        made = config().build().eval()
        made.save_pretrained(tmp_path / kind)
        loaded = Quantizer.from_pretrained(tmp_path / kind)
        assert type(loaded) is type(made)
        assert loaded.config == made.config
        assert fingerprint(loaded) == fingerprint(made)


def test_a_model_of_somebody_elses_modules_is_refused(tmp_path):
    model = VQVAE(
        torch.nn.Conv2d(3, 4, 4, 4),
        VectorQuantizer(dim=4, num_codes=8),
        torch.nn.ConvTranspose2d(4, 3, 4, 4),
        GaussianFamily(channels=3),
        SignalSpec(3, (8, 8)),
    )
    with pytest.raises(InputError, match="encoder Conv2d and the decoder ConvTranspose2d"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def conditioned(**conditioners: Conditioner) -> VQVAE:
    """A model whose decoder embeds the label itself, and has these conditioners."""
    decoder = ConvDecoder(4, 3, channels=4, conditions={"label": 2}, conditioners=conditioners)
    encoder, quantizer = ConvEncoder(3, 4, channels=4), VectorQuantizer(dim=4, num_codes=8)
    return VQVAE(encoder, quantizer, decoder, GaussianFamily(channels=3), SignalSpec(3, (8, 8))).eval()


@torch.no_grad()
def test_injected_conditioners_come_back_with_their_model(tmp_path: Path) -> None:
    model = conditioned(season=Embedding(4, num_ids=3), label=Embedding(4, num_ids=5))
    given = Conditions(season=PerItem(torch.tensor([1])), label=torch.tensor([1]))
    model.save_pretrained(tmp_path)
    loaded = VQVAE.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert (loaded.condition_sizes, loaded.num_label_classes) == ({"label": 2}, 5)
    codes = torch.randint(8, (1, 1, 2, 2))
    assert torch.equal(loaded.decode(codes, given), model.decode(codes, given))
    assert not torch.equal(loaded.decode(codes, given), loaded.decode(codes, given.only("label")))


class Own(Conditioner):
    """A conditioner without a config."""

    def prepare(self, value: Any, batch_size: int, grid: Any, hide: bool = False) -> None:
        """Nothing."""

    def forward(self, x: torch.Tensor, prepared: None, position: int | None = None) -> torch.Tensor:
        return x


def test_conditioners_without_a_config_are_named_when_saving_is_refused(tmp_path: Path) -> None:
    later = conditioned()
    cast("Any", later.decoder).conditioners.by_name["season"] = Embedding(4, num_ids=3)
    for model in (conditioned(season=Own()), later):
        with pytest.raises(InputError, match="season"):
            model.save_pretrained(tmp_path / "model")
    network = Transformer(4, channels=8, layers=1, heads=1, conditioners={"season": Own()})
    with pytest.raises(InputError, match="season"):
        LearnedPrior(network, (2, 2)).save_pretrained(tmp_path / "prior")
    assert not list(tmp_path.iterdir())


def test_a_condition_name_that_no_submodule_can_have_is_refused() -> None:
    for name in ("type", "a.b"):
        with pytest.raises(InputError, match=name):
            conditioned(**{name: Embedding(4, num_ids=3)})


def test_a_unigram_prior_comes_back_with_its_counts(tmp_path):
    prior = UnigramPrior(num_codes=5, num_codebooks=2, grid=(3, 2), smoothing=0.25)
    prior.count(torch.randint(4, (7, 2, 3, 2)))
    prior.counts[1, 4] += 1 << 40  # an edit that no float32 could keep
    prior.counts[1, 3] += 1
    for place in ("one", "two"):
        prior.save_pretrained(tmp_path / place)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    loaded = UnigramPrior.from_pretrained(tmp_path / "one")
    assert (loaded.grid, loaded.smoothing) == ((3, 2), 0.25)
    assert torch.equal(loaded.counts, prior.counts)
    assert torch.equal(loaded.log_table(), prior.log_table())
    with pytest.raises(InputError, match="LearnedPrior"):
        LearnedPrior.from_pretrained(tmp_path / "one")
