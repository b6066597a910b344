"""Several sets to pretrain on, each read once an epoch: texts, archives of them, and the passages of question sets."""

import json
import re
import tarfile
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import toys
from toys import write_all, write_articles

from text.batches import EVALUATION
from text.corpus import corpus_parts
from text.masked_blocks import MaskedBlocks
from text.passages import runs
from text.places import SPLITS, Places, kinds_of
from text.sentence_pairs import SentencePairs
from text.tokenizer import SPECIALS, Tokenizer
from text.tokens import load_corpus, load_tokenizer

TOKENIZER = Tokenizer("basic_english", [*SPECIALS, *toys.WORDS, *toys.string.ascii_lowercase, ".", ","])


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path / "data", tmp_path / "cache")


@pytest.fixture
def sets(tmp_path):
    """A text, a set of questions and a set of choices, as --dataset has them."""
    write_all(tmp_path, {"cats.txt": b"The cat sat on the mat.\n\nIt ran.\n\n" * 200})
    write_squad(tmp_path, toys.squad(0, 40), toys.squad(1, 4))
    for number, split in enumerate(("train", "dev", "test")):
        write_articles(tmp_path / "race" / split, toys.articles(number, 4))
    return [str(tmp_path / name) for name in ("cats.txt", "squad", "race")]


def write_squad(folder, train, dev):
    write_all(folder, {"squad/train.json": toys.as_json(train), "squad/dev.json": toys.as_json(dev)})


def text_of(name, split, places):
    parts, _ = corpus_parts(name, split, places)
    return "".join(path.read_bytes()[start:end].decode() for path, start, end in parts)


def vocabulary(**given):
    return Namespace(**{"vocab": None, "lowercase": "auto", "tokenizer": "basic_english", "vocab_size": 5000, **given})


def test_several_sets_are_one_corpus_in_their_order(sets, places):
    alone = [load_corpus(name, "train", TOKENIZER, places) for name in sets]
    joined = load_corpus(sets, "train", TOKENIZER, places)
    assert joined.tokens.tolist() == [token for one in alone for token in one.tokens]
    assert len(joined.documents) == sum(len(one.documents) for one in alone) > 40
    assert joined.meta["bytes"] == sum(one.meta["bytes"] for one in alone)
    tokens, at = joined.tokens, len(alone[0].sentences)  # where the second set begins, a document does
    assert at in joined.documents and tokens[joined.sentences[at, 0] - 1] == TOKENIZER.sep_id


def test_sets_are_joined_stretch_by_stretch(sets, places, monkeypatch):
    """So that no array of a large one is in memory as a whole."""
    whole = load_corpus(sets, "train", TOKENIZER, places)
    monkeypatch.setattr("text.cache.STRETCH", 100)
    pieces = load_corpus(sets, "train", TOKENIZER, Places(places.data, places.cache.with_name("other")))
    assert len(whole.tokens) > 1000 and len(whole.sentences) > 100
    for name in whole.meta["arrays"]:
        assert np.array_equal(getattr(whole, name), getattr(pieces, name))


def test_an_epoch_reads_each_set_once(sets, places):
    joined = load_corpus(sets, "train", TOKENIZER, places)
    blocks = MaskedBlocks(joined, TOKENIZER, 32, seed=1)
    read = np.concatenate([blocks.block(index, 3) for index in range(len(blocks))])
    assert np.bincount(read).tolist() == np.bincount(joined.tokens).tolist()
    assert len(SentencePairs(joined, TOKENIZER, 32, 1).collate([0, 1], EVALUATION)["labels"]) == 2


def test_what_is_joined_is_kept_and_other_sets_are_another_cache(sets, places):
    first = load_corpus(sets, "train", TOKENIZER, places)
    count = len(toys.caches(places))
    assert load_corpus(sets, "train", TOKENIZER, places).folder == first.folder and len(toys.caches(places)) == count
    assert load_corpus(sets[::-1], "train", TOKENIZER, places).folder != first.folder


def test_a_vocabulary_is_of_all_sets(tmp_path, sets, places):
    write_all(tmp_path, {"dogs.txt": b"A zebra barks.\n\n" * 200})
    tokens = load_tokenizer(vocabulary(), [*sets, str(tmp_path / "dogs.txt")], places).tokens
    assert {"zebra", "mat", "garden"} <= set(tokens)
    assert "garden" in load_tokenizer(vocabulary(), sets[1], places).tokens  # of questions alone: of their passages


# -- Question sets as text ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [1, 2])
def test_a_question_set_is_read_as_its_passages_each_in_its_split(sets, places, which):
    texts = {split: text_of(sets[which], split, places) for split in SPLITS}
    contexts = [" ".join(context.split()) for context in toys.squad(0, 40).contexts] if which == 1 else \
        [" ".join(article.text.split()) for article in toys.articles(0, 4)]  # fmt: skip
    of_test = toys.squad(1, 4).contexts if which == 1 else [article.text for article in toys.articles(2, 4)]
    trained = [context for context in contexts if context in texts["train"]]
    assert len(trained) >= 0.8 * len(contexts)
    assert not any(context in texts["train"] for context in contexts if context in texts["valid"])
    assert all(" ".join(text.split()) in texts["test"] and " ".join(text.split()) not in texts["train"] for text in of_test)
    assert "where is the cat ?" not in texts["train"]  # no question


