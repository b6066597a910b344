"""Train, valid and test: by their names where a folder has them, else divided, by size; and what stands in two of them.

    by_name(texts_in("folder"), Path("folder"))     # {"train": [...], "valid": [...], "test": [...], None: the others}
    whole_files(sizes)                              # the same of files without such names, as they are large
    set_apart([("b", 10), ("a", 900)], 40, 200)     # ["b"]: about 40 of it, not over 200


Design choices:

- Who has divided his data is believed: what is called test is never trained on. Where one of valid and test is missing,
  it is set aside from train.
- What counts is size, bytes or questions, not the number of names: one long book is not a tenth of twenty.
- What goes where is decided by hashes of names, so that it is the same on every machine, in whatever order it lists them.
"""

import argparse
import contextlib
import hashlib
import os
import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from files.mistakes import UserError, warn
from files.reading import CHUNK, files_in
from files.tables import TABLES, TEXTS, ending, stem, tables_at

T = TypeVar("T")

SPLITS = ("train", "valid", "test")
NAMES = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "test": "test"}
SHARES = {"valid": 5.0, "test": 10.0}  # % of the bytes of a corpus, but no more than
MOST = 10_000_000  # bytes, for what is scored takes its time


def word_of(path: Path, folder: Path) -> str:
    """What a file below a folder is called: as its folder at the top, else by its own name.

    Of a table that is the first word of it: train-00000-of-00002.parquet, dev_v2.jsonl, and train.parquet/part-0.parquet,
    as Spark writes it.
    """
    first, *deeper = path.relative_to(folder).parts
    top = Path(first)
    name = (stem(top) if ending(top) or not deeper else first).lower()
    return re.split(r"[^a-z]", name)[0] if ending(top) in TABLES else name


def by_name(files: Iterable[Path], folder: Path) -> dict[str | None, list[Path]]:
    """The files below a folder by the split whose name their file or folder at its top has; None: those of no split."""
    files = list(files)
    top = top_of(files, folder)
    found: dict[str | None, list[Path]] = {split: [] for split in (*SPLITS, None)}
    for path in files:
        found[NAMES.get(word_of(path, top))].append(path)
    if len(found[None]) == len(files):  # all/train.parquet beside middle/train.parquet, all/test.parquet and so on
        divided: dict[Path, dict[str, Path]] = {}  # for a folder, which file in it is of which split
        for path in files:
            for inner in path.relative_to(top).parents:
                if split := NAMES.get(word_of(path, top / inner)):
                    divided.setdefault(inner, {}).setdefault(split, path)
        together = {split: path for named in divided.values() for split, path in named.items()}
        several = [named for named in (*divided.values(), together) if len(named) > 1]
        if several and (several[0] is not together or "train" in together):
            such = min(several[0].values())
            raise UserError(f"{folder}: several sets, each divided, such as {such}; name the folder of one")
    return found


def top_of(files: Sequence[Path], folder: Path) -> Path:
    """The folder in which splits have their names: ``folder``, or one below it that has all files, as data in a clone."""
    while files:
        first, *others = {path.relative_to(folder).parts[:-1][:1] for path in files}
        if others or not first or first[0].lower() in NAMES:
            break
        folder = folder / first[0]
    return folder


def folders_by_name(folder: Path) -> dict[str, list[Path]]:
    """The folders in a folder that have the name of a split."""
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and path.name.lower() in NAMES:
            found[NAMES[path.name.lower()]].append(path)
    return found


def question_files(folder: Path) -> dict[str, list[Path]]:
    """The files train*.json and so on of each split, or those in folders of these names that hold nothing else to read.

    With no test beside it, dev is the test, as SQuAD has it.
    """
    found: dict[str, list[Path]] = {name: [] for name in NAMES}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        word = re.split(r"[^a-z]", path.name.lower())[0]
        name = "val" if word == "val" else next((name for name in NAMES if word.startswith(name) and name != "val"), None)
        if name and path.suffix.lower() == ".json":
            found[name].append(path)
        elif path.name.lower() in NAMES and path.is_dir() and not files_in(path, (*TEXTS, *TABLES)):
            found[path.name.lower()] += files_in(path, (".json",))
    said = {name: [path for path in paths if says_data(path)] for name, paths in found.items()}
    if any(said.values()):  # the others are settings or predictions that other software left beside the questions
        said |= {name: paths for name, paths in found.items()  # meant as they are called, whatever is wrong with them
                 if len(paths) == 1 and (paths[0].stem.lower() == name or paths[0].parent != folder)}  # fmt: skip
        for path in (path for name, paths in found.items() for path in paths if path not in said[name]):
            warn(f'{path}: not read, for it has no "data" as SQuAD\'s layout has', word="note", once=f"no data in {path}")
        found = said
    valid, dev = found["valid"] + found["validation"] + found["val"], found["dev"]
    return {"train": found["train"], "valid": valid + dev if found["test"] else valid, "test": found["test"] or dev}


def says_data(path: Path) -> bool:
    """Has this the name under which SQuAD's articles stand, near its beginning? Other software's settings have not."""
    try:
        with open(path, "rb") as stream:
            return b'"data"' in stream.read(CHUNK)
    except OSError:  # who reads it will say what it is
        return True


