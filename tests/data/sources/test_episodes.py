"""Tables of frames as clips with actions."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smalti.core.errors import InputError
from smalti.data.sources import open_source
from smalti.data.sources.episodes import EpisodesSource
from smalti.data.sources.parquet import ParquetSource
from smalti.modalities.image.pictures import EXTENSIONS as PICTURES
from smalti.modalities.video.clips import EXTENSIONS
from smalti.modalities.video.modality import VideoConfig, VideoModality
from tests import videos

WALKS = [["left", "left", "right"], ["wait", "right"], ["right"] * 70]


@pytest.fixture
def folder(tmp_path):
    videos.save_episodes(tmp_path / "walks" / "train-00000-of-00001.parquet", WALKS)
    videos.save_episodes(tmp_path / "walks" / "test-00000-of-00001.parquet", WALKS[:1])
    return tmp_path / "walks"


def test_the_rows_of_an_episode_are_a_clip_with_its_actions(folder):
    source = open_source(str(folder), EXTENSIONS)
    assert isinstance(source, EpisodesSource)
    assert (source.splits, source.count("train"), source.count("test")) == (("train", "test"), 3, 1)
    items = list(source.items("train"))
    assert [item.name for item in items] == [f"train-00000-of-00001.parquet#episode{i}" for i in range(3)]
    modality = VideoModality(VideoConfig(size=(16, 16)))
    for item, actions in zip(items, WALKS, strict=True):
        assert list(item.actions) == actions
        frames = modality.decode(item.content).transpose(1, 2, 3, 0)
        np.testing.assert_array_equal(frames, videos.walk(actions))


def test_for_pictures_the_same_table_holds_frames(folder):
    source = open_source(str(folder), PICTURES)
    assert isinstance(source, ParquetSource)
    assert source.count("train") == 75


def test_actions_may_be_names_or_missing(folder, tmp_path):
    table = pq.read_table(folder / "test-00000-of-00001.parquet")
    names = pa.array(["jump", None, "duck"])
    at = table.schema.get_field_index("action")
    pq.write_table(table.set_column(at, "action", names), tmp_path / "named.parquet")
    pq.write_table(table.drop_columns(["action"]), tmp_path / "none.parquet")
    (named,) = EpisodesSource(tmp_path / "named.parquet").items("all")
    assert named.actions == ("jump", None, "duck")
    (none,) = EpisodesSource(tmp_path / "none.parquet").items("all")
    assert none.actions is None


def test_episodes_may_have_names(folder):
    file = folder / "train-00000-of-00001.parquet"
    table = pq.read_table(file)
    at = table.schema.get_field_index("episode")
    names = pa.array([f"walk {number}" for number in table["episode"].to_pylist()])
    pq.write_table(table.set_column(at, "episode", names), file)
    source = open_source(str(folder), EXTENSIONS)
    assert [item.name.split("#")[1] for item in source.items("train")] == [
        f"episodewalk {number}" for number in range(3)
    ]


def test_a_broken_frame_names_itself(folder):
    table = pq.read_table(folder / "test-00000-of-00001.parquet")
    images = table["image"].to_pylist()
    images[1]["bytes"] = b"no picture"
    at = table.schema.get_field_index("image")
    pq.write_table(table.set_column(at, "image", pa.array(images)), folder / "test-00000-of-00001.parquet")
    (item,) = EpisodesSource(folder).items("test")
    with pytest.raises(ValueError, match="its frame 1 cannot be read"):
        VideoModality(VideoConfig(size=(16, 16))).decode(item.content)


def test_tables_of_other_columns_are_refused(folder):
    table = pq.read_table(folder / "train-00000-of-00001.parquet")
    pq.write_table(table.drop_columns(["action"]), folder / "train-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"expected the column action in .*train-"):
        EpisodesSource(folder)


def test_damage_is_reported(folder):
    file = folder / "test-00000-of-00001.parquet"
    source = EpisodesSource(folder)
    content = bytearray(file.read_bytes())
    content[200:1200] = bytes(1000)
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"expected intact Parquet in .*test-"):
        list(source.items("test"))
