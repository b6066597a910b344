"""The models that come with the suite, in ``pretrained/`` beside the scripts.

    python qa_task.py --bert-model pretrained

names the one among them that suits the task, wherever one stands, and so does ``--checkpoint``; a path of one's own is
``./pretrained``. An installation may be without them.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from files.mistakes import UserError

NAME = "pretrained"
FOLDER = Path(__file__).resolve().parent.parent / NAME


def shipped(*names: str) -> list[str]:
    """The paths of those of these models that are there, short where they lie below the working directory."""
    found = [FOLDER / name for name in names if (FOLDER / name).is_file()]
    return [os.path.relpath(path) if path.is_relative_to(os.getcwd()) else str(path) for path in found]


def resolved(models: Iterable[str], *names: str, flag: str = "bert-model") -> list[str]:
    """``models`` as ``flag`` names them, with the shipped ones of ``names`` in the place of "pretrained".

    Raises UserError where none of those is there.
    """
    paths = []
    for model in models:
        there = shipped(*names) if model == NAME else [model]
        if not there:
            raise UserError(f"--{flag} {NAME}: no {' or '.join(names)} in {FOLDER}; get the suite with its models, or "
                            "train one and name its file")  # fmt: skip
        paths += there
    return paths
