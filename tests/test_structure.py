"""The structure of the code beyond what import-linter checks."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 450


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "examples"])
def test_no_file_is_long(folder: str) -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / folder).rglob("*.py")
    }
    assert lengths
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}
