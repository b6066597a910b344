"""Saving and loading models.

    python checkpoint.py show FILE                # what is inside
    python checkpoint.py export FILE FOLDER       # as a Hugging Face folder, for transformers and its like
    python checkpoint.py save-as FILE NEW --precision bf16      # as a model file of ours, in half of the bytes
    python checkpoint.py push FILE OWNER/NAME     # what export writes, with a card, to Hugging Face's hub
    python checkpoint.py embed FILE --predict lines.txt --output vectors.npy    # a vector for each line

FILE is a model file of ours, a Hugging Face folder, the name of a model on the hub, or a file of torchtext's BERT example
(formats/huggingface.py, by_name.py and torchtext_files.py; the last with the vocabulary that --save-vocab names).

A model file holds all that using the model needs: sizes, tokenizer, weights of body and head, and what the task noted
(how the model reads, SQuAD's threshold). It is torch.save's zip format with tensors and plain values only, and it is
read by files/torch_zip.py: no pickle of anybody's is ever executed. Sizes come from the file, never from flags. In whatever
precision it holds its weights, who loads it computes with fp32 weights.
"""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from files import hub, pretrained
from files.command_line import CommandLine, Help, check_not_empty, spellings
from files.mistakes import UserError, run_main
from files.reading import read_json
from files.torch_zip import holds_weights, read_torch, starts_as_zip
from files.writing import atomic_write, check_writable
from formats import by_name, card, huggingface, torchtext_files
from formats.shapes import body_shapes, head_shapes
from formats.vocabularies import read_at_once
from model import TASKS, BertConfig, BertModel
from text.tokenizer import Tokenizer
from text.vectors import POOLS, write_vectors

MODELS = ("mlm_bert.pt", "ns_bert.pt", "qa_model.pt", "race_model.pt")  # what the tasks save
FORMAT = 1
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
T = TypeVar("T", bound=torch.nn.Module)


def save_model(path: str | Path, model: torch.nn.Module, tokenizer: Tokenizer, notes: dict | None = None) -> None:
    """Write ``model`` (one of model.py's task heads) with its tokenizer to ``path``, atomically."""
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    body = {n.removeprefix("bert."): w for n, w in weights.items() if n.startswith("bert.")}
    head = {n: w for n, w in weights.items() if not n.startswith("bert.")}
    write_model(path, type(model).__name__, model.bert.config, tokenizer.state(), body, head, notes or {})


def write_model(path, task, config, tokenizer, body, head, notes):
    """Write a model file; ``task`` is the one of ``head``, or None where there is none."""
    content = {"format": FORMAT, "task": task, "config": dataclasses.asdict(config), "tokenizer": tokenizer, "body": body,
               "head": head, "notes": notes}  # fmt: skip
    with atomic_write(path) as stream:
        torch.save(content, stream)


def read_model(
    path: str | Path, remedy: str = "name a file that one of the tasks saved, a Hugging Face folder, or a model of the hub",
    vocab: str | Path | None = None, heads: int | None = None,
) -> dict:  # fmt: skip
    """The checked content of a model, ours or other people's.

    ``config`` (a BertConfig), ``tokenizer`` (its state), ``body`` (weights), ``heads`` (task -> weights), ``task`` (the
    first of them, or None), ``notes``; of other people's files also ``dropped`` (names of weights that have no place
    here) and ``new`` (what had to be added). ``vocab`` and ``heads`` (a number) count for torchtext's files only.
    """
    if hub.is_name(path):
        folder = by_name.fetched(str(path))
        with by_name.told_as(str(path), folder):
            return huggingface.read_folder(folder)
    path = Path(path)
    if path.is_dir():
        return huggingface.read_folder(path)
    if ".ckpt" in path.name and not starts_as_zip(path):
        raise huggingface.tensorflow(path)
    if path.suffix == ".safetensors" and path.is_file():
        raise UserError(f"{path}: weights alone; name the folder, which holds their config and vocabulary too")
    content = read_torch(path, remedy)
    if holds_weights(content) and content:
        if torchtext_files.is_published(content):
            return torchtext_files.read_model(content, path, vocab, heads)
        raise UserError(f"{path}: bare weights such as {next(iter(content))}, not a model file; {remedy}")
    keys = {"format": int, "task": str | None, "config": dict, "tokenizer": dict, "body": dict, "head": dict, "notes": dict}
    complete = isinstance(content, dict) and all(isinstance(content.get(key, ()), kind) for key, kind in keys.items())
    if not complete or not (holds_weights(content["body"]) and holds_weights(content["head"])):
        raise UserError(f"{path}: not a model file of this project; {remedy}")
    if content["format"] != FORMAT:
        raise UserError(f"{path}: format {content['format']}, this version reads {FORMAT}; use the version that wrote it")
    try:
        content["config"] = config = BertConfig(**content["config"])
        words = len(Tokenizer.from_state(content["tokenizer"]))
    except (TypeError, ValueError, UserError) as error:
        raise UserError(f"{path}: {error}; {remedy}") from None
    if words > config.vocab_size:
        raise UserError(f"{path}: {words} words in its vocabulary, {config.vocab_size} in its config; {remedy}")
    check_sizes(content, path, remedy)
    found = {} if content["task"] is None else {content["task"]: content["head"]}
    return {**content, "heads": found, "dropped": [], "new": []}


