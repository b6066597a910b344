"""Text to ids with character offsets, and back.

    tokenizer = train_tokenizer("sentencepiece", lines, vocab_size=30_000)    # or "basic_english"
    tokenizer = load_vocab("vocab.txt")                                       # or spiece.model, or bert_vocab.pt
    encoding = tokenizer.encode("Alice fell.")                                # .ids, .offsets; no special tokens
    ids = tokenizer.encode_ids("Alice fell.")                                 # the same ids, fast: for whole corpora
    tokenizer.decode(ids)

Three kinds share one mechanism. A text is cut at whitespace into chunks; a chunk is encoded by itself, which loses
nothing because no token of any kind crosses whitespace (a whole line through SentencePiece differs where two cuttings
are equally likely: 4 of 25,523 lines of books); and its result is remembered, because most chunks of a corpus
were seen before. Therefore the slow part may be plain Python, and a corpus still passes at several MB/s.

- "sentencepiece": a unigram model (Kudo 2018, arXiv:1804.10959), trained and applied by torchtext. Unigram and not
  BPE: 10 s instead of 8 s for 16 MB, but torchtext's BPE trainer crashes the process on some small corpora.
- "wordpiece": BERT's own (Devlin et al. 2018, arXiv:1810.04805) for a given vocab.txt; the ids are those of
  transformers' BertTokenizer. Plain Python, because torchtext's knows no offsets.
- "basic_english": the words of torchtext's tokenizer of that name, the most frequent ones kept.

Traps: what a user types never becomes a special token ("[MASK]" is three pieces), only the unknown one; a model's
vocabulary must work where torchtext cannot be installed, so torchtext is imported when SentencePiece first encodes.
"""

import functools
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import re
import tempfile
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from files import UserError, atomic_write, read_text

SPECIALS = ("<pad>", "<unk>", "<cls>", "<sep>", "<mask>")  # ids 0 to 4 of every vocabulary made here
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # wherever vocab.txt has them

MEMO_ENTRIES = 200_000  # 60 MB for ids, 80 MB more once offsets are asked for
MEMO_CHARACTERS = 100  # longer chunks do not come back
LONGEST_CHUNK = 10_000  # characters given to SentencePiece, or to one Unicode normalisation, at a time
LONGEST_WORD = 100  # BERT's WordPiece: a longer word is one unknown token
LONGEST_CLUSTER = 32  # a character and its marks; the normaliser's time grows with the square of this
CHUNK = re.compile(r"\S+")
# SentencePiece skips lines over 4192 bytes: 999 characters, ending at whitespace where there is any.
TRAINING_LINE = re.compile(r"\S.{0,998}(?!\S)|\S{1,999}", re.DOTALL)


@dataclass(slots=True)
class Encoding:
    """``ids[i]`` stands for ``text[start:end]`` where ``start, end = offsets[i]``.

    Starts never decrease, nor do ends, and no span is empty. Spans overlap where one character makes several tokens.
    """

    ids: list
    offsets: list


