"""Other people's models: the same numbers and the same tokens as in transformers."""

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from their_models import (
    CLASS,
    LETTERS,
    agree,
    batch,
    change_json,
    change_weights,
    every_head,
    refused,
    save,
    theirs,
    transformers,
)

from checkpoint import load_body, load_model
from model import MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask
from text.tokenizer import Tokenizer
from text.vocabularies import sentencepiece_as_it_is

# Numbers


def test_a_real_pretrained_bert_gives_the_hidden_states_of_transformers(minilm, capsys):
    model, tokenizer = load_body(NextSentenceTask, minilm)
    assert "new: the head of NextSentenceTask (classifier); not used: embeddings.position_ids" in capsys.readouterr().out
    other = transformers.BertModel.from_pretrained(minilm).eval()
    their_tokenizer = transformers.BertTokenizer.from_pretrained(minilm)
    lines = ["What is Électricité?", "a longer line, so that the first one is padded, with unbelievably rare words"]
    inputs = their_tokenizer(lines, return_tensors="pt", padding=True)
    for line, row in zip(lines, inputs["input_ids"], strict=True):
        expected = [tokenizer.cls_id, *tokenizer.encode_ids(line), tokenizer.sep_id]
        assert row[: len(expected)].tolist() == expected
    with torch.no_grad():
        mine, expected = model.eval().bert(**inputs), other(**inputs)
        pooled = model.bert.pool(mine[:, 0])
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(mine[real], expected.last_hidden_state[real], atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled, expected.pooler_output, atol=1e-5, rtol=0)


@every_head
@pytest.mark.parametrize("kind", ["bert", "megatron-bert"])
def test_each_head_gives_the_logits_of_transformers(kind, head, tmp_path):
    made = theirs(kind, f"For{CLASS[head]}", layer_norm_eps=1e-6, type_vocab_size=3)
    model, tokenizer = load_model(head, save(made, tmp_path))
    agree(model, made, head)
    assert model.bert.config.layer_norm_eps == 1e-6 and model.bert.config.type_vocab_size == 3
    assert tokenizer.fingerprint == LETTERS.fingerprint


@pytest.mark.parametrize("head", [MLMTask, NextSentenceTask])
def test_a_model_with_both_pretraining_heads_gives_the_one_asked_for(head, tmp_path, capsys):
    made = theirs("bert", "ForPreTraining")
    model, _ = load_model(head, save(made, tmp_path))
    with torch.no_grad():
        other = made(**batch(head))
        real = batch(head)["attention_mask"].bool()
        mine = model.eval()(**batch(head))
    expected = other.prediction_logits if head is MLMTask else other.seq_relationship_logits.flip(1)
    mine, expected = (mine[real], expected[real]) if head is MLMTask else (mine, expected)
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=0)
    assert ("NextSentenceTask, the pooler" if head is MLMTask else "MLMTask") in capsys.readouterr().out


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "gelu_pytorch_tanh"])
def test_the_activation_is_the_configs(activation, tmp_path):
    made = theirs("bert", "ForMaskedLM", hidden_act=activation)
    agree(load_model(MLMTask, save(made, tmp_path))[0], made, MLMTask)


def test_an_output_matrix_of_its_own_is_kept_and_a_new_head_is_tied(tmp_path):
    made = theirs("bert", "ForMaskedLM", tie_word_embeddings=False)
    model, _ = load_model(MLMTask, save(made, tmp_path))
    agree(model, made, MLMTask)
    assert not torch.equal(model.decoder.weight, model.bert.embedding.embed.weight)
    assert load_body(MLMTask, tmp_path)[0].decoder is None


@pytest.mark.parametrize("groups", [1, 3], ids=["shared layers", "a layer each"])
@pytest.mark.parametrize("head, ending", [
    (MLMTask, "ForMaskedLM"), (QuestionAnswerTask, "ForQuestionAnswering"), (RaceTask, "ForMultipleChoice"),
    (NextSentenceTask, "ForPreTraining"),
])  # fmt: skip
def test_albert_gives_the_logits_of_transformers(head, ending, groups, tmp_path):
    made = theirs("albert", ending, num_hidden_groups=groups)
    model, _ = load_model(head, save(made, tmp_path))
    agree(model, made, head)
    config = model.bert.config
    assert (config.embedding_size, config.share_layers, config.hidden_act) == (20, groups == 1, "gelu_new")
    assert len(model.bert.layers) == groups
    if head is RaceTask:
        assert model.dropout.p == 0.1 and config.hidden_dropout_prob == 0.0


