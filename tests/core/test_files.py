"""Files and directories that appear whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from smalti.core import files
from smalti.core.errors import InputError
from smalti.core.files import atomic_directory, atomic_file, is_disk_full

FULL = [OSError(code, os.strerror(code)) for code in (errno.ENOSPC, errno.EDQUOT)]


def failing(error: BaseException):
    def fail(*args, **kwargs):
        raise error

    return fail


def write_half(path: Path, error: BaseException) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("half of the n")
        raise error


def fill_half(path: Path, error: BaseException) -> None:
    with atomic_directory(path) as temporary:
        (temporary / "a").write_text("a")
        raise error


def listing(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


class TestFile:
    def test_new_and_replaced(self, tmp_path):
        path = tmp_path / "a.json"
        for content in ("one", "two"):
            with atomic_file(path) as temporary:
                temporary.write_text(content)
                assert not path.exists() or path.read_text() != content
            assert path.read_text() == content
        assert listing(tmp_path) == ["a.json"]

    @pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=repr)
    def test_a_failure_leaves_the_old_content(self, tmp_path, error):
        path = tmp_path / "a.json"
        path.write_text("old")
        with pytest.raises(type(error)):
            write_half(path, error)
        assert path.read_text() == "old"
        assert listing(tmp_path) == ["a.json"]

    @pytest.mark.parametrize("error", FULL)
    def test_a_disk_that_fills_while_writing(self, tmp_path, error):
        path = tmp_path / "a.json"
        path.write_text("old")
        message = r"disk is full: .*a\.json could not be written.*free some space"
        with pytest.raises(InputError, match=message):
            write_half(path, error)
        assert path.read_text() == "old"
        assert listing(tmp_path) == ["a.json"]

    @pytest.mark.parametrize("call", ["replace", "fsync"])
    def test_a_disk_that_is_full_at_the_end(self, tmp_path, monkeypatch, call):
        path = tmp_path / "a.json"
        path.write_text("old")
        monkeypatch.setattr(files.os, call, failing(FULL[0]))
        with pytest.raises(InputError, match="disk is full"), atomic_file(path) as temporary:
            temporary.write_text("new")
        assert path.read_text() == "old"
        assert listing(tmp_path) == ["a.json"]

    def test_what_a_killed_process_left_is_overwritten(self, tmp_path):
        path = tmp_path / "a.json"
        with pytest.raises(RuntimeError), atomic_file(path) as left_behind:
            raise RuntimeError
        left_behind.parent.mkdir()
        left_behind.write_text("left by a killed process")
        with atomic_file(path) as temporary:
            temporary.write_text("new")
        assert listing(tmp_path) == ["a.json"]
        assert path.read_text() == "new"


class TestDirectory:
    def test_new(self, tmp_path):
        path = tmp_path / "new"
        with atomic_directory(path) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / "a").write_text("a")
            assert not path.exists()
        assert (path / "sub" / "a").read_text() == "a"
        assert listing(tmp_path) == ["new"]

    def test_its_parents_are_made(self, tmp_path):
        with atomic_directory(tmp_path / "far" / "away") as temporary:
            (temporary / "a").touch()
        assert listing(tmp_path / "far" / "away") == ["a"]

    @pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=repr)
    def test_a_failure_leaves_nothing(self, tmp_path, error):
        with pytest.raises(type(error)):
            fill_half(tmp_path / "new", error)
        assert listing(tmp_path) == []

    @pytest.mark.parametrize("error", FULL)
    def test_a_disk_that_fills_while_writing(self, tmp_path, error):
        with pytest.raises(InputError, match="disk is full"):
            fill_half(tmp_path / "new", error)
        assert listing(tmp_path) == []

    @pytest.mark.parametrize("call", ["rename", "fsync"])
    def test_a_disk_that_is_full_at_the_end(self, tmp_path, monkeypatch, call):
        monkeypatch.setattr(files.os, call, failing(FULL[0]))
        with pytest.raises(InputError, match="disk is full"), atomic_directory(tmp_path / "new") as temporary:
            (temporary / "a").write_text("a")
        assert listing(tmp_path) == []

    def test_one_that_exists_is_not_touched(self, tmp_path):
        path = tmp_path / "new"
        path.mkdir()
        (path / "precious").touch()
        with pytest.raises(OSError, match="not empty"), atomic_directory(path) as temporary:
            (temporary / "a").touch()
        assert listing(path) == ["precious"]
        assert listing(tmp_path) == ["new"]

    def test_what_a_killed_process_left_is_removed(self, tmp_path):
        path = tmp_path / "new"
        with pytest.raises(RuntimeError), atomic_directory(path) as left_behind:
            raise RuntimeError
        left_behind.mkdir(parents=True)
        (left_behind / "stale").touch()
        with atomic_directory(path) as temporary:
            (temporary / "a").touch()
        assert listing(path) == ["a"]


class TestReplace:
    def test_all_of_the_old_directory_goes(self, tmp_path):
        path = tmp_path / "data"
        for name in ("old", "new"):
            with atomic_directory(path, replace=True) as temporary:
                (temporary / name).touch()
        assert listing(path) == ["new"]
        assert listing(tmp_path) == ["data"]

    def test_a_failed_rename_brings_the_old_one_back(self, tmp_path, monkeypatch):
        path = tmp_path / "data"
        path.mkdir()
        (path / "old").touch()
        rename = os.rename

        def full(source, target):
            if Path(source).name == "data" and Path(target) == path:
                raise FULL[0]
            rename(source, target)

        monkeypatch.setattr(files.os, "rename", full)
        message = "disk is full"
        with pytest.raises(InputError, match=message), atomic_directory(path, replace=True) as temporary:
            (temporary / "new").touch()
        assert listing(path) == ["old"]
        assert listing(tmp_path) == ["data"]


@pytest.mark.parametrize("atomic", [atomic_file, atomic_directory])
class TestNotWritable:
    @pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
    def test_a_place_without_permission(self, tmp_path, monkeypatch, atomic, code):
        monkeypatch.setattr(files.os, "mkdir", failing(OSError(code, os.strerror(code), str(tmp_path))))
        message = rf"new cannot be written \({os.strerror(code)}\)"
        with pytest.raises(InputError, match=message), atomic(tmp_path / "new"):
            pytest.fail("nothing may be begun")

    def test_a_file_as_parent(self, tmp_path, atomic):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="Not a directory"), atomic(tmp_path / "file" / "new"):
            pytest.fail("nothing may be begun")

    def test_while_writing(self, tmp_path, atomic):
        with pytest.raises(InputError, match="new cannot be written"), atomic(tmp_path / "new") as temporary:
            raise PermissionError(errno.EACCES, "Permission denied", str(temporary))
        assert listing(tmp_path) == []

    @pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC])
    def test_errors_of_other_files_are_not_ours_to_explain(self, tmp_path, atomic, code):
        with pytest.raises(OSError, match="elsewhere"), atomic(tmp_path / "new"):
            raise OSError(code, os.strerror(code), "/elsewhere/file")
        assert listing(tmp_path) == []

    def test_an_input_error_passes_unchanged(self, tmp_path, atomic):
        failure = InputError("the source failed: No space left on device")
        with pytest.raises(InputError, match="the source failed"), atomic(tmp_path / "new"):
            raise failure


def test_something_else_in_its_place(tmp_path):
    (tmp_path / "new").mkdir()
    with pytest.raises(InputError, match="Is a directory"), atomic_file(tmp_path / "new") as temporary:
        temporary.touch()
    assert listing(tmp_path) == ["new"]


def test_a_file_that_was_not_written_replaces_nothing(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "old"


def test_writers_of_one_file_wait_for_each_other(tmp_path):
    path = tmp_path / "a"
    failures = []

    def write(content: str) -> None:
        try:
            for _ in range(20):
                with atomic_file(path) as temporary, temporary.open("w") as file:
                    for character in content:
                        file.write(character)
                        file.flush()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(letter * 20,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert path.read_text() in {letter * 20 for letter in "abcd"}
    assert listing(tmp_path) == ["a"]


def test_a_killed_writer_leaves_the_old_one_and_no_lock(tmp_path):
    """SIGKILL in the middle of a block: nothing of it under the name, and the next writer goes on at once."""
    path = tmp_path / "data"
    with atomic_directory(path) as temporary:
        (temporary / "old").touch()
    program = f"""
import os, signal
from pathlib import Path
from smalti.core.files import atomic_directory
with atomic_directory(Path({str(path)!r}), replace=True) as temporary:
    (temporary / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert listing(path) == ["old"]
    assert listing(tmp_path) == [".data.partial", "data"]
    with atomic_directory(path, replace=True) as temporary:
        (temporary / "new").touch()
    assert listing(path) == ["new"]
    assert listing(tmp_path) == ["data"]


@pytest.mark.parametrize(
    ("error", "full"),
    [
        *((error, True) for error in FULL),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (ValueError("another"), False),
    ],
)
def test_which_errors_mean_a_full_disk(error, full):
    assert is_disk_full(error) == full
