"""Data sets: from their names to their files, from the files to checked examples, from text to the token cache.

    python data.py prepare --dataset BookCorpus --data-dir data     # vocabulary and token cache, ahead of a run
    python data.py inspect --dataset SQuAD1 --data-dir data         # what a data set holds, and an example

Files lie in ``--data-dir``; what is missing is fetched where the set is public. Archives are unpacked, and tokens kept,
under ``--cache-dir``, so that the data folder may be read-only. ``batches.py`` turns what this module gives into tensors.

What goes where: `CORPORA` are plain text for pretraining; `load_squad` and `load_race` read questions. A file that is
not as it should be is a UserError that names file, place and remedy.
"""

import hashlib
import html
import os
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import cache
import sample
from files import UserError, download, extract, parse_json, read_json, read_text
from tokenizer import Tokenizer, load_vocab, save_vocab, train_tokenizer

PIECE = 1 << 20  # bytes of text that a worker gets at a time
SPLITS = ("train", "valid", "test")
SHARES = {"train": (0.0, 0.85), "valid": (0.85, 0.90), "test": (0.90, 1.0)}  # where a set comes in one part

# --------------------------------------------------------------------------------------------------------------------
# Files: a path inside --data-dir, the archive that holds it, where that is to be had
# --------------------------------------------------------------------------------------------------------------------


@dataclass
class Source:
    """Where a data set's files come from when they are not in the data folder."""

    archive: str = ""  # looked for beside the files, and what a download is saved as
    url: str = ""
    checksum: str = ""
    hint: str = ""  # for sets that nobody may pass on


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
    "BookCorpus": Source("books.tar.gz", hint="BookCorpus is not public: put books as .txt files into {folder}"),
    "RACE": Source(
        "RACE.tar.gz", "http://www.cs.cmu.edu/~glai1/data/race/RACE.tar.gz",
        "sha256:b2769cc9fdc5c546a693300eb9a966cec6870bd349fbc44ed5225f8ad33006e5",
    ),
    "train-v1.1.json": Source("", SQUAD_URL + "train-v1.1.json", "md5:981b29407e0affa3b1b156f72073b945"),
    "dev-v1.1.json": Source("", SQUAD_URL + "dev-v1.1.json", "md5:3e85deb501d4e538b6bc56f786231552"),
    "train-v2.0.json": Source("", SQUAD_URL + "train-v2.0.json", "md5:62108c273c268d70893182d5cf8df740"),
    "dev-v2.0.json": Source("", SQUAD_URL + "dev-v2.0.json", "md5:246adae8b7002f8679c027697b0b7cf8"),
}  # fmt: skip


@dataclass
class Places:
    """The two folders that every reader needs."""

    data: Path
    cache: Path

    def __post_init__(self):
        self.data, self.cache = Path(self.data), Path(self.cache)

    def find(self, relative, source):
        """The path of ``relative``: in the data folder, else in its archive, else downloaded."""
        path = self.data / relative
        if path.exists():
            return path
        if not source.archive:
            self.fetch(source.url, path, source.checksum)
            return path
        archive = next((p for p in (self.data / source.archive, path.parent / source.archive) if p.exists()), None)
        if archive is None:
            if not source.url:
                raise UserError(f"{path}: not found; " + source.hint.format(folder=path))
            archive = self.data / source.archive
            self.fetch(source.url, archive, source.checksum)
        folder = self.cache / f"{Path(relative).parts[0]}-{cache.digest(cache.describe_file(archive))}"
        with cache.build_once(folder) as temporary:
            if temporary is not None:
                extract(archive, temporary / "content")
        path = folder / "content" / relative
        if not path.exists():
            raise UserError(f"{archive}: holds no {relative}; fetch the archive again or unpack it by hand")
        return path

    def fetch(self, url, path, checksum):
        with cache.lock(self.cache / f"download-{path.name}.lock"):
            if not path.exists():
                download(url, path, checksum)