class Tokenizer:
    """One vocabulary and its rules.

    ``tokens`` holds the V token strings by id, ``specials`` the strings of padding, unknown, beginning, separator and
    mask among them. ``model`` is SentencePiece's file as bytes. ``clean`` counts for "sentencepiece" only: ALBERT's
    clean-up of the text comes first. ``lowercase`` counts for that, and for "wordpiece".
    """

    def __init__(self, kind, tokens, specials=SPECIALS, lowercase=True, model=b"", clean=False):
        self.kind, self.tokens, self.specials = kind, list(tokens), tuple(specials)
        self.lowercase, self.model, self.clean = lowercase, bytes(model), clean
        self.special_ids = [self.tokens.index(special) for special in self.specials]
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = self.special_ids
        index = {token: i for i, token in enumerate(self.tokens) if i not in self.special_ids}
        if kind == "sentencepiece":
            self._rules = _SentencePiece(index, self.unk_id, self.model, clean, lowercase)
        elif kind == "wordpiece":
            self._rules = _WordPiece(index, self.unk_id, lowercase)
        else:
            self._rules = _BasicEnglish(index, self.unk_id)
        self._encoded = _Memo(self._rules.encode)
        self._ids = _Memo(lambda chunk: self._rules.encode(chunk)[0])

    def __len__(self):
        return len(self.tokens)

    def __reduce__(self):  # so that worker processes can be handed one
        return Tokenizer.from_state, (self.state(),)

    def encode(self, text):
        """The ``Encoding`` of ``text``; offsets count characters of ``text`` itself, however it is normalised."""
        ids, offsets = [], []
        for chunk in CHUNK.finditer(self._rules.prepare(text)):
            at = chunk.start()
            chunk_ids, spans = self._encoded[chunk.group()]
            ids += chunk_ids
            offsets += [(at + start, at + end) for start, end in spans]
        return Encoding(ids, offsets)

    def encode_ids(self, text):
        """``encode(text).ids``, two to three times as fast."""
        chunks = self._rules.prepare(text).split()
        return list(itertools.chain.from_iterable(map(self._ids.__getitem__, chunks)))

    def decode(self, ids):
        """Readable text for a list, array or tensor of ids, without the special tokens (the unknown one included)."""
        ids = getattr(ids, "tolist", lambda: ids)()
        return "".join(self._rules.spell(self.tokens[i]) for i in ids if i not in self.special_ids).strip()

    @functools.cached_property
    def word_starts(self):
        """Boolean array (V,): True where the token begins a word, False where it continues one or is special."""
        starts = np.array([self._rules.spell(token).startswith(" ") for token in self.tokens], dtype=bool)
        starts[self.special_ids] = False
        return starts

    @functools.cached_property
    def fingerprint(self):
        """Short hash of all that determines ids: caches of ids carry it. Raise the number when a rule changes."""
        rules = json.dumps([1, self.kind, self.tokens, self.specials, self.lowercase] + ["clean"] * self.clean)
        return hashlib.sha256(rules.encode() + self.model).hexdigest()[:16]

    def state(self):
        """A dict of plain values and one tensor that ``torch.load(weights_only=True)`` accepts."""
        import torch

        model = torch.tensor(list(self.model), dtype=torch.uint8)
        return {"kind": self.kind, "tokens": list(self.tokens), "specials": list(self.specials),
                "lowercase": self.lowercase, "model": model, "clean": self.clean}  # fmt: skip

    @staticmethod
    def from_state(state):
        """The tokenizer whose ``state()`` this is; needs no torchtext. Raises UserError for anything else."""
        kinds = ("sentencepiece", "wordpiece", "basic_english")
        if not isinstance(state, dict) or state.get("kind") not in kinds:
            raise UserError("no tokenizer in this state: 'kind' must be one of " + ", ".join(kinds))
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


def _clusters(chunk):
    """(start, end) of each character together with its combining marks: what can be normalised by itself."""
    start = 0
    for i in range(1, len(chunk)):
        if not unicodedata.combining(chunk[i]) or i - start >= LONGEST_CLUSTER:
            yield start, i
            start = i
    yield start, len(chunk)


def _sources(chunk, normalised, normalise, clusters=_clusters):
    """Where in ``chunk`` the characters of ``normalised`` come from: their starts and their ends.

    The clusters are normalised one by one. Where that does not add up to what the whole chunk gave, every character
    comes from the whole chunk: a wide answer, never a wrong one.
    """
    if normalised == chunk:
        return range(len(chunk)), range(1, len(chunk) + 1)
    starts, ends, parts = [], [], []
    for start, end in clusters(chunk):
        parts.append(normalise(chunk[start:end]))
        starts += [start] * len(parts[-1])
        ends += [end] * len(parts[-1])
    if "".join(parts) == normalised:
        return starts, ends
    return [0] * len(normalised), [len(chunk)] * len(normalised)


