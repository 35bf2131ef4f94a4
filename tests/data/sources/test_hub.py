"""Data sets of the Hub: `load_dataset` is replaced, so that nothing here touches the network."""

from __future__ import annotations

import io

import datasets
import pytest
from PIL import Image

from smalti.core.errors import InputError
from smalti.data.sources.hub import HubSource


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (2, 2), level).save(buffer, "PNG")
    return buffer.getvalue()


def table(contents, labels, **features):
    return datasets.Dataset.from_dict(
        {"label": labels, "image": [{"bytes": content, "path": None} for content in contents]},
        features=datasets.Features({"label": datasets.Value("int64"), "image": datasets.Image(), **features}),
    )


@pytest.fixture
def hub(monkeypatch):
    """A Hub of our own: what it holds, and what it was asked for."""

    class Hub:
        def __init__(self):
            self.tables: dict[str, datasets.Dataset] = {}
            self.asked: list[tuple] = []
            self.error: Exception | None = None

        def load(self, *args):
            self.asked.append(args)
            if self.error is not None:
                raise self.error
            return datasets.DatasetDict(self.tables)

    hub = Hub()
    monkeypatch.setattr(datasets, "load_dataset", hub.load)
    return hub


def listed(source, split):
    return [(item.name, item.content, item.label) for item in source.items(split)]


def test_images_stay_encoded_and_labels_get_names(hub):
    labels = datasets.ClassLabel(names=["cat", "dog"])
    hub.tables = {
        "test": table([png(3)], [-1], label=labels),
        "train": table([png(1), png(2)], [1, 0], label=labels),
    }
    source = HubSource("me/pets")
    assert hub.asked == [("me/pets", None)]
    assert source.splits == ("train", "test")
    assert (source.count("train"), source.count("test")) == (2, 1)
    assert listed(source, "train") == [("train#0", png(1), "dog"), ("train#1", png(2), "cat")]
    assert listed(source, "test") == [("test#0", png(3), None)]
    assert "me/pets" in source.description


def test_a_damaged_image_is_still_an_item(hub):
    hub.tables = {"train": table([b"no picture", png(1)], [0, 1])}
    assert listed(HubSource("me/pets"), "train") == [
        ("train#0", b"no picture", "0"),
        ("train#1", png(1), "1"),
    ]


def test_configuration_goes_to_the_hub(hub):
    hub.tables = {"train": table([png(1)], [0])}
    HubSource("me/pets:small")
    assert hub.asked == [("me/pets", "small")]


def test_split_names_are_normalised_unless_they_collide(hub):
    one = table([png(1)], [0])
    hub.tables = {"valid": one, "extra": one, "training": one}
    assert HubSource("me/pets").splits == ("train", "validation", "extra")
    hub.tables = {"val": one, "validation": one}
    assert HubSource("me/pets").splits == ("validation", "val")


def test_binary_columns_and_string_labels(hub):
    features = datasets.Features({"blob": datasets.Value("binary"), "class": datasets.Value("string")})
    rows = {"blob": [b"x"], "class": ["cat"]}
    hub.tables = {"train": datasets.Dataset.from_dict(rows, features=features)}
    assert listed(HubSource("me/blobs"), "train") == [("train#0", b"x", "cat")]


def test_the_image_goes_before_other_pictures(hub):
    features = datasets.Features({"mask": datasets.Image(), "image": datasets.Image()})
    rows = {name: [{"bytes": png(level), "path": None}] for level, name in enumerate(features)}
    hub.tables = {"train": datasets.Dataset.from_dict(rows, features=features)}
    assert listed(HubSource("me/masks"), "train") == [("train#0", png(1), None)]


def test_no_column_of_signals(hub):
    hub.tables = {"train": datasets.Dataset.from_dict({"text": ["a"]})}
    with pytest.raises(
        InputError,
        match=r"column of images, audio or bytes .* me/texts, got the columns text \(Value\): choose",
    ):
        HubSource("me/texts")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("no route\nand a long story"), r"ConnectionError: no route"),
        (datasets.exceptions.DatasetNotFoundError("unknown."), r"DatasetNotFoundError: unknown"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_failure_is_one_sentence(hub, error, reason):
    hub.error = error
    with pytest.raises(InputError) as caught:
        HubSource("me/pets")
    assert f"could not be loaded ({reason});" in str(caught.value)
    assert "me/pets" in str(caught.value)


@pytest.mark.parametrize("ask", ["count", "notes", "items"])
def test_unknown_split(hub, ask):
    hub.tables = {"train": table([png(1)], [0])}
    source = HubSource("me/pets")
    if ask == "notes":
        assert source.notes("train") == []
        return
    with pytest.raises(InputError, match=r"expected one of the splits train of me/pets .*, got 'test'"):
        list(getattr(source, ask)("test"))
