"""Actions as text, in stores, and in crops."""

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.core.errors import InputError
from smalti.data.actions import parse_actions
from smalti.data.crops import CropLoader
from smalti.data.sources import open_source
from smalti.data.sources.table import TableSource
from smalti.data.store import Store
from smalti.data.store_layout import Decoded
from smalti.modalities.image.formats import EXTENSIONS as PICTURES
from smalti.modalities.video.clips import EXTENSIONS
from tests import videos


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ("forward", ("forward",)),
        ("forward*3 left", ("forward",) * 3 + ("left",)),
        (" turn-left*2,  ?*2 ", ("turn-left", "turn-left", None, None)),
    ],
)
def test_texts_of_actions(text, actions):
    assert parse_actions(text) == actions


@pytest.mark.parametrize(
    "text", ["", " , ", "*3", "forward*", "forward*x", "forward*0", "left forward*0", "a*9999999"]
)
def test_texts_that_say_something_else_are_refused(text):
    with pytest.raises(InputError, match=r"expected actions such as .*, received"):
        parse_actions(text)


def clip(frames: int) -> np.ndarray:
    return np.full((1, frames, 2, 2), frames, np.uint8)


def write(directory, items, **settings):
    return Store.write(directory, items, (1, None, 2, 2), np.uint8, **settings)


def test_a_store_keeps_the_actions_of_each_frame(tmp_path):
    items = [
        Decoded("a", clip(3), None, ["left", None, "go"]),
        Decoded("b", clip(2)),
        Decoded("c", clip(2), "x", ["go", "go"]),
    ]
    write(tmp_path / "store", items)
    store = Store.open(tmp_path / "store")
    assert store.action_names == ("go", "left")
    assert store.actions.tolist() == [1, -1, 0, -1, -1, 0, 0]
    assert [store.actions_of(i) for i in range(3)] == [["left", None, "go"], [None, None], ["go", "go"]]
    again = write(tmp_path / "again", items, actions=["left", "go", "jump"])
    assert again.actions.tolist() == [0, -1, 1, -1, -1, 1, 1]


def test_stores_without_actions_have_none(tmp_path):
    store = write(tmp_path / "store", [Decoded("a", clip(3))])
    assert (store.actions, store.action_names, store.actions_of(0)) == (None, (), None)
    assert not (tmp_path / "store" / "actions.bin").exists()


@pytest.mark.parametrize(
    ("actions", "sentence"),
    [(["go"], "expected an action for each frame of a clip, received 1"), (["fly"] * 3, 'received "fly"')],
)
def test_actions_that_do_not_fit_are_refused(tmp_path, actions, sentence):
    with pytest.raises(InputError, match=sentence):
        write(tmp_path / "store", [Decoded("a", clip(3), None, actions)], actions=["go"])


def test_damaged_actions_are_noticed(tmp_path):
    write(tmp_path / "store", [Decoded("a", clip(3), None, ["go"] * 3)])
    file = tmp_path / "store" / "actions.bin"
    file.write_bytes(np.array([0, 5, 0]).tobytes())
    with pytest.raises(InputError, match=r"names an action outside -1\.\.0"):
        Store.open(tmp_path / "store")
    file.write_bytes(b"")
    with pytest.raises(InputError, match="should hold 24 bytes"):
        Store.open(tmp_path / "store")


def test_crops_come_with_their_actions(tmp_path):
    """The level of a frame is its number, and so is the name of its action."""
    frames = np.arange(9, dtype=np.uint8).reshape(1, 9, 1, 1) * np.ones((1, 1, 2, 2), np.uint8)
    names = [str(number) for number in range(9)]
    short = [Decoded("b", frames[:, :2], None, names[:2])]
    store = write(tmp_path / "store", [Decoded("a", frames, None, names), *short])
    loader = CropLoader(store, size=(4,), batch_size=64)
    batch = loader.batch(0)
    actions, lengths = batch.conditions["action"].data, batch.lengths
    inside = torch.arange(4) < lengths.unsqueeze(1)
    assert torch.equal(actions[inside], batch.data[:, 0, :, 0, 0][inside])
    assert (actions[~inside] == -1).all()
    assert len(set(actions[:, 0].tolist())) > 3
    assert loader.whole(0).conditions["action"].data.tolist() == [list(range(9))]


def _with_header(folder, header):
    folder.mkdir(exist_ok=True)
    (folder / "metadata.csv").write_text(f"{header}\none.png,go\n")
    return folder


def test_only_clips_have_actions_in_a_table(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    (tmp_path / "metadata.csv").write_text("file_name,label,actions\none.png,a,runs 2*x away\n")
    (one,) = open_source(str(tmp_path), PICTURES).items("all")
    assert (one.label, one.actions) == ("a", None)
    assert not TableSource.accepts(_with_header(tmp_path / "other", "file_name,actions"), PICTURES)
    assert TableSource.accepts(_with_header(tmp_path / "other", "file_name,actions"), EXTENSIONS)
    with pytest.raises(InputError, match=r"line 2 of .*metadata.csv: expected actions such as"):
        open_source(str(tmp_path), (*EXTENSIONS, ".png"))


def test_a_table_beside_clips_tells_their_actions(tmp_path):
    for name, length in (("one", 4), ("two", 3)):
        videos.save(tmp_path / name, videos.moving(length), videos.LOSSLESS)
    (tmp_path / "metadata.csv").write_text("file_name,actions\none.mkv,left*3 go\ntwo.mkv,\n")
    one, two = open_source(str(tmp_path), EXTENSIONS).items("all")
    assert (one.actions, two.actions) == (("left", "left", "left", "go"), None)
