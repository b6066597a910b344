"""Text to ids with character offsets, and back.

    tokenizer = train_tokenizer("sentencepiece", lines, vocab_size=30_000)    # or "basic_english"
    tokenizer = load_vocab("vocab.txt")                                       # or spiece.model, or bert_vocab.pt
    encoding = tokenizer.encode("Alice fell.")                                # .ids, .offsets; no special tokens
    ids = tokenizer.encode_ids("Alice fell.")                                 # the same ids, fast: for whole corpora
    tokenizer.decode(ids)


Its kinds share one mechanism. A text is cut at whitespace into chunks; a chunk is encoded by itself, which loses
nothing because no token of any kind crosses whitespace (a whole line through SentencePiece differs where two cuttings
are equally likely: 4 of 25,523 lines of books); and its result is remembered, because most chunks of a corpus
were seen before. Therefore the slow part may be plain Python, and a corpus still passes at several MB/s.

- "sentencepiece": a unigram model (Kudo 2018, arXiv:1804.10959), trained and applied in text/subwords.py. Unigram and
  not BPE: 10 s instead of 8 s for 16 MB, but torchtext's BPE trainer crashes the process on some small corpora.
- "wordpiece": BERT's own (Devlin et al. 2018, arXiv:1810.04805) for a given vocab.txt; the ids are those of
  transformers' BertTokenizer. Plain Python, because torchtext's knows no offsets.
- "basic_english": the words of torchtext's tokenizer of that name, the most frequent ones kept.
- "json": what a tokenizer.json says, by the library tokenizers, as RoBERTa's vocabularies need it; text/by_library.py.

Traps: what a user types never becomes a special token ("[MASK]" is three pieces), only the unknown one; a model's
vocabulary must work where no library for SentencePiece is, so that is imported when SentencePiece first encodes.
"""

import functools
import hashlib
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from files.mistakes import UserError
from text import subwords
from text.by_library import ByLibrary

SPECIALS = ("<pad>", "<unk>", "<cls>", "<sep>", "<mask>")  # ids 0 to 4 of every vocabulary made here
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # wherever vocab.txt has them
RULES = {"sentencepiece": 1, "wordpiece": 1, "basic_english": 1, "json": 2}  # the kinds, and the version of their rules

MEMO_ENTRIES = 200_000  # 60 MB for ids, 80 MB more once offsets are asked for
MEMO_CHARACTERS = 100  # longer chunks do not come back
LONGEST_CHUNK = 10_000  # characters given to SentencePiece, or to one Unicode normalisation, at a time
LONGEST_WORD = 100  # BERT's WordPiece: a longer word is one unknown token
LONGEST_CLUSTER = 32  # a character and its marks; the normaliser's time grows with the square of this
CHUNK = re.compile(r"\S+")


