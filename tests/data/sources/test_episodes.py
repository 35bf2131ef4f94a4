"""Tables of frames as clips with actions."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smalti.core.errors import InputError
from smalti.data.sources import open_source
from smalti.data.sources.episodes import EpisodesSource
from smalti.data.sources.parquet import ParquetSource
from smalti.modalities.image.formats import EXTENSIONS as PICTURES
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


def _with_vectors(file, cells, kind=None):
    table = pq.read_table(file)
    pq.write_table(table.append_column("action_vector", pa.array(cells, kind)), file)


def test_continuous_actions_are_a_column_of_each_clip(folder):
    file = folder / "test-00000-of-00001.parquet"
    _with_vectors(file, [[0.5, -1.0], None, [2.0, None]])
    _with_vectors(folder / "train-00000-of-00001.parquet", [[float(i), 0.0] for i in range(75)])
    source = EpisodesSource(folder)
    (held_out,) = source.items("test")
    np.testing.assert_array_equal(
        held_out.columns["action_vector"], [[0.5, -1], [np.nan, np.nan], [2, np.nan]]
    )
    training = [item.columns["action_vector"] for item in source.items("train")]
    np.testing.assert_array_equal(np.concatenate(training)[:, 0], np.arange(75))
    assert [len(each) for each in training] == [3, 2, 70]
    assert [len(item.actions) for item in source.items("train")] == [3, 2, 70]


def test_tables_without_continuous_actions_have_no_columns(folder):
    assert not any(item.columns for item in EpisodesSource(folder).items("train"))


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["a", "b", "c"], ["action_vector", "string"]),
        ([["a"], ["b"], ["c"]], ["action_vector", "string"]),
        ([[0.5], [1.0, 2.0], [1.0]], ["action_vector", "1 to 2", "episode 0"]),
        ([[], [], []], ["action_vector", "episode 0"]),
    ],
)
def test_continuous_actions_that_are_no_vectors_are_refused(tmp_path, cells, words):
    file = videos.save_episodes(tmp_path / "walks.parquet", WALKS[:1])
    kind = pa.list_(pa.float64()) if cells == [[], [], []] else None
    _with_vectors(file, cells, kind)
    with pytest.raises(InputError) as error:
        list(EpisodesSource(file).items("all"))
    assert all(word in str(error.value) for word in words)
