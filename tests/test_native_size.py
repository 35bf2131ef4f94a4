"""Pictures and clips of any height and width: encoded whole, decoded to their own size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import smalti
from smalti.core.errors import InputError
from smalti.core.models import Autoencoder, ModelConfig
from smalti.core.signals import SignalSpec
from smalti.data.codes import read_codes
from smalti.data.packed import read_packed
from smalti.encoding import encode_signals
from smalti.models.hierarchy import HierarchyConfig
from smalti.models.sizes import check_any_size
from smalti.models.vqvae import VQVAEConfig
from smalti.quantizers.multi_scale import MultiScaleVQConfig
from smalti.tokenizer import Tokenizer
from tests.runs import Result, smooth

Smalti = Callable[..., Result]

SIZES = {"wide": (19, 42), "high": (33, 16), "odd": (7, 5), "line": (1, 30), "dot": (1, 1), "own": (16, 16)}
"""Height and width by name; the model's strides make 4."""


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 4), -(-size[1] // 4)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(3)
    for name, (height, width) in SIZES.items():
        smooth(rng, width, height).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def tokenizer(trained: Path) -> Tokenizer:
    return smalti.load(trained, "cpu").native()


@pytest.fixture(scope="module")
def pictures_of(photographs: Path) -> dict[str, torch.Tensor]:
    """Levels `(1, 3, H, W)` by name."""
    read = {name: np.array(Image.open(photographs / f"{name}.png")) for name in SIZES}
    return {name: torch.from_numpy(one).movedim(-1, 0)[None] for name, one in read.items()}


class TestTokenizer:
    def test_codes_do_not_depend_on_the_batch(
        self, tokenizer: Tokenizer, pictures_of: dict[str, torch.Tensor]
    ) -> None:
        turned = [one.flip(3) for one in pictures_of.values()]
        together = tokenizer.encode([*pictures_of.values(), *turned])
        assert [tuple(one.shape) for one in together] == [
            (1, 1, *grid_of(size)) for size in SIZES.values()
        ] * 2
        for one, codes in zip([*pictures_of.values(), *turned], together, strict=True):
            assert torch.equal(tokenizer.encode(one)[0], codes)

    def test_padding_is_reflection(self, tokenizer: Tokenizer, pictures_of: dict[str, torch.Tensor]) -> None:
        levels = pictures_of["wide"]
        whole = np.pad(levels, [(0, 0), (0, 0), (0, 1), (0, 2)], mode="reflect")
        assert torch.equal(tokenizer.encode(levels)[0], tokenizer.encode(torch.from_numpy(whole))[0])

    def test_pictures_of_the_training_size_have_the_same_codes(
        self, trained: Path, tokenizer: Tokenizer, pictures_of: dict[str, torch.Tensor]
    ) -> None:
        own = pictures_of["own"]
        assert torch.equal(tokenizer.encode(own)[0], smalti.load(trained, "cpu").encode(own))

    def test_sizes_remove_the_padding(
        self, tokenizer: Tokenizer, pictures_of: dict[str, torch.Tensor]
    ) -> None:
        codes = tokenizer.encode([*pictures_of.values()])
        whole = tokenizer.decode(codes)
        assert [tuple(one.shape[2:]) for one in whole] == [
            tuple(4 * side for side in grid_of(size)) for size in SIZES.values()
        ]
        again = tokenizer.decode(codes, sizes=[*SIZES.values()])
        for one, decoded, (height, width) in zip(again, whole, SIZES.values(), strict=True):
            assert torch.equal(one, decoded[:, :, :height, :width])
        reconstructed = tokenizer.reconstruct([*pictures_of.values()])
        assert all(torch.equal(a, b) for a, b in zip(again, reconstructed, strict=True))

    def test_files_arrays_and_pictures_agree(
        self, tokenizer: Tokenizer, photographs: Path, pictures_of: dict[str, torch.Tensor]
    ) -> None:
        file = photographs / "high.png"
        levels = pictures_of["high"]
        for given in (
            file,
            Image.open(file),
            levels[0],
            levels[0].movedim(0, -1).numpy(),
            levels / 127.5 - 1,
        ):
            assert torch.equal(tokenizer.encode(given)[0], tokenizer.encode(levels)[0])

    @pytest.mark.parametrize(
        "sizes", [[(20, 42)], [(0, 4)], [(19, 42, 3)], [(19, 42)] * 2, [], 5, [5], [(19.0, 42)]], ids=str
    )
    def test_sizes_that_do_not_fit(
        self, tokenizer: Tokenizer, pictures_of: dict[str, torch.Tensor], sizes: object
    ) -> None:
        codes = tokenizer.encode(pictures_of["line"])
        with pytest.raises(InputError):
            tokenizer.decode(codes, sizes=sizes)

    @pytest.mark.parametrize("shape", [(1, 3, 0, 4), (3, 3), (1, 2, 8, 8)])
    def test_what_is_no_picture(self, tokenizer: Tokenizer, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError):
            tokenizer.encode(torch.zeros(shape, dtype=torch.uint8))

    def test_samples_have_the_size_of_the_training(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.sample(2, seed=0).shape == (2, 3, 16, 16)
        with pytest.raises(InputError):
            tokenizer.sample(2, length=3)


PICTURE = SignalSpec(3, (16, 16), 256)
SCALES = MultiScaleVQConfig(dim=4, num_codes=8, scales=(1, 2, 4))


class OfOneSize(torch.nn.Module):
    """Learned positions: latents have one grid."""

    def __init__(self, positions: tuple[int, ...], change: torch.nn.Module) -> None:
        super().__init__()
        self.positions = torch.nn.Parameter(torch.zeros(1, 1, *positions))
        self.change = change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.change(x + self.positions)


def model_of(config: ModelConfig) -> Autoencoder:
    model = config.build(PICTURE).eval()
    assert isinstance(model, Autoencoder)
    return model


@pytest.mark.parametrize("config", [VQVAEConfig.tiny(), HierarchyConfig.tiny()], ids=["vqvae", "hierarchy"])
def test_convolutional_models_take_any_size(config: ModelConfig) -> None:
    check_any_size(model_of(config))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_models_whose_codes_depend_on_all_pixels_encode_every_row(size: tuple[int, int]) -> None:
    model = model_of(HierarchyConfig.tiny())
    assert model.receptive_field is None
    modality = smalti.ImageConfig(size=(16, 16)).build().native()
    levels = np.random.default_rng(0).integers(256, size=(1, 3, *size), dtype=np.uint8)
    ends = [(0, -side % stride) for side, stride in zip(size, model.strides, strict=True)]
    whole = np.pad(levels, [(0, 0), (0, 0), *ends], mode="reflect")
    (codes,) = encode_signals(model, modality, [modality.to_model(torch.from_numpy(levels))])
    assert torch.equal(codes, model.encode(modality.to_model(torch.from_numpy(whole))))


def test_multi_scale_models_take_one_size() -> None:
    with pytest.raises(InputError):
        check_any_size(model_of(VQVAEConfig.tiny().model_copy(update={"quantizer": SCALES})))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_positions_take_one_size(part: str) -> None:
    whole = model_of(VQVAEConfig.tiny())
    encoder, decoder = whole.encoder, whole.decoder
    parts = {
        "encoder": OfOneSize((16, 16), torch.nn.Sequential(encoder)) if part == "encoder" else encoder,
        "decoder": OfOneSize((4, 4), torch.nn.Sequential(decoder)) if part == "decoder" else decoder,
    }
    quantizer = VQVAEConfig.tiny().quantizer.build()
    model = smalti.VQVAE(parts["encoder"], quantizer, parts["decoder"], whole.family, PICTURE).eval()
    with pytest.raises(InputError):
        check_any_size(model)


def test_signals_without_a_height_have_no_native_size(voices: Tokenizer) -> None:
    with pytest.raises(InputError):
        voices.native()


@pytest.fixture
def voices(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer with the modality of sounds."""
    return Tokenizer(tokenizer.trained, smalti.AudioConfig.tiny().build())


class TestCommands:
    @pytest.fixture(scope="class")
    def table(self, trained: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        from smalti.app.commands.encode import encode

        path = tmp_path_factory.mktemp("codes") / "codes.parquet"
        assert encode(str(trained), str(photographs), path, quiet=True, size="native") == len(SIZES)
        return path

    def test_a_table_has_grids_and_sizes(self, table: Path, tokenizer: Tokenizer, photographs: Path) -> None:
        info, batches = read_codes(table)
        assert info.grid == (None, None)
        rows = {batch.names[0].removesuffix(".png"): batch for batch in batches}
        assert {name: batch.sizes for name, batch in rows.items()} == {n: [size] for n, size in SIZES.items()}
        for name, batch in rows.items():
            (codes,) = tokenizer.encode(photographs / f"{name}.png")
            np.testing.assert_array_equal(batch.codes, codes)

    @pytest.mark.parametrize("kind", ["table", "folder", "file"])
    def test_decoded_pictures_have_the_size_of_the_originals(
        self, kind: str, trained: Path, table: Path, photographs: Path, smalti: Smalti, tmp_path: Path
    ) -> None:
        data = photographs / "wide.png" if kind == "file" else photographs
        if kind == "file":
            (tmp_path / "one").mkdir()
            data = tmp_path / "one" / "wide.png"
            data.write_bytes((photographs / "wide.png").read_bytes())
            data = data.parent
        codes = {"table": table, "folder": tmp_path / "codes", "file": tmp_path / "c.smc"}[kind]
        if kind != "table":
            result = smalti("encode", trained, "--data", data, "--size", "native", "--out", codes)
            assert result.status == 0, result.err
        assert smalti("decode", trained, codes, "--out", tmp_path / "out").status == 0
        names = ["wide"] if kind == "file" else [*SIZES]
        decoded = {path.stem: Image.open(path).size for path in (tmp_path / "out").glob("*.png")}
        assert decoded == {name: SIZES[name][::-1] for name in names}

    def test_packed_files_have_the_size(
        self, trained: Path, photographs: Path, smalti: Smalti, tmp_path: Path
    ) -> None:
        words = ("encode", trained, "--data", photographs, "--out", tmp_path / "codes", "--size", "native")
        assert smalti(*words).status == 0
        infos = [read_packed(path).info for path in (tmp_path / "codes").glob("*.smc")]
        assert {info.name.removesuffix(".png"): info.size for info in infos} == SIZES
        assert {info.name.removesuffix(".png"): info.grid for info in infos} == {
            name: grid_of(size) for name, size in SIZES.items()
        }
        assert smalti(*words).status == 0
        assert smalti(*words[:-1], "model").status == 2

    @pytest.mark.parametrize(("options", "is_native"), [((), True), (("--size", "model"), False)])
    def test_reconstructions(
        self,
        options: tuple[str, ...],
        is_native: bool,
        trained: Path,
        tokenizer: Tokenizer,
        photographs: Path,
        smalti: Smalti,
        tmp_path: Path,
    ) -> None:
        result = smalti("reconstruct", trained, photographs, "--out", tmp_path / "out", *options)
        assert result.status == 0, result.err
        for name, size in SIZES.items():
            again = Image.open(tmp_path / "out" / f"{name}.png")
            assert again.size == (size[::-1] if is_native else (16, 16))
            if is_native:
                (expected,) = tokenizer.reconstruct(photographs / f"{name}.png")
                np.testing.assert_array_equal(np.asarray(again), expected[0].movedim(0, -1))
        assert (tmp_path / "out" / "comparison.png").is_file()

    def test_shards_hold_the_rows_of_the_table(
        self, trained: Path, table: Path, photographs: Path, smalti: Smalti, tmp_path: Path
    ) -> None:
        words = ("encode", trained, "--data", photographs, "--out", tmp_path / "shards", "--shards", 2)
        assert smalti(*words, "--size", "native").status == 0
        assert smalti(*words).status == 2
        files = sorted((tmp_path / "shards").glob("*.parquet"))
        rows = [(batch.names, batch.sizes, batch.codes.tolist()) for f in files for batch in read_codes(f)[1]]
        assert rows == [(one.names, one.sizes, one.codes.tolist()) for one in read_codes(table)[1]]
        verified = smalti("verify", tmp_path / "shards", "--run", trained, "--data", photographs)
        assert verified.status == 0, verified.err
        assert smalti("decode", trained, tmp_path / "shards", "--out", tmp_path / "out").status == 0
        assert Image.open(tmp_path / "out" / "wide.png").size == SIZES["wide"][::-1]
