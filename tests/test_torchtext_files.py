"""The files of torchtext's BERT example: the numbers it gave, the words it lacked, and a pickle that never runs."""

import collections
import importlib.util
import os
import pickle
import shutil
import sys
import types
import zipfile

import pytest
import torch
from toys import refused

import checkpoint
import demo
from checkpoint import load_body, load_model, save_model
from formats.torchtext_files import read_vocab
from model import MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask
from text.vocabularies import save_vocab
from training.ranks import Ranks

D, F, LAYERS, POSITIONS = 64, 96, 2, 40
WORDS = ["<unk>", "<pad>", "<MASK>", "the", "cat", "sat", ",", "."]


def state_dict(words=8, head=None):
    """The tensors of that example's model, with random values."""
    torch.manual_seed(0)
    shapes = {"bert_embed.pos_embed.pos_embedding.weight": (POSITIONS, D), "bert_embed.embed.weight": (words, D),
              "bert_embed.tok_type_embed.token_type_embeddings.weight": (2, D)}  # fmt: skip
    linear = {"mha.in_proj_container.query_proj": (D, D), "mha.in_proj_container.key_proj": (D, D),
              "mha.in_proj_container.value_proj": (D, D), "mha.out_proj": (D, D), "linear1": (F, D), "linear2": (D, F),
              "norm1": (D,), "norm2": (D,)}  # fmt: skip
    named = {f"transformer_encoder.layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in linear.items()}
    named["bert_embed.norm"] = (D,)
    heads = {"mlm": {"mlm_span": (D, D), "norm_layer": (D,), "mlm_head": (words, D)},
             "ns": {"linear_layer": (D, D), "ns_span": (2, D)}, "qa": {"qa_span": (2, D)}, None: {}}[head]  # fmt: skip
    prefix = "bert_model." if head else ""
    full = {f"{prefix}{name}": shape for name, shape in shapes.items()}
    for name, shape in [*((f"{prefix}{name}", shape) for name, shape in named.items()), *heads.items()]:
        full[f"{name}.weight"], full[f"{name}.bias"] = shape, shape[:1]
    return {name: torch.randn(shape) * 0.1 for name, shape in full.items()}


@pytest.fixture
def torchtext_0_7(monkeypatch):
    """The module that torchtext 0.7 was to pickle."""
    module = types.ModuleType("torchtext.vocab")

    def _default_unk_index():
        return 0

    class Vocab:
        def __init__(self, itos):
            self.freqs, self.itos = collections.Counter(itos), itos
            self.stoi = collections.defaultdict(_default_unk_index, {token: i for i, token in enumerate(itos)})
            self.unk_index, self.vectors = 0, None

    for thing in (Vocab, _default_unk_index):
        thing.__module__, thing.__qualname__ = "torchtext.vocab", thing.__name__
        setattr(module, thing.__name__, thing)
    if not importlib.util.find_spec("torchtext"):
        monkeypatch.setitem(sys.modules, "torchtext", types.ModuleType("torchtext"))
    monkeypatch.setitem(sys.modules, "torchtext.vocab", module)
    return module


@pytest.fixture
def vocab(torchtext_0_7, tmp_path):
    torch.save(torchtext_0_7.Vocab(list(WORDS)), tmp_path / "bert_vocab.pt")
    return tmp_path / "bert_vocab.pt"


@pytest.fixture
def saved(tmp_path):
    def save(content):
        torch.save(content, tmp_path / "bert.pt")
        return tmp_path / "bert.pt"

    return save


# The numbers that the example's own code gave


def test_the_published_layout_gives_the_expected_outputs(shared_data):
    folder = shared_data / "published"
    expected = torch.load(folder / "expected.pt", weights_only=True)
    inputs = expected["input_ids"], expected["token_type_ids"]
    options = dict(vocab=folder / "bert_vocab.pt", heads=expected["nhead"])
    with torch.no_grad():
        for head, file, name in (
            (MLMTask, "full_mlm_model.pt", "mlm_logits"), (NextSentenceTask, "ns_model.pt", "ns_logits"),
        ):  # fmt: skip
            model, tokenizer = load_model(head, folder / file, **options)
            logits = model.eval()(*inputs)[..., : expected[name].size(-1)]  # two words are new
            torch.testing.assert_close(logits, expected[name], atol=1e-5, rtol=0)
        for head in (MLMTask, QuestionAnswerTask, RaceTask):
            for file in ("mlm_bert.pt", "ns_bert.pt", "full_mlm_model.pt", "ns_model.pt"):
                model, _ = load_body(head, folder / file, **options)
                torch.testing.assert_close(model.eval().bert(*inputs), expected["hidden"], atol=1e-5, rtol=0)
    assert tokenizer.kind == "basic_english" and tokenizer.encode_ids("The king, of Paris") == [3, 12, 4, 6, 15]


def test_the_page_takes_them_with_a_vocabulary_that_lies_elsewhere(shared_data):
    folder = shared_data / "published"
    (loaded,) = demo.load(folder / "full_mlm_model.pt", "fp32", Ranks(), str(folder / "bert_vocab.pt"), 4)
    assert loaded.kind == "mlm" and loaded.model.bert.config.num_attention_heads == 4


@pytest.mark.slow
def test_a_task_starts_from_published_files_and_its_model_leaves_again(shared_data, run_script, tmp_path):
    model, vocab = (shared_data / "published" / file for file in ("mlm_bert.pt", "bert_vocab.pt"))
    output = run_script("ns_task.py", "--bert-model", model, "--save-vocab", vocab, "--nhead", 4, "--steps", 2,
                        "--valid-examples", 8).stdout  # fmt: skip
    assert "new: the head of NextSentenceTask (classifier), the pooler, the words <cls> <sep>" in output
    run_script("checkpoint.py", "export", "ns_bert.pt", "folder")
    load_model(NextSentenceTask, tmp_path / "folder")


@pytest.mark.slow
def test_the_examples_model_is_kept_where_pretraining_writes_one_of_that_name(shared_data, run_script, tmp_path):
    shutil.copy(shared_data / "published" / "mlm_bert.pt", tmp_path)
    before = (tmp_path / "mlm_bert.pt").read_bytes()
    assert "run mlm_task.py" not in checkpoint.before(tmp_path / "mlm_bert.pt")
    said = run_script("mlm_task.py", "--nlayers", 1, "--emsize", 32, "--nhead", 2, "--steps", 1, "--valid-examples", 8,
                      "--no-test").stdout  # fmt: skip
    assert "no model of these scripts, and this run writes it; kept as mlm_bert-before-1.pt" in said
    assert (tmp_path / "mlm_bert-before-1.pt").read_bytes() == before


@pytest.mark.slow
def test_pretraining_goes_on_from_them_and_leaves_them_as_they_are(shared_data, run_script, tmp_path):
    for file in ("mlm_bert.pt", "bert_vocab.pt"):
        shutil.copy(shared_data / "published" / file, tmp_path / file)
    before = (tmp_path / "bert_vocab.pt").read_bytes()
    run_script("mlm_task.py", "--bert-model", "mlm_bert.pt", "--nhead", 4, "--steps", 1, "--valid-examples", 8, "--save",
               "more.pt", "--no-test")  # fmt: skip
    assert (tmp_path / "bert_vocab.pt").read_bytes() == before
    told = run_script("mlm_task.py", "--steps", 1, "--valid-examples", 8, "--no-test", "--save", "new.pt").stderr
    assert (tmp_path / "bert_vocab.pt").read_bytes() == before and "bert_vocab.pt stays as it is" in told


# The words that the vocabulary lacks


def test_what_its_training_on_several_gpus_left_is_read_as_well(vocab, saved):
    weights = state_dict(head="mlm")
    plain, _ = load_model(MLMTask, saved(weights), vocab=vocab)
    other, _ = load_model(MLMTask, saved({f"module.{name}": weight for name, weight in weights.items()}), vocab=vocab)
    assert all(torch.equal(weight, other.state_dict()[name]) for name, weight in plain.state_dict().items())


def test_missing_special_words_are_added_with_the_rows_of_the_unknown_one(vocab, saved, capsys):
    weights = state_dict(head="mlm")
    model, tokenizer = load_model(MLMTask, saved(weights), vocab=vocab)
    assert tokenizer.tokens == [*WORDS, "<cls>", "<sep>"]
    assert tokenizer.special_ids == [1, 0, 8, 9, 2] and tokenizer.specials[4] == "<MASK>"
    rows = model.bert.embedding.embed.weight
    assert torch.equal(rows[:8], weights["bert_model.bert_embed.embed.weight"])
    assert torch.equal(rows[8], rows[0]) and torch.equal(rows[9], rows[0])
    assert torch.equal(model.decoder.weight[8:], weights["mlm_head.weight"][[0, 0]])
    assert torch.equal(model.bias[8:], weights["mlm_head.bias"][[0, 0]])
    assert capsys.readouterr().out.endswith("new: the words <cls> <sep> (they begin as <unk>)\n")


def test_a_vocabulary_that_has_them_stays_as_it_is(torchtext_0_7, saved, tmp_path, capsys):
    words = ["<unk>", "<pad>", "<MASK>", "<cls>", "<sep>", "the"]
    torch.save(torchtext_0_7.Vocab(words), tmp_path / "v.pt")
    _, tokenizer = load_body(QuestionAnswerTask, saved(state_dict(6)), vocab=tmp_path / "v.pt")
    assert tokenizer.tokens == words and "words" not in capsys.readouterr().out


def test_the_vocabulary_that_a_run_wrote_over_it_serves_too(vocab, saved):
    tokenizer, _ = read_vocab(vocab)
    save_vocab(tokenizer, vocab)
    assert load_body(QuestionAnswerTask, saved(state_dict()), vocab=vocab)[1].fingerprint == tokenizer.fingerprint


def test_sizes_come_from_the_tensors_and_what_is_saved_comes_back(vocab, saved, tmp_path):
    model, tokenizer = load_model(MLMTask, saved(state_dict(head="mlm")), vocab=vocab)
    config = model.bert.config
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (D, LAYERS, F)
    assert (config.num_attention_heads, config.max_position_embeddings) == (1, POSITIONS)
    assert (config.layer_norm_eps, config.head_norm_eps, config.tie_word_embeddings) == (1e-5, 1e-12, False)
    save_model(tmp_path / "again.pt", model, tokenizer)
    again, _ = load_model(MLMTask, tmp_path / "again.pt")
    assert again.bert.config == config
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())
    new_head = load_body(MLMTask, tmp_path / "again.pt")[0]
    assert new_head.decoder is None and new_head.norm.eps == 1e-5