@dataclass(slots=True)
class Encoding:
    """``ids[i]`` stands for ``text[start:end]`` where ``start, end = offsets[i]``.

    Starts never decrease, nor do ends, and no span is empty. Spans overlap where one character makes several tokens.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer:
    """One vocabulary and its rules.

    ``tokens`` holds the V token strings by id, ``specials`` the strings of padding, unknown, beginning, separator and
    mask among them. ``model`` is the bytes of SentencePiece's file or of tokenizer.json. ``clean`` counts for
    "sentencepiece" only: ALBERT's clean-up of the text comes first. ``lowercase`` counts for that, and for "wordpiece".
    """

    def __init__(
        self, kind: str, tokens: Iterable[str], specials: Iterable[str] = SPECIALS, lowercase: bool = True,
        model: bytes = b"", clean: bool = False,
    ):  # fmt: skip
        self.kind, self.tokens, self.specials = kind, list(tokens), tuple(specials)
        self.lowercase, self.model, self.clean = lowercase, bytes(model), clean
        self.special_ids = [self.tokens.index(special) for special in self.specials]
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = self.special_ids
        index = {token: i for i, token in enumerate(self.tokens) if i not in self.special_ids}
        self._rules: _SentencePiece | _WordPiece | BasicEnglish | ByLibrary
        if kind == "sentencepiece":
            self._rules = _SentencePiece(index, self.unk_id, self.model, clean, lowercase)
        elif kind == "wordpiece":
            self._rules = _WordPiece(index, self.unk_id, lowercase)
        elif kind == "json":
            self._rules = ByLibrary(index, self.unk_id, self.model)
        else:
            self._rules = BasicEnglish(index, self.unk_id)
        self._encoded = _Memo(self._rules.encode)
        self._ids = _Memo(self._rules.ids)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def about(self) -> str:
        """What it is in words: "cased wordpiece"."""
        case = {True: "uncased ", False: "cased "}[self.lowercase] if self.kind == "wordpiece" else ""
        return case + self.kind

    def __reduce__(self):  # so that worker processes can be handed one
        return Tokenizer.from_state, (self.state(),)

    def encode(self, text: str) -> Encoding:
        """The ``Encoding`` of ``text``; offsets count characters of ``text`` itself, however it is normalised."""
        ids, offsets = [], []
        for chunk in CHUNK.finditer(self._rules.prepare(text)):
            at = chunk.start()
            chunk_ids, spans = self._encoded[chunk.group()]
            ids += chunk_ids
            offsets += [(at + start, at + end) for start, end in spans]
        return Encoding(ids, offsets)

    def encode_ids(self, text: str) -> list[int]:
        """``encode(text).ids``, two to three times as fast."""
        chunks = self._rules.prepare(text).split()
        return list(itertools.chain.from_iterable(map(self._ids.__getitem__, chunks)))

    def decode(self, ids: Any) -> str:
        """Readable text for a list, array or tensor of ids, without the special tokens (the unknown one included)."""
        ids = getattr(ids, "tolist", lambda: ids)()
        tokens = [self.tokens[i] for i in ids if i not in self.special_ids]
        if isinstance(self._rules, ByLibrary):
            return self._rules.join(tokens).strip()
        return "".join(map(self._rules.spell, tokens)).strip()

    @functools.cached_property
    def word_starts(self) -> np.ndarray:
        """Boolean array (V,): True where the token begins a word, False where it continues one or is special."""
        starts = np.array([self._rules.spell(token).startswith(" ") for token in self.tokens], dtype=bool)
        starts[self.special_ids] = False
        return starts

    @functools.cached_property
    def fingerprint(self) -> str:
        """Short hash of all that determines ids: caches of ids carry it. When a rule changes, raise its number in RULES."""
        rules = [RULES[self.kind], self.kind, self.tokens, self.specials, self.lowercase] + ["clean"] * self.clean
        return hashlib.sha256(json.dumps(rules).encode() + self.model).hexdigest()[:16]

    def state(self) -> dict[str, Any]:
        """A dict of plain values and one tensor that ``torch.load(weights_only=True)`` accepts."""
        import torch  # here for start-up time

        model = torch.tensor(list(self.model), dtype=torch.uint8)
        return {"kind": self.kind, "tokens": list(self.tokens), "specials": list(self.specials),
                "lowercase": self.lowercase, "model": model, "clean": self.clean}  # fmt: skip

    @staticmethod
    def from_state(state: Any) -> "Tokenizer":
        """The tokenizer whose ``state()`` this is; needs no SentencePiece. Raises UserError for anything else."""
        if not isinstance(state, dict) or state.get("kind") not in tuple(RULES):
            raise UserError("no tokenizer in this state: 'kind' must be one of " + ", ".join(RULES))
        try:
            tokens, specials, clean = state["tokens"], state["specials"], state.get("clean", False)  # newer than some files
            for part in (tokens, specials):
                if not isinstance(part, list):
                    raise TypeError("not a list of words")
                "".join(part).encode()  # raises where one is no text, or holds half a character
            if len(specials) != len(SPECIALS) or not isinstance(state["lowercase"], bool) or not isinstance(clean, bool):
                raise ValueError("settings that no tokenizer has")
            model = bytes(state["model"].tolist())
            return Tokenizer(state["kind"], tokens, specials, state["lowercase"], model, clean)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"broken tokenizer state ({error!r}); save it again") from None


# -- what the kinds share ----------------------------------------------------------------------------------------------


class _Memo(dict):
    """chunk -> function(chunk), computed when first asked for; emptied when full, so that memory stays bounded."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def __missing__(self, chunk):
        value = self.function(chunk)
        if len(chunk) <= MEMO_CHARACTERS:
            if len(self) >= MEMO_ENTRIES:
                self.clear()
            self[chunk] = value
        return value


HALF_WIDTH_MARKS = "\uff9e\uff9f"  # of kana: no combining characters, but joined with the letter before them all the same


def _clusters(chunk):
    """(start, end) of each character together with its combining marks: what can be normalised by itself."""
    start = 0
    for i in range(1, len(chunk)):
        if not (unicodedata.combining(chunk[i]) or chunk[i] in HALF_WIDTH_MARKS) or i - start >= LONGEST_CLUSTER:
            yield start, i
            start = i
    yield start, len(chunk)


