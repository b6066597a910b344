"""Plain text for pretraining: from the files of a corpus to documents, paragraphs and sentences.

    for size, piece in pieces(*corpus_parts("EnWik9", "train", places)):
        for begins_document, paragraph in paragraphs(piece, "xml"):
            sentences_of(paragraph, "xml")


Design choices:

- What is compressed or stands in tables is written out as plain text first (plain.py).
- A split is a list of byte ranges of files, read in pieces of a megabyte that end with a paragraph, a line or at least
  a word. Nothing holds more than a few pieces, whatever the size of the corpus and of its lines.
- A set that comes in one part is divided 85/5/10, or less of a large one (see splits.py): by whole files, or, where
  these are few or too unequal, each file by length.
- What is not as it should be is a UserError that names file, place and remedy.
"""

import functools
import html
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from files.mistakes import UserError, warn
from files.reading import CONVERT, files_in
from files.tables import ALIKE, NO_TEXT, OTHER_PACKED, OTHER_ROWS, TABLES, TEXTS, check_kind, ending
from text import cache
from text.passages import passage_files
from text.places import CORPORA, Corpus, Places, kinds_of
from text.plain import FILE_END, plain_texts
from text.sentences import sentences
from text.splits import MOST, SHARES, SPLITS, by_name, held_out, share_of_text, spans, warn_of_twins, whole_files

Part = tuple[Path, int, int]  # of a split: a file, its first byte, the one behind its last
Piece = tuple[str, int, bytes, bool]  # path, offset, bytes, whether a document begins here

PIECE = 1 << 20  # bytes
FEW = 20  # files: fewer are each divided by length


# --------------------------------------------------------------------------------------------------------------------
# Which bytes of which files make up a split
# --------------------------------------------------------------------------------------------------------------------


# Where a piece of text may end, best first; what is left over when none occurs is cut between characters.
END = FILE_END.encode()  # of a document in any style
STYLES = {
    "lines": [END, b"\n", b" "],  # each line a document
    "wiki": [END, b"\n", b" "],  # a line a paragraph; "= Title =" begins a document
    "book": [END, b"\n\n", b"\r\n\r\n", b"\n", b" "],  # each file a document, with blank lines between paragraphs
    "sentences": [END, b"\n\n", b"\r\n\r\n", b"\n", b" "],  # a line a sentence, with blank lines between documents
    "xml": [END, b"</page>", b"\n", b" "],  # each page a document
}

SHARE = "share of a corpus' bytes that is kept for {}, where it has none (default: {:g}, no more than 10 MB)"
TEXT_FLAGS: list[tuple[str, str, dict[str, Any]]] = [  # of all that reads running text: name, help, what argparse takes
    ("text-format", "how the text is laid out. book: a file (or row) a document, blank lines between paragraphs; "
     "sentences: a line a sentence, blank lines between documents; lines: a line a document; wiki: a line a paragraph, "
     "= Title = begins a document; xml: pages of a MediaWiki dump (default: as the set has it, of a path book)",
     {"choices": list(STYLES)}),
    ("text-column", "of .jsonl and .parquet: the column that holds the text (default: text)", {}),
    ("valid-share", SHARE.format("validation", 0.05), {"type": share_of_text}),
    ("test-share", SHARE.format("test", 0.1), {"type": share_of_text}),
]  # fmt: skip


def corpus_parts(
    name: str, split: str, places: Places, style: str | None = None, beside: tuple[str, ...] = ()
) -> tuple[list[Part], str]:
    """The (path, first byte, byte behind the last) of a corpus' split, and the style of its text, which may be given.

    Of a set of questions these are its passages, in train none that share words with what is scored of it or of the sets
    read ``beside`` it. Raises UserError where the set is not there, or has no such split.
    """
    if "text" not in kinds_of(name, places):
        return [whole(passage_files(name, places, beside) / f"{split}.txt")], "lines"
    corpus = CORPORA.get(name) or Corpus("book")
    style = style or corpus.style
    if name == "Sample":
        return [whole(places.sample() / corpus.files[split])], style
    if split in corpus.files:
        return [whole(places.find(corpus.files[split], name))], style
    if "all" in corpus.files:
        path = places.find(corpus.files["all"], name)
    else:  # somebody's own text: --dataset Text reads the data folder itself, --dataset PATH that path
        path = places.data if name == "Text" else places.own(name)
    return divide(path, split, style, places), style