# What is wrong is told in one line


def test_the_vocabulary_must_be_named_and_belong_to_the_model(vocab, saved, tmp_path):
    path = saved(state_dict())
    refused(lambda: load_body(MLMTask, path), str(path), "--save-vocab")
    refused(lambda: load_body(MLMTask, path, vocab=tmp_path / "none.pt"), "none.pt", "cannot be read", "--save-vocab")
    for words in (7, 9, 10, 11):
        refused(lambda words=words: load_body(MLMTask, saved(state_dict(words)), vocab=vocab), "8 words", f"has {words}")


def test_heads_that_the_width_does_not_tell_must_be_named(vocab, saved, monkeypatch):
    monkeypatch.setitem(globals(), "D", 32)
    path = saved(state_dict())
    refused(lambda: load_body(MLMTask, path, vocab=vocab), "width 32", "--nhead")
    refused(lambda: load_body(MLMTask, path, vocab=vocab, heads=5), "32", "5", "--nhead")
    assert load_body(MLMTask, path, vocab=vocab, heads=4)[0].bert.config.num_attention_heads == 4


def test_weights_that_are_missing_left_over_or_misshapen_are_named(vocab, saved):
    for edit, words in (
        (lambda w: w.pop("transformer_encoder.layers.1.norm1.bias"), ["lacks", "layers.1.norm1.bias"]),
        (lambda w: w.pop("bert_embed.pos_embed.pos_embedding.weight"), ["lacks", "pos_embedding"]),
        (lambda w: w.update(extra=torch.zeros(2)), ["left-over", "extra"]),
        (lambda w: w.update({"transformer_encoder.layers.0.linear2.bias": torch.zeros(3)}), ["linear2.bias", "[3]"]),
    ):
        weights = state_dict()
        edit(weights)
        refused(lambda weights=weights: load_body(MLMTask, saved(weights), vocab=vocab), *words)


