"""Lines and .txt files as people mean them: what ends a line, and which files are texts."""

from types import SimpleNamespace

import pytest

import mlm_task
import ns_task
from files.mistakes import UserError
from files.reading import read_text
from metrics import read_race_answers
from text.corpus import decode_piece, text_files
from text.questions import load_race

ARTICLE = '{"article": "The cat sat.", "questions": ["Who _ ?"], "options": [["a", "b", "c", "d"]], "answers": ["D"]}'


def test_only_line_ends_divide_the_pairs_to_predict(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_bytes("It rained.\u2028Then\x0cit\x85snowed.\tShe\u2029slept.\r\nOne.\tTwo.\rA.\tB.\n".encode())
    first = ["It rained.\u2028Then\x0cit\x85snowed.", "She\u2029slept."]
    assert ns_task.read_pairs(path) == [first, ["One.", "Two."], ["A.", "B."]]


def test_only_line_ends_divide_the_texts_to_fill(tmp_path, monkeypatch):
    path, seen = tmp_path / "lines.txt", {}
    path.write_bytes("The [MASK]\u2028sat.\x0c\r\n\nA [MASK].\n".encode())
    monkeypatch.setattr(mlm_task, "masked_row", lambda text, tokenizer, longest, sep, where: seen.update({where: text}))
    monkeypatch.setattr(mlm_task, "likeliest", lambda *arguments: [])
    monkeypatch.setattr(mlm_task.utils, "Computer", lambda *arguments: None)
    monkeypatch.setattr(mlm_task, "layout", lambda *arguments: (9, False))
    model = SimpleNamespace(to=lambda device: SimpleNamespace(eval=lambda: None))
    args, ranks = SimpleNamespace(fill=None, predict=path, top_k=1), SimpleNamespace(first=False, device="cpu")
    mlm_task.fill(args, ranks, model, None)
    assert seen == {f"{path}, line 1": "The [MASK]\u2028sat.\x0c", f"{path}, line 3": "A [MASK]."}


def test_texts_are_found_whatever_the_case_of_their_ending(tmp_path):
    for name in ("high/1.TXT", "high/2.txt", "high/._3.TXT", "high/4.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(ARTICLE)
    assert [path.name for path in text_files(tmp_path)] == ["1.TXT", "2.txt"]
    ids = ["high1.TXT", "high2.txt"]
    assert [article.id for article in load_race(tmp_path)] == list(read_race_answers(tmp_path)) == ids


def test_the_hint_for_text_of_another_encoding_is_a_command_that_works(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9")
    for read in (read_text, lambda path: decode_piece((str(path), 0, path.read_bytes(), True))):
        with pytest.raises(UserError, match="not UTF-8 at byte 3; convert it, with iconv -f cp1252 -t utf-8"):
            read(path)
