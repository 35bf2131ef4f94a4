"""Parts of a user's own, from a module that the user names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smalti.core import plugins
from smalti.core.errors import InputError
from smalti.core.parts import QUANTIZERS
from tests.runs import TINY, command

MODULE = """
from typing import Literal

from smalti.core.parts import QUANTIZERS, QuantizerConfig
from smalti.quantizers.vq import VectorQuantizer


@QUANTIZERS.register
class DoubledConfig(QuantizerConfig):
    kind: Literal["doubled"] = "doubled"
    num_codes: int = 8

    def build(self) -> VectorQuantizer:
        return VectorQuantizer(dim=4, num_codes=2 * self.num_codes)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_parts.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.delitem(sys.modules, "my_parts", raising=False)
    known = dict(QUANTIZERS.kinds())
    monkeypatch.setattr(QUANTIZERS, "_kinds", known)
    return tmp_path


def test_a_plugin_registers_its_parts(folder: Path) -> None:
    with pytest.raises(InputError, match="doubled"):
        QUANTIZERS.parse({"kind": "doubled"})
    plugins.load_plugin("my_parts")
    plugins.load_plugin("my_parts")
    assert QUANTIZERS.parse({"kind": "doubled", "num_codes": 5}).build().num_codes == 10
    assert plugins.loaded_plugins() == ("my_parts",)


def test_plugins_come_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugins.VARIABLE, " my_parts,")
    plugins.load_plugins()
    assert "doubled" in QUANTIZERS.kinds()


def test_a_fresh_process_reads_the_environment(folder: Path) -> None:
    code = "from smalti.core.parts import QUANTIZERS; print('doubled' in QUANTIZERS.kinds())"
    environment = {**os.environ, plugins.VARIABLE: "my_parts"}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "True"


@pytest.mark.parametrize("name", ["no_such_parts", "os.no_such"])
def test_a_module_that_is_not_there_is_a_sentence(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match=name):
        plugins.load_plugin(name)
    assert plugins.loaded_plugins() == ()


def test_an_import_that_fails_inside_a_plugin_names_the_plugin_and_the_module(folder: Path) -> None:
    (folder / "broken_parts.py").write_text("import no_such_dependency\n")
    with pytest.raises(InputError, match=r"broken_parts.*no_such_dependency"):
        plugins.load_plugin("broken_parts")


def test_the_hint_names_plugins_that_are_not_loaded(folder: Path) -> None:
    with (
        pytest.raises(InputError, match=r"SMALTI_PLUGINS=my_parts\b"),
        plugins.plugin_hint({"plugins": ["my_parts"]}),
    ):
        raise InputError("unknown kind")
    plugins.load_plugin("my_parts")
    for config in ({"plugins": ["my_parts"]}, {}, {"plugins": "my_parts"}):
        with pytest.raises(InputError) as caught, plugins.plugin_hint(config):
            raise InputError("unknown kind")
        assert str(caught.value) == "unknown kind"


def test_a_run_remembers_its_plugins_and_never_imports_them(
    folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder / "run"
    words = ("--data", pictures, "--out", run, "--plugin", "my_parts", *TINY, "--quiet")
    result = command("train", "image", *words)
    assert result.status == 0, result.err
    config = json.loads((run / "config.json").read_text())
    assert config["plugins"] == ["my_parts"]
    # As another process would see it, with a part that only the plugin has.
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setattr(QUANTIZERS, "_kinds", {k: v for k, v in QUANTIZERS.kinds().items() if k != "doubled"})
    monkeypatch.delitem(sys.modules, "my_parts")
    config["recipe"]["model"]["quantizer"] = {"kind": "doubled"}
    (run / "config.json").write_text(json.dumps(config))
    result = command("inspect", run)
    assert result.status == 2
    assert "SMALTI_PLUGINS=my_parts" in result.err
    assert "my_parts" not in sys.modules