def warn_of_twin_files(names: Sequence[str], places: Places, style: str | None = None) -> None:
    """Warn where a stretch of a file of the sets that are read together stands in one split, and the same in another, by
    another name or set. Reads those of one size only."""
    found, covered = [], Counter[int]()
    for name in names:
        ready = len(names) == 1 and CORPORA.get(name, Corpus("")).files.keys() >= set(SPLITS)
        if ready or "text" not in kinds_of(name, places):
            continue
        for split in SPLITS:
            for path, start, end in corpus_parts(name, split, places, style)[0]:
                if end > start:
                    size = os.path.getsize(path)
                    found.append((size, split, path, start, end))
                    covered[size] += end - start
    sample = functools.cache(cache.sample_of)
    texts: dict[tuple[int, str], list] = {}
    for size, *part in found:
        if covered[size] > size:  # more than one file of that size, or one in several splits
            texts.setdefault((size, sample(part[1], size)), []).append(part)
    warn_of_twins(((split, (text, edge), str(path)) for text, parts in texts.items()
                   for edge in sorted({edge for _, _, *edges in parts for edge in edges})
                   for split, path, start, end in parts if start <= edge < end),
                  "the same text, by size, beginning, middle and end,")  # fmt: skip


def whole(path):
    return path, 0, size_of(path)


def size_of(path):
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        raise UserError(f"{path}: is gone; remove its folder in the cache, which is then made anew") from None


def text_files(path):
    if path.is_file():
        check_kind(path)
        if path.suffix.lower() == ".json":
            raise UserError(f"{path}: JSON is no plain text; name the folder of a set of questions, or rows of .jsonl")
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; name a .txt file or a folder of them")
    there = files_in(path, (*TEXTS, *TABLES, *ALIKE, *OTHER_ROWS, *NO_TEXT, *OTHER_PACKED))
    found, passed = [file for file in there if ending(file)], [file for file in there if not ending(file)]
    if not found and passed:
        check_kind(passed[0])
    if not found:
        raise UserError(f"{path}: holds no .txt file; put plain UTF-8 text there, or .jsonl or .parquet files")
    if passed:
        warn(f"{path}: {len(passed)} files are left out, such as {passed[0]}; read are .txt, .jsonl and .parquet")
    return found


def divide(path, split, style, places):
    """A split of somebody's own text: what has its name, else a share of all, or of what is trained on."""
    files = text_files(path)
    named = by_name(files, path) if path.is_dir() else {}
    missing = [part for part in SHARES if not named.get(part)]
    if len(missing) == 2:
        if named.get("train") and named[None]:
            warn(f"{path}: what is called train is divided with the rest, for nothing beside it is called valid or test")
        return share(plain_texts(files, places), split, style, places.shares)
    train, others = named["train"] or named[None], named[None] if named["train"] else []
    if others:
        warn(f"{path}: {len(others)} files are left out, such as {others[0]}, for others are called train, "
             + " and ".join(part for part in ("valid", "test") if named[part]) + "; move them into train to use them")
    elif not named["train"] and train:
        warn(f"{path}: nothing is called train; all files but valid and test are trained on, {len(train)}")
    if split not in missing and split != "train":
        return [whole(text) for text in plain_texts(named[split], places).values()]
    if not train:
        raise UserError(f"{path}: no text for the {split} split; add train.txt, or a folder train")
    return share(plain_texts(train, places), split, style, places.shares, missing)


