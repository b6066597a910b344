"""Where files lie: data sets by name, what they consist of, and where that is to be had.

    places = Places("data", "cache")
    places.find("RACE", "RACE")         # in the data folder, else in its archive, else downloaded
    places.own("my/texts", "text")      # a path of the user's, a folder, a file, or an archive; or hub:owner/name


Files lie in ``--data-dir``; what is missing is fetched where the set is public. Archives are unpacked, and tokens kept,
under ``--cache-dir``, so that the data folder may be read-only.
"""

import contextlib
import difflib
import os
from argparse import Namespace
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from files.archives import ARCHIVES, extract
from files.downloads import download
from files.hub import PREFIX
from files.mistakes import UserError
from files.question_tables import kind_of
from files.reading import CHUNK, files_in, shown, texts_in
from files.tables import TABLES, TEXTS, check_kind, columns_of, ending, tables_at
from files.writing import check_writable
from text import cache, hub_sets, sample
from text.splits import NAMES, SPLITS, folders_by_name, question_files, says_data


def default_data_dir() -> str:
    """Where data sets lie if nothing is said."""
    return os.environ.get("BERT_DATA") or "data"


def default_cache_dir() -> str:
    """Where the cache is if nothing is said."""
    return os.environ.get("BERT_CACHE") or "cache"


# --------------------------------------------------------------------------------------------------------------------
# Data sets by name
# --------------------------------------------------------------------------------------------------------------------

@dataclass
class Corpus:
    """Which files make up a split, and how their text is divided into documents (see STYLES)."""

    style: str
    files: dict[str, str] = field(default_factory=dict)  # split -> path in the data folder; one path: divided by SHARES


CORPORA = {
    "Sample": Corpus("lines", {split: f"{split}.txt" for split in SPLITS}),
    "WikiText2": Corpus("wiki", {split: f"wikitext-2/wiki.{split}.tokens" for split in SPLITS}),
    "WikiText103": Corpus("wiki", {split: f"wikitext-103/wiki.{split}.tokens" for split in SPLITS}),
    "WMTNewsCrawl": Corpus("lines", {"all": "training-monolingual/news.2010.en.shuffled"}),
    "EnWik9": Corpus("xml", {"all": "enwik9"}),
    "BookCorpus": Corpus("book", {"all": "books"}),
    "Text": Corpus("book"),
}

SQUAD_SETS = {"Sample": None, "SQuAD1": "v1.1", "SQuAD2": "v2.0"}
RACE_SETS = ("Sample", "RACE")
SETS: dict[str, Collection[str]] = {"text": CORPORA, "questions": SQUAD_SETS, "choices": RACE_SETS}
SCRIPTS = {"text": "mlm_task.py and ns_task.py", "questions": "qa_task.py", "choices": "race_task.py"}


@dataclass
class Source:
    """Where a data set's files come from when they are not in the data folder."""

    archive: str = ""  # looked for beside the files, and what a download is saved as
    url: str = ""
    checksum: str = ""
    hint: str = ""  # for sets that nobody may pass on
    any_layout: bool = False  # the archive's content serves, whatever its folders are called


SQUAD_URL = "https://rajpurkar.github.io/SQuAD-explorer/dataset/"
SOURCES = {
    "WikiText2": Source(
        "wikitext-2-v1.zip", "https://wikitext.smerity.com/wikitext-2-v1.zip", "md5:542ccefacc6c27f945fb54453812b3cd"
    ),
    "WikiText103": Source(
        "wikitext-103-v1.zip", "https://wikitext.smerity.com/wikitext-103-v1.zip", "md5:9ddaacaf6af0710eda8c456decff7832"
    ),
    "WMTNewsCrawl": Source(
        "training-monolingual-news-2010.tgz", "http://www.statmt.org/wmt11/training-monolingual-news-2010.tgz",
        "md5:c70da2ba79db33fb0fc9119cbad16260",
    ),
    "EnWik9": Source("enwik9.zip", "http://mattmahoney.net/dc/enwik9.zip", "md5:3e773f8a1577fda2e27f871ca17f31fd"),
    "BookCorpus": Source(
        "books.tar.gz", hint="BookCorpus is not public: put books as .txt files there, or into {archive}", any_layout=True
    ),
    "RACE": Source(
        "RACE.tar.gz", "http://www.cs.cmu.edu/~glai1/data/race/RACE.tar.gz",
        "sha256:b2769cc9fdc5c546a693300eb9a966cec6870bd349fbc44ed5225f8ad33006e5",
    ),
    "train-v1.1.json": Source("", SQUAD_URL + "train-v1.1.json", "md5:981b29407e0affa3b1b156f72073b945"),
    "dev-v1.1.json": Source("", SQUAD_URL + "dev-v1.1.json", "md5:3e85deb501d4e538b6bc56f786231552"),
    "train-v2.0.json": Source("", SQUAD_URL + "train-v2.0.json", "md5:62108c273c268d70893182d5cf8df740"),
    "dev-v2.0.json": Source("", SQUAD_URL + "dev-v2.0.json", "md5:246adae8b7002f8679c027697b0b7cf8"),
}  # fmt: skip


