"""Drawn letters: the same everywhere, whole, legible, and with fonts held out."""

from __future__ import annotations

import pickle
import string
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageFont

from smalti.app import letters
from smalti.app.data import open_data
from smalti.app.letters import TEST_FONTS, TRAIN_FONTS, LettersSource, write_folder
from smalti.core.errors import InputError
from smalti.data.sources.folder import FolderSource
from smalti.modalities.image.modality import ImageConfig


@pytest.fixture(scope="module")
def source():
    return LettersSource(num_train=520, num_test=260)


def fonts_folder() -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def test_shape_names_and_balanced_classes(source):
    items = list(source.items("train"))
    assert source.splits == ("train", "test")
    assert (source.count("train"), source.count("test"), len(items)) == (520, 260, 520)
    assert items[7].name == "train/000007"
    assert {(item.content.shape, item.content.dtype) for item in items} == {((32, 32, 3), np.dtype(np.uint8))}
    labels = [item.label for item in items]
    assert {labels.count(letter) for letter in string.ascii_lowercase} == {20}


def test_a_picture_depends_on_seed_split_and_index_alone(source):
    in_order = [item.content for item in source.items("train")]
    other = LettersSource(num_train=1000, num_test=0)
    for index in (519, 0, 77):
        np.testing.assert_array_equal(other.item("train", index).content, in_order[index])
    np.testing.assert_array_equal(
        LettersSource(num_train=0, num_test=9).item("test", 5).content, source.item("test", 5).content
    )


def test_it_travels_to_another_process(source):
    twin = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(twin.item("test", 3).content, source.item("test", 3).content)


def test_seeds_splits_and_indices_differ(source):
    pictures = [
        source.item("train", 0),
        source.item("test", 0),
        source.item("train", 26),
        LettersSource(num_train=1, num_test=0, seed=1).item("train", 0),
    ]
    assert {item.label for item in pictures} == {"a"}
    assert len({item.content.tobytes() for item in pictures}) == 4
    assert len({item.content.tobytes() for item in source.items("train")}) == 520


def test_fonts_of_the_test_split_are_held_out(source):
    assert set(TRAIN_FONTS).isdisjoint(TEST_FONTS)
    assert len(set(TEST_FONTS)) >= 3

    def used(split: str) -> set[bytes]:
        return {glyph.tobytes() for glyphs in source._glyphs[split].values() for glyph in glyphs}

    # Not only by name: no glyph of the one split is a glyph of the other.
    assert used("train").isdisjoint(used("test"))
    assert source.notes("test") == [f"fonts of the test split only: {', '.join(TEST_FONTS)}"]
    assert source.notes("train") == []


def test_each_split_draws_from_its_own_fonts(source, monkeypatch):
    asked = []
    font = letters._font

    def spy(name, size):
        asked.append(name)
        return font(name, size)

    monkeypatch.setattr(letters, "_font", spy)
    LettersSource(num_train=0, num_test=1)
    assert set(asked) == set(TEST_FONTS)
    asked.clear()
    LettersSource(num_train=1, num_test=0)
    assert set(asked) == set(TRAIN_FONTS)


def test_every_font_has_every_letter_and_no_two_letters_look_the_same(source):
    for split, fonts in (("train", TRAIN_FONTS), ("test", TEST_FONTS)):
        glyphs = source._glyphs[split]
        assert {len(masks) for masks in glyphs.values()} == {len(fonts)}
        for number in range(len(fonts)):
            drawn = {(masks[number].size, masks[number].tobytes()) for masks in glyphs.values()}
            assert len(drawn) == 26


def test_masks_hold_the_whole_glyph():
    """The ink of a mask is the ink of the same glyph on a canvas with room to spare."""
    from PIL import ImageDraw

    for name in TRAIN_FONTS + TEST_FONTS:
        font = ImageFont.truetype(
            str(fonts_folder() / f"{name}.ttf"), 77.3, layout_engine=ImageFont.Layout.BASIC
        )
        for letter in "fgjmQ":
            canvas = Image.new("L", (400, 400))
            ImageDraw.Draw(canvas).text((150, 150), letter, fill=255, font=font)
            box = canvas.getbbox()
            framed = letters._framed(letters._mask(font, letter))
            padding = letters.PADDING
            inner = framed.crop((padding, padding, framed.width - padding, framed.height - padding))
            assert inner.tobytes() == canvas.crop(box).tobytes(), (name, letter)


def test_letters_lie_whole_within_the_picture():
    """The outermost pixels are the background's, in every picture."""
    source = LettersSource(num_train=1300, num_test=1300, seed=3)
    for split in source.splits:
        pictures = np.stack([item.content for item in source.items(split)])
        border = np.concatenate(
            [pictures[:, 0], pictures[:, -1], pictures[:, :, 0], pictures[:, :, -1]], axis=1
        )
        assert (border == border[:, :1]).all()
        inked = (pictures != pictures[:, :1, :1]).any(-1).mean((1, 2))
        assert inked.min() > 0.02


