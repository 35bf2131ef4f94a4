"""Tokenizers on the Hugging Face Hub, which is replaced by functions: what is uploaded and downloaded."""

from __future__ import annotations

import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from smalti.core.errors import InputError
from smalti.tokenizer import Tokenizer, load


@pytest.fixture(scope="module")
def tokenizer(trained: Path) -> Tokenizer:
    return load(trained, device="cpu")


def test_push_to_hub_uploads_what_save_pretrained_writes(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []

    class Api:
        def __init__(self, token: str | None) -> None:
            calls.append(("token", token))

        def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> str:
            calls.append(("create", (repository, private, exist_ok)))
            return f"https://huggingface.co/{repository}"

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
            calls.append(("upload", (repo_id, sorted(os.listdir(folder_path)))))
            assert load(folder_path).fingerprint == tokenizer.fingerprint

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    address = tokenizer.push_to_hub("me/letters", private=True, token="secret")
    assert address == "https://huggingface.co/me/letters"
    parts = ["config.json", "model.safetensors", "prior", "unigram.json"]
    assert calls == [
        ("token", "secret"),
        ("create", ("me/letters", True, True)),
        ("upload", ("me/letters", parts)),
    ]


def test_load_from_the_hub_asks_for_no_more_than_is_needed(
    trained: Path, run: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[tuple[str, list[str]]] = []

    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(trained)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert load("me/letters").fingerprint == tokenizer.fingerprint
    ((repository, patterns),) = asked
    assert repository == "me/letters"
    shutil.copytree(trained / "prior", run / "prior-other")
    there = [str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()]
    assert any("state" in file for file in there)
    chosen = {file for file in there if any(fnmatch(file, pattern) for pattern in patterns)}
    parts = {"config.json", "model.safetensors"}
    priors = {f"{name}/{part}" for name in ("prior", "prior-other") for part in parts}
    assert chosen == {*parts, "unigram.json", *priors}
    # What lies here goes before what the Hub may have.
    shutil.copytree(trained, tmp_path / "me" / "letters")
    load("me/letters")
    load(trained)
    assert len(asked) == 1


def test_a_name_that_nobody_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        raise LocalEntryNotFoundError("no connection\nand many more lines")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(InputError, match=r"me/nothing .*\(no connection\)"):
        load("me/nothing")
    (tmp_path / "runs").mkdir()
    for path in ("nothing", "./me/nothing", "runs/mien", tmp_path / "nothing"):
        with pytest.raises(InputError, match="found nothing at"):
            load(path)
