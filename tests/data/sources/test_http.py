"""Sources at addresses of a web server, which Python's own one on this machine stands for."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from smalti.core.errors import InputError
from smalti.data.sources import open_source
from smalti.data.sources.parquet import ParquetSource
from smalti.data.sources.remote import RemoteSource
from smalti.modalities.image.modality import ImageConfig

pytest.importorskip("aiohttp", reason="fsspec reads http:// addresses with aiohttp, which is not installed")

EXTENSIONS = (".png",)


class Quiet(SimpleHTTPRequestHandler):
    """Sends whole files, and logs nothing."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Ranges(Quiet):
    """Sends parts of files."""

    def send_head(self) -> Any:
        """Send the part that is asked for."""
        asked = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if asked is None or not path.is_file():
            return super().send_head()
        begin, end = asked.removeprefix("bytes=").split("-")
        content = path.read_bytes()
        first = int(begin) if begin else max(0, len(content) - int(end))
        part = content[first : int(end) + 1 if begin and end else None]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.end_headers()
        return io.BytesIO(part)


@pytest.fixture(params=[Quiet, Ranges], ids=["whole files", "ranges"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Address of `tmp_path`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(request.param, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def picture(level: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8, 3), level, np.uint8))


def levels(source: RemoteSource | ParquetSource, split: str) -> list[int]:
    modality = ImageConfig(size=(8, 8)).build()
    contents = [item.content for item in source.items(split)]
    return [int(modality.decode(each)[0, 0, 0]) for each in contents if isinstance(each, bytes)]


def test_pictures_of_a_folder(address: str, tmp_path: Path) -> None:
    for index, name in enumerate(("cat/1.png", "cat/2.png", "dog/1.png")):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "cat" / "notes.txt").write_text("cats")
    source = open_source(f"{address}/pictures", EXTENSIONS)
    assert isinstance(source, RemoteSource)
    assert levels(source, "all") == [0, 1, 2]
    assert [(item.name, item.label) for item in source.section("all", 1, 3)] == [
        ("cat/2.png", "cat"),
        ("dog/1.png", "dog"),
    ]
    (tmp_path / "pictures" / "dog" / "1.png").unlink()
    with pytest.raises(InputError):
        levels(source, "all")


def test_parquet_files(address: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    noise = np.random.default_rng(0).bytes(3 << 20)
    for index in range(2):
        rows = []
        for row in range(3):
            content = io.BytesIO()
            picture(10 * index + row).save(content, "PNG")
            # More than fsspec asks for at once, so that a server without parts of files sends too much.
            rows.append({"bytes": content.getvalue() + noise, "path": f"{row}.png"})
        table = pa.table({"image": pa.array(rows)})
        pq.write_table(table, tmp_path / "set" / f"train-{index:05d}-of-00002.parquet", row_group_size=2)
    source = open_source(f"{address}/set", EXTENSIONS)
    assert isinstance(source, ParquetSource)
    assert source.splits == ("train",)
    assert levels(source, "train") == [0, 1, 2, 10, 11, 12]


def test_what_cannot_be_opened(address: str) -> None:
    with pytest.raises(InputError):
        open_source(f"{address}/none", EXTENSIONS)
