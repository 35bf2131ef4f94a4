"""Functions that wait for another package's module."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from smalti.core.late_imports import when_imported


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "slowpoke_of_a_test.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.delitem(sys.modules, "slowpoke_of_a_test", raising=False)
    return "slowpoke_of_a_test"


def test_a_function_waits_for_the_module_and_sees_it_whole(module):
    seen = []
    when_imported(module, lambda: seen.append(sys.modules[module].value))
    assert seen == []
    importlib.import_module(module)
    assert seen == [3]
    importlib.import_module(module)
    assert seen == [3]


def test_to_look_for_the_module_is_not_to_import_it(module):
    seen = []
    when_imported(module, lambda: seen.append(1))
    assert importlib.util.find_spec(module) is not None
    assert seen == []
    importlib.import_module(module)
    assert seen == [1]


def test_two_functions_may_wait_for_one_module(module):
    seen = []
    when_imported(module, lambda: seen.append("first"))
    when_imported(module, lambda: seen.append("second"))
    importlib.import_module(module)
    assert sorted(seen) == ["first", "second"]


def test_a_function_is_called_at_once_for_a_module_that_is_there(module):
    importlib.import_module(module)
    seen = []
    when_imported(module, lambda: seen.append(1))
    assert seen == [1]


def test_a_module_that_does_not_exist_still_does_not(module, monkeypatch):
    when_imported("nowhere_of_a_test", lambda: pytest.fail("called without its module"))
    with pytest.raises(ModuleNotFoundError, match="nowhere_of_a_test"):
        importlib.import_module("nowhere_of_a_test")
