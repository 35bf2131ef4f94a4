"""Parts of a user's own, from a module that the user names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from smalti.core import plugins
from smalti.core.errors import InputError, UnknownKind
from smalti.core.parts import QUANTIZERS
from smalti.recipe import Recipe, parse

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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a module of parts; entry points are read anew, before and after the test."""
    (tmp_path / "my_parts.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.delitem(sys.modules, "my_parts", raising=False)
    known = dict(QUANTIZERS.kinds())
    monkeypatch.setattr(QUANTIZERS, "_kinds", known)
    plugins.installed.cache_clear()
    yield tmp_path
    plugins.installed.cache_clear()


def install(folder: Path, module: str, group: str = plugins.ENTRY_POINTS) -> None:
    """Give a folder on the Python path an installed package with one entry point."""
    described = folder / f"{module}-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Name: package-of-{module}\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(f"[{group}]\nparts = {module}\n")
    sys.path.insert(0, str(folder))


def test_a_plugin_registers_its_parts(folder: Path) -> None:
    with pytest.raises(InputError, match="doubled"):
        QUANTIZERS.parse({"kind": "doubled"})
    plugins.load_plugin("my_parts")
    plugins.load_plugin("my_parts")
    assert QUANTIZERS.parse({"kind": "doubled", "num_codes": 5}).build().num_codes == 10
    assert plugins.loaded_plugins() == ("my_parts",)


@pytest.mark.parametrize("name", ["my_parts.py", "./my_parts", "./my_parts.py", "here/my_parts.py"])
def test_a_path_is_no_module(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="write my_parts, "):
        plugins.load_plugin(name)
    assert "my_parts" not in sys.modules
    for odd in ("", ".my_parts", "my_parts.", "..", "/"):
        with pytest.raises(InputError, match="name of a Python module"):
            plugins.load_plugin(odd)


def test_a_script_that_exits_is_no_plugin(folder: Path) -> None:
    (folder / "script_that_exits.py").write_text("raise SystemExit(3)")
    with pytest.raises(InputError, match="ends the program"):
        plugins.load_plugin("script_that_exits")


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
    unknown = UnknownKind("unknown", "quantizer", "doubled")
    run, config = Path("runs/mine"), {"plugins": ["my_parts", "my.others", "x; rm", 3]}
    with pytest.raises(UnknownKind) as caught, plugins.plugin_hint(config, run):
        raise unknown
    assert "--plugin my_parts --plugin my.others," in str(caught.value)
    assert "SMALTI_PLUGINS=my_parts,my.others " in str(caught.value)
    assert str(run) in str(caught.value)
    assert (caught.value.family, caught.value.kind) == ("quantizer", "doubled")
    plugins.load_plugin("my_parts")
    for config in ({"plugins": ["my_parts"]}, {}, {"plugins": "my_parts"}):
        with pytest.raises(UnknownKind) as caught, plugins.plugin_hint(config, run):
            raise unknown
        assert caught.value is unknown


def test_other_errors_get_no_hint(folder: Path) -> None:
    with pytest.raises(InputError) as caught, plugins.plugin_hint({"plugins": ["my_parts"]}, Path("run")):
        raise InputError("broken")
    assert str(caught.value) == "broken"


def test_an_unknown_kind_of_a_stored_recipe_keeps_its_type_and_place() -> None:
    with pytest.raises(UnknownKind, match=r"model.quantizer.*doubled") as caught:
        parse(Recipe, {"name": "image", "model": {"kind": "vqvae", "quantizer": {"kind": "doubled"}}}, "here")
    assert (caught.value.family, caught.value.kind) == ("quantizer", "doubled")
    quantizer = {"kind": "vq", "codebook": {"kind": "x"}}
    with pytest.raises(UnknownKind) as caught:
        parse(Recipe, {"name": "image", "model": {"kind": "vqvae", "quantizer": quantizer}}, "here")
    assert (caught.value.family, caught.value.kind) == ("codebook", "x")


def test_the_parts_of_an_installed_package_need_no_name(folder: Path) -> None:
    install(folder, "my_parts")
    assert QUANTIZERS.parse({"kind": "doubled", "num_codes": 5}).build().num_codes == 10
    assert plugins.loaded_plugins() == ("my_parts",)


def test_installed_packages_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr(
        plugins, "entry_points", lambda group: reads.append(group) or entry_points(group=group)
    )
    for _ in range(3):
        QUANTIZERS.get("vq")
    assert reads == [plugins.ENTRY_POINTS]


def test_an_installed_package_whose_parts_cannot_be_imported_is_named_each_time(folder: Path) -> None:
    (folder / "broken_parts.py").write_text("import no_such_dependency\n")
    install(folder, "broken_parts")
    for _ in range(2):
        with pytest.raises(InputError, match=r"package-of-broken_parts.*no_such_dependency"):
            QUANTIZERS.get("vq")
    assert plugins.loaded_plugins() == ()


def test_a_plugin_may_look_parts_up_while_it_is_imported(folder: Path) -> None:
    code = "\nassert 'doubled' in QUANTIZERS.kinds()\n"
    (folder / "my_parts.py").write_text(MODULE + code)
    install(folder, "my_parts")
    assert "doubled" in QUANTIZERS.kinds()
    # One that fails after it looked parts up is not taken for loaded.
    (folder / "late_parts.py").write_text(MODULE.replace("doubled", "late") + "QUANTIZERS.kinds()\n1 / 0\n")
    for _ in range(2):
        with pytest.raises(InputError, match=r"late_parts.*division"):
            plugins.load_plugin("late_parts")
    assert plugins.loaded_plugins() == ("my_parts",)


def test_the_next_command_names_plugins_that_it_would_not_load(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plugins.plugin_options() == ""
    plugins.load_plugin("my_parts")
    assert plugins.plugin_options() == " --plugin my_parts"
    monkeypatch.setenv(plugins.VARIABLE, "my_parts, ")
    assert plugins.plugin_options() == ""
    monkeypatch.delenv(plugins.VARIABLE)
    install(folder, "my_parts")
    plugins.installed.cache_clear()
    assert plugins.plugin_options() == ""