# -- the kinds: prepare(text) keeps its length and makes whitespace of all that separates chunks; encode(chunk) gives
# -- ids and spans; spell(token) gives what the token adds to a text, a space first where it begins a word


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

    def encode(self, chunk):
        if chunk.isascii() and chunk.isprintable():
            words = self.ASCII_WORD.finditer(chunk.lower() if self.lowercase else chunk)
            starts, ends = range(len(chunk)), range(1, len(chunk) + 1)
        else:
            if len(chunk) <= LONGEST_CHUNK:
                normalised = self._normalise(chunk)
            else:  # in bounded time
                normalised = "".join(self.normal_form[chunk[start:end]] for start, end in _clusters(chunk))
            words = CHUNK.finditer(normalised)
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
    SURROGATE = re.compile("[\ud800-\udfff]")  # cannot be handed to C++

    QUOTES = re.compile("``|''")

    def __init__(self, index, unk_id, model, clean=False, lowercase=True):
        self.index, self.unk_id, self.model, self.clean, self.lowercase = index, unk_id, model, clean, lowercase
        self.normal_form = _Memo(lambda cluster: "".join(self._pieces(cluster)).removeprefix("▁"))

    @functools.cached_property
    def processor(self):
        try:
            return _torchtext().load_sp_model(io.BufferedReader(io.BytesIO(self.model)))
        except RuntimeError:
            raise UserError("the vocabulary's SentencePiece model is damaged; fetch it again") from None

    def prepare(self, text):
        return text if text.isascii() else self.SURROGATE.sub("\ufffd", text)

    def _pieces(self, text):
        return self._albert_pieces(text) if self.clean else self.processor.EncodeAsPieces(text)

    def _albert_pieces(self, text):
        """The pieces after ALBERT's clean-up (Lan et al.'s code): plain quotes, no accents, no capitals; a comma that a
        piece has behind a digit stands alone."""
        text = unicodedata.normalize("NFKD", self.QUOTES.sub('"', text))
        text = "".join(character for character in text if not unicodedata.combining(character))
        pieces = []
        for piece in self.processor.EncodeAsPieces(text.lower() if self.lowercase else text):
            if piece[-1] != "," or not piece[-2:-1].isdigit():
                pieces.append(piece)
                continue
            number = self.processor.EncodeAsPieces(piece[:-1].replace("▁", ""))
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


class _BasicEnglish:
    # torchtext drops double quotes, and then takes <br /> for a space: quotes may stand within either.
    BREAK = re.compile(r'<"*[Bb]"*[Rr]"* "*/"*>')
    WORD = re.compile(r"""[^\s'".,()!?;:]+(?:"+[^\s'".,()!?;:]+)*|['.,()!?]""")

    def __init__(self, index, unk_id):
        self.index, self.unk_id = index, unk_id

    def prepare(self, text):
        return self.BREAK.sub(lambda found: " " * len(found.group()), text) if "<" in text else text

    def words(self, text):
        return [word.replace('"', "") for word in self.WORD.findall(self.prepare(text).lower())]

    def encode(self, chunk):
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


# -- new vocabularies --------------------------------------------------------------------------------------------------


def train_tokenizer(kind, lines, vocab_size):
    """A tokenizer of at most ``vocab_size`` tokens, specials included, made from an iterator of text lines."""
    if kind == "sentencepiece":
        return train_sentencepiece(lines, vocab_size)
    if kind == "basic_english":
        return train_basic_english(lines, vocab_size)
    raise UserError(f"--tokenizer {kind}: cannot be trained here; add --vocab FILE, or take sentencepiece")


def _check_size(vocab_size):
    if vocab_size <= len(SPECIALS):
        raise UserError(f"--vocab-size {vocab_size}: {len(SPECIALS)} tokens are special; give more, such as 30000")


def train_basic_english(lines, vocab_size):
    """The most frequent words, most frequent first, equals in alphabetical order."""
    _check_size(vocab_size)
    rules, counts = _BasicEnglish({}, 0), Counter()
    for line in lines:
        counts.update(rules.words(line))
    for special in SPECIALS:  # WikiText writes <unk> for its unknown words: so be it
        counts.pop(special, None)
    words = sorted(counts, key=lambda word: (-counts[word], word))
    if not words:
        raise UserError("no word in the text to make a vocabulary from; check the data set")
    return Tokenizer("basic_english", [*SPECIALS, *words[: vocab_size - len(SPECIALS)]])


