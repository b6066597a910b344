"""What is looked at before a run begins: places that cannot be written."""

import pytest

from files.mistakes import UserError
from files.writing import check_writable


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "file.txt").write_text("what there is")
    return tmp_path


@pytest.mark.parametrize("path, reason", [
    ("file.txt/model.pt", "Not a directory"), ("", "is a folder"), ("x" * 300, "File name too long"),
    ("/proc/nowhere/model.pt", "cannot be written"),
])  # fmt: skip
def test_a_place_that_cannot_be_written_is_one_line(folder, path, reason):
    with pytest.raises(UserError, match=reason) as error:
        check_writable(folder / path)
    assert "\n" not in str(error.value)


def test_trying_a_place_changes_and_leaves_nothing(folder):
    for path in ("file.txt", "new.pt", "new/folder/model.pt"):
        check_writable(folder / path)
    assert [path.name for path in folder.iterdir()] == ["file.txt"] and (folder / "file.txt").read_text() == "what there is"


@pytest.mark.parametrize("task, flags, named", [
    ("mlm", "--save file.txt/x.pt --dataset nowhere", "file.txt/x.pt"),
    ("mlm", "--log-dir file.txt --dataset nowhere", "file.txt/result.json"),
    ("qa", "--predict gone.json --output file.txt/x.json --bert-model gone.pt", "file.txt/x.json"),
    ("ns", "--evaluate --log-dir file.txt --bert-model gone.pt", "file.txt/evaluation.json"),
    ("race", "--predict gone --output file.txt/x.json --bert-model gone.pt", "file.txt/x.json"),
])  # fmt: skip
def test_what_a_run_will_write_is_tried_before_anything_is_loaded(run_script, folder, task, flags, named):
    error = run_script(f"{task}_task.py", *flags.split(), code=2).stderr
    assert error.startswith(f"error: {named}: cannot be written (Not a directory)") and error.count("\n") == 1
