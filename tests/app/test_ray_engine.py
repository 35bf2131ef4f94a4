"""`smalti encode --engine ray`: the files of the plain command, also after kills; refusals."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import psutil
import pytest

from smalti.app.ray_engine import RayEngine, ShardActor
from smalti.app.shards import ShardedEncoding
from smalti.data.manifest import ShardRecord
from tests import forked
from tests.runs import UNREADABLE, Result, digests

# Not imported: the engine sets variables that Ray reads at its import.
pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")

SHARDS = 20

Smalti = Callable[..., Result]
Mistake = Callable[..., str]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster on this machine, to which this process is connected."""
    engine = RayEngine("local")
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smalti.app.ray_engine.usable_processors", lambda: 1)
        with engine.connected():
            yield ray.get_runtime_context().gcs_address


def words(run: Path, data: Path, out: Path, *more: object) -> list[object]:
    return ["encode", run, "--data", data, "--out", out, "--shards", SHARDS, *more]


def actor() -> int:
    """Number of the process of an actor of this process's cluster, as soon as there is one."""
    while True:
        for process in psutil.Process().children(recursive=True):
            try:
                if "ShardActor" in " ".join(process.cmdline()):
                    return process.pid
            except psutil.Error:
                continue  # gone meanwhile
        time.sleep(0.01)


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.001)


@pytest.mark.usefixtures("cluster")
def test_the_files_are_those_without_ray_although_an_actor_is_killed(
    trained: Path, data: Path, whole: Path, tmp_path: Path, smalti: Smalti
) -> None:
    out = tmp_path / "codes"
    killed: list[int] = []

    def kill() -> None:
        pid = actor()
        wait_for(out / "manifest" / "00000.json")
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    killing = threading.Thread(target=kill, daemon=True)
    killing.start()
    result = smalti(*words(trained, data, out, "--engine", "ray"))
    killing.join()
    assert result.status == 0, result.err
    assert digests(out) == digests(whole)
    assert killed
    assert result.out == ""
    assert UNREADABLE in result.err
    assert "39 items" in result.err


@pytest.mark.slow
def test_a_killed_driver_is_repeated(
    cluster: str, trained: Path, data: Path, whole: Path, tmp_path: Path, smalti: Smalti
) -> None:
    out = tmp_path / "codes"
    driver = forked.start(
        "-m", "smalti", *words(trained, data, out, "--engine", "ray"), variables={"RAY_ADDRESS": cluster}
    )
    while driver.is_running() and not (out / "manifest" / "00003.json").exists():
        time.sleep(0.001)
    driver.kill()
    result = smalti(*words(trained, data, out, "--engine", "ray", "--quiet"))
    assert (result.status, result.err) == (0, "")
    assert digests(out) == digests(whole)


def test_an_actor_returns_user_errors_as_sentences(
    trained: Path, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = mock.Mock()  # stands for the actor that counts
    attempts.begin.remote.return_value = 1
    monkeypatch.setattr("ray.get", lambda value: value)
    out, own = (Path(shutil.copytree(path, tmp_path / path.name)) for path in (whole, data))
    complete = ShardActor(ShardedEncoding(str(trained), str(own), out, SHARDS), (), "cpu", attempts)
    row = complete({"item": 2})
    assert row["error"] == ""
    assert ShardRecord.model_validate_json(row["record"]).shard == 2
    (own / "cat" / "002.png").write_bytes(b"changed")
    assert [bool(complete({"item": shard})["error"]) for shard in range(3)] == [True, False, False]
    attempts.begin.remote.return_value = 6
    assert "shard 2 has died 5 times" in complete({"item": 2})["error"]


@pytest.mark.filterwarnings("ignore:the weights of the model were changed")
def test_a_changed_model_is_refused(
    trained: Path, data: Path, whole: Path, tmp_path: Path, mistake: Mistake
) -> None:
    from smalti.tokenizer import load

    tokenizer = load(trained, "cpu")
    next(tokenizer.autoencoder.parameters()).data += 1
    tokenizer.save_pretrained(tmp_path / "other")
    assert "the model" in mistake(*words(tmp_path / "other", data, whole, "--engine", "ray"))


def test_a_missing_package_names_its_extra(
    trained: Path, data: Path, tmp_path: Path, mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "smalti[ray]" in mistake(*words(trained, data, tmp_path / "codes", "--engine", "ray"))
    assert not (tmp_path / "codes").exists()


def test_without_the_option_nothing_of_ray_is_imported(trained: Path, data: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from smalti.app.cli import main\ntry: main()\nfinally: assert 'ray' not in sys.modules"
    )
    forked.run("-c", code, *words(trained, data, tmp_path / "codes"))


def test_a_cluster_that_does_not_answer(
    trained: Path, data: Path, tmp_path: Path, mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        options = ("--engine", "ray", "--address", address)
        assert address in mistake(*words(trained, data, tmp_path / "codes", *options))


def test_options_that_need_another(trained: Path, data: Path, tmp_path: Path, mistake: Mistake) -> None:
    command = words(trained, data, tmp_path / "codes")
    assert "--engine ray" in mistake(*command, "--address", "auto")
    assert "--shards" in mistake(*command[:-2], "--engine", "ray")
    assert "roy" in mistake(*command, "--engine", "roy")


def test_ranks_are_refused(
    trained: Path, data: Path, tmp_path: Path, mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "torchrun" in mistake(*words(trained, data, tmp_path / "codes", "--engine", "ray"))


@pytest.mark.slow
def test_a_shard_that_kills_its_actors_stops_the_command(
    cluster: str, trained: Path, data: Path, tmp_path: Path
) -> None:
    """By a plugin, which the actors load as well: only they write files of codes."""
    kill = "def kill(*_, **__): os.kill(os.getpid(), 9)"
    (tmp_path / "poison.py").write_text(f"import os, smalti.app.shards as s\n{kill}\ns.write_codes = kill\n")
    command = words(trained, data, tmp_path / "codes", "--engine", "ray", "--plugin", "poison")
    driver = forked.start("-m", "smalti", *command, folder=tmp_path, variables={"RAY_ADDRESS": cluster})
    assert driver.wait(timeout=900) == 2
    assert "has died 5 times" in driver.printed


def test_a_cluster_that_does_not_start(
    trained: Path, data: Path, tmp_path: Path, mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", mock.Mock(side_effect=Exception("the node timed out")))
    message = mistake(*words(trained, data, tmp_path / "codes", "--engine", "ray"))
    assert "the node timed out" in message
    assert "--address" not in message