def table_files(path: Path, dev_is_test: bool = False) -> dict[str, list[Path]]:
    """The files of rows of each split, of a folder or a file alone; where none is called train, all that have no name.

    ``dev_is_test``: with no test beside it, what is called dev or validation is the test: SQuAD's own and the hub's name.
    """
    files = tables_at(path)
    found = by_name(files, path) if path.is_dir() else {split: [] for split in SPLITS} | {None: files}
    if found["train"] and found[None]:
        warn(f"{path}: {len(found[None])} files are left out, such as {found[None][0]}, for others are called train; move "
             "them into train to use them")  # fmt: skip
    train, valid, test = found["train"] or found[None], found["valid"], found["test"]
    if dev_is_test and not test:
        top = top_of(files, path)
        test = [file for file in valid if word_of(file, top) in ("dev", "validation")]
        valid = [file for file in valid if file not in test]
    return {"train": train, "valid": valid, "test": test}


def split_files(path: Path) -> dict[str, list[Path]]:
    """The files of questions of each split: SQuAD's JSON where the folder has some, else tables, else what JSON it has."""
    files = question_files(path)
    of_squad = any(says_data(file) for found in files.values() for file in found)
    return files if of_squad or not tables_at(path) else table_files(path, dev_is_test=True)


def hashed(name: str) -> str:
    """A number for a name that is the same on every machine, to order by."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def set_apart(sizes: Sequence[tuple[T, int]], wanted: float, most: float) -> list[T]:
    """Things, in the given order, whose sizes make about ``wanted``, at least half of it; [] where none do.

    Where none comes near, one alone that has no more than ``most``.
    """
    taken, chosen = 0, []
    for thing, size in sizes:
        if abs(taken + size - wanted) < abs(taken - wanted):
            chosen.append(thing)
            taken += size
        elif taken >= wanted / 2:
            break
    if taken >= wanted / 2:
        return chosen
    enough = [(size, number) for number, (_, size) in enumerate(sizes) if wanted / 2 <= size <= most]
    return [sizes[min(enough)[1]][0]] if enough else []


def share_of_text(text: str) -> float:
    """A flag's value."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def held_out(total: int, given: dict[str, float] | None = None, among: Collection[str] = tuple(SHARES)) -> dict[str, float]:
    """How many % of ``total`` bytes are for validation and test, those of the two that are to be set aside.

    ``given``: what the user wants, as shares of 1.
    """
    wanted = {split: 100 * share for split, share in (given or {}).items()}
    found = {split: wanted.get(split, min(SHARES[split], 100 * MOST / max(total, 1))) for split in among}
    if sum(found.values()) >= 100:
        raise UserError(f"--valid-share, --test-share: {sum(found.values()):g} % of the text, leaving nothing to train "
                        "on; lower them")  # fmt: skip
    return found


def spans(shares: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Where each split begins and ends in a whole of 1: train first, then those that have a share, in %."""
    end = 100.0
    found: dict[str, tuple[float, float]] = {}
    for split in ("test", "valid"):
        if split in shares:
            found[split] = ((end - shares[split]) / 100, end / 100)
            end -= shares[split]
    return {"train": (0.0, end / 100), **found}


def whole_files(sizes: dict[Path, int], percent: dict[str, float] | None = None) -> dict[str, list[Path]] | None:
    """Files for each split that has a share, in %, and the others for training; None where none come near their shares.

    By their number, as long as that gives about the wanted bytes.
    """
    whole = {path: path.absolute() for path in sizes}
    common = os.path.commonpath([path.parent for path in whole.values()]) if sizes else ""  # a folder may be moved
    inner = {path: hashed(absolute.relative_to(common).as_posix()) for path, absolute in whole.items()}
    rest = sorted(sizes, key=lambda path: (hashed(path.name), inner[path]))
    count = len(rest)
    total = sum(sizes.values())
    percent = held_out(total) if percent is None else percent
    found = {split: rest[round(low * count) : round(high * count)] for split, (low, high) in spans(percent).items()}
    shares = {split: percent[split] / 100 * total for split in found if split != "train"}
    if not all(share / 2 <= sum(map(sizes.__getitem__, found[split])) <= 1.5 * share for split, share in shares.items()):
        for split, share in shares.items():
            found[split] = set_apart([(path, sizes[path]) for path in reversed(rest)], share, 2 * share)
            taken = set(found[split])
            rest = [path for path in rest if path not in taken]
        found["train"] = rest
    return found if all(found.values()) else None


@contextlib.contextmanager
def of_split(split: str) -> Iterator[None]:
    """What is wrong in here is told with the name of the split."""
    try:
        yield
    except UserError as error:
        raise error if f"{split} split" in str(error) else UserError(f"{split} split: {error}") from None


def warn_of_twins(named: Iterable[tuple[str, Hashable, str]], what: str) -> None:
    """Warn, in one line, where in (split, content, name) the same content stands in two splits."""
    first: dict[Hashable, tuple[str, str]] = {}
    found = []
    for split, content, name in named:
        other, its_name = first.setdefault(content, (split, name))
        if other != split:
            found.append(f"{its_name} ({other}) and {name} ({split})")
    if found:
        more = f", and {len(found) - 1} more such pairs" if len(found) > 1 else ""
        warn(f"{found[0]}: {what} in two splits{more}; what is trained on should not be scored on, leave one out")