class Places:
    """The two folders that every reader needs, and what a user said of texts: which column of a table they stand in, and
    which shares of them, of 1, are for validation and test."""

    def __init__(
        self, data: str | Path, cache: str | Path, column: str | None = None, shares: dict[str, float] | None = None
    ):
        self.data, self.cache, self.column, self.shares = Path(data), Path(cache), column, shares or {}

    @classmethod
    def of_text(cls, args: Namespace) -> "Places":
        """As the flags of pretraining say it. Raises UserError for shares that leave nothing to train on."""
        given = {"valid": args.valid_share, "test": args.test_share}
        if sum(share or 0 for share in given.values()) >= 1:
            raise UserError(f"--valid-share {args.valid_share} and --test-share {args.test_share}: leave nothing to train "
                            "on; lower them")  # fmt: skip
        return cls(args.data_dir, args.cache_dir, args.text_column, {split: x for split, x in given.items() if x})

    def find(self, relative: str, name: str) -> Path:
        """The path of ``relative``, from SOURCES[name]: in the data folder, else in its archive, else downloaded."""
        path, source = self.data / relative, SOURCES.get(name, Source(hint="put it there"))
        if path.exists():
            return path
        if not source.archive:
            return self.fetch(source, path, path)
        archive = next((p for p in (self.data / source.archive, path.parent / source.archive) if p.exists()), None)
        archive = archive or self.fetch(source, self.data / source.archive, path)
        content = self.unpacked(archive, Path(relative).parts[0])
        if (content / relative).exists():
            return content / relative
        if not source.any_layout:
            raise UserError(f"{archive}: holds no {relative}; fetch the archive again, or unpack it by hand at {path}")
        return content

    def unpacked(self, archive: Path, name: str) -> Path:
        """The folder with an archive's content, which is unpacked once."""
        folder = self.cache / f"{cache.short(name)}-{cache.digest(cache.describe_file(archive))}"
        with cache.build_once(folder) as temporary:
            if temporary is not None:
                extract(archive, temporary / "content")
        return folder / "content"

    def fetch(self, source: Source, target: Path, wanted: Path) -> Path:
        """Download ``source`` to ``target``, for want of the path ``wanted``."""
        if not source.url:
            raise UserError(f"{wanted}: not found; " + source.hint.format(archive=target))
        lock = target.with_name(f".{target.name}.lock")
        try:
            check_writable(target)
            with cache.lock(lock):
                try:
                    if not target.exists():
                        download(source.url, target, source.checksum)
                finally:
                    with contextlib.suppress(OSError):  # by who holds it alone
                        lock.unlink()
        except UserError as error:
            raise UserError(f"{wanted}: not found, and {error}") from None
        return target

    def sample(self) -> Path:
        """The folder of the embedded data set, written out once."""
        folder = self.cache / f"sample-{cache.digest(cache.describe_file(sample.__file__)[1:])}"
        with cache.build_once(folder) as temporary:
            if temporary is not None:
                sample.write(temporary)
        return folder

    def own(self, name: str, kind: str | None = None) -> Path:
        """The path that ``--dataset`` gives where it names no set of this kind (a key of SETS; None: of any).

        Of an archive, the folder with its content; of a name on the hub, that with its files.
        """
        if name.startswith(PREFIX):
            return hub_sets.fetched(name, self.cache)
        path = Path(name)
        if path.name.lower().endswith(ARCHIVES) and not ending(path) and path.is_file():
            check_kind(path)
            content = self.unpacked(path, path.name)
            entries = [entry for entry in content.iterdir() if shown(entry.name)]
            only = entries[0] if len(entries) == 1 and entries[0].is_dir() else content
            return content if only.name.lower() in NAMES else only
        if path.exists():
            return path
        known = ", ".join(SETS[kind] if kind else dict.fromkeys(set for sets in SETS.values() for set in sets))
        other = next((SCRIPTS[other] for other, names in SETS.items() if name in names), None)
        if other:
            raise UserError(f"--dataset {name}: that set is for {other}; choose {known}, or a path")
        spellings = {spelling.lower(): spelling for names in SETS.values() for spelling in names}
        near = difflib.get_close_matches(name.lower(), spellings, 1, 0.5)
        remedy = f"did you mean {spellings[near[0]]}?" if near else "check the spelling"
        raise UserError(f"--dataset {name}: neither a data set ({known}) nor a file or folder; {remedy}")


def kinds_of(name: str, places: Places) -> list[str]:
    """What a data set's name or path can be read as: some of the keys of SETS."""
    kinds = [kind for kind, names in SETS.items() if name in names]
    if kinds:
        return kinds
    path = places.own(name)
    files = question_files(path)
    alone = not (path.is_dir() and files_in(path, (*TEXTS, *TABLES)))  # else a .json may be other software's settings
    if (files["train"] or files["test"]) and (alone or (files["train"] and says_data(files["train"][0]))):
        return ["questions"]
    inner = [folder for folders in folders_by_name(path).values() for folder in folders]
    first = next((text for folder in inner for text in texts_in(folder)), None)
    if first and begins_with_json(first):
        return ["choices"]
    tables = tables_at(path)
    return ["text"] if places.column or not tables else [kind_of(columns_of(tables[0]))]


def begins_with_json(path):
    """Is this, as RACE's articles are, a JSON object, and no plain text?"""
    with open(path, "rb") as stream:
        return stream.read(CHUNK).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
