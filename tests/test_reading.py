"""Text and JSON: what is wrong in a file is told in one line with its name and place."""

import pytest
from toys import refused

from files.mistakes import UserError
from files.reading import parse_json, read_json, read_text, texts_in
from files.tables import read_context


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b" \n", "empty file"),
        (b'{"a": 1,\n "b": }', "line 2, column 7"),
        (b'{"a": "caf\xe9"}', "not UTF-8 at byte 10"),
        (b'{"a": 1}\n{"a": 2}\n', "where each line is an object, call it .jsonl"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_read_json_names_the_file_and_the_fault(tmp_path, content, message):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_reading_an_absent_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_text(tmp_path / "absent")


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "file.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "file.json") == [1]


def test_a_number_of_thousands_of_digits_is_one_line():
    refused(lambda: parse_json("9" * 5000, "x.json"), "x.json", "digits")


def test_a_name_cannot_break_the_line():
    assert str(UserError("a\nb\x1b[31m\ud800: gone")) == "a\\nb\\x1b[31m\\ud800: gone"


def test_files_that_a_system_or_a_cache_puts_beside_the_owners_are_none_of_theirs(tmp_path):
    for name in ("a.txt", "deep/b.TXT", ".c.txt", ".ipynb_checkpoints/a.txt", "__MACOSX/._a.txt", "__MACOSX/d.txt",
                 "cache/x/e.txt", "cache/CACHEDIR.TAG"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert texts_in(tmp_path) == [tmp_path / "a.txt", tmp_path / "deep/b.TXT"]
    assert texts_in(tmp_path / "cache") == [tmp_path / "cache/x/e.txt"]  # where the cache itself is asked for


def test_folders_are_read_through_links_each_once_and_in_circles_never(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.txt").write_text("a")
    own = tmp_path / "own"
    own.mkdir()
    for name, target in (("here", "../far"), ("there", "../far"), ("round", ".")):
        (own / name).symlink_to(target)
    assert texts_in(own) == [own / "here" / "a.txt"]


def test_a_context_that_is_no_text_by_its_name_is_refused(tmp_path):
    (tmp_path / "notes.pdf").write_bytes(b"%PDF-1.7")
    refused(lambda: read_context(str(tmp_path / "notes.pdf")), "notes.pdf: .pdf is no plain text; save it as .txt")
