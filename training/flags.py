"""The arguments that the tasks share, and the model that they name.

    python mlm_task.py --help

Each task script makes a ``Parser`` by ``parser(task, ...)`` and adds what is special to it. A flag's default may be the
task's own; where it depends on the data set or the model it is None, and set where that is known. torch is imported
where a model is made: it takes a second, for which --help need not wait. Fine-tuning's defaults are those that did best
in ten minutes to half an hour (benchmarks/LOG.md); those that follow from --minutes are told when they are applied.

How a model reads (a task's ``READING``: --bptt, --stride and so on) is kept in its file. Who uses a trained model reads as
it does, unless a flag says otherwise, and as the task does by default where the file says nothing; see ``reading``.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from files.command_line import positive
from files.hub import is_name
from files.mistakes import UserError, run_main, warn
from files.pretrained import resolved, shipped
from text.corpus import TEXT_FLAGS
from text.places import Places, default_cache_dir, default_data_dir
from text.sentences import sentence_language
from text.vocabularies import VOCABULARY_FLAGS, says_itself
from training.parser import Parser, Ways, hurried, uses_trained

if TYPE_CHECKING:  # not when it runs, for start-up time
    import torch

    from model import BertConfig
    from text.tokenizer import Tokenizer

T = TypeVar("T", bound="torch.nn.Module")

SIZES = {  # Turc et al. 2019, arXiv 1908.08962: layers, width; heads are 64 wide
    "tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768), "large": (24, 1024),
}  # fmt: skip
PRECISIONS = ["auto", "fp32", "tf32", "bf16", "fp16"]
# Of a new model, not of a trained one.
OF_NEW = "size emsize nhid nlayers norm share_layers embedding_size tokenizer vocab vocab_size".split()


def answer_help(arguments: Callable[[], Any]) -> None:
    """Where the command line asks for help, give it and leave: for a script that has yet to import torch."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        run_main(arguments)


def natural(text: str) -> int:
    """For argparse: a whole number of 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def seed(text):
    value = natural(text)
    if value >= 1 << 64:
        raise argparse.ArgumentTypeError(f"{text} has more than the 64 bits that torch takes")
    return value


def fraction(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0 and below 1")
    return value


def share(text: str) -> float:
    """For argparse: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def parser(task: str, about: str, ways: Ways | None = None, **own: Any) -> Parser:
    """The arguments that all tasks share; ``own`` are the task's defaults, and what else a Parser takes."""
    p = Parser(about, ways, **{"log_dir": f"runs/{task}", "valid_examples": 1000, **own})
    add_files(p, task)
    add_new_model(p)
    add_training(p, own["epochs"])
    add_machine(p)
    p.group(f"{task}_task.py")
    return p


def add_files(p: Parser, task: str) -> None:
    p.group("files")
    running_text, questions = task in ("mlm", "ns"), task in ("qa", "race")
    p.flag("dataset", "name of a data set, a path, or hub:owner/name" + "; several are read together" * running_text,
           nargs="+" if running_text else None, default="Sample")  # fmt: skip
    if running_text:
        for name, help, options in TEXT_FLAGS:
            p.flag(name, help, **options)
    p.flag("data-dir", "where data sets lie", default=default_data_dir())
    p.flag("cache-dir", "where tokens and unpacked archives are kept", default=default_cache_dir())
    p.flag("sentences", "where sentences end: by rules for common scripts, or as sentencex says for a language such as de",
           type=sentence_language, metavar="{rules,LANGUAGE}",
           default=None if "sentences" in p.ways else "rules")  # fmt: skip
    p.flag("log-dir", "logs, result.json, evaluation.json, resume state")
    p.flag("save", "where the trained model goes")
    p.flag("checkpoint", "start from this model file, Hugging Face folder or name on the hub, body and head, and read "
           "as it does")
    p.flag("bert-model", "start from the body of this model file, Hugging Face folder or name on the hub; pretrained: of "
           "the one that comes with the suite; none: random weights; without training: the model to use, head and all"
           + ", several: their ensemble" * questions,
           nargs="+" if questions else None)  # fmt: skip
    p.flag("save-vocab", "the vocabulary of a file of torchtext's BERT example; mlm_task.py writes its own there",
           default="bert_vocab.pt")  # fmt: skip
    if questions:
        p.flag("strict", "refuse a training set with bad records, which otherwise are left out with a warning; those of "
               "dev and test are always refused", action="store_true", default=False)  # fmt: skip
    p.flag("resume", "go on from the state in --log-dir", action="store_true", default=False)
    p.flag("evaluate", "no training: score the model on the test split of --dataset", action="store_true", default=False)


