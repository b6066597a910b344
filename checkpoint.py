"""Saving and loading models.

    python checkpoint.py show FILE      # what is inside a model file

A model file holds all that using the model needs: sizes, tokenizer, weights of body and head, and what the task noted
(such as SQuAD's threshold). It is torch.save's zip format with tensors and plain values only, and it is read with
``weights_only=True``: no pickle of anybody's is ever executed. Sizes come from the file, never from flags.
"""

import dataclasses
import sys
from pathlib import Path

import torch

from files import UserError, atomic_write, run_main
from model import BertConfig
from tokenizer import Tokenizer

FORMAT = 1


def save_model(path, model, tokenizer, notes=None):
    """Write ``model`` (one of model.py's task heads) with its tokenizer to ``path``, atomically."""
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    content = {
        "format": FORMAT,
        "task": type(model).__name__,
        "config": dataclasses.asdict(model.bert.config),
        "tokenizer": tokenizer.state(),
        "body": {n.removeprefix("bert."): w for n, w in weights.items() if n.startswith("bert.")},
        "head": {n: w for n, w in weights.items() if not n.startswith("bert.")},
        "notes": notes or {},
    }
    with atomic_write(path) as stream:
        torch.save(content, stream)


def read_torch(path, remedy):
    """What torch.save wrote to ``path``. Raises UserError where the file is absent, damaged, or not in the zip format.

    The older format and TorchScript are refused: torch 2.3's weights-only reader can be made to run code by them
    (CVE-2025-32434). It tells them as we do here, by the first bytes and by the records that its own reader finds; a
    zip at the end of a file, which would satisfy zipfile.is_zipfile, does not count.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    with open(path, "rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            raise UserError(f"{path}: not a file that torch.save wrote (damaged, or in its format before 1.6); {remedy}")
    try:
        if "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise ValueError("a TorchScript program")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged or hostile files
        reason = str(error).split("\n")[0]
        raise UserError(f"{path}: cannot be loaded ({type(error).__name__}: {reason}); {remedy}") from None


def read_model(path, remedy="name a file that one of the tasks saved"):
    """The checked content of a model file (see save_model)."""
    content = read_torch(path, remedy)
    keys = {"format", "task", "config", "tokenizer", "body", "head", "notes"}
    complete = isinstance(content, dict) and keys <= set(content)
    if not complete or not (holds_weights(content["body"]) and holds_weights(content["head"])):
        raise UserError(f"{path}: not a model file of this project; {remedy}")
    if content["format"] != FORMAT:
        raise UserError(f"{path}: format {content['format']}, this version reads {FORMAT}; use the version that wrote it")
    try:
        content["config"] = BertConfig(**content["config"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}; {remedy}") from None
    return content


def holds_weights(part):
    return isinstance(part, dict) and all(isinstance(weight, torch.Tensor) for weight in part.values())


def load_model(cls, path, dropout=None):
    """The model of class ``cls`` (a head of model.py) in ``path``, body and head, and its tokenizer.

    ``dropout`` overrides the file's. Raises UserError where ``path`` holds another task's head.
    """
    content = read_model(path)
    if content["task"] != cls.__name__:
        raise UserError(f"{path}: holds a {content['task']}, not a {cls.__name__}; use --bert-model to take its body")
    model = cls(with_dropout(content["config"], dropout))
    insert(model, whole(content), path)
    model.notes = content["notes"]
    return model, Tokenizer.from_state(content["tokenizer"])


def whole(content):
    """The weights of a model file under the names that the model has for them."""
    return {**{f"bert.{name}": weight for name, weight in content["body"].items()}, **content["head"]}


def with_dropout(config, dropout):
    if dropout is None:
        return config
    return dataclasses.replace(config, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)


def load_body(cls, path, dropout=None):
    """A model of class ``cls`` with the body in ``path`` and a new head, and the file's tokenizer."""
    content = read_model(path, "run mlm_task.py or ns_task.py first, or name a file that they saved")
    model = cls(with_dropout(content["config"], dropout))
    body = content["body"]
    if model.bert.pooler is None:
        body = {name: weight for name, weight in body.items() if not name.startswith("pooler.")}
    elif "pooler.weight" not in body:
        body = {**body, **{f"pooler.{name}": weight for name, weight in model.bert.pooler.state_dict().items()}}
    insert(model.bert, body, path)
    return model, Tokenizer.from_state(content["tokenizer"])


def insert(module, weights, path):
    """Put ``weights`` into ``module``: neither has any that the other lacks, and their shapes agree."""
    own = module.state_dict()
    missing, left = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    wrong = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    for names, what in ((missing, "lacks"), (left, "has a left-over"), (wrong, "has the wrong shape for")):
        if names:
            raise UserError(f"{path}: {what} weight {names[0]} ({len(names)} in all); fetch or train the file again")
    module.load_state_dict(weights)


def describe(path):
    content = read_model(path)
    config, count = content["config"], sum(w.numel() for part in ("body", "head") for w in content[part].values())
    print(f"{path}: {content['task']}, {count:,} weights")
    print("config:", ", ".join(f"{k}={v}" for k, v in dataclasses.asdict(config).items()))
    tokenizer = Tokenizer.from_state(content["tokenizer"])
    print(f"tokenizer: {tokenizer.kind}, {len(tokenizer):,} tokens")
    print("notes:", content["notes"] or "none")
    for part in ("body", "head"):
        for name, weight in content[part].items():
            print(f"{part:5} {name:45} {str(weight.dtype).removeprefix('torch.'):9} {list(weight.shape)}")


def main():
    if len(sys.argv) != 3 or sys.argv[1] != "show":
        raise UserError("usage: python checkpoint.py show FILE")
    describe(sys.argv[2])


if __name__ == "__main__":
    run_main(main)
