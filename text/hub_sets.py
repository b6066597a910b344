"""Data sets of Hugging Face's hub, by name: their Parquet files, as a folder of rows that the readers of tables know.

    folder = fetched("hub:rajpurkar/squad", Path("cache"))      # train-00000.parquet, validation-00000.parquet
    folder = fetched("hub:ehovy/race/high", Path("cache"))      # one configuration of several

Taken are those of the branch main, else those that the hub has made itself (its revision refs/convert/parquet), of the
splits that are called train, validation, dev or test. The files stay in the client's cache; the folder holds links.
"""

import functools
import re
from pathlib import Path, PurePosixPath

from files.hub import PREFIX, Repository
from files.mistakes import UserError, warn
from files.question_tables import CHOICE_COLUMNS, CHOICES, LETTERS, QUESTIONS, choice_of, kind_of
from files.tables import columns_of, rows
from text import cache
from text.splits import NAMES, word_of

CONVERTED = "refs/convert/parquet"


@functools.cache
def fetched(dataset: str, cache_folder: Path) -> Path:
    """The folder with a set's files, ``hub:owner/name``, with ``/configuration`` and ``@revision`` where one is wanted.

    Raises UserError where there is none, or several configurations and none is named.
    """
    name, _, revision = dataset.removeprefix(PREFIX).partition("@")
    owner, repo, configuration, *more = (*name.split("/"), "", "")
    if more and any(more):
        raise UserError(f"--dataset {dataset}: too many slashes; write hub:owner/name or hub:owner/name/configuration")
    files, repository = parquet_files(PREFIX + "/".join(filter(None, (owner, repo))), revision, dataset)
    such = f"{PREFIX}{owner}/{repo or 'name'}/{{}}{f'@{revision}' if revision else ''}"
    chosen = files[configuration_of(files, configuration, dataset, such)]
    if repository.kept:
        check_whole(chosen, dataset)
    root = repository.fetch(path for paths in chosen.values() for path in paths)
    links = {f"{split}-{number:05}.parquet": (root / path).absolute() for split, paths in chosen.items()
             for number, path in enumerate(paths)}  # fmt: skip
    links = without_secrets(links, dataset)
    folder = cache_folder / f"hub-{cache.digest([dataset, sorted((link, str(path)) for link, path in links.items())])}"
    with cache.build_once(folder) as temporary:
        for link, path in links.items() if temporary else ():
            (temporary / link).symlink_to(path)
    return folder


def parquet_files(name, revision, dataset):
    """(configuration -> split -> paths, where they lie): of the first revision that has some."""
    failed = None
    for tried in [revision] if revision else ["", CONVERTED]:
        try:
            repository = Repository(f"{name}@{tried}" if tried else name, "dataset", f"--dataset {dataset}")
        except UserError as error:  # without a network the cache may have the second alone
            failed = failed if tried == CONVERTED else error
            continue
        found: dict[str, dict[str, list[str]]] = {}
        for path in repository.files:
            if path.endswith(".parquet") and (split := split_of(PurePosixPath(path))):
                parents = [part for part in PurePosixPath(path).parent.parts if part.removeprefix("partial-") not in NAMES]
                found.setdefault("/".join(parents), {}).setdefault(split, []).append(path)
        if found:
            return found, repository
    raise failed or UserError(f"--dataset {dataset}: no .parquet files that are called train, validation or test; fetch it "
                              "by hand, and name its folder")  # fmt: skip


def split_of(path):
    """data/train-00000-of-00002.parquet and plain_text/train/0000.parquet are of train."""
    own = word_of(Path(path.name), Path())
    return next((word for word in (own, path.parent.name.removeprefix("partial-")) if word in NAMES), None)


def check_whole(chosen, dataset):
    """Raises UserError where the cache has some parts of a split only, as after a fetch that was stopped."""
    for split, paths in chosen.items():
        counts = {int(match[1]) for path in paths if (match := re.search(r"-of-(\d+)\.parquet$", path))}
        if counts and len(paths) < max(counts):
            raise UserError(f"--dataset {dataset}: the cache has {len(paths)} of the {max(counts)} files of {split}; fetch "
                            "the rest with a network")  # fmt: skip


def configuration_of(files, wanted, dataset, such):
    """The folder of the configuration that is wanted, or of the only one; ``such`` is how one is written."""
    names = {folder.removeprefix("data/"): folder for folder in files}
    usual = [name for name in ("data", "default", "") if name in names]
    if wanted in names and wanted:
        return names[wanted]
    if not wanted and (len(names) == 1 or usual):
        return names[usual[0]] if usual else next(iter(files))
    what = f"no configuration {wanted}" if wanted else "it has several configurations"
    raise UserError(f"--dataset {dataset}: {what}; name one of {', '.join(names)}, such as "
                    f"{such.format(next(iter(names)))}")  # fmt: skip


def without_secrets(links, dataset):
    """The links but for those of a test split whose answers are kept secret, as swag's: nothing can be scored on it."""
    secret = [link for link, path in links.items() if link.startswith("test-") and is_secret(path)]
    if secret:
        warn(f"{dataset}: its test split has no answers, and is left out; another part is tested on")
    return {link: path for link, path in links.items() if link not in secret}


def is_secret(path):
    """Has the first row a question with options and none of them as its answer, or no such column, or no passage an answer?
    """
    kind = kind_of(columns_of(path))
    if kind == "questions":  # one without an answer may be meant so, all of them are not
        return not any(any(answers.get("text") or ()) for row in rows(path, QUESTIONS)
                       if isinstance(answers := row.entries().get("answers"), dict))  # fmt: skip
    if kind != "choices":
        return False
    if not set(CHOICES["answer"]) & set(columns_of(path)):
        return True
    row = next(rows(path, CHOICE_COLUMNS), None)
    return row is not None and choice_of(row, answers_needed=True).answer not in [*LETTERS]