def check_sizes(content, path, remedy):
    """The weights are those of the config: a model is made only as large as the file."""
    config, body, task = content["config"], content["body"], content["task"]
    if task is not None and task not in TASKS:
        raise UserError(f"{path}: holds a {task}, which no task here has; {remedy}")
    compare(body_shapes(config, "pooler.weight" in body), body, path)
    compare({} if task is None else head_shapes(task, config), content["head"], path)


def compare(own, weights, path):
    """Raises UserError unless ``weights`` are those named in ``own`` (name -> shape), no more and no less."""
    missing, left = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    wrong = [name for name in own if name in weights and list(own[name]) != list(weights[name].shape)]
    for names, what in ((missing, "lacks"), (left, "has a left-over"), (wrong, "has the wrong shape for")):
        if names:
            raise UserError(f"{path}: {what} weight {names[0]} ({len(names)} in all); fetch or train the file again")


def load_model(
    cls: type[T], path: str | Path, dropout: float | None = None, vocab: str | Path | None = None, heads: int | None = None
) -> tuple[T, Tokenizer]:
    """The model of class ``cls`` in ``path`` and its tokenizer: body and head of a task of model.py, or ``BertModel``, the
    bare body, with the pooler where the file has one.

    ``path`` is a model file, a Hugging Face folder, a name on the hub, or a file of torchtext's BERT example; for the
    last, ``vocab`` is the path of its vocabulary and ``heads`` its number of attention heads, where they are not 64 wide.
    ``dropout`` overrides the file's. Raises UserError where ``path`` holds no such head.
    """
    content = read_model(path, vocab=vocab, heads=heads)
    config, task = with_dropout(content["config"], dropout), cls.__name__
    unused = others(content, task)
    if cls is BertModel:
        model: Any = BertModel(config, "pooler.weight" in content["body"])
        weights = content["body"]
    elif task in content["heads"]:
        model, weights = cls(config), whole(content, task)
        if model.bert.pooler is None and "bert.pooler.weight" in weights:
            weights = {name: weight for name, weight in weights.items() if not name.startswith("bert.pooler.")}
            unused.append("the pooler")
    else:
        found = " and ".join(f"a {name}" for name in content["heads"]) or "no head of a task here"
        raise UserError(f"{path}: holds {found}, not a {task}; name a model with that head, or train this "
                        "one's body for the task by --bert-model")  # fmt: skip
    insert(model, weights, path)
    tell(path, content["new"], unused)
    model.notes = content["notes"]
    return model, Tokenizer.from_state(content["tokenizer"])


def whole(content: dict, task: str | None = None) -> dict[str, torch.Tensor]:
    """The weights of a model under the names that the model has for them."""
    body = {f"bert.{name}": weight for name, weight in content["body"].items()}
    return {**body, **content["heads"][task or content["task"]]}


def others(content, task):
    """What a model of ``task`` leaves in the file."""
    return [f"the head of {name}" for name in content["heads"] if name != task] + content["dropped"]


def tell(path, new, unused):
    """One line on what a loaded model did not get from its file, or left there."""
    parts = [f"{what}: {', '.join(names)}" for what, names in (("new", new), ("not used", unused)) if names]
    if parts:
        say(f"{path}: {'; '.join(parts)}")