@pytest.mark.parametrize("kind", ["bert", "albert"])
@pytest.mark.parametrize("layout", ["sharded", "bin", "sharded bin"])
def test_weights_may_lie_in_several_files_or_in_torchs_own(kind, layout, tmp_path):
    made = theirs(kind, "ForMultipleChoice")
    options = {"max_shard_size": "20kB"} if "sharded" in layout else {}
    save(made, tmp_path, safe_serialization="bin" not in layout, **options)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert any(name.endswith(".index.json") for name in names) == ("sharded" in layout)
    agree(load_model(RaceTask, tmp_path)[0], made, RaceTask)


def test_older_names_of_norms_a_body_without_prefix_and_buffers_are_read(tmp_path, capsys):
    made = theirs("bert", "Model")
    save(made, tmp_path)

    def edit(weights):
        for name in list(weights):
            for new, old in ((".weight", ".gamma"), (".bias", ".beta")):
                if "LayerNorm" in name and name.endswith(new):
                    weights[name.removesuffix(new) + old] = weights.pop(name)
        weights["embeddings.position_ids"] = torch.arange(40)[None]

    model, _ = load_body(RaceTask, change_weights(tmp_path, edit))
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "not used: embeddings.position_ids" in out and "the pooler" not in out
    with torch.no_grad():
        inputs = batch(MLMTask)
        real = inputs["attention_mask"].bool()
        expected = made(**inputs).last_hidden_state[real]
        torch.testing.assert_close(model.eval().bert(**inputs)[real], expected, atol=1e-5, rtol=0)


def test_heads_of_other_tasks_are_dropped_and_new_ones_named_in_one_line(tmp_path, capsys):
    save(theirs("bert", "ForTokenClassification"), tmp_path)
    load_body(RaceTask, tmp_path)
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "not used: classifier.bias, classifier.weight" in out
    assert "new: the head of RaceTask (classifier), the pooler" in out
    refused(tmp_path, "no head of a task here, not a RaceTask", load=load_model, head=RaceTask)


def test_half_precision_weights_become_whole(tmp_path):
    made = theirs("bert", "Model").half()
    model, _ = load_body(QuestionAnswerTask, save(made, tmp_path))
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.float32}


# Vocabularies

CASED = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "The", *"abcT"]


@pytest.mark.parametrize("vocabulary, rules, lowercase", [
    (LETTERS.tokens, None, True), (CASED, None, False), (LETTERS.tokens, {"do_lower_case": False}, False),
    (CASED, {"do_lower_case": True}, True),
])  # fmt: skip
def test_case_is_what_the_settings_say_or_what_the_vocabulary_shows(vocabulary, rules, lowercase, tmp_path):
    save(theirs("bert", "Model"), tmp_path, vocabulary)
    if rules:
        change_json(tmp_path, "tokenizer_config.json", **rules)
    _, tokenizer = load_body(QuestionAnswerTask, tmp_path)
    assert tokenizer.lowercase is lowercase
    expected = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=lowercase)
    ids = expected("The cat", add_special_tokens=False)["input_ids"]
    assert tokenizer.encode_ids("The cat") == ids


def test_a_folder_with_nothing_but_tokenizer_json_is_read(tmp_path):
    save(theirs("bert", "Model"), tmp_path)
    fast = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=False)
    fast.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    _, tokenizer = load_body(QuestionAnswerTask, tmp_path)
    assert tokenizer.tokens == LETTERS.tokens and not tokenizer.lowercase
    for kind, told in (("BPE", "tokenizer.json is damaged"), ("WordLevel", "no vocabulary that is known here")):
        change_json(tmp_path, "tokenizer.json", model={"type": kind, "vocab": {}})
        refused(tmp_path, "tokenizer.json", told)


@pytest.mark.parametrize(("settings", "lowercase"), [
    ({"do_lower_case": True}, True), ({"do_lower_case": True, "tokenizer_class": "PreTrainedTokenizerFast"}, False),
])  # fmt: skip
def test_whether_settings_or_tokenizer_json_tell_the_case_is_as_in_transformers(tmp_path, settings, lowercase):
    save(theirs("bert", "Model"), tmp_path)
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=False).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    change_json(tmp_path, "tokenizer_config.json", **settings)
    assert load_body(QuestionAnswerTask, tmp_path)[1].lowercase is lowercase


@pytest.mark.parametrize("where", ["tokenizer.json", "added_tokens.json"])
def test_words_that_were_added_have_their_own_ids(tmp_path, where):
    save(theirs("bert", "Model", vocab_size=len(LETTERS) + 1), tmp_path)
    fast = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=False)
    fast.add_tokens(["covid"])
    if where == "tokenizer.json":
        fast.save_pretrained(tmp_path)
        (tmp_path / "vocab.txt").unlink()
    else:
        (tmp_path / where).write_text(json.dumps({"covid": len(LETTERS)}))
    assert load_body(QuestionAnswerTask, tmp_path)[1].encode_ids("covid a") == [len(LETTERS), *LETTERS.encode_ids("a")]


