"""Where results come from: never a user's paths, never another project's commit."""

import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from smalti.app.data import open_data
from smalti.app.provenance import commit, described, device, is_jpeg
from smalti.data.sources import Source
from smalti.modalities.image.modality import ImageConfig, ImageModality


def opened(data: str) -> Source:
    return open_data(data, ImageModality(ImageConfig()))


def folder(path: Path, ending: str) -> Path:
    for name in ("a", "b"):
        (path / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(path / name / f"1.{ending}")
    return path


def test_data_is_described_without_its_path_and_with_its_compression(tmp_path):
    for ending, expected in (("png", "folder (all 2)"), ("jpg", "folder (all 2), JPEG")):
        data = str(folder(tmp_path / ending, ending))
        assert described(opened(data), "all", data) == expected
    picture = (tmp_path / "png" / "a" / "1.png").read_bytes()
    (tmp_path / "rows").mkdir()
    pq.write_table(pa.table({"image": [picture]}), tmp_path / "rows" / "train.parquet")
    rows = str(tmp_path / "rows")
    assert described(opened(rows), "train", rows) == "Parquet, column image (train 1)"
    assert described(opened("letters"), "test", "letters").startswith("drawn letters")


def test_jpeg_is_recognised_by_its_bytes_and_not_by_its_name(tmp_path):
    data = folder(tmp_path / "data", "jpg")
    shutil.move(data / "a" / "1.jpg", data / "a" / "1.png")
    assert is_jpeg(opened(str(data)), "all")
    (data / "a" / "1.png").write_bytes(b"")
    assert not is_jpeg(opened(str(data)), "all")
    (data / "a" / "1.png").unlink()
    (data / "a" / "1.png").symlink_to("nowhere")
    assert not is_jpeg(opened(str(data)), "all")


def test_a_copy_inside_another_checkout_does_not_take_its_commit(tmp_path):
    import smalti.app.provenance as provenance

    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "tracked").write_text("")
    subprocess.run([*git, "add", "tracked"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "one"], check=True)
    copied = tmp_path / "copied.py"
    shutil.copy(Path(provenance.__file__), copied)
    program = "import copied; print(copied.commit())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("smalti ")
    assert commit()
    assert device()