def say(line: str) -> None:
    """Print a line, by one process of all."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_rank()):
        print(line, flush=True)


def with_dropout(config, dropout):
    if dropout is None:
        return config
    return dataclasses.replace(
        config, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, classifier_dropout=None
    )


NEW_HEAD = dict(tie_word_embeddings=True, head_norm_eps=None, head="cls", duma_layers=1, compare_options=False,
                mix_layers=4)  # fmt: skip


def is_ours(path: str | Path) -> bool:
    """Has a script of this project written the file?"""
    try:
        content = read_torch(path, "")
    except (UserError, OSError):
        return False
    return isinstance(content, dict) and "format" in content


def before(path: str | Path) -> str:
    """What to do where there is no model to begin with."""
    makers = {"mlm_bert.pt": "mlm_task.py", "ns_bert.pt": "ns_task.py"}
    made = None if os.path.exists(path) else makers.get(Path(path).name)  # which would write over what is there
    other = "name another by --bert-model: a file, pretrained, or none for random weights"
    return f"run {made} first, or {other}" if made else other


def load_body(
    cls: type[T], path: str | Path, dropout: float | None = None, vocab: str | Path | None = None,
    heads: int | None = None, settings: dict | None = None,
) -> tuple[T, Tokenizer]:  # fmt: skip
    """A model of class ``cls`` with the body in ``path`` and a new head, and the file's tokenizer; see load_model.

    ``settings`` are those fields of the config that describe the new head, where they are not the usual ones.
    """
    content = read_model(path, before(path), vocab, heads)
    config = dataclasses.replace(content["config"], **{**NEW_HEAD, **(settings or {})})
    model = cls(with_dropout(config, dropout))
    parts = dict.fromkeys(name.split(".")[0] for name in model.state_dict() if not name.startswith("bert."))
    new, unused = [f"the head of {cls.__name__} ({', '.join(parts)})"], others(content, None)
    body = content["body"]
    if model.bert.pooler is None:
        unused += ["the pooler"] * ("pooler.weight" in body)
        body = {name: weight for name, weight in body.items() if not name.startswith("pooler.")}
    elif "pooler.weight" not in body:
        new.append("the pooler")
        body = {**body, **{f"pooler.{name}": weight for name, weight in model.bert.pooler.state_dict().items()}}
    insert(model.bert, body, path)
    tell(path, new + content["new"], unused)
    return model, Tokenizer.from_state(content["tokenizer"])


def insert(module, weights, path):
    """Put ``weights`` into ``module``: neither has any that the other lacks, and their shapes agree."""
    compare({name: tensor.shape for name, tensor in module.state_dict().items()}, weights, path)
    module.load_state_dict(weights)


def show(args):
    """Print what is inside a model."""
    content = read_model(args.file, vocab=args.save_vocab, heads=args.nhead)
    config, parts = content["config"], {"body": content["body"]}
    for task, head in content["heads"].items():
        parts["head" if len(content["heads"]) == 1 else task] = head
    count = sum(weight.numel() for part in parts.values() for weight in part.values())
    print(f"{args.file}: {' and '.join(content['heads']) or 'a body without a head'}, {count:,} weights")
    print("config:", ", ".join(f"{k}={v}" for k, v in dataclasses.asdict(config).items()))
    tokenizer = Tokenizer.from_state(content["tokenizer"])
    print(f"tokenizer: {tokenizer.kind}, {len(tokenizer):,} tokens")
    print("notes:", content["notes"] or "none")
    for part, weights in parts.items():
        for name, weight in weights.items():
            print(f"{part:5} {name:45} {str(weight.dtype).removeprefix('torch.'):9} {list(weight.shape)}")
    tell(args.file, content["new"], content["dropped"])


def export(args):
    """Write a model as a Hugging Face folder."""
    content = read_model(args.file, vocab=args.save_vocab, heads=args.nhead)
    lines = huggingface.write_folder(content, args.folder)
    print(f"{args.folder}: written")
    for line in lines:
        print(f"note: {line}")
    if lost := {name: value for name, value in content["notes"].items() if name not in ("bptt", "longest")}:
        print(f"note: what the task noted has no place there: {lost}")
    tell(args.file, content["new"], content["dropped"])


def push(args):
    """Upload a model to Hugging Face's hub, as a folder that transformers loads, with a card."""
    if not hub.NAME.fullmatch(args.name) or args.name.count("/") != 1 or "@" in args.name:
        raise UserError(f"{args.name}: no name to push to; write owner/name, you or an organisation of yours the owner")
    content = read_model(args.file, vocab=args.save_vocab, heads=args.nhead)
    result = read_json(Path(args.run) / "result.json") if args.run else {}
    text = card.card(content, args.name, result if isinstance(result, dict) else {})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.name.partition("/")[2]) if args.dry_run else Path(temporary) / "model"
        lines = huggingface.write_folder(content, folder)
        with atomic_write(folder / "README.md", "w") as stream:
            stream.write(text)
        print(f"{folder}: written, nothing sent" if args.dry_run else hub.upload(folder, args.name, args.private))
    for line in lines:
        print(f"note: {line}")
    tell(args.file, content["new"], content["dropped"])