def train_sentencepiece(lines, vocab_size, sample_bytes=16 << 20):
    """A SentencePiece unigram model of the first ``sample_bytes`` of ``lines``.

    The same lines give the same model, byte for byte. A text whose words are too few for ``vocab_size`` gets a BPE model
    of what it can fill: unigram's candidates are the strings that two different words share, so that there the
    most frequent words would fall to pieces.
    """
    _check_size(vocab_size)
    generate = _torchtext().generate_sp_model
    size = vocab_size - len(SPECIALS) + 3  # torchtext counts <unk>, <s> and </s>, which ours replace
    with tempfile.TemporaryDirectory() as folder:
        if re.search(r"[\s,]", folder):
            raise UserError(f"{folder}: SentencePiece takes no path with blanks or commas; set TMPDIR to another")
        sample, prefix = os.path.join(folder, "sample.txt"), os.path.join(folder, "trained")
        _write_sample(lines, sample, sample_bytes)
        algorithm = "unigram"
        while True:
            failure = _in_a_process(generate, sample, size, algorithm, prefix)
            if not failure:
                break
            least = re.search(r"smaller than required_chars\. \d+ vs (\d+)", failure)
            if least:
                need = f"the text's characters alone need {int(least[1]) - 3 + len(SPECIALS)}; raise it"
                raise UserError(f"--vocab-size {vocab_size}: {need}")
            most = re.search(r"too high.*<= (\d+)", failure)
            if not most or int(most[1]) >= size:
                raise UserError(f"SentencePiece cannot make a vocabulary of this text ({failure}); try another "
                                "--vocab-size, or --tokenizer basic_english")  # fmt: skip
            if algorithm == "unigram":
                algorithm = "bpe"
            else:
                size = int(most[1])
        model = Path(prefix + ".model").read_bytes()
    # Field 2, how it was trained, holds temporary names that make every model differ: only the algorithm is kept.
    trained = b"\x12\x02\x18" + (b"\x01" if algorithm == "unigram" else b"\x02")
    return sentencepiece(b"".join(trained if number == 2 else field for number, _, field in _fields(model)))


def _write_sample(lines, path, sample_bytes):
    """The first ``sample_bytes`` of ``lines``, cut to what the trainer does not skip."""
    written, any_letter, seen = 0, False, set()
    with open(path, "wb") as stream:
        for line in lines:
            any_letter = any_letter or any(map(str.isalnum, line))
            for part in TRAINING_LINE.findall(line):
                if len(part) == 999:  # of a text without blanks, that may repeat itself, which takes the trainer minutes
                    if part in seen:
                        continue
                    seen.add(part)
                written += stream.write(part.encode("utf-8", "replace") + b"\n")
            if written >= sample_bytes:
                break
    if not any_letter:  # the trainer would end the process
        raise UserError("no word in the text to make a vocabulary from; check the data set")


def _in_a_process(function, *arguments):
    """Call a function of C++ that talks on stderr, and that some texts make crash. Gives why it failed, or ""."""

    def call():
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            function(*arguments)
        except RuntimeError as error:
            sender.send(" ".join(str(error).split()))

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=call)
    process.start()
    sender.close()
    try:
        failure = receiver.recv()
    except EOFError:  # it said nothing: all went well, or it is dead
        failure = ""
    process.join()
    return failure or (f"it ended with exit code {process.exitcode}" if process.exitcode else "")


def _torchtext():
    """torchtext.data.functional, or the one line that says what to install."""
    try:
        import torchtext

        torchtext.disable_torchtext_deprecation_warning()
        from torchtext.data import functional
    except (ImportError, OSError, AttributeError, RuntimeError) as error:  # its compiled part fits one torch only
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:80]
        raise UserError(
            f"SentencePiece needs torchtext to read raw text, and it cannot be imported ({reason}); pip install "
            'torch==2.3.1 torchtext==0.18.0 "numpy<2" under Python 3.10 to 3.12, or use a prepared cache'
        ) from None
    return functional


# -- given vocabularies ------------------------------------------------------------------------------------------------


