"""The files of torchtext's BERT example (2020): bare state dicts, and a pickled vocabulary of torchtext 0.7.

    content = read_model(weights, "mlm_bert.pt", "bert_vocab.pt")       # as checkpoint.read_model gives it
    tokenizer, rows = read_vocab("bert_vocab.pt")

Sizes are deduced from the tensors. What tensors do not tell, that example's code does: exact GELU, norms behind the
residuals with eps 1e-5 (1e-12 in the masked-word head), words cut by basic_english, heads 64 wide. Class 1 of its
next-sentence head is the true pair, as it is here. Its question-answering head has an activation that ours has not.

The vocabulary is a pickle, and a pickle is a program. The unpickler here knows the four names that such a file needs,
stands plain containers in for them, and refuses everything else, so that nothing of a stranger's runs.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from files.mistakes import UserError
from formats.names import Table, Weights, take
from formats.shapes import body_shapes, head_shapes
from model import BertConfig
from text.tokenizer import SPECIALS, Tokenizer
from text.vocabularies import load_vocab

LARGEST_VOCABULARY = 1 << 28  # bytes
LAYER = "transformer_encoder.layers.#"
BODY: Table = {
    "embedding.embed": "bert_embed.embed",
    "embedding.position.embed": "bert_embed.pos_embed.pos_embedding",
    "embedding.token_type.embed": "bert_embed.tok_type_embed.token_type_embeddings",
    "embedding.norm": "bert_embed.norm",
    "layers.#.attention.in_proj": [f"{LAYER}.mha.in_proj_container.{part}_proj" for part in ("query", "key", "value")],
    "layers.#.attention.out_proj": f"{LAYER}.mha.out_proj",
    "layers.#.norm1": f"{LAYER}.norm1",
    "layers.#.linear1": f"{LAYER}.linear1",
    "layers.#.linear2": f"{LAYER}.linear2",
    "layers.#.norm2": f"{LAYER}.norm2",
    "pooler": "linear_layer",
}
HEADS = {
    "MLMTask": {"transform": "mlm_span", "norm": "norm_layer", "decoder": "mlm_head", "": "mlm_head"},
    "NextSentenceTask": {"classifier": "ns_span"},
}


def is_published(weights: Weights) -> bool:
    """Are the weights named as torchtext's BERT example names them?"""
    return any(plain_name(str(name)).startswith("bert_embed.") for name in weights)


def plain_name(name):
    """As the body has it alone: without DDP's prefix, which its training states have, and a task's."""
    return name.removeprefix("module.").removeprefix("bert_model.")


def read_model(weights: Weights, path: str | Path, vocab: str | Path | None, heads: int | None = None) -> dict[str, Any]:
    """The content of a state dict of that example. ``vocab`` is the path of its vocabulary, ``heads`` the number of
    attention heads where they are not 64 wide. Raises UserError where something lacks, is left over, or disagrees."""
    if vocab is None:
        raise UserError(f"{path}: a file of torchtext's BERT example; name its vocabulary with --save-vocab bert_vocab.pt")
    weights = {plain_name(name): weight for name, weight in weights.items()}
    dropped = [name for name in list(weights) if name.startswith("qa_span.") and weights.pop(name) is not None]
    new, tokenizer = add_rows(weights, path, vocab)
    config = sizes_of(weights, path, heads)
    body, found = take(weights, BODY, body_shapes(config, "linear_layer.weight" in weights), path), {}
    for task, table in HEADS.items():
        if any(name.startswith(f"{theirs}.") for theirs in table.values() for name in weights):
            found[task] = take(weights, table, head_shapes(task, config), path)
    if weights:
        raise UserError(f"{path}: has a left-over weight {min(weights)} ({len(weights)} in all); fetch it again")
    return {"task": next(iter(found), None), "config": config, "tokenizer": tokenizer.state(), "body": body, "heads": found,
            "notes": {"bptt": 128}, "dropped": dropped, "new": new}  # fmt: skip


def sizes_of(weights, path, heads):
    """The BertConfig that the tensors' shapes tell."""
    layers = {name.split(".")[2] for name in weights if name.startswith("transformer_encoder.layers.")}
    shapes = {}
    for what, name in (("words", "bert_embed.embed"), ("positions", "bert_embed.pos_embed.pos_embedding"),
                       ("types", "bert_embed.tok_type_embed.token_type_embeddings"),
                       ("wide", "transformer_encoder.layers.0.linear1")):  # fmt: skip
        if f"{name}.weight" not in weights or weights[f"{name}.weight"].dim() != 2:
            raise UserError(f"{path}: lacks weight {name}.weight; fetch it again")
        shapes[what] = weights[f"{name}.weight"].shape
    words, width = shapes["words"]
    if heads is None and width % 64:
        raise UserError(f"{path}: width {width} does not tell the number of attention heads; add --nhead with that number")
    try:
        return BertConfig(
            vocab_size=words, hidden_size=width, num_hidden_layers=len(layers), num_attention_heads=heads or width // 64,
            intermediate_size=shapes["wide"][0], max_position_embeddings=shapes["positions"][0],
            type_vocab_size=shapes["types"][0], layer_norm_eps=1e-5, head_norm_eps=1e-12,
            tie_word_embeddings="mlm_head.weight" not in weights,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"{path}: {error}; add --nhead with the number of attention heads") from None