def _sources(chunk, normalised, normalise, clusters=_clusters):
    """Where in ``chunk`` the characters of ``normalised`` come from: their starts and their ends.

    The clusters are normalised one by one. Where that does not add up to what the whole chunk gave, as where it makes a
    blank of a character ("▁"), each half is looked at by itself; and where nothing adds up, every character comes from all
    of it: a wide answer, never a wrong one.
    """
    if normalised == chunk:
        return range(len(chunk)), range(1, len(chunk) + 1)
    places = list(clusters(chunk))
    parts = [normalise(chunk[start:end]) for start, end in places]
    if "".join(parts) == normalised:
        return tuple([place[side] for place, part in zip(places, parts, strict=True) for _ in part] for side in (0, 1))
    cut = places[len(places) // 2][0]
    halves = [normalise(chunk[:cut]), normalise(chunk[cut:])] if cut else []
    for blank in ("", "▁") if cut else ():
        if blank.join(halves) == normalised:
            (starts, ends), (further, last) = (_sources(half, text, normalise, clusters)
                                               for half, text in zip((chunk[:cut], chunk[cut:]), halves, strict=True))
            further, last = ([cut + at for at in side] for side in (further, last))
            of_blank = (further[:1] or [cut]) * len(blank), (last[:1] or [len(chunk)]) * len(blank)
            return [*starts, *of_blank[0], *further], [*ends, *of_blank[1], *last]
    return [0] * len(normalised), [len(chunk)] * len(normalised)


# -- the kinds: prepare(text) keeps its length and makes whitespace of all that separates chunks; encode(chunk) gives
# -- ids and spans, ids(chunk) the ids alone, which is less work; spell(token) gives what the token adds to a text, a
# -- space first where it begins a word


class _WordPiece:
    # Python splits at these, but BERT drops them, as it drops U+FFFD.
    NOT_A_SPACE = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
    ASCII_WORD = re.compile(r"[0-9A-Za-z]+|[!-~]")
    # The blocks that Unicode calls CJK unified ideographs, as far as BERT knows them, and their compatibility forms.
    IDEOGRAPHS = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
                  (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))  # fmt: skip

    def __init__(self, index, unk_id, lowercase):
        self.index, self.unk_id, self.lowercase = index, unk_id, lowercase
        self.longest = max(map(len, index), default=0)
        self.clean, self.finish = functools.cache(self._clean), functools.cache(self._finish)
        self.normal_form = _Memo(self._normalise)

    def _clean(self, character):
        if character == "\ufffd" or unicodedata.category(character)[0] == "C":  # controls, surrogates, unassigned
            return ""
        if any(first <= ord(character) <= last for first, last in self.IDEOGRAPHS):
            return f" {character} "
        return character

    def _finish(self, character):
        category = unicodedata.category(character)
        if category == "Mn" and self.lowercase:  # accents go with the capitals
            return ""
        if category[0] == "P" or (character.isascii() and not character.isalnum() and not character.isspace()):
            return f" {character} "
        return character

    def _normalise(self, chunk):
        """BERT's basic tokenisation: ``chunk`` as words with spaces between them."""
        if self.lowercase:  # character by character as in transformers: no final sigma
            chunk = chunk.replace("\u03a3", "\u03c3").lower()
        chunk = unicodedata.normalize("NFC", "".join(map(self.clean, chunk)))
        if self.lowercase:
            chunk = unicodedata.normalize("NFD", chunk)
        return "".join(map(self.finish, chunk))

    def _pieces(self, word):
        """[(id, characters)]: the longest piece first, again and again; the whole word unknown where none fits."""
        if len(word) > LONGEST_WORD:
            return [(self.unk_id, len(word))]
        pieces, start, prefix = [], 0, ""
        while start < len(word):
            for end in range(min(len(word), start + self.longest), start, -1):
                piece = self.index.get(prefix + word[start:end])
                if piece is not None:
                    break
            else:
                return [(self.unk_id, len(word))]
            pieces.append((piece, end - start))
            start, prefix = end, "##"
        return pieces

    def prepare(self, text):
        return self.NOT_A_SPACE.sub("\ufffd", text)

    def _words(self, chunk):
        """``chunk`` in a form whose ids are its own, and the words of that form."""
        if chunk.isascii() and chunk.isprintable():
            normalised = chunk.lower() if self.lowercase else chunk
            return normalised, self.ASCII_WORD.finditer(normalised)
        if len(chunk) <= LONGEST_CHUNK:
            normalised = self._normalise(chunk)
        else:  # in bounded time
            normalised = "".join(self.normal_form[chunk[start:end]] for start, end in _clusters(chunk))
        return normalised, CHUNK.finditer(normalised)

    def ids(self, chunk):
        return [piece for word in self._words(chunk)[1] for piece, _ in self._pieces(word.group())]

    def encode(self, chunk):
        normalised, words = self._words(chunk)
        if chunk.isascii() and chunk.isprintable():
            starts, ends = range(len(chunk)), range(1, len(chunk) + 1)
        else:
            starts, ends = _sources(chunk, normalised, self.normal_form.__getitem__)
        ids, spans = [], []
        for word in words:
            at = word.start()
            for piece, length in self._pieces(word.group()):
                ids.append(piece)
                spans.append((starts[at], ends[at + length - 1]))
                at += length
        return ids, spans

    def spell(self, token):
        return token[2:] if token.startswith("##") else " " + token


