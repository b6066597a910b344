"""A file is written whole or not at all."""

import errno
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from files.mistakes import UserError, run_main
from files.reading import read_json
from files.writing import atomic_folder, atomic_write, check_writable, write_json


def test_atomic_write_leaves_the_old_file_when_the_block_raises(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path, "w") as stream:
        stream.write("half of the new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_atomic_write_makes_the_folder_and_shows_the_file_only_when_done(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path, "w") as stream:
        stream.write("naïve")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "naïve"
    assert os.listdir(path.parent) == ["file.txt"]


def test_atomic_write_below_a_file_or_onto_a_folder_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), atomic_write(tmp_path / "file" / "x"):
        pass
    with pytest.raises(UserError, match="is a folder"), atomic_write("."):
        pass
    with pytest.raises(UserError, match="is a folder"), atomic_write(tmp_path):
        pass


def test_json_comes_back_as_it_was_written(tmp_path):
    value = {"text": "“Zürich” 東京", "list": [1, 2.5, None]}
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value
    assert "東京" in (tmp_path / "file.json").read_text(encoding="utf-8")


def test_half_a_character_is_written_as_the_escape_that_json_has_for_it(tmp_path):
    write_json(tmp_path / "file.json", {"half": "\ud83d", "whole": "🙂"})
    assert read_json(tmp_path / "file.json") == {"half": "\ud83d", "whole": "🙂"}


def test_a_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(UserError, match="is no file, and would be replaced"), atomic_write(path):
            pass
        with pytest.raises(UserError, match="is no file"):
            check_writable(path)


@pytest.mark.parametrize(("number", "path", "remedy"), [
    (errno.ENOSPC, "out.json", "free space, or write elsewhere"),
    (errno.EACCES, "/root/books", "check the path, and who may read it"),
])  # fmt: skip
def test_a_disk_that_refuses_is_one_line_wherever_it_does(capsys, number, path, remedy):
    def work():
        raise OSError(number, os.strerror(number), path)

    with pytest.raises(SystemExit) as stop:
        run_main(work)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {path}: {os.strerror(number)}; {remedy}\n"


def test_what_the_screen_has_no_letter_for_is_written_as_an_escape(tmp_path):
    code = "from files.mistakes import run_main; run_main(lambda: print('\\u044f \\udce9'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True,
                          env={**os.environ, "PYTHONIOENCODING": "ascii"})  # fmt: skip
    assert (done.returncode, done.stdout) == (0, rb"\u044f \udce9" + os.linesep.encode())


def test_memory_that_is_not_there_is_one_line_with_what_to_lower(capsys):
    def work():
        torch.empty(1 << 50)

    with pytest.raises(SystemExit) as stop:
        run_main(work)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: no memory is left (") and error.count("\n") == 1
    assert error.endswith("; free some, or of a task raise --accumulate, or lower --bptt or --batch_size\n")


def test_what_a_link_stands_for_is_written_and_the_link_stays(tmp_path):
    (tmp_path / "large").mkdir()
    link, file = tmp_path / "model.pt", tmp_path / "large" / "model.pt"
    link.symlink_to(file)  # which is not there yet
    check_writable(link)
    for text in ("one", "two"):
        with atomic_write(link, "w") as stream:
            stream.write(text)
        assert link.is_symlink() and file.read_text() == text
    assert os.listdir(tmp_path / "large") == ["model.pt"]


def test_a_file_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("synced") or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("renamed") or replace(*names))
    write_json(tmp_path / "file.json", {})
    assert done[:2] == ["synced", "renamed"]


def test_a_folder_that_one_may_write_to_is_filled_where_its_parent_is_not_ones_own(tmp_path, monkeypatch):
    """A mount, for which nothing can be made beside it: it keeps its number."""
    folder = tmp_path / "mount"
    folder.mkdir()
    (folder / f".tmp{os.getpid()}").mkdir()  # of a process of this number that was killed
    number = folder.stat().st_ino
    with atomic_folder(folder) as temporary:
        (temporary / "file").write_text("whole")
        assert [path.name for path in tmp_path.iterdir()] == ["mount"]
    assert [path.name for path in folder.iterdir()] == ["file"] and folder.stat().st_ino == number