def add_rows(weights, path, vocab):
    """Rows for the special tokens that the example's vocabulary lacked. Gives a line that names them, and the tokenizer.

    They begin as those of <unk>, which stood in their place when the model was trained.
    """
    tokenizer, fitting = read_vocab(vocab)
    embed = weights.get("bert_embed.embed.weight")
    rows = len(embed) if embed is not None and embed.dim() == 2 else 0
    if rows not in fitting:
        raise UserError(f"{vocab}: {' or '.join(map(str, fitting))} words, but {path} has {rows}; name the vocabulary "
                        "that belongs to it with --save-vocab")  # fmt: skip
    added = tokenizer.tokens[rows:]
    if not added:
        return [], tokenizer
    for name in ("bert_embed.embed.weight", "mlm_head.weight", "mlm_head.bias"):
        if name in weights and weights[name].dim() and len(weights[name]) == rows:
            unknown = weights[name][tokenizer.unk_id]
            weights[name] = torch.cat([weights[name], *[unknown[None]] * len(added)])
    return [f"the words {' '.join(added)} (they begin as {tokenizer.specials[1]})"], tokenizer


# --------------------------------------------------------------------------------------------------------------------
# The vocabulary
# --------------------------------------------------------------------------------------------------------------------


class Vocab:
    """Stands in for torchtext.vocab.Vocab: keeps what the pickle says of it."""

    content = None

    def __setstate__(self, state):
        self.content = state


class Lookup(dict):
    """Stands in for defaultdict, whose default is of no use here."""

    def __init__(self, default=None):
        super().__init__()

    def __setstate__(self, state):
        raise ValueError("attributes of a dict")


def counter(counts=()):
    """Stands in for Counter, without a copy, which a file could ask for again and again."""
    return counts


STAND_INS: dict[tuple[str, str], Any] = {
    ("torchtext.vocab", "Vocab"): Vocab,
    ("torchtext.vocab", "_default_unk_index"): None,  # what gives unknown words their number
    ("collections", "Counter"): counter,
    ("collections", "defaultdict"): Lookup,
}


class Unpickler(pickle._Unpickler):  # the one in Python: the one in C reserves as much memory as a file asks for
    dispatch = {order: do for order, do in pickle._Unpickler.dispatch.items() if order != pickle.BYTEARRAY8[0]}  # noqa: RUF012
    # BYTEARRAY8 reserves what the file asks for here too, and no vocabulary needs it

    def find_class(self, module, name):
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no vocabulary needs")
        return STAND_INS[module, name]


def is_vocab_of_theirs(path: str | Path) -> bool:
    """Is it a vocabulary that the example pickled?"""
    try:
        unpickled(Path(path).read_bytes(), path)
    except (OSError, UserError):
        return False
    return True


def read_vocab(path):
    """The tokenizer of a vocabulary that the example pickled, or that mlm_task.py wrote; and how many words a model may
    have to which it belongs: special tokens at the end may be those added here. Raises UserError for anything else."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        remedy = "name the model's vocabulary with --save-vocab"
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if data.startswith(b"PK\x03\x04") and b"torchtext.vocab" not in data:
        tokenizer = load_vocab(path)
        own = len(tokenizer)
        while own and tokenizer.tokens[own - 1] in tokenizer.specials:
            own -= 1
        return tokenizer, sorted({own, len(tokenizer)})
    return unpickled(data, path)


def unpickled(data, path):
    """As `read_vocab`, of a vocabulary that the example pickled."""
    try:
        vocabulary = unpickle(data)
    except Exception as error:  # a broken pickle can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        remedy = "fetch it from a source you trust"
        raise UserError(f"{path}: not a vocabulary of torchtext 0.7, and not run ({reason}); {remedy}") from None
    tokens = vocabulary.content.get("itos") if isinstance(vocabulary.content, dict) else None
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise UserError(f"{path}: its vocabulary has no list of words (itos); fetch it again")
    return with_specials(tokens, path), [len(tokens)]


def with_specials(tokens, path):
    """The basic_english tokenizer of ``tokens``; the special ones among them may be in capitals, what lacks is added."""
    written = {token.lower(): token for token in reversed(tokens)}
    if "<unk>" not in written:
        raise UserError(f"{path}: has no <unk> among its words; name the vocabulary that belongs to the model")
    specials = [written.get(special, special) for special in SPECIALS]
    return Tokenizer("basic_english", [*tokens, *(s for s in specials if s not in tokens)], specials)


def unpickle(data):
    """The Vocab in a file of torch.save (its zip, or the four pickles that came before), or in a bare pickle."""
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            infos = [info for info in package.infolist() if info.filename.endswith("/data.pkl")]
            if len(infos) != 1 or infos[0].file_size > LARGEST_VOCABULARY or infos[0].compress_type != zipfile.ZIP_STORED:
                raise ValueError("no data.pkl of reasonable size, as torch writes it")
            data = package.read(infos[0])
    stream = io.BytesIO(data)
    for _ in range(4):  # older: a magic number, a version, the machine, the object
        value = Unpickler(stream).load()
        if isinstance(value, Vocab):
            return value
    raise ValueError("no Vocab in it")