class _SentencePiece:
    QUOTES = re.compile("``|''")

    def __init__(self, index, unk_id, model, clean=False, lowercase=True):
        self.index, self.unk_id, self.model, self.clean, self.lowercase = index, unk_id, model, clean, lowercase
        self.normal_form = _Memo(lambda cluster: "".join(self._pieces(cluster)).removeprefix("▁"))

    @functools.cached_property
    def cut(self):
        return subwords.encoder(self.model)

    def prepare(self, text):
        return subwords.without_surrogates(text)

    def _pieces(self, text):
        return self._albert_pieces(text) if self.clean else self.cut(text)

    def _albert_pieces(self, text):
        """The pieces after ALBERT's clean-up (Lan et al.'s code): plain quotes, no accents, no capitals; a comma that a
        piece has behind a digit stands alone."""
        text = unicodedata.normalize("NFKD", self.QUOTES.sub('"', text))
        text = "".join(character for character in text if not unicodedata.combining(character))
        pieces = []
        for piece in self.cut(text.lower() if self.lowercase else text):
            if piece[-1] != "," or not piece[-2:-1].isdigit():
                pieces.append(piece)
                continue
            number = self.cut(piece[:-1].replace("▁", ""))
            if number and not piece.startswith("▁"):
                number[0] = number[0].removeprefix("▁")
            pieces += [*filter(None, number), ","]
        return pieces

    def _clusters(self, chunk):
        """As the function of this name, but a quote of two characters stays in one piece."""
        start = 0
        for quote in self.QUOTES.finditer(chunk if self.clean else ""):
            yield from ((start + a, start + b) for a, b in _clusters(chunk[start : quote.start()]))
            yield quote.span()
            start = quote.end()
        yield from ((start + a, start + b) for a, b in _clusters(chunk[start:]))

    def ids(self, chunk):
        parts = (chunk[base : base + LONGEST_CHUNK] for base in range(0, len(chunk), LONGEST_CHUNK))
        return [self.index.get(piece, self.unk_id) for part in parts for piece in self._pieces(part)]

    def encode(self, chunk):
        ids, spans = [], []
        for base in range(0, len(chunk), LONGEST_CHUNK):
            part = chunk[base : base + LONGEST_CHUNK]
            pieces = self._pieces(part)  # an unknown piece comes as its text
            ids += [self.index.get(piece, self.unk_id) for piece in pieces]
            normalised = "".join(pieces)
            bare = normalised.removeprefix("▁")
            starts, ends = _sources(part, bare, self.normal_form.__getitem__, self._clusters)
            if normalised.startswith("▁"):  # stands for the whitespace before; its span is the first letter
                starts, ends = [*(starts[:1] or [0]), *starts], [*(ends[:1] or [len(part)]), *ends]
            borders = itertools.pairwise(itertools.accumulate(map(len, pieces), initial=0))
            spans += [(base + starts[first], base + ends[last - 1]) for first, last in borders]
        return ids, spans

    def spell(self, token):
        return token.replace("▁", " ")


class BasicEnglish:
    """torchtext's basic_english: lower case, words at blanks, some marks apart; with the places of the words."""

    # torchtext drops double quotes, and then takes <br /> for a space: quotes may stand within either.
    BREAK = re.compile(r'<"*[Bb]"*[Rr]"* "*/"*>')
    WORD = re.compile(r"""[^\s'".,()!?;:]+(?:"+[^\s'".,()!?;:]+)*|['.,()!?]""")

    def __init__(self, index: dict[str, int], unk_id: int):
        self.index, self.unk_id = index, unk_id

    def prepare(self, text):
        return self.BREAK.sub(lambda found: " " * len(found.group()), text) if "<" in text else text

    def words(self, text: str) -> list[str]:
        return [word.replace('"', "") for word in self.WORD.findall(self.prepare(text).lower())]

    def ids(self, chunk: str) -> list[int]:
        return self.encode(chunk)[0]

    def encode(self, chunk: str) -> tuple[list[int], list[tuple[int, int]]]:
        lowered = chunk.lower()
        if len(lowered) == len(chunk):
            starts, ends = range(len(chunk)), range(1, len(chunk) + 1)
        else:  # one capital, the Turkish dotted I, becomes two characters
            starts, ends = _sources(chunk, lowered, str.lower)
        ids, spans = [], []
        for word in self.WORD.finditer(lowered):
            ids.append(self.index.get(word.group().replace('"', ""), self.unk_id))
            spans.append((starts[word.start()], ends[word.end() - 1]))
        return ids, spans

    def spell(self, token):
        return " " + token
