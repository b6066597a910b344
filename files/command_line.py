"""What command lines have in common: two spellings of a flag, numbers above 0, a mistake in one line, help that shows
defaults, nothing given as nothing."""

import argparse
import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from files.mistakes import UserError


def spellings(flag: str) -> Iterable[str]:
    """The ways to write a flag of several words: as given, with - and with _."""
    return dict.fromkeys([f"--{flag}", f"--{flag.replace('_', '-')}", f"--{flag.replace('-', '_')}"])


def positive(kind: Callable[[str], float], endless: bool = False) -> Callable[[str], float]:
    """For argparse: what ``kind`` makes of a text, where that is above 0, and has an end unless it may be ``endless``."""

    def convert(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        if value == math.inf and not endless:
            raise argparse.ArgumentTypeError(f"{text} has no end")
        return value

    convert.__name__ = kind.__name__
    return convert


class CommandLine(argparse.ArgumentParser):
    """Takes no abbreviations of flags, and tells a mistake in one line."""

    def __init__(self, **how: Any):
        super().__init__(**{"allow_abbrev": False, **how})

    def error(self, message: str) -> NoReturn:
        flag = next((word for word in message.split() if word.startswith("--")), "")
        unknown = "unrecognized" in message
        near = difflib.get_close_matches(flag, self._option_string_actions, 1) if unknown else ()
        self.exit(2, f"error: {message}; " + (f"did you mean {near[0]}?\n" if near else "see --help\n"))


class Help(argparse.RawDescriptionHelpFormatter):
    """Shows the defaults that there are, where the text does not tell of them itself."""

    def _get_help_string(self, action):
        told = action.default in (None, False, argparse.SUPPRESS) or "default" in action.help
        return action.help if told else f"{action.help} (default: %(default)s)"


def check_not_empty(args: argparse.Namespace, *positions: str) -> None:
    """Raises UserError where a flag was given as nothing, as by a variable of the shell that is not set: that is no wish
    for what comes without the flag. ``positions`` are what stands without a flag."""
    wanted = {"predict": "the name of a file", "ask": "a question", "fill": "a text with [MASK]"}
    for name, value in vars(args).items():
        values = value if isinstance(value, list) else [value]
        if name != "options" and any(isinstance(word, str) and not word.strip() for word in values):
            if name in positions:
                raise UserError(f"{name.upper()}: is empty; name one")
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag}: is empty; give it {wanted.get(name, 'a value, or leave it out')}")
