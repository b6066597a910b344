"""Vocabularies in a tokenizer.json: the ids of transformers' RoBERTa and XLM-R, and what such a file may lack."""

import json

import pytest
import toys
from their_models import refused, theirs, transformers

from checkpoint import load_body, load_model, save_model
from model import MLMTask, QuestionAnswerTask
from text.tokenizer import Tokenizer

tokenizers = pytest.importorskip("tokenizers")
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TEXTS = [*toys.LINES[:3], "naïve “quotes” 字 🙂 don't 1,000", "a", "", "<s> the <mask> </s>", "x" * 300, "half \ud83d one"]


def made(kind):
    """transformers' tokenizer of this kind, trained on a few lines."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE() if kind == "roberta" else tokenizers.models.Unigram())
    if kind == "roberta":
        library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
        library.decoder = tokenizers.decoders.ByteLevel()
        letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIALS, show_progress=False,
                                                 initial_alphabet=letters)  # fmt: skip
    else:
        library.pre_tokenizer, library.decoder = tokenizers.pre_tokenizers.Metaspace(), tokenizers.decoders.Metaspace()
        trainer = tokenizers.trainers.UnigramTrainer(vocab_size=80, special_tokens=SPECIALS, unk_token="<unk>",
                                                     show_progress=False)  # fmt: skip
    library.train_from_iterator(toys.LINES, trainer)
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIALS, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=library, cls_token="<s>", sep_token="</s>", **names)


@pytest.fixture(params=["roberta", "xlm-roberta"])
def folder(request, tmp_path):
    """A folder of that kind of model, and its tokenizer of transformers."""
    their_tokenizer = made(request.param)
    model = theirs(request.param, "ForMaskedLM", vocab_size=len(their_tokenizer), pad_token_id=1)
    model.save_pretrained(tmp_path / "model")
    their_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model", their_tokenizer


def test_ids_are_those_of_transformers_and_offsets_lie_in_the_text(folder):
    path, other = folder
    _, own = load_model(MLMTask, path)
    assert (own.pad_id, own.unk_id, own.cls_id, own.sep_id, own.mask_id) == (1, 3, 0, 2, 4) and len(own) == len(other)
    for text in TEXTS:
        encoding = own.encode(text)
        if "<" not in text and "\ud83d" not in text:  # their library does not take it
            assert own.encode_ids(text) == other(f" {text}".rstrip(), add_special_tokens=False)["input_ids"]
        assert not set(encoding.ids) & {own.pad_id, own.cls_id, own.sep_id, own.mask_id}  # nobody types these
        assert encoding.ids == own.encode_ids(text)
        spans = encoding.offsets
        for edges in ([start for start, _ in spans], [end for _, end in spans]):
            assert edges == sorted(edges)
        assert all(0 <= start < end <= len(text) for start, end in spans)
    assert own.decode(own.encode_ids("the cats' dish costs more")) == "the cats' dish costs more"
    if len(own) == 320:  # bytes, so that nothing is unknown
        assert own.decode(own.encode_ids("字 and 🙂, each of several tokens")) == "字 and 🙂, each of several tokens"
    first = own.encode_ids("warm stone")
    assert own.word_starts[first[0]] and own.word_starts[first].sum() == 2


def test_it_goes_into_a_model_file_and_out_to_a_folder(folder, tmp_path, run_script):
    path, other = folder
    model, tokenizer = load_body(QuestionAnswerTask, path)
    save_model(tmp_path / "made.pt", model, tokenizer)
    assert load_model(QuestionAnswerTask, tmp_path / "made.pt")[1].fingerprint == tokenizer.fingerprint
    run_script("checkpoint.py", "export", "made.pt", "out")
    _, back = load_model(QuestionAnswerTask, tmp_path / "out")
    again, texts = transformers.AutoTokenizer.from_pretrained(tmp_path / "out"), ("the cats sat", "warm stone costs more")
    first, second = map(tokenizer.encode_ids, texts)
    assert [first, second] == [other(f" {text}", add_special_tokens=False)["input_ids"] for text in texts]
    assert [first, second] == [*map(back.encode_ids, texts)]
    if len(tokenizer) == 320:  # bytes, among which there are lines' ends
        text = "the\ncats  sat"
        assert again(text, add_special_tokens=False)["input_ids"] == tokenizer.encode_ids(text)
    found = again(*texts)  # in the form in which ours was trained: one separator, two types
    assert found["input_ids"] == [tokenizer.cls_id, *first, tokenizer.sep_id, *second, tokenizer.sep_id]
    assert found["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)


def test_a_file_that_does_not_say_its_type_is_told_by_what_it_holds(folder):
    path, other = folder
    file = path / "tokenizer.json"
    content = json.loads(file.read_text())
    del content["model"]["type"]  # as in roberta-base on the hub
    file.write_text(json.dumps(content))
    _, own = load_model(MLMTask, path)
    assert own.encode_ids("the cats sat") == other(" the cats sat", add_special_tokens=False)["input_ids"]


def test_words_that_were_added_are_words_and_what_is_special_is_not(folder):
    path, other = folder
    other.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    other.add_tokens(["covid19"])
    model = theirs("roberta", "ForMaskedLM", vocab_size=len(other), pad_token_id=1)
    model.save_pretrained(path)
    other.save_pretrained(path)
    _, own = load_model(MLMTask, path)
    assert own.encode_ids("the covid19")[-1] == other.convert_tokens_to_ids("covid19")
    assert other.convert_tokens_to_ids("<extra>") not in own.encode_ids("<extra>")


def test_a_table_of_characters_that_leads_out_of_itself_is_one_line(folder):
    path, _ = folder
    file = path / "tokenizer.json"
    steps = [{"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}]
    content = {**json.loads(file.read_text()), "normalizer": {"type": "Sequence", "normalizers": steps}}
    file.write_text(json.dumps(content))
    refused(path, "tokenizer.json is damaged (a table of characters that leads out of itself)")


def test_a_file_that_is_not_whole_is_one_line(folder):
    path, _ = folder
    file = path / "tokenizer.json"
    content = json.loads(file.read_text())
    for damage in ({"model": {"type": "BPE"}}, {"model": {"type": "BPE", "vocab": {"a": 7}, "merges": []}},
                   {"model": {"type": "Unigram", "vocab": [["a"], 3]}}):  # fmt: skip
        file.write_text(json.dumps({**content, **damage}))
        refused(path, "tokenizer.json: no vocabulary that is known here")
    broken = Tokenizer("json", [*SPECIALS, "a"], ["<pad>", "<unk>", "<s>", "</s>", "<mask>"], False, b"{")
    toys.refused(lambda: broken.encode("a"), "this model's tokenizer.json is damaged")
