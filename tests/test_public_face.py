"""The names that `import smalti` offers: complete, described to type checkers, and cheap."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import smalti
from smalti.core.registry import Registry

STUB = Path(smalti.__file__).with_suffix(".pyi")
REGISTRIES = [name for name in smalti.__all__ if isinstance(getattr(smalti, name), Registry)]


def test_every_name_can_be_imported():
    for name in smalti.__all__:
        assert getattr(smalti, name) is not None, name


def test_the_stub_names_the_same():
    tree = ast.parse(STUB.read_text())
    stubbed = {
        alias.asname: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert stubbed == smalti._PUBLIC


def test_there_are_registries():
    assert len(REGISTRIES) == 13


@pytest.mark.parametrize("name", REGISTRIES)
def test_every_registered_config_is_public(name):
    for config in getattr(smalti, name).kinds().values():
        if config.__module__.startswith("smalti."):
            assert getattr(smalti, config.__name__) is config


@pytest.mark.parametrize("name", REGISTRIES)
def test_every_class_that_a_registered_config_builds_is_public(name):
    for config in getattr(smalti, name).kinds().values():
        if config.__module__.startswith("smalti."):
            built = set(re.findall(r"\w+", inspect.signature(config.build).return_annotation)) - {"tuple"}
            assert built
            assert built <= set(smalti.__all__), config


def test_importing_it_does_not_import_torch():
    code = "import sys, smalti; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
