"""Hugging Face folders, in and out: BERT, Megatron-BERT (BERT with the norms first) and ALBERT; in: ELECTRA's
discriminators, DistilBERT, RoBERTa, CamemBERT and XLM-R.

    content = read_folder("bert-base-uncased")       # as checkpoint.read_model gives it
    lines = write_folder(content, "folder")          # transformers' AutoModel... classes load it

A folder holds config.json, the weights (model.safetensors, whole or in parts, or pytorch_model.bin) and the vocabulary
(vocab.txt, spiece.model or tokenizer.json). Design choices:

- One table of names for both directions. What a folder must hold follows from its config: the names and shapes of our
  own model of that config, translated. So nothing is left at random, and nothing is left over unnoticed.
- A config that our network does not compute is refused by name, not approximated.
- transformers counts the pair that belongs together as class 0 of the next-sentence head, we as class 1: its rows are
  swapped on the way. ALBERT's sentence-order head counts the same way and is the same head to us.
- A head of transformers that no task here has is dropped, and named.
- What others lack becomes ours without changing a number: DistilBERT gets token types of zeros, RoBERTa a second one
  like its only one; and the positions that RoBERTa leaves out, up to that of padding, are left out.
"""

import os
from pathlib import Path
from typing import Any

import torch

from files.mistakes import UserError
from files.reading import read_json
from files.torch_zip import holds_weights, read_torch
from files.writing import atomic_folder, write_json
from formats.names import (
    ARCHITECTURES,
    BODIES,
    CLASSES,
    PREFIXES,
    ROBERTAS,
    Weights,
    heads_of,
    swap_rows,
    take,
    their_names,
)
from formats.shapes import body_shapes, head_shapes
from formats.vocabularies import longest_text, read_at_once, read_tokenizer, write_tokenizer
from model import BertConfig
from text.tokenizer import Tokenizer

# --------------------------------------------------------------------------------------------------------------------
# In
# --------------------------------------------------------------------------------------------------------------------

ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new", "gelu_python": "gelu"}  # other names of ours
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
OTHER_HEADS = ("cls.", "predictions.", "sop_classifier.", "qa_outputs.", "classifier.", "lm_head.", "vocab_",
               "pre_classifier.", "discriminator_predictions.", "generator_", "sequence_summary.")  # fmt: skip
DISTILBERT = {"dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
              "hidden_dim": "intermediate_size", "dropout": "hidden_dropout_prob",
              "attention_dropout": "attention_probs_dropout_prob", "activation": "hidden_act"}  # fmt: skip


def read_folder(folder: str | Path) -> dict[str, Any]:
    """The content of a Hugging Face folder, as checkpoint.read_model gives it. Raises UserError, one line, where it holds
    another kind of model, or weights that its config does not ask for, or lacks some."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        if any(".ckpt" in file.name for file in folder.iterdir()):
            raise tensorflow(folder)
        raise UserError(f"{folder / 'config.json'}: no such file; name a Hugging Face folder, or a model file")
    config, kind, architecture = read_config(folder / "config.json")
    weights = {plain_name(name, kind): weight for name, weight in read_weights(folder).items()}
    dropped = [name for name in BUFFERS if weights.pop(name, None) is not None]
    new = fit(weights, config, kind, unused_positions(read_json(folder / "config.json"), kind))
    pooler = "pooler" in BODIES[kind] and any(name.startswith("pooler.") for name in weights)
    body = take(weights, BODIES[kind], body_shapes(config, pooler), folder)
    heads = read_heads(weights, config, kind, architecture, folder)
    for name in list(weights):
        if name.startswith(OTHER_HEADS):
            del weights[name]
            dropped.append(name)
    if weights:
        raise UserError(f"{folder}: has a left-over weight {min(weights)} ({len(weights)} in all) that a {kind} model of "
                        "this config does not have; fetch or convert it again")  # fmt: skip
    tokenizer, longest = read_tokenizer(folder, config), longest_text(folder, config)
    return {"task": next(iter(heads), None), "config": config, "tokenizer": tokenizer.state(), "body": body, "heads": heads,
            "notes": {"longest": longest} if longest else {}, "dropped": dropped, "new": new}


TYPES, POSITIONS = "embeddings.token_type_embeddings", "embeddings.position_embeddings.weight"


def unused_positions(found, kind):
    """How many rows of the table stand before the first position: RoBERTa's, up to that of padding."""
    return found.get("pad_token_id", 1) + 1 if kind in ROBERTAS else 0


