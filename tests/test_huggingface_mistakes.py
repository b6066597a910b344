"""Other people's models with something wrong, or that cannot be computed here: told in one line that names it."""

import json

import pytest
import torch
from their_models import LETTERS, V, change_json, change_weights, refused, safetensors_torch, save, theirs, transformers

from checkpoint import load_model
from model import BertModel, NextSentenceTask


@pytest.fixture
def folder(tmp_path):
    return save(theirs("bert", "ForQuestionAnswering"), tmp_path / "model")


# config.json and the rules of tokenizers


@pytest.mark.parametrize("changes, words", [
    ({"model_type": "deberta"}, ["model_type deberta", "albert"]),
    ({"position_embedding_type": "relative_key"}, ["position_embedding_type", "relative_key"]),
    ({"classifier_dropout": 2}, ["head_dropout", "2"]), ({"model_type": ["bert"]}, ["model_type"]),
    ({"is_decoder": True}, ["is_decoder"]), ({"add_cross_attention": True}, ["add_cross_attention"]),
    ({"hidden_act": "silu"}, ["silu", "gelu"]), ({"hidden_size": "wide"}, ["hidden_size", "wide"]),
    ({"num_attention_heads": 5}, ["32", "5"]), ({"layer_norm_eps": "small"}, ["config.json", "small"]),
    ({"layer_norm_eps": 10**400}, ["config.json", "too large"]),
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


@pytest.mark.parametrize("rules, words", [
    ({"strip_accents": False, "do_lower_case": True}, ["strip_accents", "false"]),
    ({"tokenize_chinese_chars": False}, ["tokenize_chinese_chars"]),
    ({"tokenizer_class": "BertJapaneseTokenizer"}, ["BertJapaneseTokenizer"]),
])  # fmt: skip
def test_rules_of_a_tokenizer_that_are_unknown_here_are_refused(rules, words, tmp_path):
    save(theirs("bert", "Model"), tmp_path)
    refused(change_json(tmp_path, "tokenizer_config.json", **rules), *words)


@pytest.mark.parametrize(("part", "value", "words"), [
    ("normalizer", {"type": "Lowercase"}, "normalizer Lowercase is not supported, only BertNormalizer"),
    ("pre_tokenizer", {"type": "Whitespace"}, "pre_tokenizer Whitespace is not supported"),
    ("model", {"continuing_subword_prefix": "@@"}, "continuing_subword_prefix @@ is not supported, only ##"),
])  # fmt: skip
@pytest.mark.parametrize("alone", [True, False])
def test_rules_of_a_tokenizer_json_that_are_unknown_here_are_refused(part, value, words, alone, tmp_path):
    save(theirs("bert", "Model"), tmp_path)
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=False).save_pretrained(tmp_path)
    if alone:  # beside vocab.txt it is what transformers goes by
        (tmp_path / "vocab.txt").unlink()
    old = json.loads((tmp_path / "tokenizer.json").read_text())[part]
    refused(change_json(tmp_path, "tokenizer.json", **{part: {**old, **value}}), words)


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer"])
def test_a_tokenizer_json_without_berts_rules_is_refused(part, tmp_path):
    save(theirs("bert", "Model"), tmp_path)
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=False).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    refused(change_json(tmp_path, "tokenizer.json", **{part: None}), f"{part} null is not supported")


@pytest.mark.parametrize("beside", ["special_tokens_map.json", "tokenizer_config.json"])
def test_special_tokens_of_a_name_of_their_own_are_those_of_either_file(tmp_path, beside):
    own = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
    save(theirs("bert", "Model"), tmp_path)
    tokens = (tmp_path / "vocab.txt").read_text()
    for name, token in own.items():
        tokens = tokens.replace(f"[{name.upper()}]", token)
    (tmp_path / "vocab.txt").write_text(tokens)
    (tmp_path / "tokenizer_config.json").unlink(missing_ok=True)
    refused(tmp_path, "lacks [PAD] [UNK] [CLS] [SEP] [MASK]", "name its own in tokenizer_config.json (pad_token,")
    (tmp_path / beside).write_text(json.dumps({f"{name}_token": token for name, token in own.items()}))
    assert load_model(BertModel, tmp_path)[1].specials == tuple(own.values())


@pytest.mark.parametrize("name", ["T5Tokenizer", "BertJapaneseTokenizer"])
def test_a_spiece_model_of_another_class_is_refused(albert, name):
    refused(change_json(albert, "tokenizer_config.json", tokenizer_class=name), f"tokenizer_class {name}")


# Weights


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


# Files


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
    (several(GONE, write(INDEX, b'{"weight_map": {"a": "%s"}}' % (b"x" * 300))), ["xxx", "no such file"]),
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
    (folder / "model.safetensors").rename(folder / "bert.safetensors")
    refused(folder / "bert.safetensors", "name the folder")
    refused(folder, "holds neither model.safetensors nor", f"rename {folder / 'bert.safetensors'} to one of these")
    torch.save({"weight": torch.zeros(2)}, folder / "x.pt")
    refused(folder / "x.pt", "bare weights such as weight")


def test_without_safetensors_a_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    refused(folder, "pip install safetensors")