def test_words_that_were_added_are_found_behind_special_ones_and_those_that_are_cut_are_told(tmp_path, capsys):
    save(theirs("bert", "Model", vocab_size=len(LETTERS) + 4), tmp_path)
    fast = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=False)
    fast.add_special_tokens({"additional_special_tokens": ["[E1]"]})
    fast.add_tokens(["covid", "covid-19"])
    fast.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    tokenizer = load_body(QuestionAnswerTask, tmp_path)[1]
    assert tokenizer.encode_ids("covid") == fast("covid", add_special_tokens=False)["input_ids"] == [len(LETTERS) + 1]
    assert "2 are cut to pieces here, such as '[E1]'" in capsys.readouterr().err


def test_words_that_an_albert_has_been_given_are_told_of(albert, capsys):
    (albert / "added_tokens.json").write_text(json.dumps({"covid": 70}))
    load_body(RaceTask, albert)
    assert "1 are cut to pieces here, such as 'covid'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def albert_tokenizer(spiece):
    return sentencepiece_as_it_is(spiece, ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), clean=True, lowercase=True)


def test_alberts_special_tokens_are_those_of_the_file(albert):
    _, tokenizer = load_model(RaceTask, albert)
    assert tokenizer.kind == "sentencepiece" and tokenizer.clean
    assert [tokenizer.tokens[i] for i in tokenizer.special_ids] == ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.special_ids == [0, 1, 2, 3, 4]
    assert not {2, 3, 4} & set(tokenizer.encode_ids("[CLS] [MASK] [SEP]"))
    again = Tokenizer.from_state(tokenizer.state())
    assert again.fingerprint == tokenizer.fingerprint and again.clean
    plain = Tokenizer("sentencepiece", tokenizer.tokens, tokenizer.specials, True, tokenizer.model)
    assert plain.fingerprint != tokenizer.fingerprint


def test_alberts_clean_up_comes_first_and_offsets_count_the_text_itself(albert):
    tokenizer = load_model(RaceTask, albert)[1]
    assert tokenizer.encode_ids("``Thé  CAT''") == tokenizer.encode_ids('"the cat"')
    text = "Thé ``CÄT'' said 9,9."
    encoding = tokenizer.encode(text)
    assert encoding.ids == tokenizer.encode_ids(text)
    pieces = [(tokenizer.tokens[i].strip("▁"), text[a:b]) for i, (a, b) in zip(encoding.ids, encoding.offsets, strict=True)]
    assert "".join(piece for piece, _ in pieces if piece != "<unk>").startswith("the")
    for piece, source in pieces:
        if piece.isalpha() and piece.isascii():
            bare = source.lower().replace("é", "e").replace("ä", "a")
            assert piece in bare and len(source) <= len(piece) + 2, (piece, source)
    assert all(a < b for a, b in encoding.offsets) and encoding.offsets == sorted(encoding.offsets)
    assert not any(re.fullmatch(r"▁?\d+,", tokenizer.tokens[i]) for i in encoding.ids)


def test_alberts_ids_are_those_of_transformers_fast_tokenizer(albert, spiece):
    """Its Unigram with the scores of the file, its normaliser, and no rule for a comma behind a digit."""
    tokenizers = pytest.importorskip("tokenizers")
    from text.piece_models import fields_of

    pieces = [{key: part for key, part, _ in fields_of(value)} for number, value, _ in fields_of(spiece) if number == 1]
    scores = [(piece[1].decode(), float(np.frombuffer(piece.get(2, bytes(4)), "<f4")[0])) for piece in pieces]
    fast = tokenizers.Tokenizer(tokenizers.models.Unigram(scores, unk_id=1))
    fast.normalizer = tokenizers.normalizers.Sequence([
        tokenizers.normalizers.Replace("``", '"'), tokenizers.normalizers.Replace("''", '"'),
        tokenizers.normalizers.NFKD(), tokenizers.normalizers.StripAccents(), tokenizers.normalizers.Lowercase(),
    ])  # fmt: skip
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Metaspace(),
    ])  # fmt: skip
    tokenizer = load_model(RaceTask, albert)[1]
    for text in ("The cat has things", "Thé gardén ''yes'' or no", "RIVER house said it"):
        assert tokenizer.encode_ids(text) == fast.encode(text, add_special_tokens=False).ids


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("aéÄĳ½¨´`'\"9,.² \u0301İ①ﬁ▁中") | st.characters(), max_size=30))
def test_alberts_offsets_hold_for_any_text(albert_tokenizer, text):
    encoding = albert_tokenizer.encode(text)
    assert encoding.ids == albert_tokenizer.encode_ids(text)
    assert all(0 <= start < end <= len(text) for start, end in encoding.offsets)
    for side in zip(*encoding.offsets, strict=True):
        assert list(side) == sorted(side)