def fit(weights, config, kind, unused):
    """Bring the embeddings of those without parts, and whose positions begin later, into BERT's form; gives what is new."""
    name = f"{TYPES}.weight"
    if kind == "distilbert":
        weights[name] = torch.zeros(config.type_vocab_size, config.hidden_size)
        return ["the token types (zeros)"]
    if kind in ROBERTAS and POSITIONS in weights and weights[POSITIONS].dim() == 2:  # else it will be told
        weights[POSITIONS] = weights[POSITIONS][unused:]
    if name in weights and weights[name].dim() == 2 and len(weights[name]) == 1:
        weights[name] = weights[name].repeat(2, 1)
        return ["a second token type (like the first)"]
    return []


def plain_name(name, kind):
    """A weight's name without the body's prefix, and with the older names of LayerNorm's weights made new."""
    name = name.removeprefix(PREFIXES.get(kind, "bert."))
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def read_heads(weights, config, kind, architecture, folder):
    """task -> weights of each head in the folder that one of our tasks has."""
    heads = {}
    if words := heads_of(kind).get("MLMTask"):
        # The bias has two names, and a tied matrix is the word embedding again: transformers reads neither.
        bias = weights.pop(f"{words['decoder']}.bias", None)
        if bias is not None:
            weights.setdefault(f"{words['']}.bias", bias)
        if config.tie_word_embeddings:
            weights.pop(f"{words['decoder']}.weight", None)
    for task, table in heads_of(kind).items():
        if task == "RaceTask" and not scores_options(weights, architecture):
            continue
        if task == "MLMTask" and kind in ROBERTAS and config.hidden_act != "gelu":  # theirs has GELU all the same
            continue
        first = min(table.values(), key=len)
        if any(name.startswith(f"{first}.") for name in weights):
            heads[task] = take(weights, table, head_shapes(task, config), folder)
            if task == "NextSentenceTask":
                heads[task] = swap_rows(heads[task])
    return heads


def scores_options(weights, architecture):
    """Is "classifier" the multiple-choice head? Other heads have that name too."""
    if architecture:
        return architecture.endswith("ForMultipleChoice")
    return "classifier.weight" in weights and weights["classifier.weight"].shape[:1] == (1,)


