"""Files of codes as a source."""

import numpy as np
import pytest

from smalti.core.errors import InputError
from smalti.data.codes import CodesInfo, write_codes
from smalti.data.sources import open_source
from smalti.data.sources.codes import CodesSource

ENDINGS = (".parquet",)
RNG = np.random.default_rng(0)


def written(path, num=5, model="a", grid=(3, 4)):
    codes = RNG.integers(0, 9, (num, 2, *grid))
    info = CodesInfo(grid=grid, num_codebooks=2, num_codes=9, model=model)
    names = [f"item{index}" for index in range(num)]
    write_codes(path, info, [(names, codes, ["x"] * num)])
    return codes


def test_a_file_is_one_split(tmp_path):
    codes = written(tmp_path / "mine.parquet")
    source = open_source(str(tmp_path / "mine.parquet"), ENDINGS)
    assert isinstance(source, CodesSource)
    assert source.splits == ("all",)
    items = list(source.items("all"))
    assert source.count("all") == len(items) == 5
    assert [(item.name, item.label) for item in items[:2]] == [("item0", "x"), ("item1", "x")]
    np.testing.assert_array_equal(np.stack([item.content for item in items]), codes)
    assert "3x4 out of 9" in source.description


def test_a_folder_has_splits_by_name(tmp_path):
    written(tmp_path / "train.parquet", 4)
    written(tmp_path / "test.parquet", 2)
    source = open_source(str(tmp_path), ENDINGS)
    assert source.splits == ("train", "test")
    assert (source.count("train"), source.count("test")) == (4, 2)


def test_files_of_different_models_are_refused(tmp_path):
    written(tmp_path / "train.parquet", model="a")
    written(tmp_path / "test.parquet", model="b")
    with pytest.raises(InputError, match="expected codes of the model"):
        open_source(str(tmp_path), ENDINGS)


def test_other_parquet_is_not_taken_for_codes(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    assert not CodesSource.accepts(tmp_path / "broken.parquet")
    assert not CodesSource.accepts(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert not CodesSource.accepts(tmp_path / "empty")


def test_codes_beside_pictures_do_not_stand_for_them(tmp_path):
    """`smalti sample` writes both into one folder."""
    written(tmp_path / "codes.parquet")
    (tmp_path / "one.png").write_bytes(b"png")
    assert not isinstance(open_source(str(tmp_path), (".png",)), CodesSource)