def add_new_model(p: Parser) -> None:
    p.group("a new model")
    p.flag("size", "layers and width of a new model (default: 4 layers of 128 for Sample, under --minutes without a GPU "
           "mini, else base)", choices=list(SIZES))  # fmt: skip
    p.flag("emsize", "width of a new model", type=positive(int))
    p.flag("nhid", "width of its feed-forward layers (default: 4 * emsize)", type=positive(int))
    p.flag("nlayers", "its layers", type=positive(int))
    p.flag("nhead", "its attention heads (default: one for each 64 of width)", type=positive(int))
    p.flag("share-layers", "one layer's weights for all layers of a new model, as in ALBERT", action="store_true",
           default=False)  # fmt: skip
    p.flag("embedding-size", "width of its words, projected to --emsize, as in ALBERT (default: --emsize)",
           type=positive(int))  # fmt: skip
    p.flag("norm", "LayerNorm before (pre) or after (post) each residual of a new model (default: post)",
           choices=["pre", "post"])  # fmt: skip
    p.flag("dropout", "dropout (default: 0 in pretraining; in fine-tuning 0 for Sample and under --minutes without a GPU, "
           "else 0.1)",
           type=fraction)  # fmt: skip
    for name, help, options in VOCABULARY_FLAGS:
        p.flag(name, help, **options)


def add_training(p: Parser, epochs: int) -> None:
    p.group("training")
    p.flag("epochs", f"budget: passes over the training data (default: {epochs})", type=positive(int), default=None)
    p.flag("steps", "budget instead: optimizer steps", type=positive(int))
    p.flag("minutes", "budget instead: minutes of training", type=positive(float))
    p.flag("save-minutes", "minutes between saved states; validations write them, too", type=positive(float), default=10.0)
    p.flag("batch_size", "examples a step, over all ranks", type=positive(int))
    p.flag("accumulate", "micro-batches a step (default: 1; on a CPU as many as take 1 GB each)", type=positive(int))
    p.flag("bptt", "tokens of an example at most", type=positive(int))
    p.flag("lr", "peak learning rate (default: by the model's width)", type=positive(float))
    p.flag("optimizer", "adamw, or muon for the matrices of the layers and adamw for the rest", choices=["adamw", "muon"])
    p.flag("warmup", "share of the budget in which the rate rises", type=fraction, default=0.06)
    p.flag("weight-decay", "of the weight matrices", type=share, default=0.01)
    p.flag("clip", "largest norm of the gradient", type=positive(float, endless=True), default=1.0)
    p.flag("no-test", "end with the last validation, the test split unseen", action="store_true", default=False)
    p.flag("seed", "of all random choices", type=seed, default=5431916812)
    p.flag("log-interval", "steps between log lines", type=positive(int), default=100)
    p.flag("valid-examples", "validate on at most this many examples while training; under --minutes on fewer and "
           "more seldom, where all validations would take more than a tenth of the budget", type=positive(int))


def add_machine(p: Parser) -> None:
    p.group("this machine")
    p.flag("precision", "auto: bf16 where the hardware multiplies it fast, on an older GPU fp16; tf32: fp32, but "
           "for a GPU's products",
           choices=PRECISIONS, default="auto")  # fmt: skip
    p.flag("compile", "torch.compile of each layer; auto: on a GPU, unless --minutes is under 10",
           choices=["auto", "on", "off"], default="auto")  # fmt: skip
    p.flag("deterministic", "the same bits each time on a GPU too, for some of its speed", action="store_true",
           default=False)  # fmt: skip
    p.flag("parallel", "one process for each GPU: DDP; ZeRO: which share out the optimizer; FSDP: the weights, too",
           choices=["None", "DDP", "ZeRO", "FSDP"], default="None")  # fmt: skip
    p.flag("world_size", "processes of --parallel on each machine (default: its GPUs)", type=positive(int))
    p.flag("timeout-minutes", "how long a process of --parallel waits for another", type=positive(float), default=30.0)


def check_all_or_none(args: argparse.Namespace, **meanings: str) -> None:
    """Raises UserError where some of these flags are given and others not; ``meanings``: what each is for."""
    missing = [name for name in meanings if getattr(args, name) is None]
    if getattr(args, "context", None) == "-" and args.parallel != "None":
        raise UserError(f"--context -: a process of --parallel {args.parallel} has no standard input; give a file")
    if missing and len(missing) < len(meanings):
        flags = [f"--{name}" for name in meanings]
        raise UserError(f"{', '.join(flags[:-1])} and {flags[-1]} go together; add "
                        + " and ".join(f"--{name}, {meanings[name]}" for name in missing))  # fmt: skip


def for_predict(args: argparse.Namespace, usual: str) -> argparse.Namespace:
    """Where --predict writes: --output, else ``usual``. Raises UserError for --output alone, which would be no wish to
    train."""
    if args.output and not args.predict:
        raise UserError(f"--output {args.output}: is for --predict; add it")
    args.output = args.output or usual
    return args


