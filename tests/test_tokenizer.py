"""Tokens: ids, and offsets into the original text. Parity is checked against transformers (wordpiece) and torchtext
(basic_english); SentencePiece is trained on a few made-up lines."""

import re
import unicodedata

import pytest
import torch
from conftest import within
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from toys import KINDS, LINES, refused

from files.mistakes import UserError
from text import subwords
from text import tokenizer as module
from text.tokenizer import BERT_SPECIALS, SPECIALS, Tokenizer
from text.vocabularies import train_tokenizer, wordpiece

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
def bert(minilm):
    transformers = pytest.importorskip("transformers")

    def reference(text, lowercase=True):
        tokenizer = reference.cased if not lowercase else reference.uncased
        return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text, split_special_tokens=True))

    reference.uncased = transformers.BertTokenizer(str(minilm / "vocab.txt"))
    reference.cased = transformers.BertTokenizer(str(minilm / "vocab.txt"), do_lower_case=False)
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


@pytest.mark.parametrize("odd", ["\u200b", "\u200e", "\ufeff", "\ufffd", "\ud800", "￣", "ﾃﾞ"])
def test_one_odd_character_does_not_make_every_offset_a_whole_passage(odd):
    """A zero-width space, as Khmer has between its words, is a blank to SentencePiece, and not to Python."""
    tokenizer = train_tokenizer("sentencepiece", ["中国北京", "中国的首都是北京", "首都北京", "デ"] * 20, 30)
    text = "中国的首都" * 8 + odd + "是北京" * 8 + odd + "中国"
    offsets = tokenizer.encode(text).offsets
    assert max(end - start for start, end in offsets) <= 5 and offsets == sorted(offsets)
    assert offsets[-1][1] == len(text)


def test_offsets_stay_small_where_a_mark_of_half_width_joins_its_letter():
    tokenizer = train_tokenizer("sentencepiece", ["バスに乗る人", "人に会う", "バスの人"] * 20, 30)
    assert tokenizer.encode_ids("ﾊﾞｽに乗る人") == tokenizer.encode_ids("バスに乗る人")
    wide = [{0: 0, 1: 2, 2: 3}.get(at, at + 1) for at in range(7)]  # place in the one -> in the other
    expected = [(wide[start], wide[end]) for start, end in tokenizer.encode("バスに乗る人").offsets]
    assert tokenizer.encode("ﾊﾞｽに乗る人").offsets == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", ["a", "a,", "中国", "\u0323\u0301", 'a""', "<", "İ"])
def test_a_long_text_without_a_blank_takes_linear_time(tokenizers, kind, unit):
    """Quadratic time would need minutes here. Nothing so long is remembered either."""
    text = "a" + unit * 100_000
    tokenizer = tokenizers[kind]
    with within(60):
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
def test_wordpiece_agrees_with_transformers_on_wikitext(minilm, bert, shared_data, lowercase):
    tokenizer = wordpiece(minilm / "vocab.txt", lowercase)
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


@pytest.fixture(scope="module")
def theirs():
    library = subwords.library()
    if not hasattr(library, "load_sp_model"):
        pytest.skip("needs torchtext, which loads with torch 2.3 only")
    from torchtext.data.utils import get_tokenizer

    return get_tokenizer("basic_english")


@many
@given(text=texts | st.text([*"aB'\".,()!?;: \t<>/brΣİ"], max_size=30))
@example(text='one<br />two<BR />three<br/>four<br  />five<b"r />six')
@example(text="""it's a "quoted"word; no: yes""")
def test_basic_english_splits_as_torchtext_does(theirs, text):
    words = theirs(text)
    vocabulary = Tokenizer("basic_english", [*SPECIALS, *dict.fromkeys(word for word in words if word not in SPECIALS)])
    expected = [vocabulary.unk_id if word in SPECIALS else vocabulary.tokens.index(word) for word in words]
    assert vocabulary.encode_ids(text) == expected


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


def test_fingerprints_tell_vocabularies_apart(tokenizers):
    other = train_tokenizer("basic_english", LINES, 41)
    assert len({tokenizer.fingerprint for tokenizer in [*tokenizers.values(), other]}) == 5


# -- training SentencePiece --------------------------------------------------------------------------------------------


def test_sentencepiece_by_chunk_agrees_with_sentencepiece_on_the_whole_line(tokenizers):
    tokenizer = tokenizers["sentencepiece"]
    for line in LINES[:3]:
        pieces = tokenizer._rules.cut(line)
        assert tokenizer.encode_ids(line) == [tokenizer._rules.index.get(piece, 1) for piece in pieces]


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_a_broken_state_is_refused(tokenizers):
    state = tokenizers["basic_english"].state()
    for broken in ({}, None, {**state, "kind": "words"}, {**state, "tokens": ["a"]}, {"kind": "wordpiece"}):
        with pytest.raises(UserError):
            Tokenizer.from_state(broken)


def test_a_damaged_sentencepiece_model_is_one_line_when_it_first_encodes():
    state = Tokenizer("sentencepiece", ["<pad>", "<unk>", "<cls>", "<sep>", "<mask>", "a"], model=b"\xff\xff").state()
    refused(lambda: Tokenizer.from_state(state).encode("text"), "SentencePiece")