def share(texts, split, style, given=None, missing=tuple(SHARES)):
    """What of the files is for training, and for validation and testing where these are ``missing``, by `held_out`.

    Where no whole files make that, each is divided by length. ``texts``: file -> its plain text.
    """
    sizes = {path: size_of(text) for path, text in texts.items()}
    total = sum(sizes.values())
    shares = held_out(total, given, missing)
    if split == "train" and any(round(percent * total / 100) == MOST for percent in shares.values()):
        parts = " and ".join(f"{percent:.2g} % for {part}" for part, percent in shares.items())
        warn(f"{total / 1e6:.0f} MB of text: {parts}, no more than {MOST / 1e6:.0f} MB each, for all of it is scored; "
             "--valid-share and --test-share override that")  # fmt: skip
    chosen = whole_files(sizes, shares) if len(texts) >= FEW else None
    if chosen:
        return [whole(texts[path]) for path in chosen[split]]
    low, high = spans(shares)[split]
    return [(text, cut_near(text, low, style), cut_near(text, high, style)) for _, text in sorted(texts.items())]


def cut_near(path, fraction, style):
    """A byte at or soon after ``fraction`` of a file where text of this style may be cut."""
    size = os.path.getsize(path)
    return cut_after(path, int(fraction * size), style, min(PIECE, size // 50))


def cut_after(path: Path, place: int, style: str, reach: int) -> int:
    """The first good place to cut in the ``reach`` bytes from ``place`` on; the beginning and the end are good."""
    if place in (0, os.path.getsize(path)):
        return place
    first = max(0, place - 8)  # a separator may end just here
    ahead = read_at(path, first, place - first + reach)
    for separator in STYLES[style]:
        found = ahead.find(separator, max(0, place - first - len(separator)))
        if found >= 0:
            return first + found + len(separator)
    while read_at(path, place, 1)[0] & 0xC0 == 0x80:  # inside a UTF-8 character
        place -= 1
    return place


def read_at(path, offset, size):
    """``size`` bytes of a file, fewer at its end."""
    try:
        with open(path, "rb") as stream:
            stream.seek(offset)
            return stream.read(size)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None


def pieces(parts: list[Part], style: str) -> Iterator[tuple[int, Piece]]:
    """Yield (size, (path, offset, bytes, whether a document begins here)) for about PIECE bytes each."""
    for path, start, end in parts:
        offset, rest, begins = start, b"", True
        while offset < end:
            more = read_at(path, offset + len(rest), min(PIECE, end - offset - len(rest)))
            text = rest + more
            if not more and offset + len(text) < end:
                raise UserError(f"{path}: has become shorter while it was read; start again")
            cut = len(text) if offset + len(text) == end else cut_at(text, style)
            yield cut, (str(path), offset, text[:cut], begins)
            begins = ends_document(text[:cut], style)
            offset, rest = offset + cut, text[cut:]


def ends_document(text, style):
    """Does a document end with this piece's last line, whatever follows?"""
    if text.rstrip().endswith(END):
        return True
    if style == "sentences":
        return text.endswith(b"\n") and not text[text.rfind(b"\n", 0, -1) + 1 :].strip()
    return style == "lines" and text.endswith(b"\n")


def cut_at(text, style):
    """The last good place to cut."""
    for separator in STYLES[style]:
        found = text.rfind(separator)
        if found > 0:
            return found + len(separator)
    cut = len(text)
    while cut > len(text) - 4 and text[cut - 1] & 0xC0 == 0x80:  # inside a UTF-8 character: go back to its first byte
        cut -= 1
    return cut - 1 if text[cut - 1] & 0xC0 == 0xC0 else len(text)


# --------------------------------------------------------------------------------------------------------------------
# From bytes to paragraphs and sentences
# --------------------------------------------------------------------------------------------------------------------

TITLE = re.compile(r"= [^=](.*[^=])? =")


def decode_piece(piece):
    path, offset, content, _ = piece
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {offset + error.start}; {CONVERT}") from None


def paragraphs(piece: Piece, style: str) -> Iterator[tuple[bool, str]]:
    """Yield (whether it begins a document, text with single blanks only) for each paragraph of a piece."""
    for number, text in enumerate(decode_piece(piece).split(FILE_END)):
        yield from (wiki_pages if style == "xml" else plain_paragraphs)(text, number > 0 or piece[3], style)


def plain_paragraphs(text, begins, style):
    for paragraph in re.split(r"\n\s*\n" if style == "book" else r"\n", text):
        paragraph = " ".join(paragraph.split())
        if paragraph:
            yield begins or (style == "wiki" and bool(TITLE.fullmatch(paragraph))), paragraph
            begins = style == "lines"
        elif style == "sentences":  # a blank line; what is behind the piece's last line end is none, and does no harm
            begins = True


def sentences_of(paragraph: str, style: str, language: str = "rules") -> list[str]:
    """The sentences of a paragraph, which is one itself where the ``style`` of its file is a sentence a line."""
    return [paragraph] if style == "sentences" else sentences(paragraph, language)


def link_text(link):
    """What a reader sees of [[page|text]]; nothing of pictures, categories and the same page in other languages."""
    hidden = re.match(r"\s*(?:(?i:image|file|media|category)|[a-z]{2,3}(?:-[a-z-]+)?|simple)\s*:", link[1])
    return " " if hidden else link[1].rpartition("|")[2]


ELEMENT = re.compile(r"<(ref|math|gallery|timeline|imagemap|hiero)\b[^<>]*>", re.IGNORECASE)
NESTED = 50  # templates and tables within each other, at most: each level is one more pass
MARKUP = [(re.compile(pattern, re.DOTALL | re.IGNORECASE | re.MULTILINE), replacement) for pattern, replacement in (
    (r"\{\{[^{}]*\}\}", " "),  # templates
    (r"\{\|(?:(?!\{\|).)*?\|\}", " "),  # tables
    (r"\[\w+://(?![\s\[\]])([^\[\]]*)\]", lambda link: re.sub(r"^\S+ ?", "", link[1])),  # [http://page text]
    (r"\[\[([^\[\]]*)\]\]", link_text),
    (r"</?[a-z][^<>]*>|'{2,}|={2,}|-{4,}|__[A-Z]+__", " "),
    (r"^[*#:;]+|^(?:[|!]|\{\|)[^\n]*$", " "),  # what begins an item of a list, what is left of tables
)]  # fmt: skip


def without(body, opening, closing):
    """``body`` without what stands between an opening and its closing, a pattern made from the opening's name.

    In linear time, as "<!--.*?-->" is not where a thousand comments begin and none ends.
    """
    kept, at, endless = [], 0, set()
    for begin in opening.finditer(body):
        name = begin[begin.re.groups].lower()
        if begin.start() >= at and name not in endless:
            end = re.compile(closing.format(name), re.IGNORECASE).search(body, begin.end())
            if end:
                kept.append(body[at : begin.start()])
                at = end.end()
            else:
                endless.add(name)
    return " ".join([*kept, body[at:]])


def wiki_pages(text, begins, _):
    """Paragraphs of EnWik9's pages without XML and wiki markup; a text that begins within a page goes on with it."""
    for number, page in enumerate(re.split(r"(?=<page>)", text)):
        begins = begins if number == 0 else True
        inside = re.search(r"<text(?![^<>]*/>)[^<>]*>(.*?)(?:</text>|$)", page, re.DOTALL)
        if inside:
            body = html.unescape(inside[1])
        else:  # the rest of a page that was cut in two
            body = "" if "<page>" in page or "<mediawiki" in page else html.unescape(page.partition("</text>")[0])
        if body.lstrip().upper().startswith("#REDIRECT"):
            continue
        body = re.sub(r"<ref\b[^<>]*/>", " ", without(body, re.compile("<!--"), "-->"), flags=re.IGNORECASE)
        body = without(body, ELEMENT, r"</{}\s*>")
        for pattern, replacement in MARKUP:
            for _ in range(NESTED):  # from the inside out: templates stand in templates
                body, count = pattern.subn(replacement, body)
                if not count:
                    break
        for line in html.unescape(body).split("\n"):
            line = " ".join(line.split())
            if line:
                yield begins, line
                begins = False