def test_contrast_is_clear_in_every_picture():
    rngs = (np.random.default_rng(seed) for seed in range(200))
    pairs = np.array([letters._colours(rng) for rng in rngs])
    luma = pairs @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma[:, 0] - luma[:, 1]).min() >= 100
    assert len(np.unique(pairs.reshape(-1, 6), axis=0)) == len(letters.COLOURS)


def test_other_characters_and_sizes():
    source = LettersSource(num_train=6, num_test=0, characters="07Q", image_size=48)
    items = list(source.items("train"))
    assert [item.label for item in items] == ["0", "7", "Q", "0", "7", "Q"]
    assert items[0].content.shape == (48, 48, 3)
    assert source.splits == ("train",)


def test_a_character_that_only_some_fonts_have():
    masks = LettersSource(num_train=1, num_test=0, characters="aж")._glyphs["train"]
    assert len(masks["a"]) == len(TRAIN_FONTS)
    assert 0 < len(masks["ж"]) < len(TRAIN_FONTS)


@pytest.mark.parametrize("character", ["\u3042", " ", "\uffff"], ids=["hiragana", "space", "none"])
def test_a_character_that_no_font_has(character):
    with pytest.raises(InputError, match=r"expected characters that matplotlib's fonts contain"):
        LettersSource(characters=f"a{character}")


@pytest.mark.parametrize("arguments", [{"num_train": -1}, {"num_train": 0, "num_test": 0}, {"seed": -1}])
def test_numbers_out_of_range(arguments):
    with pytest.raises(InputError, match=r"expected a number of letters above 0 and a seed of at least 0"):
        LettersSource(**arguments)


@pytest.mark.parametrize("characters", ["", "aa"])
def test_characters_must_differ(characters):
    with pytest.raises(InputError, match=r"distinct characters"):
        LettersSource(characters=characters)


def test_too_small_a_picture():
    with pytest.raises(InputError, match=r"expected an image size of at least 8 pixels, received 4"):
        LettersSource(image_size=4)


def test_smallest_picture():
    assert LettersSource(image_size=8).item("train", 0).content.shape == (8, 8, 3)


def test_missing_font(monkeypatch, tmp_path):
    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"matplotlib's font .*DejaVuSans\.ttf cannot be read.*reinstall"):
        LettersSource()


@pytest.mark.parametrize("ask", ["count", "notes", "items"])
def test_unknown_split(source, ask):
    with pytest.raises(
        InputError, match=r"expected one of the splits train, test of drawn letters .*, got 'all'"
    ):
        list(getattr(source, ask)("all"))


@pytest.mark.parametrize("index", [-1, 520])
def test_index_out_of_range(source, index):
    with pytest.raises(IndexError, match=r"expected an index below 520"):
        source.item("train", index)


def test_written_folder_reads_back_exactly(tmp_path):
    write_folder(tmp_path / "new", 7, seed=5, characters="abc")
    source = FolderSource(tmp_path / "new", [".png"])
    read = {item.name: (np.asarray(Image.open(item.content)), item.label) for item in source.items("all")}
    assert list(read) == [
        *("a/000001.png", "a/000002.png", "a/000003.png"),
        *("b/000001.png", "b/000002.png"),
        *("c/000001.png", "c/000002.png"),
    ]
    drawn = list(LettersSource(num_train=7, num_test=0, seed=5, characters="abc").items("train"))
    for name, index in (("a/000001.png", 0), ("b/000002.png", 4), ("a/000003.png", 6)):
        picture, label = read[name]
        np.testing.assert_array_equal(picture, drawn[index].content)
        assert label == drawn[index].label


def test_written_test_split_has_the_held_out_fonts(tmp_path):
    write_folder(tmp_path, 1, split="test")
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "a" / "000001.png")),
        LettersSource(num_test=1).item("test", 0).content,
    )


def test_folder_names_that_every_file_system_keeps_apart(tmp_path):
    write_folder(tmp_path, 5, characters="aA.Z7")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7", "U+002E", "U+0041", "U+0061", "Z"]


def test_nothing_is_written_into_a_folder_in_use(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(InputError, match=r"expected a new or empty folder"):
        write_folder(tmp_path, 1)
    with pytest.raises(InputError, match=r"expected a new or empty folder"):
        write_folder(tmp_path / "mine.txt", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_writing_an_unknown_split(tmp_path):
    with pytest.raises(InputError, match=r"expected one of the splits train, test of the letters, got 'all'"):
        write_folder(tmp_path, 1, split="all")


def test_a_folder_of_that_name_is_read_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modality = ImageConfig(size=(32, 32)).build()
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_data("letters", modality), LettersSource)
    write_folder(tmp_path / "letters", 3)
    assert open_data("letters", modality).count("all") == 3
