"""The page of examples/browser in headless Chromium, if that and onnxruntime-web are there."""

import functools
import http.server
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import smalti
from smalti.models.onnx import save_onnx

ATTEMPTS, DONE = 5, r">\d+ codes\.<"
PAGE = Path(__file__).parents[1] / "examples" / "browser"
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=60000",
    "--dump-dom",
]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.skipif(
        not (PAGE / "node_modules" / "onnxruntime-web").is_dir(),
        reason="onnxruntime-web is not installed: see examples/browser/README.md",
    ),
]


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.mark.parametrize("size", [(16, 16), (40, 24)])
def test_the_page_has_the_codes_of_the_model(trained, tmp_path, size):
    tokenizer = smalti.load(trained)
    site = tmp_path / "site"
    shutil.copytree(PAGE, site, symlinks=True, ignore=shutil.ignore_patterns("model", "node_modules"))
    (site / "node_modules").symlink_to(PAGE / "node_modules")
    save_onnx(tokenizer.autoencoder, site / "model")
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    picture.save(site / "picture.png")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/index.html?picture=picture.png"
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [str(CHROMIUM), *FLAGS, profile, address]
        # Virtual time goes on while WebAssembly is compiled in the background, so a page can be dumped early.
        for _ in range(ATTEMPTS):
            shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180).stdout
            if re.search(DONE, shown):
                break
    finally:
        server.shutdown()
        server.server_close()
    assert re.search(DONE, shown), re.search(r'<span id="status">(.*?)</span>', shown)
    found = re.search(r'<output id="codes"[^>]*>([\d ]*)</output>', shown)
    assert found
    expected = tokenizer.native().encode([picture])[0]
    assert [int(code) for code in found[1].split()] == expected.flatten().tolist()
