"""The tool's choice of OpenMP threads: before torch is imported, and never against the user's environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smalti.app import threads

CHOSEN = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")
# The command ends before it imports torch; torch is then imported as a command would.
ENTRY_POINT = f"""
import json, os, sys
from smalti.app.cli import main
sys.argv = ["smalti", "--help"]
try:
    main()
except SystemExit:
    pass
assert "torch" not in sys.modules
print(json.dumps([os.environ.get(name) for name in {CHOSEN}]), file=sys.stderr)
"""


def after_the_command(**given: str) -> list[str | None]:
    inherited = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    done = subprocess.run(
        [sys.executable, "-c", ENTRY_POINT],
        env={**inherited, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stderr)


def test_the_command_chooses_before_torch_is_imported() -> None:
    assert after_the_command()[0] == "passive"
    assert after_the_command(OMP_WAIT_POLICY="active", OMP_NUM_THREADS="7") == ["active", "7"]


@pytest.fixture
def four_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As before torch is imported, on four processors; returns the root of the control groups."""
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(threads, "_available", lambda: 4)
    monkeypatch.setattr(threads, "CGROUP", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "given", "count"),
    [
        ({}, {}, None),
        ({"cpu.max": "max 100000"}, {}, None),
        ({"cpu.max": "800000 100000"}, {}, None),
        ({"cpu.max": "250000 100000"}, {}, "2"),
        ({"cpu.max": "50000 100000"}, {}, "1"),
        ({"cpu.max": "no numbers"}, {}, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, {}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, {}, "3"),
        ({}, {"LOCAL_WORLD_SIZE": "2"}, "2"),
        ({}, {"LOCAL_WORLD_SIZE": "8"}, "1"),
        ({"cpu.max": "250000 100000"}, {"OMP_NUM_THREADS": "3"}, "3"),
    ],
)
def test_no_more_threads_than_processors(
    four_processors: Path, files: dict[str, str], given: dict[str, str], count: str | None
) -> None:
    for name, text in files.items():
        (four_processors / name).parent.mkdir(exist_ok=True)
        (four_processors / name).write_text(text)
    environment = dict(given)
    threads.choose_threads(environment)
    assert environment.pop("OMP_WAIT_POLICY") == "passive"
    assert environment.get("OMP_NUM_THREADS") == count


def test_a_process_that_has_imported_torch_is_left_alone() -> None:
    import torch  # noqa: F401

    environment: dict[str, str] = {}
    threads.choose_threads(environment)
    assert environment == {}