# --------------------------------------------------------------------------------------------------------------------
# Plain text for pretraining
# --------------------------------------------------------------------------------------------------------------------


@dataclass
class Corpus:
    """Which files make up a split, and how their text is divided into documents (see STYLES)."""

    style: str
    files: dict = field(default_factory=dict)  # split -> path in the data folder; one path: divided by SHARES


CORPORA = {
    "Sample": Corpus("lines", {split: f"{split}.txt" for split in SPLITS}),
    "WikiText2": Corpus("wiki", {split: f"wikitext-2/wiki.{split}.tokens" for split in SPLITS}),
    "WikiText103": Corpus("wiki", {split: f"wikitext-103/wiki.{split}.tokens" for split in SPLITS}),
    "WMTNewsCrawl": Corpus("lines", {"all": "training-monolingual/news.2010.en.shuffled"}),
    "EnWik9": Corpus("xml", {"all": "enwik9"}),
    "BookCorpus": Corpus("book", {"all": "books"}),
    "Text": Corpus("book"),
}

# Where a piece of text may end, best first; what is left over when none occurs is cut between characters.
STYLES = {
    "lines": [b"\n"],
    "wiki": [b"\n"],
    "book": [b"\n\n", b"\r\n\r\n", b"\n", b" "],
    "xml": [b"</page>", b"\n"],
}


def corpus_parts(name, split, places):
    """The (path, first byte, last byte) of a corpus' split, and the style of its text."""
    corpus = CORPORA.get(name) or Corpus("book")
    if name == "Sample":
        root = sample_folder(places)
        return [whole(root / corpus.files[split])], corpus.style
    if "all" in corpus.files:
        path = places.find(corpus.files["all"], SOURCES[name])
    elif corpus.files:
        return [whole(places.find(corpus.files[split], SOURCES[name]))], corpus.style
    else:  # somebody's own text: --dataset Text reads the data folder itself, --dataset PATH that path
        path = places.data if name == "Text" else Path(name)
    return share(text_files(path), split), corpus.style


def whole(path):
    return path, 0, os.path.getsize(path)


def text_files(path):
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; name a .txt file or a folder of them")
    found = [file for file in path.rglob("*.txt") if file.is_file()]
    if not found:
        raise UserError(f"{path}: holds no .txt file; put plain UTF-8 text there")
    return found


def share(files, split):
    """85 % of the files for training, 5 % for validation, 10 % for testing, in an order that only their names decide.

    Too few files for that are each divided by length.
    """
    low, high = SHARES[split]
    if len(files) < 20:
        sizes = {path: os.path.getsize(path) for path in sorted(files)}
        return [(path, line_start(path, int(low * size)), line_start(path, int(high * size)))
                for path, size in sizes.items()]  # fmt: skip
    files = sorted(files, key=lambda path: (hashlib.sha256(path.name.encode()).hexdigest(), str(path)))
    return [whole(path) for path in files[round(low * len(files)) : round(high * len(files))]]


def line_start(path, place):
    """The first byte at or after ``place`` that begins a line (or, in a line without end, a word)."""
    with open(path, "rb") as stream:
        if place == 0 or place >= os.path.getsize(path):
            return place
        stream.seek(place - 1)
        ahead = stream.read(PIECE)
    for separator in (b"\n", b" "):
        if separator in ahead:
            return place + ahead.index(separator)
    return place


def pieces(parts, style):
    """Yield (size, (path, offset, bytes, whether a document begins here)) for about PIECE bytes each."""
    for path, start, end in parts:
        with open(path, "rb") as stream:
            stream.seek(start)
            offset, rest = start, b""
            while offset + len(rest) < end or rest:
                text = rest + stream.read(min(PIECE, end - offset - len(rest)))
                cut = len(text) if offset + len(text) >= end else cut_at(text, style)
                yield cut, (str(path), offset, text[:cut], offset == start)
                offset, rest = offset + cut, text[cut:]