@pytest.mark.parametrize("words", [7, 8])
def test_a_passage_that_shares_eight_words_with_another_split_is_not_pretrained_on(tmp_path, places, words, capsys):
    train, test = toys.squad(0, 40), toys.squad(1, 4)
    shared = " ".join(f"word{number}" for number in range(words))
    train.contexts[0] += f" And {shared.upper()}."
    test.contexts[0] += f" Or, {shared.replace(' ', ' - ')}!"
    write_squad(tmp_path, train, test)
    text = text_of(str(tmp_path / "squad"), "train", places)
    assert (shared.upper() in text) == (words == 7)
    assert f": {words - 7} of " in capsys.readouterr().out


def test_what_is_scored_of_one_set_is_not_pretrained_on_in_another(sets, tmp_path, places):
    train, dev = toys.squad(1, 4), toys.squad(2, 4)  # the training passages are what the other set scores
    write_all(tmp_path, {"more/train.json": toys.as_json(train), "more/dev.json": toys.as_json(dev)})
    parts, _ = corpus_parts(str(tmp_path / "more"), "train", places)
    shared = parts[0][0].read_text().splitlines()[0]
    for beside, found in (((), True), ((sets[1], str(tmp_path / "more")), False)):
        parts, _ = corpus_parts(str(tmp_path / "more"), "train", places, None, beside)
        assert (shared in "".join(path.read_bytes()[start:end].decode() for path, start, end in parts)) == found


def test_of_scripts_without_blanks_each_character_counts():
    assert len(runs("我们昨天去了学校图书馆")) == 4 and len(runs("a b c d e f g h i")) == 2


def test_a_set_that_is_named_twice_is_read_once(sets, places):
    once, twice = (load_corpus(names, "train", TOKENIZER, places) for names in (sets[0], [sets[0], sets[0]]))
    assert once.folder == twice.folder


@pytest.mark.slow
def test_no_eight_words_of_squads_development_passages_are_pretrained_on(shared_data, tmp_path):
    text = text_of("SQuAD1", "train", Places(shared_data, tmp_path))
    dev = json.loads((shared_data / "squad/dev-v1.1.json").read_text())
    passages = [p["context"] for article in dev["data"] for p in article["paragraphs"]]
    held = set().union(*map(eight_words, passages))
    assert len(held) > 100_000 and len(text) > 10_000_000
    assert not any(held & eight_words(line) for line in text.split("\n"))


def eight_words(text):
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[at : at + 8]) for at in range(len(words) - 7)}


# -- Archives ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
@pytest.mark.parametrize("top", ["", "library/"])
def test_an_archive_of_texts_is_a_set(tmp_path, places, ending, top):
    members = {f"{top}{folder}/{n}.txt": f"Text {folder}{n} of the cat.\n\n".encode() * 50
               for folder in "ab" for n in range(15)}  # fmt: skip
    write_all(tmp_path / "in", members)
    archive = tmp_path / f"texts.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(archive, "w") as package:
            for name, content in members.items():
                package.writestr(name, content)
    else:
        with tarfile.open(archive, "w:gz") as package:
            package.add(tmp_path / "in" / (top or "a"), top or "a")
            if not top:
                package.add(tmp_path / "in/b", "b")
    texts = {split: text_of(str(archive), split, places) for split in SPLITS}
    assert sum(map(len, texts.values())) == sum(map(len, members.values())) and all(texts.values())
    assert kinds_of(str(archive), places) == ["text"]


def test_an_archive_that_its_owner_has_divided_stays_divided(tmp_path, places):
    for name, content in (("one.zip", "train/a.txt"), ("two.zip", "mine/train/a.txt")):
        with zipfile.ZipFile(tmp_path / name, "w") as package:
            for split in ("train", "valid", "test"):
                package.writestr(content.replace("train", split), f"{split}.\n\n" * 30)
            package.writestr(f"__MACOSX/{content}", "as Finder adds it")
        assert set(text_of(str(tmp_path / name), "test", places).split()) == {"test."}


def test_questions_and_choices_come_from_archives_as_well(sets, tmp_path, places):
    for name in ("squad", "race"):
        with tarfile.open(tmp_path / f"{name}.tgz", "w:gz") as package:
            package.add(tmp_path / name, name)
    assert kinds_of(str(tmp_path / "squad.tgz"), places) == ["questions"]
    assert kinds_of(str(tmp_path / "race.tgz"), places) == ["choices"]


# -- Commands ----------------------------------------------------------------------------------------------------------


def test_the_commands_take_several(sets, run, run_script, tmp_path):
    names = " ".join(sets)
    run_script("data.py", "prepare", "--dataset", *sets, "--vocab-size", "600", "--cache-dir", "cache")
    run("mlm", f"--steps 2 --vocab-size 600 --dataset {names}")
    assert json.loads((tmp_path / "runs/mlm/result.json").read_text())["dataset"] == ", ".join(sets)
    output = run("ns", f"--steps 2 --dataset {names}").stdout
    assert "accuracy" in output
    told = run("mlm", "--steps 2 --dataset Sample nothing.txt", code=2).stderr
    assert told.count("\n") == 1 and "--dataset nothing.txt: neither a data set" in told
