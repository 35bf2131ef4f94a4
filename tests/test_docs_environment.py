"""The commands of each document find what the lines before them installed, as a newcomer has it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

import pytest

from tests.test_docs import BLOCK, DOCUMENTS, ROOT

NEEDED = {"speech": "speech", "doom": "doom"}
"""Extra that `smalti collect NAME` requires."""


@dataclass
class Shell:
    """State of the environment: the extras that are installed, and whether `smalti` is found."""

    has_venv: bool = False
    finds_smalti: bool = False
    extras: set[str] = field(default_factory=set)

    def refused(self, line: str) -> bool:
        """True if a command is not found or lacks an extra; otherwise take over what it installs."""
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        match words:
            case ["make", *_]:
                self.has_venv = True
                self.extras |= {"audio", "video"}
            case ["source", ".venv/bin/activate"]:
                self.finds_smalti = self.has_venv
                return not self.has_venv
            case ["pip", "install", *options]:
                self.finds_smalti = True
                self.extras |= {
                    extra for option in options for extra in re.findall(r"\w+", option.partition("[")[2])
                }
            case ["smalti", "collect", name, *_]:
                return not self.finds_smalti or NEEDED[name] not in self.extras
            case ["smalti" | "torchrun", *_]:
                return not self.finds_smalti
            case [program, *_] if program.startswith(".venv/"):
                return not self.has_venv
            case _:
                return bool(words)
        return False


def commands(text: str) -> list[str]:
    return [
        line for language, block in BLOCK.findall(text) if language == "bash" for line in block.splitlines()
    ]


def refused(text: str, shell: Shell) -> list[str]:
    return [line for line in commands(text) if shell.refused(line)]


def test_every_command_finds_what_it_needs() -> None:
    shell = Shell()
    assert refused((ROOT / "README.md").read_text(), shell) == []
    for document in DOCUMENTS:
        # Each document may be read right after the quick start.
        assert refused((ROOT / document).read_text(), Shell(True, True, {"audio", "video"})) == [], document


@pytest.mark.parametrize(
    ("lines", "first"),
    [
        (["smalti recipes"], 0),
        (["make demo", "smalti recipes"], 1),
        (["source .venv/bin/activate"], 0),
        (["make demo", "source .venv/bin/activate", "smalti collect speech --out x"], 2),
        (["make demo", "VARIABLE=1 torchrun -m smalti"], 1),
        ([".venv/bin/python -m pytest"], 0),
        (["pip install -e '.[speech,doom]'", "smalti collect speech", "smalti collect doom", "unzip x"], 3),
    ],
)
def test_a_command_before_its_installation_is_found(lines: list[str], first: int) -> None:
    text = "```bash\n" + "\n".join(lines) + "\n```\n"
    assert refused(text, Shell())[:1] == [lines[first]]