def with_default_model(args: argparse.Namespace, own: str, start: str | None = None) -> argparse.Namespace:
    """``args`` with --bert-model where it is not given: ``start`` to train from, --save to use what the task trained.

    ``own`` is the task's default of --save. "pretrained" becomes the path of the shipped model. Of several it keeps a
    list, in which each stands once. Raises UserError where several were given to train from, and where --lowercase is
    for a vocabulary that comes with the model.
    """
    trained = uses_trained(args)
    if args.checkpoint and args.bert_model is not None:
        raise UserError("--checkpoint and --bert-model: two models; name one, whose head --checkpoint takes as well")
    if args.checkpoint:
        args.checkpoint, = resolved([args.checkpoint], own, flag="checkpoint")
    if args.bert_model is None:
        args.bert_model = trained_here(args, own) if trained else start
    else:
        given = args.bert_model if isinstance(args.bert_model, list) else [args.bert_model]
        named = resolved(given, own if trained else start or own)
        if len(named) > 1 and not trained:
            raise UserError(f"--bert-model {' '.join(named)}: training starts from one; several are for --evaluate, "
                            "--predict or --ask")  # fmt: skip
        if len(named) > 1 and "none" in named:
            raise UserError(f"--bert-model {' '.join(named)}: an ensemble takes trained models only; leave out none")
        once = list({os.path.realpath(path): path for path in named}.values())
        args.bert_model = once if len(once) > 1 else once[0]
    model = args.checkpoint or args.bert_model
    if model not in (None, "none"):
        path = model if isinstance(model, str) else model[0]
        if args.lowercase != "auto":
            raise says_itself(args.lowercase, path)
        of_new = [f"--{name.replace('_', '-')}" for name in OF_NEW if getattr(args, name, None)]
        if of_new and not trained and (os.path.exists(path) or is_name(path)):
            warn(f"{' '.join(of_new)}: of a new model, which --bert-model none makes; {path} is what it is", word="note")
    return args


def trained_here(args, own):
    """The model to use where none is named: --save, or where the task has saved none here, the shipped one.

    Raises UserError for --evaluate instead: a score is of a model that one has named.
    """
    instead = [] if args.checkpoint or args.save != own or os.path.exists(own) else shipped(own)
    if not instead:
        if not args.checkpoint and not args.evaluate and os.path.exists(args.save):
            warn(f"by {args.save}, which lies here", word="note")
        return args.save
    if args.evaluate:
        raise UserError(f"{own}: no such file; name a model by --bert-model FILE, or --bert-model pretrained for the one "
                        "that comes with the suite")  # fmt: skip
    warn(f"no {own} here: taking the pretrained model that comes with the suite, {instead[0]}", word="note")
    return instead[0]


def sizes(args: argparse.Namespace, vocab_size: int) -> "BertConfig":
    """The sizes of a new model, from --size and the flags that override it; without, what the data and the budget bear."""
    from model import BertConfig  # here for start-up time

    if args.size:
        layers, width = SIZES[args.size]
    elif args.dataset == "Sample":
        # Two layers find what a story tells but cannot hand it on to the first token, where choices are scored.
        layers, width = 4, 128
    elif hurried(args):
        layers, width = SIZES["mini"]
        if not (args.emsize and args.nlayers):
            warn(f"--minutes {args.minutes:g} without a GPU: taking --size mini; say otherwise by the same flag",
                 word="note")  # fmt: skip
    else:
        layers, width = SIZES["base"]
    width = args.emsize or width
    try:
        return BertConfig(
            vocab_size=vocab_size, hidden_size=width, num_hidden_layers=args.nlayers or layers,
            num_attention_heads=args.nhead or max(1, width // 64), intermediate_size=args.nhid or 4 * width,
            hidden_dropout_prob=args.dropout, attention_probs_dropout_prob=args.dropout,
            max_position_embeddings=max(512, args.bptt), norm_first=args.norm == "pre",
            embedding_size=args.embedding_size, share_layers=args.share_layers,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"{error}; see --emsize, --nhead, --nhid and --nlayers") from None


def head_settings(args):
    """The fields of a config that describe race_task.py's head, as far as the command line gives them.

    Raises UserError for values that no config takes.
    """
    from model import BertConfig  # here for start-up time

    names = ("head", "duma_layers", "compare_options", "mix_layers", "attention_window")
    given = {name: getattr(args, name) for name in names if getattr(args, name, None)}
    try:
        BertConfig(1, **given)
    except ValueError as error:
        told = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items())
        raise UserError(f"{told}: {error}; choose a smaller one") from None
    return given


