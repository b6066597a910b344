"""Records of questions, checked one by one: what is not as it should be, where it stands, and what was left out for it."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from files.mistakes import UserError

Skip = Callable[[str], None] | None


def want(condition: object, where: str | Path, what: str, remedy: str = "mend the file or leave the entry out") -> None:
    """Raise a UserError unless the condition holds."""
    if not condition:
        raise UserError(f"{where}: {what}; {remedy}")


def entry(record: Any, name: str, kind: Any, where: str | Path) -> Any:
    """``record[name]``, which must be there and of the given type."""
    want(isinstance(record, dict), where, "not a JSON object")
    want(name in record, where, f"no {name!r}")
    kinds = {list: "a list", dict: "an object", str: "a text", int: "a whole number",
             str | int | float: "a text or a number"}  # fmt: skip
    want(isinstance(record[name], kind), where, f"{name!r} is not {kinds[kind]}")
    return record[name]


class Records:
    """Counts the records of a file or folder, good and bad; a bad one is left out, or refused where ``skip`` is None."""

    def __init__(self, skip: Skip, training: bool = False):
        self.skip, self.training = skip, training
        self.good: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()
        self.first: UserError | None = None
        self.ids: dict[str, tuple[str, int]] = {}  # of questions: where each stood first
        self.twice: list[str] = []  # those that were there before

    @contextlib.contextmanager
    def one(self, kind: str) -> Iterator[None]:
        """Within it one record is read, an "article", a "question"."""
        try:
            yield
        except UserError as error:
            if self.skip is None:
                raise
            self.bad[kind] += 1
            self.first = self.first or error
        else:
            self.good[kind] += 1

    def own_id(self, id: str, place: str, number: int, where: str) -> str:
        """The id of a question, or in training another where a question before has it: nothing there goes by ids.

        SQuAD 1.1 made from its texts has such: the same question on several paragraphs.
        """
        first = self.ids.setdefault(id, (place, number))
        if first == (place, number):
            return id
        what = f"has the id of question {first[1]} in {first[0]}"
        want(self.training, where, what, "answers go by id: give each question its own")
        self.twice.append(f"{where}: {what}")
        return f"{where} ({number})"

    def tell(self) -> None:
        """A line on what was left out, if anything, and one on ids that stand twice.

        Raises UserError where most was left out: that is no set to train on.
        """
        parts = []
        for kind, bad in self.bad.items():
            part = f"{bad:,} of {bad + self.good[kind]:,} {kind}s"
            if bad > self.good[kind]:
                raise UserError(f"{self.first} ({part} are bad, too many to leave out)")
            parts.append(part)
        if parts and self.skip:
            self.skip(f"{' and '.join(parts)} left out as bad, the first: {self.first} (--strict refuses them)")
        if self.twice and self.skip:
            self.skip(f"{len(self.twice):,} ids stand twice, the first: {self.twice[0]}; training keeps all")