def save_as(args):
    """Write a model as a model file of this project, its weights in another precision."""
    if Path(args.new).suffix == ".safetensors":  # which would be read as other software's
        raise UserError(f"{args.new}: a name of weights alone, as others write them; let it end in .pt")
    check_writable(args.new, args.file, "another file")
    content = read_model(args.file, vocab=args.save_vocab, heads=args.nhead)
    task, notes = content["task"], content["notes"]
    if hub.is_of_others(args.file):  # what tells such models, which read whole texts, from ours
        notes = {"longest": content["config"].max_position_embeddings, **notes}
    body, head = (in_precision(part, args) for part in (content["body"], content["heads"].get(task, {})))
    write_model(args.new, task, content["config"], content["tokenizer"], body, head, notes)
    print(f"{args.new}: written, weights in {args.precision}")
    tell(args.file, content["new"], others(content, task))


def in_precision(weights, args):
    """``weights`` in --precision. Raises UserError where one is too large for that."""
    made = {name: weight.to(PRECISIONS[args.precision], copy=True) for name, weight in weights.items()}
    for name, weight in weights.items():
        if not torch.equal(weight.isfinite(), made[name].isfinite()):
            raise UserError(f"{args.file}: {name} has numbers that {args.precision} cannot hold; choose another")
    return made


def embed(args):
    """Write a vector for each line of a text file, to a .npy file of (lines, width), fp32."""
    check_writable(args.output, args.predict)
    model, tokenizer = load_model(BertModel, args.file, 0.0, args.save_vocab, args.nhead)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    longest = read_at_once(model.notes, model.config)
    count, width = write_vectors(args.output, args.predict, model, tokenizer, args.pool, longest)
    print(f"{args.output}: {count:,} vectors of {width:,}")


def main():
    parser = CommandLine(description="Look into a model, or write it in another form.")
    commands = parser.add_subparsers(dest="command", required=True)
    for function in (show, export, push, save_as, embed):
        about = {"help": function.__doc__, "description": function.__doc__}
        p = commands.add_parser(function.__name__.replace("_", "-"), formatter_class=Help, **about)
        p.set_defaults(function=function)
        p.add_argument("file", help="a model file, Hugging Face folder, name on the hub, or torchtext's BERT example")
        if function is export:
            p.add_argument("folder", help="a new folder")
        if function is push:
            p.add_argument("name", help="owner/name on the hub; made where it is not there")
            p.add_argument("--run", help="the --log-dir of the run that trained it: its data and scores go into the card")
            p.add_argument("--private", help="where it is made, for the owner alone", action="store_true")
            p.add_argument(*spellings("dry-run"), help="write the folder NAME here, and send nothing", action="store_true")
        if function is save_as:
            p.add_argument("new", help="the model file to write")
            p.add_argument("--precision", help="of its weights", choices=list(PRECISIONS), required=True)
        if function is embed:
            p.add_argument("--predict", help="a file of lines", required=True)
            p.add_argument("--output", help="the .npy file to write", default="vectors.npy")
            p.add_argument("--pool", help="mean: of all tokens; cls: the first one", choices=POOLS, default="mean")
        p.add_argument(*spellings("save-vocab"), help="the vocabulary of a file of torchtext's BERT example",
                       default="bert_vocab.pt")  # fmt: skip
        p.add_argument("--nhead", help="its number of attention heads, where they are not 64 wide", type=int)
    args = parser.parse_args()
    check_not_empty(args, "file", "folder", "name", "new")
    if args.file == pretrained.NAME and (models := pretrained.shipped(*MODELS)):
        raise UserError(f"{args.file}: {len(models)} models; name one of them, {' or '.join(models)}")
    args.function(args)


if __name__ == "__main__":
    run_main(main)