def check_same_head(given, config, path):
    """A trained head is as its file says. Raises UserError where the command line says otherwise."""
    for name, value in given.items():
        found = getattr(config, name)
        if found != value:
            flag = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            raise UserError(f"{flag}: the model in {path} has {name} {found}; leave the flag out, or train a new head on "
                            "its body with --bert-model")  # fmt: skip


def new_or_loaded(cls: type[T], args: argparse.Namespace, places: Places, ways: Ways) -> "tuple[T, Tokenizer]":
    """The model to start from, and its tokenizer: --checkpoint, --bert-model, or a new one of --size, for whose vocabulary
    the data sets lie in ``places``.

    ``args`` get the ways of reading that it brings along. Raises UserError where a file is missing, or examples would be
    longer than its position table.
    """
    import torch  # here for start-up time, as checkpoint

    import checkpoint  # start-up
    from text.batches import MARKED  # start-up
    from text.tokens import load_tokenizer  # start-up

    torch.manual_seed(args.seed)
    if args.checkpoint or uses_trained(args):
        model, tokenizer = trained_models(cls, args, ways)[0]
        how, noted = vars(reading(args, model, ways)), model.notes
        kept = [f"--{name} {how[name]}" for name in ways if getattr(args, name) is None and name in noted]
        if kept and not uses_trained(args):
            checkpoint.say(f"{args.checkpoint}: reads as it did, {' '.join(kept)}")
        vars(args).update(how)
        return model, tokenizer
    if args.bert_model not in (None, "none"):
        model, tokenizer = checkpoint.load_body(cls, args.bert_model, args.dropout, args.save_vocab, args.nhead,
                                                head_settings(args))  # fmt: skip
    else:
        tokenizer = load_tokenizer(args, args.dataset, places)
        torch.manual_seed(args.seed)  # training a vocabulary may have drawn numbers, reading one has not
        model = cls(dataclasses.replace(sizes(args, len(tokenizer)), **head_settings(args)))
    if model.bert.config.attention_window:
        model.bert.extend_positions(args.bptt)
    if getattr(args, "marks", None) == "question":
        model.bert.extend_types(MARKED + 1)
    check_length(args.bptt, model)
    return model, tokenizer


def trained_models(cls: type[T], args: argparse.Namespace, ways: Ways) -> "list[tuple[T, Tokenizer]]":
    """What --checkpoint or --bert-model names, body and head: (model, tokenizer), of an ensemble several.

    Raises UserError as new_or_loaded does.
    """
    import checkpoint  # here for start-up time

    found = []
    paths = args.bert_model if isinstance(args.bert_model, list) else [args.checkpoint or args.bert_model]
    for path in paths:
        if path in (None, "none"):
            raise UserError("no model named; add --bert-model FILE (or --checkpoint FILE) with a trained model")
        model, tokenizer = checkpoint.load_model(cls, path, args.dropout, args.save_vocab, args.nhead)
        check_same_head(head_settings(args), model.bert.config, path)
        check_length(reading(args, model, ways).bptt, model)
        found.append((model, tokenizer))
    return found


def reading(args: argparse.Namespace, model: "torch.nn.Module", ways: Ways) -> argparse.Namespace:
    """How a model reads: as the flags say, else as its file does, else as is usual for the task and fits the model.

    Raises UserError where its file says what cannot be.
    """
    from text.batches import MARKED  # here for start-up time

    notes, found = getattr(model, "notes", {}), {}
    cannot = "the model's {} is {!r}, which cannot be; say --{}, or train or fetch it again"
    for name, (usual, *others) in ways.items():
        found[name] = getattr(args, name)
        if found[name] is not None:
            continue
        found[name] = value = notes.get(name, usual)
        if not fits(value, usual, *others):
            raise UserError(cannot.format(name, value, name))
        if name == "bptt" and name not in notes:
            longest = notes.get("longest")  # a Hugging Face folder's
            found[name] = min(usual, model.bert.config.max_position_embeddings, longest if fits(longest, usual) else usual)
    if found.get("passage") == "select":  # else nobody looks for sentences
        sentence_language(found["sentences"])
    if found.get("marks") == "question" and model.bert.config.type_vocab_size <= MARKED:
        raise UserError("--marks question: the model was trained without marks; leave the flag out" if args.marks else
                        cannot.format("marks", "question", "marks"))  # fmt: skip
    return argparse.Namespace(**found)


def fits(value, usual, *others):
    """Is this a value of the flag: one of several, or a number, or a text?"""
    if others:
        return value in (usual, *others)
    return type(value) is type(usual) and (type(value) is str or value > 0)


def check_length(bptt, model):
    longest = model.bert.config.max_position_embeddings
    if bptt < 8:
        raise UserError(f"--bptt {bptt}: too short for an example; choose at least 8")
    if bptt > longest:
        raise UserError(f"--bptt {bptt}: the model has {longest} positions; choose at most that")