def cut_at(text, style):
    for separator in STYLES[style]:
        found = text.rfind(separator)
        if found > 0:
            return found + len(separator)
    cut = len(text)
    while cut > len(text) - 4 and text[cut - 1] & 0xC0 == 0x80:  # inside a UTF-8 character: go back to its first byte
        cut -= 1
    return cut - 1 if text[cut - 1] & 0xC0 == 0xC0 else len(text)


def decode_piece(piece):
    path, offset, content, _ = piece
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {offset + error.start}; convert it, e.g. with iconv") from None


def paragraphs(piece, style):
    """Yield (whether it begins a document, text without line breaks) for each paragraph of a piece."""
    text, begins = decode_piece(piece), piece[3]
    if style == "xml":
        yield from wiki_pages(text)
        return
    for paragraph in re.split(r"\n\s*\n" if style == "book" else r"\n", text.replace("\r\n", "\n")):
        paragraph = " ".join(paragraph.split())
        if paragraph:
            if style == "lines" or (style == "wiki" and re.fullmatch(r"= [^=].*[^=] =", paragraph)):
                begins = True
            yield begins, paragraph
            begins = False


def wiki_pages(text):
    """EnWik9's pages without their XML and wiki markup."""
    for page in re.split(r"(?=<page>)", text):
        begins = page.startswith("<page>")
        body = re.search(r"<text[^>]*>(.*?)(</text>|$)", page, re.DOTALL)
        body = html.unescape(body.group(1) if body else re.sub(r"</text>.*", "", page, flags=re.DOTALL))
        if body.lstrip().upper().startswith("#REDIRECT") or body.lstrip().startswith("<mediawiki"):
            continue
        for pattern, replacement in (
            (r"<!--.*?-->|<ref[^>]*/>|<ref.*?</ref>|<math>.*?</math>|\{\|.*?\|\}", " "),
            (r"\{\{[^{}]*\}\}", " "), (r"\{\{[^{}]*\}\}", " "),  # twice: templates stand in templates
            (r"\[\[(?:image|file|category|[a-z-]{2,12}):[^\[\]]*\]\]", " "),
            (r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1"), (r"\[\w+://\S+ ?([^\]]*)\]", r"\1"),
            (r"<[^<>]*>|'{2,}|^[*#:;]+|={2,}|^[|!{].*$", " "),
        ):  # fmt: skip
            body = re.sub(pattern, replacement, body, flags=re.DOTALL | re.IGNORECASE | re.MULTILINE)
        for line in html.unescape(body).split("\n"):
            line = " ".join(line.split())
            if line:
                yield begins, line
                begins = False


SENTENCE_END = re.compile(r"""(?<=[.!?]["'”’)])\s+|(?<=[.!?])(?<!\b(?:Mr|Dr|St|Ms)\.)(?<!\bMrs\.)\s+(?=["'“‘(]?[A-Z0-9])""")


def sentences(paragraph):
    return [sentence for sentence in SENTENCE_END.split(paragraph) if sentence]


def make_corpus_worker(tokenizer_state, style):
    """In a worker process: from a piece of text to tokens, sentences and documents (see cache.POINTS_INTO)."""
    tokenizer = Tokenizer.from_state(tokenizer_state)

    def work(piece):
        tokens, spans, documents = [], [], []
        for begins, paragraph in paragraphs(piece, style):
            if begins:
                documents.append(len(spans))
                tokens.append(tokenizer.sep_id)
            for sentence in sentences(paragraph):
                ids = tokenizer.encode_ids(sentence)
                if ids:
                    spans.append((len(tokens), len(tokens) + len(ids)))
                    tokens.extend(ids)
        return {
            "tokens": np.array(tokens, np.int32),
            "sentences": np.array(spans, np.int64).reshape(-1, 2),
            "documents": np.array(documents, np.int64),
        }

    return work


def load_corpus(name, split, tokenizer, places):
    """The token cache of a corpus' split, built on first use."""
    parts, style = corpus_parts(name, split, places)
    total = sum(end - start for _, start, end in parts)
    key = cache.digest("corpus", style, [[*cache.describe_file(p), a, b] for p, a, b in parts], tokenizer.fingerprint)
    tokens = cache.build(
        places.cache / f"{Path(name).name}-{split}-{key}", pieces(parts, style), make_corpus_worker,
        (tokenizer.state(), style), len(tokenizer), {"bytes": total}, total, f"tokenising {Path(name).name} {split}",
    )  # fmt: skip
    if not hasattr(tokens, "sentences") or not len(tokens.sentences):
        raise UserError(f"{parts[0][0] if parts else name}: no text for the {split} split; add more text")
    return tokens


def corpus_lines(name, places, limit=16 << 20):
    """Lines of the training split to train a vocabulary on: pieces from all over it, up to ``limit`` bytes."""
    parts, style = corpus_parts(name, "train", places)
    spans = [(path, line_start(path, place), line_start(path, min(place + PIECE, end)))
             for path, start, end in parts for place in range(start, end, PIECE)]  # fmt: skip
    random.Random(0).shuffle(spans)
    for path, start, end in spans:
        for size, piece in pieces([(path, start, end)], style):
            for _, paragraph in paragraphs(piece, style):
                yield paragraph
            limit -= size
        if limit < 0:
            return


def load_tokenizer(args, name, places):
    """The vocabulary that the arguments name: ``--vocab FILE``, or one trained on the corpus, once."""
    if args.vocab:
        return load_vocab(args.vocab)
    kind, size = args.tokenizer or "sentencepiece", args.vocab_size or (1024 if name == "Sample" else 8192)
    if kind == "wordpiece":
        raise UserError("--tokenizer wordpiece: needs --vocab FILE, a vocab.txt with one token a line")
    parts, style = corpus_parts(name, "train", places)
    key = cache.digest("vocabulary", kind, size, style, [[*cache.describe_file(p), a, b] for p, a, b in parts])
    folder = places.cache / f"{Path(name).name}-vocabulary-{key}"
    with cache.build_once(folder) as temporary:
        if temporary is not None:
            print(f"training a {kind} vocabulary of {size} on {name} ...", flush=True)
            save_vocab(train_tokenizer(kind, corpus_lines(name, places), size), temporary / "vocab.pt")
    return load_vocab(folder / "vocab.pt")


def sample_folder(places):
    """The embedded data set, written out once."""
    folder = places.cache / f"sample-{cache.digest(cache.describe_file(sample.__file__)[1:])}"
    with cache.build_once(folder) as temporary:
        if temporary is not None:
            sample.write(temporary)
    return folder


# --------------------------------------------------------------------------------------------------------------------
# Questions on a passage: SQuAD
# --------------------------------------------------------------------------------------------------------------------


@dataclass
class Question:
    """A question on ``contexts[context]``; ``answers`` are (text, first character), none where there is no answer."""

    id: str
    text: str
    context: int
    title: str
    answers: list


@dataclass
class SquadSet:
    contexts: list
    questions: list
    with_impossible: bool  # laid out as version 2.0, where a question may have no answer


def want(condition, where, what, remedy="mend the file or leave the entry out"):
    if not condition:
        raise UserError(f"{where}: {what}; {remedy}")


def entry(record, name, kind, where):
    """``record[name]``, which must be there and of the given type."""
    want(isinstance(record, dict), where, "not a JSON object")
    want(name in record, where, f"no {name!r}")
    want(isinstance(record[name], kind), where, f"{name!r} is not a {getattr(kind, '__name__', kind)}")
    return record[name]


def load_squad(path, answers_needed=True):
    """The questions of a SQuAD 1.1 or 2.0 file, every one; ``answers_needed=False`` for files to predict on.

    Raises UserError that names the file and the article, paragraph or question where something is missing or does not
    fit, such as an ``answer_start`` at which the answer does not stand.
    """
    found = SquadSet([], [], False)
    for a, article in enumerate(entry(read_json(path), "data", list, path)):
        where = f"{path}: article {a + 1}"
        title = article.get("title", "") if isinstance(article, dict) else ""
        for p, paragraph in enumerate(entry(article, "paragraphs", list, where)):
            place = f"{where} ({title}), paragraph {p + 1}"
            found.contexts.append(entry(paragraph, "context", str, place))
            for q, record in enumerate(entry(paragraph, "qas", list, place)):
                spot = f"{place}, question {record.get('id', q + 1) if isinstance(record, dict) else q + 1}"
                question = read_question(record, found.contexts[-1], spot, answers_needed)
                found.with_impossible |= "is_impossible" in record
                question.context, question.title = len(found.contexts) - 1, str(title)
                found.questions.append(question)
    want(found.questions, path, "holds no question", "name another file")
    return found


def read_question(record, context, where, answers_needed):
    answers = []
    listed = entry(record, "answers", list, where) if answers_needed or "answers" in record else []
    for answer in listed:
        text, start = entry(answer, "text", str, where), entry(answer, "answer_start", int, where)
        right = start >= 0 and context[start : start + len(text)] == text
        want(right, where, f"answer {text!r} does not stand at answer_start {start}")
        answers.append((text, start))
    impossible = record.get("is_impossible", False)
    want(bool(answers) != bool(impossible) or not answers_needed, where,
         "marked impossible, yet it has answers" if impossible else "no answer, and not marked is_impossible")  # fmt: skip
    return Question(entry(record, "id", str, where), entry(record, "question", str, where), 0, "", answers)


def load_squad_splits(name, places):
    """train, valid and test: the development file is the test set, and some training articles are set aside to validate.

    Whole articles, about one in 25, chosen by their titles: no paragraph is both trained on and validated with.
    """
    if name == "Sample":
        folder = sample_folder(places)
        return {split: load_squad(folder / f"squad-{split}.json") for split in SPLITS}
    if name in ("SQuAD1", "SQuAD2"):
        version = {"SQuAD1": "v1.1", "SQuAD2": "v2.0"}[name]
        files = [f"{part}-{version}.json" for part in ("train", "dev")]
        train, test = (load_squad(places.find(f"squad/{file}", SOURCES[file])) for file in files)
    else:
        train, test = (load_squad(only_json(Path(name), part)) for part in ("train", "dev"))
    titles = sorted({q.title for q in train.questions}, key=lambda t: hashlib.sha256(t.encode()).hexdigest())
    held_out = set(titles[: max(1, len(titles) // 25)]) if len(titles) > 1 else set()
    valid = [q for q in train.questions if q.title in held_out]
    kept = [q for q in train.questions if q.title not in held_out]
    if not valid:  # a single article: every 25th paragraph
        valid = [q for q in train.questions if q.context % 25 == 24]
        kept = [q for q in train.questions if q.context % 25 != 24]
    return {
        "train": SquadSet(train.contexts, kept, train.with_impossible),
        "valid": SquadSet(train.contexts, valid, train.with_impossible),
        "test": test,
    }


def only_json(folder, part):
    found = sorted(folder.glob(f"{part}*.json")) if folder.is_dir() else []
    want(len(found) == 1, folder, f"{len(found)} files {part}*.json; exactly one is needed", "name a folder that has it")
    return found[0]


# --------------------------------------------------------------------------------------------------------------------
# Questions with four options: RACE
# --------------------------------------------------------------------------------------------------------------------


@dataclass
class Article:
    """A passage with its questions: ``options[q]`` are four texts, ``answers[q]`` the right one's number (or None)."""

    id: str
    text: str
    questions: list
    options: list
    answers: list

    @property
    def level(self):
        return re.match(r"[a-z]*", self.id).group()


def load_race(folder, level="all", answers_needed=True):
    """The articles of a folder laid out like RACE: ``folder/**/N.txt``, one JSON object a file, in the order of names."""
    folder = Path(folder)
    paths = [path for path in folder.rglob("*.txt") if level == "all" or level in (path.parent.name, level_of(path))]
    want(paths, folder, "no .txt file of RACE's kind" + ("" if level == "all" else f" of level {level}"),
         "name a folder laid out like RACE, e.g. RACE/dev")  # fmt: skip
    return [read_article(path, answers_needed) for path in sorted(paths)]


def level_of(path):
    return re.match(r"[a-z]*", path.name).group()


def read_article(path, answers_needed=True):
    record = parse_json(read_text(path), path)
    questions, options = entry(record, "questions", list, path), entry(record, "options", list, path)
    answers = entry(record, "answers", list, path) if answers_needed or "answers" in record else [None] * len(questions)
    want(len(questions) == len(options) == len(answers), path,
         f"{len(questions)} questions, {len(options)} lists of options and {len(answers)} answers")  # fmt: skip
    for number, (question, choice, answer) in enumerate(zip(questions, options, answers, strict=True), 1):
        where = f"{path}: question {number}"
        want(isinstance(question, str), where, "not a text")
        want(isinstance(choice, list) and all(isinstance(option, str) for option in choice), where, "options not texts")
        want(len(choice) == 4, where, f"{len(choice)} options; RACE has four")
        want(answer in ("A", "B", "C", "D", None), where, f"answer {answer!r}; it must be A, B, C or D")
    name = record.get("id") or path.name if path.parent.name not in ("middle", "high") else f"{path.parent.name}{path.name}"
    letters = [None if answer is None else "ABCD".index(answer) for answer in answers]
    return Article(str(name), entry(record, "article", str, path), questions, options, letters)


def load_race_splits(name, places, level="all"):
    """train, valid (RACE's dev) and test of RACE, of the embedded set, or of any folder laid out like RACE."""
    if name == "Sample":
        root = sample_folder(places) / "RACE"
    else:
        root = places.find("RACE", SOURCES["RACE"]) if name == "RACE" else Path(name)
    folders = {"train": root / "train", "valid": root / "dev", "test": root / "test"}
    for folder in folders.values():
        want(folder.is_dir(), folder, "no such folder", "a RACE folder has train, dev and test")
    return {split: load_race(folder, level) for split, folder in folders.items()}


def fill(question, option):
    """The statement that an option makes: it takes the place of the blank, or follows the question."""
    filled, blanks = re.subn(r"_+", lambda _: f" {option} ", question, count=1)
    return " ".join(filled.split()) if blanks else f"{question} {option}"


# --------------------------------------------------------------------------------------------------------------------
# Texts to tokens with character spans
# --------------------------------------------------------------------------------------------------------------------


def make_text_worker(tokenizer_state):
    tokenizer = Tokenizer.from_state(tokenizer_state)

    def work(texts):
        tokens, spans, ends = [], [], [0]
        for text in texts:
            encoding = tokenizer.encode(text)
            tokens.extend(encoding.ids)
            spans.extend(encoding.offsets)
            ends.append(len(tokens))
        return {
            "tokens": np.array(tokens, np.int32),
            "spans": np.array(spans, np.int32).reshape(-1, 2),
            "texts": np.array([ends[:-1], ends[1:]], np.int64).T,
        }

    return work


def encode_texts(texts, tokenizer, places, description):
    """The token cache of a list of texts, in their order; built on first use."""
    content = hashlib.sha256()
    for text in texts:
        content.update(text.encode("utf-8", "surrogatepass") + b"\0")
    key = cache.digest("texts", content.hexdigest(), tokenizer.fingerprint)
    chunks = [texts[i : i + 500] for i in range(0, len(texts), 500)]
    sizes = [sum(map(len, chunk)) for chunk in chunks]
    return cache.build(
        places.cache / f"{description}-{key}", zip(sizes, chunks, strict=True), make_text_worker,
        (tokenizer.state(),), len(tokenizer), {}, sum(sizes), f"tokenising {description}",
    )  # fmt: skip
