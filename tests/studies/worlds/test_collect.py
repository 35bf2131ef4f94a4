"""`smalti collect doom`: files that are equal for equal seeds, and that others can read."""

from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec

import datasets
import pytest

from smalti.app.data import open_data
from smalti.modalities.image.modality import ImageConfig, ImageModality
from smalti.studies.worlds import collect, doom
from tests.runs import command

needs_vizdoom = pytest.mark.skipif(find_spec("vizdoom") is None, reason="needs the extra smalti[doom]")

WORDS = ("collect", "doom", "--num", 60, "--length", 5, "--size", 42)


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doom") / "frames"
    result = command(*WORDS, "--out", folder)
    assert result.status == 0, result.err
    return folder


@needs_vizdoom
def test_equal_seeds_give_equal_files(collected, tmp_path):
    assert command(*WORDS, "--out", tmp_path / "again").status == 0
    assert command(*WORDS, "--out", tmp_path / "other", "--seed", 1).status == 0
    for file in collected.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
        assert (tmp_path / "other" / file.name).read_bytes() != file.read_bytes()


@needs_vizdoom
def test_datasets_reads_it(collected, tmp_path):
    data = datasets.load_dataset(str(collected), cache_dir=str(tmp_path))
    assert {name: len(split) for name, split in data.items()} == {"train": 55, "test": 5}
    row = data["test"][0]
    assert row["image"].size == (42, 42)
    assert row["episode"] == 9
    assert data["train"].features["action"].names == ["forward", "left", "right"]
    assert data["train"]["frame"][:6] == [0, 1, 2, 3, 4, 0]


@needs_vizdoom
def test_its_frames_are_pictures_to_train_on(collected):
    modality = ImageModality(ImageConfig(size=(42, 42)))
    source = open_data(str(collected), modality)
    assert (source.count("train"), source.count("test")) == (55, 5)
    assert modality.decode(next(source.items("test")).content).shape == (3, 42, 42)


@needs_vizdoom
def test_several_scenarios_are_classes(collected, tmp_path):
    folder = tmp_path / "worlds"
    words = ("--scenario", "my_way_home,take_cover", "--num", 101)
    assert command("collect", "doom", "--length", 5, "--size", 42, *words, "--out", folder).status == 0
    data = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    # Two times ten episodes, each tenth held out, and one frame more.
    assert {name: len(split) for name, split in data.items()} == {"train": 91, "test": 10}
    assert data["train"].features["label"].names == ["my_way_home", "take_cover"]
    assert data["train"]["label"] == [0] * 45 + [1] * 46
    assert data["test"]["episode"] == [9] * 5 + [19] * 5
    source = open_data(str(folder), ImageModality(ImageConfig(size=(42, 42))))
    assert [item.label for item in source.items("test")] == ["my_way_home"] * 5 + ["take_cover"] * 5
    alone = datasets.load_dataset(str(collected), cache_dir=str(tmp_path / "cache"))
    assert data["train"][3]["image"] == alone["train"][3]["image"]


@needs_vizdoom
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("collect", "lab"), "received 'lab'"),
        (("collect", "doom", "--num", 40, "--length", 5), "expected at least 50 frames"),
        (("collect", "doom", "--scenario", "basic,basic"), "different scenarios"),
        (("collect", "doom", "--scenario", "basic,cig", "--num", 999), "expected at least 2000 frames"),
        (("collect", "doom", "--scenario", "maze"), "expected a scenario, received 'maze'"),
    ],
)
def test_bad_input(words, sentence, tmp_path):
    result = command(*words, "--out", tmp_path / "out")
    assert result.status == 2
    assert sentence in result.err
    assert not (tmp_path / "out").exists()


@needs_vizdoom
def test_a_folder_that_holds_something_is_left(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    result = command(*WORDS, "--out", tmp_path)
    assert result.status == 2
    assert "exists already" in result.err


def test_without_vizdoom_it_says_what_to_install(tmp_path, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doom, "find_spec", lambda name: None)
    monkeypatch.setattr(collect, "version", missing)
    result = command(*WORDS, "--out", tmp_path / "out")
    assert result.status == 2
    assert "smalti[doom]" in result.err
    assert not (tmp_path / "out").exists()
