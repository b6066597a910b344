"""Where sentences end, in the common scripts and by a library; English: test_sentences.py."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import toys
from conftest import within

import mlm_task
import qa_task
from files.mistakes import UserError
from text import sentences as module
from text.option_rows import OptionRows
from text.places import Places
from text.questions import Article
from text.sentences import sentence_ends, sentence_language, sentences
from text.tokenizer import BERT_SPECIALS, Tokenizer
from text.tokens import load_corpus


@pytest.mark.parametrize("text", [
    "今日は雨です。|「本当ですか。」と彼は言った。|はい！|「そう。」|彼は笑った。|何？！|とても。",
    "他说：“你好。”|然后走了。|真的吗？|是的！！|（对。）|“是吗？”，他问。|好。",
    "यह एक है।|यह दूसरा है॥|क्या?|हाँ।", "هل أنت هنا؟|نعم.|یہ ہے۔|ہاں۔", "Բարև։|Ինչպես ես։", "ይህ ነው።|ያ ነው።", "ខ្ញុំ។|គាត់។", "က။|ခ။",
    "Он жил в г. Москва, т. е. в столице.|А. С. Пушкин родился в 1799 г.|Он писал.|«Иди.»|Он ушёл на ул. Ленина.",
    "Am 3. Oktober kam Hr. Maier z. B. nach Bonn, d. h. Beuel.|Es war 1999.|Er ging.|„Ja.“|Über uns.",
    "¡Hola!|¿Qué tal?|Él vino.|«Sí.»|Ella etc. él.", "« Oui. »|Il vint. à Lyon.|« Non. »|À Paris.",
    "ეს არის.|ის არის.",
])  # fmt: skip
def test_sentences_end_in_every_common_script(text):
    blank = "" if text[-1] == "。" else " "  # Chinese and Japanese have none
    assert sentences(text.replace("|", blank)) == text.split("|")


@pytest.mark.parametrize("stop", "。！？।։።")
def test_no_blank_need_follow_such_a_stop_and_none_is_left_over(stop):
    assert sentences(f"가{stop}나{stop} 다{stop} ") == [f"가{stop}", f"나{stop}", f"다{stop}"]


@pytest.mark.parametrize("part", [". ", " ", " \n", "A. ", "г. ", '."', "。", "。」", ". »", "。  ", ". «"])
def test_hostile_text_takes_no_more_than_its_length(part):
    with within(20):  # blanks alone took the square of that: half a minute
        sentences(part * 100_000 + "x")


# -- where they are used -----------------------------------------------------------------------------------------------


CHINESE = ["猫在家。", "狗在河边。", "鸟在树上。", "鱼在水里。"]
IDEOGRAPHS = Tokenizer("wordpiece", [*BERT_SPECIALS, *sorted(set("".join(CHINESE)))], BERT_SPECIALS)


def test_select_reads_the_sentence_of_an_article_without_blanks(tmp_path):
    article = Article("one", "".join(CHINESE), ["狗在"], [["河边", "河", "边", "狗"]], [0])
    rows = OptionRows([article], IDEOGRAPHS, Places(tmp_path, tmp_path), 12, 0, "select")
    assert IDEOGRAPHS.decode(rows.texts.text(0)[rows.selected(0)]).replace(" ", "") == CHINESE[1]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_answer_stands_in_its_paragraph_whatever_ends_its_lines(end):
    text = f"Title{end}{end}The cat sat.{end} {end}The dog"
    assert qa_task.sentence_around(text, text.index("cat"), text.index("cat") + 3) == "The cat sat."


def test_an_answer_stands_in_its_sentence_of_a_text_without_blanks():
    text = "".join(CHINESE)
    assert qa_task.sentence_around(text, text.index("河"), text.index("河") + 1) == CHINESE[1]


def test_a_corpus_without_blanks_has_sentences(tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(["".join(CHINESE)] * 40), encoding="utf-8")
    tokens = load_corpus("Text", "train", IDEOGRAPHS, Places(tmp_path, tmp_path / "cache"))
    first = [IDEOGRAPHS.decode(tokens.tokens[a:b]).replace(" ", "") for a, b in tokens.sentences[:4]]
    assert first == CHINESE


# -- by a library ------------------------------------------------------------------------------------------------------


@pytest.fixture
def stub(monkeypatch):
    """Stands in for sentencex: a sentence ends with each bar, or each exclamation mark in "xx"."""

    def segment(language, text):
        return [f"{part}|" for part in text.split("|")[:-1]] + [text.split("|")[-1]]

    monkeypatch.setitem(sys.modules, "sentencex", SimpleNamespace(segment=segment))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9")
    module.library.cache_clear()
    yield
    module.library.cache_clear()


def test_the_library_finds_the_sentences_of_each_line(stub):
    text = "the|cat sat\nthe | dog.\u3000The\ud800"
    assert [text[a:b] for a, b in zip([0, 4, 12], sentence_ends(text, "de"), strict=True)] == ["the|", "cat sat\n", "the |"]
    assert sentences("", "de") == [""]


def test_each_choice_has_a_cache_of_its_own(stub, tmp_path):
    (tmp_path / "text.txt").write_text("the|cat sat. The dog sat.\n\n" * 40)
    places = Places(tmp_path, tmp_path / "cache")
    made = {language: load_corpus("Text", "test", toys.letters(), places, language=language)
            for language in ("rules", "de", "fr")}  # fmt: skip
    assert len({str(tokens.folder) for tokens in made.values()}) == 3
    assert not np.array_equal(made["rules"].sentences, made["de"].sentences)


def test_select_takes_the_sentences_of_the_library(stub, tmp_path):
    article = Article("one", "dog cat|the mat sat|red river", ["the mat"], [["sat", "a", "b", "c"]], [0])
    rows = OptionRows([article], toys.letters(), Places(tmp_path, tmp_path), 10, 0, "select", language="de")
    assert toys.letters().decode(rows.texts.text(0)[rows.selected(0)]) == "the mat sat"


def test_where_it_is_missing_one_line_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencex", None)
    module.library.cache_clear()
    with pytest.raises(UserError, match="--sentences LANGUAGE: needs sentencex; pip install sentencex, or say --sent"):
        mlm_task.arguments(["--sentences", "de"])
    with pytest.raises(UserError, match="--sentences Deutsch: neither rules nor a language's code; write one such as de"):
        sentence_language("Deutsch")


def test_sentencex_knows_the_abbreviations_of_a_language():
    pytest.importorskip("sentencex", reason="needs sentencex: pip install sentencex")
    assert sentences("El Sr. Ruiz y la Sra. Ruiz. Fin.", "es") == ["El Sr. Ruiz y la Sra. Ruiz.", "Fin."]