def load_vocab(path, lowercase=True):
    """The tokenizer in ``--vocab FILE``: a vocab.txt, a SentencePiece model, or a file that ``save_vocab`` wrote."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if data.startswith((b"PK\x03\x04", b"\x80")):  # torch.save, new and old
        from checkpoint import read_torch  # not above: checkpoint.py imports this module

        try:
            return Tokenizer.from_state(read_torch(path, "give a vocabulary"))
        except Exception:  # whatever a broken or foreign file provokes; its pickled objects are never made
            raise UserError(f"{path}: not a vocabulary that --save-vocab wrote; give that, or a vocab.txt") from None
    if Path(path).suffix == ".model" or (data.startswith(b"\n") and b"\xe2\x96\x81" in data):
        try:
            return sentencepiece(data)
        except ValueError:
            raise UserError(f"{path}: not a whole SentencePiece model; fetch it again") from None
    return wordpiece(path, lowercase)


def save_vocab(tokenizer, path):
    """Write ``tokenizer`` so that ``load_vocab`` reads it back."""
    import torch

    with atomic_write(path) as stream:
        torch.save(tokenizer.state(), stream)


def wordpiece(vocab_path, lowercase=True, specials=BERT_SPECIALS):
    """BERT's tokenizer for a vocab.txt, one token a line, UTF-8. Raises UserError where the file is no such thing."""
    text = read_text(vocab_path).replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    tokens = text.split("\n")
    missing = [special for special in specials if special not in tokens]
    if not text or missing:
        what = f"lacks {' '.join(missing)}" if text else "empty file"
        raise UserError(f"{vocab_path}: {what}; give the vocab.txt of a BERT model, one token a line")
    first_line = {}
    for number, token in enumerate(tokens, start=1):
        if first_line.setdefault(token, number) != number:
            raise UserError(f"{vocab_path}: line {number} repeats line {first_line[token]} ({token!r}); remove one")
    return Tokenizer("wordpiece", tokens, specials, lowercase)


def sentencepiece(model):
    """The tokenizer for a SentencePiece model file's bytes; its own special pieces make room for ours.

    Raises ValueError where the bytes are something else.
    """
    # types: 1 normal, 4 user-defined, 6 byte; left out: 2 unknown, 3 control, 5 unused
    tokens = [text for text, kind in sentencepiece_pieces(model) if kind in (1, 4, 6)]
    if not tokens:
        raise ValueError("no pieces")
    return Tokenizer("sentencepiece", [*SPECIALS, *tokens], model=model)


def sentencepiece_as_it_is(model, specials, clean, lowercase):
    """The tokenizer for a SentencePiece model that holds its own special pieces, under the file's own ids.

    Raises ValueError where it does not, or the bytes are something else.
    """
    tokens = [text for text, _ in sentencepiece_pieces(model)]
    return Tokenizer("sentencepiece", tokens, specials, lowercase, model, clean)


def sentencepiece_pieces(model):
    """[(text, type)] of a SentencePiece model. Raises ValueError where the bytes are something else."""
    try:
        fields = [(number, value) for number, value, _ in _fields(model)]
        pieces = [{key: part for key, part, _ in _fields(value)} for number, value in fields if number == 1]
        pieces = [(piece[1].decode(), piece.get(3, 1)) for piece in pieces]
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("no SentencePiece model") from error
    if not pieces or 3 not in dict(fields):  # the normaliser comes last: without it the file was cut off
        raise ValueError("no pieces, or no end")
    return pieces


def sentencepiece_with_specials(tokenizer):
    """A SentencePiece model file in which the pieces have the ids that they have in ``tokenizer``, specials included."""

    def field(number, value):
        return bytes([number << 3 | 2]) + _as_varint(len(value)) + value

    if [text for text, _ in sentencepiece_pieces(tokenizer.model)] == tokenizer.tokens:
        return tokenizer.model
    specials = [field(1, field(1, text.encode()) + bytes([3 << 3, 2 if i == tokenizer.unk_id else 3]))
                for i, text in enumerate(tokenizer.specials)]  # fmt: skip
    rest = [raw for number, value, raw in _fields(tokenizer.model)
            if number != 1 or {key: part for key, part, _ in _fields(value)}.get(3, 1) in (1, 4, 6)]  # fmt: skip
    return b"".join([*specials, *rest])


# A SentencePiece file is a protocol buffer (sentencepiece_model.proto): field 1, repeated: a piece (1 text, 2 score,
# 3 type); field 2: how it was trained; field 3: the normaliser.


def _fields(message):
    """(number, value, the field's own bytes) of each field of a protocol buffer's message."""
    at = 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
        else:
            size, at = _varint(message, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
            value, at = message[at : at + size], at + size
        if at > len(message):
            raise ValueError("cut off")
        yield key >> 3, value, message[start:at]


def _as_varint(value):
    parts = []
    while value >= 128:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _varint(message, at):
    """A number of seven bits a byte, lowest first, and the place after it."""
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
