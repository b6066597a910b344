"""A task's command line: flags with defaults of the task's own, of the model that it uses, and of a short budget.

    p = Parser(__doc__, ways={"bptt": (128,)}, short={"optimizer": "muon"}, dropout=0.1)
    p.flag("bptt", "tokens of an example at most", type=int)

What follows from --minutes where there is no GPU is told when it is applied.
"""

import argparse
from collections.abc import Mapping
from typing import Any

from files.command_line import CommandLine, Help, check_not_empty, spellings
from files.hub import is_of_others
from files.mistakes import UserError, warn
from files.pretrained import NAME as PRETRAINED

Ways = Mapping[str, tuple]  # name of a flag -> its values, the default first; of a number the default alone


class Parser(CommandLine):
    """The flags of a task, each accepted with - and with _.

    ``about`` is a script's docstring: its first line opens the help, the commands indented in it close it. ``ways`` are
    the flags that a trained model's file answers, too; where there is no such model, they have their defaults, or those of
    ``new``. ``short`` are the defaults of a training under --minutes where there is no GPU, as far as they are others;
    ``short_for`` says for the help what of them is for some trainings only.
    """

    def __init__(
        self, about: str, ways: Ways | None = None, new: dict | None = None, short: dict | None = None,
        short_for: dict | None = None, **defaults: Any
    ):  # fmt: skip
        first, *rest = about.splitlines()
        commands = "".join(f"{line[2:]}\n" for line in rest if line.startswith("    "))
        super().__init__(
            description=first, epilog=commands and f"examples:\n{commands}", formatter_class=Help
        )
        self.task_defaults, self.ways, self.new = defaults, ways or {}, new or {}
        self.short, self.short_for = {"dropout": 0, **(short or {})}, short_for or {}
        self.place: argparse._ActionsContainer = self

    def group(self, title: str) -> None:
        """The flags to come stand under this heading."""
        self.place = self.add_argument_group(title)

    def flag(self, name: str, help: str, **options: Any) -> None:
        destination = name.replace("-", "_")
        options.setdefault("default", None if destination in self.short else self.task_defaults.get(destination))
        if destination in {**self.ways, **self.short} and "default" not in help:
            way = destination in self.ways
            help += f" (default: {self.ways[destination][0] if way else self.task_defaults[destination]}"
            help += f", under --minutes without a GPU {self.short[destination]}" if destination in self.short else ""
            help += self.short_for.get(destination, "")
            help += ", or the trained model's)" if way else ")"
        self.place.add_argument(*spellings(name), dest=destination, help=help, **options)

    def parse_args(self, *arguments: Any, **more: Any) -> Any:
        args = super().parse_args(*arguments, **more)
        check_not_empty(args)
        if budgets := {name: value for name in ("epochs", "steps", "minutes") if (value := getattr(args, name, None))}:
            if len(budgets) > 1:
                told = " and ".join(f"--{name} {value:g}" for name, value in budgets.items())
                raise UserError(f"{told}: two budgets; leave one out")
        elif "epochs" in args:
            args.epochs = self.task_defaults["epochs"]
        if isinstance(getattr(args, "dataset", None), list):
            names = list(dict.fromkeys(args.dataset))
            args.dataset = names[0] if len(names) == 1 else names
        if self.ways:
            self.fill(args)
        return args

    def fill(self, args: Any) -> None:
        """Give the flags that are not given their values, and tell of those that --minutes decided."""
        training = not uses_trained(args)
        usual = {name: value for name, value in self.task_defaults.items() if name in self.short}
        if training:
            usual = {"dropout": 0.0 if args.dataset == "Sample" else 0.1, **usual}
            if not args.checkpoint:
                usual |= {name: values[0] for name, values in self.ways.items()} | self.new
        usual = {name: value for name, value in usual.items() if getattr(args, name) is None}
        short = {name: value for name, value in self.short.items() if name in usual and usual[name] != value}
        if "optimizer" in self.short:  # Muon, which wants whole matrices, and another rate, and its batches
            by_adamw = args.parallel == "FSDP" or args.lr or of_others(args)
            if (args.optimizer or ("adamw" if by_adamw else "muon")) == "adamw":
                short = {name: value for name, value in short.items() if name not in ("optimizer", "batch_size")}
        if getattr(args, "attention_window", None) or getattr(args, "passage", None) not in (None, "select"):
            short.pop("bptt", None)  # what is read of an article is not chosen
        short = short if training and hurried(args) else {}
        vars(args).update(usual | short)
        if short:
            flags = " ".join(f"--{name} {value}" for name, value in short.items())
            warn(f"--minutes {args.minutes:g} without a GPU: taking {flags}; say otherwise by the same flags", word="note")


def of_others(args: argparse.Namespace) -> bool:
    """Does a training begin with a model of other software, a folder or a name of the hub? What has read as much as those
    learns questions sooner by AdamW; what was made here in hours, by Muon (benchmarks/LOG.md)."""
    model = args.checkpoint or args.bert_model
    named = model if isinstance(model, list) else [model]
    return any(is_of_others(path) for path in named if path not in (None, "none", PRETRAINED))


def hurried(args: argparse.Namespace) -> bool:
    """Has a training a number of minutes, and no GPU? Of sets such as SQuAD and RACE it then sees few examples twice: it
    learns more without dropout, and from many examples of which it reads little (benchmarks/LOG.md)."""
    if not args.minutes:
        return False
    import torch  # here for start-up time

    return not torch.cuda.is_available()


def uses_trained(args: argparse.Namespace) -> bool:
    """Is the run to use a trained model, body and head, instead of training one? Raises UserError for two uses at once."""
    uses = [f"--{name}" for name in ("evaluate", "predict", "ask", "fill") if getattr(args, name, None)]
    if len(uses) > 1:
        raise UserError(f"{' and '.join(uses)}: each is a run of its own; choose one")
    return bool(uses)