def test_a_head_that_no_task_here_has_is_dropped_and_named(vocab, saved, capsys):
    path = saved(state_dict(head="qa"))
    load_body(QuestionAnswerTask, path, vocab=vocab)
    assert "not used: qa_span.weight, qa_span.bias" in capsys.readouterr().out
    refused(lambda: load_model(QuestionAnswerTask, path, vocab=vocab), "no head of a task here")


# The pickle


@pytest.mark.parametrize("layout", ["zip", "before the zip", "bare"])
def test_the_vocabulary_is_read_in_each_layout(layout, torchtext_0_7, tmp_path):
    path, vocabulary = tmp_path / "v.pt", torchtext_0_7.Vocab(list(WORDS))
    if layout == "bare":
        path.write_bytes(pickle.dumps(vocabulary))
    else:
        torch.save(vocabulary, path, _use_new_zipfile_serialization=layout == "zip")
    assert read_vocab(path)[0].tokens[: len(WORDS)] == WORDS


class Evil:
    def __init__(self, folder, function=os.mkdir):
        self.folder, self.function = folder, function

    def __reduce__(self):
        return self.function, (str(self.folder),)


class Disguised(list):
    """A list of words that is an order to run."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("layout", ["zip", "before the zip", "bare"])
@pytest.mark.parametrize("place", ["all of it", "words"])
def test_a_hostile_pickle_is_refused_and_nothing_of_it_runs(layout, place, torchtext_0_7, tmp_path, saved):
    path, model = tmp_path / "v.pt", saved(state_dict())
    evil = Evil(tmp_path / "run")
    if place == "words":
        evil = torchtext_0_7.Vocab(list(WORDS))
        evil.itos = Disguised(tmp_path / "run")
    if layout == "bare":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=layout == "zip")
    refused(lambda: load_body(MLMTask, model, vocab=path), str(path))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("code", [
    b"cbuiltins\neval\n(S'1'\ntR.", b"cos\nsystem\n(S'true'\ntR.", b"ctorchtext.vocab\nVectors\n.",
    b"ctorchtext.vocab\nVocab.__init__.__globals__\n.", b"Pname\n.", b"\x82\x01.", b"(i__builtin__\neval\n.",
    b"\x80\x04", b"",
], ids=["eval", "system", "Vectors", "dots", "persistent", "extension", "instance", "cut", "empty"])  # fmt: skip
def test_programs_of_all_kinds_are_refused(code, tmp_path):
    (tmp_path / "v.pt").write_bytes(code)
    refused(lambda: read_vocab(tmp_path / "v.pt"), "v.pt", "not run")


def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    for code in (b"]r\xff\xff\xff\xff.",  # remember a list under the number 4,294,967,295
                 b"ccollections\ndefaultdict\n)R}b."):  # attributes, which are a copy
        (tmp_path / "v.pt").write_bytes(code)
        refused(lambda: read_vocab(tmp_path / "v.pt"), "v.pt", "not a vocabulary")


def test_a_vocabulary_without_words_is_refused(torchtext_0_7, tmp_path):
    for words in ([], ["the"], [1, 2], None):
        vocabulary = torchtext_0_7.Vocab([])
        vocabulary.itos = words
        torch.save(vocabulary, tmp_path / "v.pt")
        refused(lambda: read_vocab(tmp_path / "v.pt"), "v.pt", "words")
    with zipfile.ZipFile(tmp_path / "v.pt", "w") as package:
        package.writestr("a/torchtext.vocab", b"")
    refused(lambda: read_vocab(tmp_path / "v.pt"), "v.pt", "data.pkl")
