"""What command lines have in common: two spellings of a flag, help that shows defaults, nothing given as nothing."""

import argparse
from collections.abc import Iterable

from files.mistakes import UserError


def spellings(flag: str) -> Iterable[str]:
    """The ways to write a flag of several words: as given, with - and with _."""
    return dict.fromkeys([f"--{flag}", f"--{flag.replace('_', '-')}", f"--{flag.replace('-', '_')}"])


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