def read_config(path: Path) -> tuple[BertConfig, str, str | None]:
    """(BertConfig, model_type, the architecture's name or None) of a config.json."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a config.json of transformers; fetch the folder again")
    names = found.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else None
    kind = str(found.get("model_type") or ("albert" if "embedding_size" in found else "bert"))
    albert, narrow = kind == "albert", kind in ("albert", "electra")
    if kind == "distilbert":
        known = {ours: found[theirs] for theirs, ours in DISTILBERT.items() if theirs in found}
        found = {**found, **known, "type_vocab_size": 2, "layer_norm_eps": 1e-12}  # not theirs to say
    if kind not in BODIES:
        raise UserError(f"{path}: model_type {kind} is another network; known are {', '.join(BODIES)}")
    refuse = [
        ("position_embedding_type", found.get("position_embedding_type", "absolute") != "absolute"),
        ("is_decoder", found.get("is_decoder")), ("add_cross_attention", found.get("add_cross_attention")),
        ("pruned_heads", found.get("pruned_heads")), ("quantization_config", found.get("quantization_config")),
        ("inner_group_num", albert and found.get("inner_group_num", 1) != 1),
        ("num_hidden_groups", albert and found.get("num_hidden_groups", 1) not in (1, found.get("num_hidden_layers"))),
    ]  # fmt: skip
    for name, wrong in refuse:
        if wrong:
            raise UserError(f"{path}: {name} {found[name]!r} is not supported; choose a plain {kind} encoder")
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    missing = [name for name in sizes if name not in found]
    if missing:
        raise UserError(f"{path}: lacks {missing[0]}; fetch the folder again")
    # The defaults are those of transformers' BertConfig and AlbertConfig.
    dropout = 0.0 if albert else 0.1
    activation: str = found.get("hidden_act", "gelu_new" if albert else "gelu")
    try:
        config = BertConfig(
            **{name: found[name] for name in sizes},
            max_position_embeddings=found.get("max_position_embeddings", 512) - unused_positions(found, kind),
            type_vocab_size=max(found.get("type_vocab_size", 2), 2),  # of one alone, `fit` makes two
            hidden_dropout_prob=found.get("hidden_dropout_prob", dropout),
            attention_probs_dropout_prob=found.get("attention_probs_dropout_prob", dropout),
            hidden_act=ACTIVATIONS.get(activation, activation),
            layer_norm_eps=float(found.get("layer_norm_eps", 1e-12)),
            initializer_range=float(found.get("initializer_range", 0.02)),
            norm_first=kind == "megatron-bert",
            embedding_size=found.get("embedding_size", 128) if narrow else None,
            share_layers=albert and found.get("num_hidden_groups", 1) == 1,
            classifier_dropout=found.get("classifier_dropout_prob", 0.1) if albert else found.get("classifier_dropout"),
            tie_word_embeddings=bool(found.get("tie_word_embeddings", True)),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: {error}; choose another model") from None
    if kind == "electra" and config.embedding_size == config.hidden_size:
        config.embedding_size = None  # no projection there, and none here
    return config, kind, architecture


def read_weights(folder):
    """name -> tensor, from the first of the layouts that the folder has."""
    for name, read in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_bin)):
        if (folder / name).is_file():
            return read(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return read_parts(folder / f"{name}.index.json", read)
    if any(".ckpt" in file.name or file.name == "tf_model.h5" for file in folder.iterdir()):
        raise tensorflow(folder)
    others = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
    remedy = f"rename {others[0]} to one of these" if len(others) == 1 else "fetch the weights too"
    raise UserError(f"{folder}: holds neither model.safetensors nor pytorch_model.bin; {remedy}")


def tensorflow(path: Path) -> UserError:
    """The error for what TensorFlow wrote."""
    return UserError(f"{path}: a TensorFlow checkpoint; convert it to a Hugging Face folder first (transformers 4 beside "
                     "TensorFlow: BertForPreTraining.from_pretrained('bert_model.ckpt', from_tf=True, config=...)"
                     ".save_pretrained('folder')), add its vocab.txt, and name that")  # fmt: skip


def safetensors_module(path):
    try:
        import safetensors.torch
    except ImportError:
        raise UserError(f"{path}: needs safetensors; pip install safetensors") from None
    return safetensors.torch


def read_safetensors(path):
    module = safetensors_module(path)
    try:
        return module.load_file(path)
    except Exception as error:  # its errors share no class with others
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}: not a whole safetensors file ({reason}); fetch it again") from None


def read_bin(path):
    weights = read_torch(path, "save it again with a newer torch, or fetch model.safetensors")
    if not holds_weights(weights):
        raise UserError(f"{path}: holds something else than weights; fetch it again")
    return weights


def read_parts(index, read):
    """The weights that an index names, from the files of which it says that they hold them."""
    found = read_json(index)
    places = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise UserError(f"{index}: no weight_map from names to files; fetch it again")
    weights = {}
    for place in sorted(set(places.values())):
        if Path(place).name != place:
            raise UserError(f"{index}: {place} leads out of the folder; fetch the model from a source you trust")
        if not os.path.isfile(index.parent / place):  # which, unlike Path's, does not mind a name that is too long
            raise UserError(f"{index.parent / place}: no such file, but {index.name} names it; fetch it too")
        part = read(index.parent / place)
        for name in (name for name, where in places.items() if where == place):
            if name not in part:
                raise UserError(f"{index.parent / place}: lacks weight {name}, which {index.name} promises; fetch it again")
            weights[name] = part[name]
    return weights


# --------------------------------------------------------------------------------------------------------------------
# Out
# --------------------------------------------------------------------------------------------------------------------


def write_folder(content: dict[str, Any], folder: str | Path) -> list[str]:
    """Write a model that transformers loads. Gives lines on what other software will not reproduce.

    Pre-norm models leave as Megatron-BERT, shared layers or narrow words as ALBERT, all others as BERT. Raises UserError
    where transformers has no such network, or ``folder`` is not empty.
    """
    safetensors = safetensors_module(folder)
    config, tokenizer, lines = content["config"], Tokenizer.from_state(content["tokenizer"]), []
    kind = kind_of(config)
    if config.attention_window:
        raise UserError(f"{folder}: not written; transformers' BERT has no sliding window; train without "
                        "--attention-window to export the model")  # fmt: skip
    if "RaceTask" in content["heads"] and config.head != "cls":
        raise UserError(f"{folder}: not written; transformers has no head such as {config.head} for options; train a model "
                        "with --head cls to export it")  # fmt: skip
    if config.head_norm_eps not in (None, config.layer_norm_eps) and "MLMTask" in content["heads"]:
        lines.append(f"the masked-word head's LayerNorm eps is {config.head_norm_eps} here and will be "
                     f"{config.layer_norm_eps} there: its logits differ a little")  # fmt: skip
    if content["notes"].get("marks") == "question":
        lines.append("words of the question are marked here by token type 2, which no tokenizer gives there: its answers "
                     "will be worse; train with --marks none for other software")  # fmt: skip
    weights: Weights = {}
    body = content["body"]
    if kind == "albert" and config.embedding_size is None:  # ALBERT always projects: by the identity then
        width = config.hidden_size
        body = {**body, "embedding.project.weight": torch.eye(width), "embedding.project.bias": torch.zeros(width)}
    for name, weight in body.items():
        add(weights, BODIES[kind], name, weight, "albert." if kind == "albert" else "bert.")
    for task, head in content["heads"].items():
        for name, weight in (swap_rows(head) if task == "NextSentenceTask" else head).items():
            add(weights, heads_of(kind)[task], name, weight)
    with atomic_folder(folder) as temporary:
        write_json(temporary / "config.json", their_config(config, kind, content["heads"], tokenizer))
        try:
            safetensors.save_file(weights, str(temporary / "model.safetensors"), {"format": "pt"})
        except Exception as error:  # its errors share no class with others
            raise OSError(str(error)) from None  # which atomic_folder tells with the folder's name
        (temporary / "model.safetensors").chmod((temporary / "config.json").stat().st_mode)  # else the owner's alone
        lines += write_tokenizer(tokenizer, temporary, config, read_at_once(content["notes"], config))
    return lines


def kind_of(config: BertConfig) -> str:
    """The model_type as which a network of ours leaves. Raises UserError where transformers has none such."""
    if not config.norm_first:
        return "albert" if config.share_layers or config.embedding_size else "bert"
    if config.share_layers or config.embedding_size:
        raise UserError("transformers has no pre-norm network with shared layers or an embedding size; it stays here")
    return "megatron-bert"


def add(weights, table, name, weight, prefix=""):
    theirs = their_names(table, name)
    for one, part in zip(theirs, weight.chunk(len(theirs)), strict=True):
        weights[prefix + one] = part.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def their_config(config, kind, heads, tokenizer):
    same = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
            "max_position_embeddings", "type_vocab_size", "hidden_dropout_prob", "attention_probs_dropout_prob",
            "hidden_act", "layer_norm_eps", "initializer_range", "tie_word_embeddings")  # fmt: skip
    if {"MLMTask", "NextSentenceTask"} <= set(heads) or (kind == "albert" and "NextSentenceTask" in heads):
        ending = "ForPreTraining"
    else:
        ending = ARCHITECTURES[next(iter(heads))] if heads else "Model"
    theirs = {
        "architectures": [CLASSES[kind] + ending], "model_type": kind, **{name: getattr(config, name) for name in same},
        "position_embedding_type": "absolute", "pad_token_id": tokenizer.pad_id, "torch_dtype": "float32",
    }  # fmt: skip
    if kind == "albert":
        groups = 1 if config.share_layers else config.num_hidden_layers
        theirs.update(embedding_size=config.word_size, num_hidden_groups=groups, inner_group_num=1,
                      classifier_dropout_prob=config.head_dropout, bos_token_id=tokenizer.cls_id,
                      eos_token_id=tokenizer.sep_id)  # fmt: skip
    else:
        theirs["classifier_dropout"] = config.classifier_dropout
    return theirs
