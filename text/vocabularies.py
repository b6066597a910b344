"""Vocabularies: trained on a text, read from a file, written to one.

    tokenizer = train_tokenizer("sentencepiece", lines, vocab_size=30_000)    # or "basic_english"
    tokenizer = load_vocab("vocab.txt")                                       # or spiece.model, or bert_vocab.pt
    save_vocab(tokenizer, "bert_vocab.pt")
"""

import multiprocessing
import os
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from files.command_line import positive
from files.mistakes import UserError
from files.reading import read_text
from files.writing import atomic_write
from text import subwords
from text.cache import processes
from text.piece_models import as_varint, fields_of, sentencepiece_pieces
from text.tokenizer import BERT_SPECIALS, SPECIALS, BasicEnglish, Tokenizer

VOCABULARY_FLAGS: list[tuple[str, str, dict[str, Any]]] = [  # of all that may make one: name, help, what argparse takes
    ("tokenizer", "kind of a new vocabulary", {"choices": ["sentencepiece", "wordpiece", "basic_english"]}),
    ("vocab", "a given vocabulary: vocab.txt, or a file of --save-vocab", {}),
    ("lowercase", "read capitals as small letters for a vocab.txt? auto: where it has none (BERT's do_lower_case)",
     {"choices": ["auto", "yes", "no"], "default": "auto"}),
    ("vocab-size", "size of a vocabulary to train (default: 1024 for Sample, else 8192)", {"type": positive(int)}),
]  # fmt: skip

# SentencePiece skips lines over 4192 bytes: 999 characters, ending at whitespace where there is any.
TRAINING_LINE = re.compile(r"\S.{0,998}(?!\S)|\S{1,999}", re.DOTALL)
COPIES = 50_000  # 10,000 times "Yes.": more of one line tells nothing new
NO_WORD = re.compile(r"\[.+\]|<.+>")


# -- new vocabularies --------------------------------------------------------------------------------------------------


def train_tokenizer(kind: str, lines: Iterable[str], vocab_size: int) -> Tokenizer:
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
    rules, counts = BasicEnglish({}, 0), Counter()
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
    subwords.library()  # raises UserError where there is none
    size = vocab_size - len(SPECIALS) + 3  # the trainer counts <unk>, <s> and </s>, which ours replace
    with tempfile.TemporaryDirectory() as folder:
        if re.search(r"[\s,]", folder):
            raise UserError(f"{folder}: SentencePiece takes no path with blanks or commas; set TMPDIR to another")
        sample, prefix = os.path.join(folder, "sample.txt"), os.path.join(folder, "trained")
        _write_sample(lines, sample, sample_bytes)
        algorithm = "unigram"
        while True:
            failure = _in_a_process(subwords.train, sample, size, algorithm, prefix)
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
    return sentencepiece(b"".join(trained if number == 2 else field for number, _, field in fields_of(model)))


def _write_sample(lines, path, sample_bytes):
    """The first ``sample_bytes`` of ``lines``, cut to what the trainer does not skip.

    What stands twice takes torchtext's trainer its length times as long as what stands once, and minutes for a book. So
    the parts come shuffled, which tells one copy's order from the other's; and of those that are the same COPIES letters.
    """
    parts, size, any_letter, seen = [], 0, False, Counter()  # letters
    for line in lines:
        any_letter = any_letter or any(map(str.isalnum, line))
        for part in TRAINING_LINE.findall(line):
            repeats = len(part) > 900 and len(_strings_of(part[:256])) < 200  # then the same wherever a line was cut
            same = hash(_strings_of(part) if repeats else part)
            if seen[same] > (0 if repeats else COPIES):
                continue
            seen[same] += len(part)
            parts.append(part.encode("utf-8", "replace") + b"\n")
            size += len(parts[-1])
        if size >= sample_bytes:
            break
    if not any_letter:  # the trainer would end the process
        raise UserError("no word in the text to make a vocabulary from; check the data set")
    random.Random(0).shuffle(parts)
    with open(path, "wb") as stream:
        stream.writelines(parts)


def _strings_of(text):
    """All strings of eight letters in ``text``."""
    return frozenset(text[at : at + 8] for at in range(len(text) - 7))


def _in_a_process(function, *arguments):
    """Call a function of C++ that talks on stderr, and that some texts make crash. Gives why it failed, or ""."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = processes().Process(target=_call, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        failure = receiver.recv()
    except EOFError:  # it said nothing: all went well, or it is dead
        failure = ""
    process.join()
    return failure or (f"it ended with exit code {process.exitcode}" if process.exitcode else "")


def _call(sender, function, arguments):
    nowhere = os.open(os.devnull, os.O_RDWR)
    # Nothing that was open stays so, for a lock among it would outlive a run that is killed. Nor are their numbers free:
    # whoever had one might close it, when it is the vocabulary's.
    inherited = {int(number) for number in os.listdir("/proc/self/fd")} if os.path.exists("/proc/self/fd") else {1, 2}
    for number in inherited - {0, nowhere, sender.fileno()}:
        os.dup2(nowhere, number)
    try:
        function(*arguments)
    except RuntimeError as error:
        sender.send(" ".join(str(error).split()))


# -- given vocabularies ------------------------------------------------------------------------------------------------


def load_vocab(path: str | Path, lowercase: bool | None = None) -> Tokenizer:
    """The tokenizer in ``--vocab FILE``: a vocab.txt, a SentencePiece model, or a file that ``save_vocab`` wrote.

    ``lowercase`` is a vocab.txt's alone to be told, None leaving it to ``is_lowercase``; the others say it themselves.
    Raises UserError where the file is absent or none of these, or ``lowercase`` is not its to be told.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    saved = data.startswith((b"PK\x03\x04", b"\x80"))  # by torch.save, new and old
    trained = Path(path).suffix == ".model" or (data.startswith(b"\n") and b"\xe2\x96\x81" in data)
    if lowercase is not None and (saved or trained):
        raise says_itself("yes" if lowercase else "no", path)
    if saved:
        from files.torch_zip import read_torch  # here for start-up time, as torch below

        try:
            return Tokenizer.from_state(read_torch(path, "give a vocabulary"))
        except Exception:  # whatever a broken or foreign file provokes; its pickled objects are never made
            raise UserError(f"{path}: not a vocabulary that --save-vocab wrote; give that, or a vocab.txt") from None
    if trained:
        try:
            return sentencepiece(data)
        except ValueError:
            raise UserError(f"{path}: not a whole SentencePiece model; fetch it again") from None
    return wordpiece(path, lowercase)


def says_itself(lowercase: str, path: str | Path) -> UserError:
    """The mistake of a --lowercase beside a file whose vocabulary settles it."""
    return UserError(f"--lowercase {lowercase}: is for a vocab.txt, and {path} says itself what becomes of capitals; leave "
                     "the flag out")  # fmt: skip


def save_vocab(tokenizer: Tokenizer, path: str | Path) -> None:
    """Write ``tokenizer`` so that ``load_vocab`` reads it back."""
    import torch  # here for start-up time

    with atomic_write(path) as stream:
        torch.save(tokenizer.state(), stream)


def wordpiece(
    vocab_path: str | Path, lowercase: bool | None = None, specials: tuple[str, ...] = BERT_SPECIALS
) -> Tokenizer:
    """BERT's tokenizer for a vocab.txt, one token a line, UTF-8. Raises UserError where the file is no such thing.

    Where ``lowercase`` is None, the vocabulary tells.
    """
    text = read_text(vocab_path).replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    tokens = text.split("\n")
    missing = [special for special in specials if special not in tokens]
    if not text or missing:
        what = f"lacks {' '.join(missing)}" if text else "empty file"
        raise UserError(f"{vocab_path}: {what}; give the vocab.txt of a BERT model, one token a line, "
                        "or, of a model's folder, name its own in tokenizer_config.json (pad_token, unk_token, cls_token, "
                        "sep_token, mask_token)")  # fmt: skip
    first_line: dict[str, int] = {}
    for number, token in enumerate(tokens, start=1):
        if first_line.setdefault(token, number) != number:
            raise UserError(f"{vocab_path}: line {number} repeats line {first_line[token]} ({token!r}); write a "
                            "word that stands nowhere in place of the earlier, for lines count")  # fmt: skip
    return Tokenizer("wordpiece", tokens, specials, is_lowercase(tokens) if lowercase is None else lowercase)


def is_lowercase(tokens: Iterable[str]) -> bool:
    """Was a vocabulary made of a text without capitals? [CLS], <s> and their like tell nothing of that.

    Of the tokens whose script has capitals, one in a hundred may have one by accident: in a cased vocabulary it is one in
    four, and in that of a script without capitals one in two of its few Latin letters.
    """
    words = [token for token in tokens if token.lower() != token.upper() and not NO_WORD.fullmatch(token)]
    return sum(word != word.lower() for word in words) <= len(words) // 100


def sentencepiece(model):
    """The tokenizer for a SentencePiece model file's bytes; its own special pieces make room for ours.

    Raises ValueError where the bytes are something else.
    """
    # types: 1 normal, 4 user-defined, 6 byte; left out: 2 unknown, 3 control, 5 unused
    tokens = [text for text, kind in sentencepiece_pieces(model) if kind in (1, 4, 6)]
    if not tokens:
        raise ValueError("no pieces")
    return Tokenizer("sentencepiece", [*SPECIALS, *tokens], model=model)


def sentencepiece_as_it_is(model: bytes, specials: tuple[str, ...], clean: bool, lowercase: bool) -> Tokenizer:
    """The tokenizer for a SentencePiece model that holds its own special pieces, under the file's own ids.

    Raises ValueError where it does not, or the bytes are something else.
    """
    tokens = [text for text, _ in sentencepiece_pieces(model)]
    return Tokenizer("sentencepiece", tokens, specials, lowercase, model, clean)


def sentencepiece_with_specials(tokenizer: Tokenizer) -> bytes:
    """A SentencePiece model file in which the pieces have the ids that they have in ``tokenizer``, specials included."""

    def field(number, value):
        return bytes([number << 3 | 2]) + as_varint(len(value)) + value

    if [text for text, _ in sentencepiece_pieces(tokenizer.model)] == tokenizer.tokens:
        return tokenizer.model
    specials = [field(1, field(1, text.encode()) + bytes([3 << 3, 2 if i == tokenizer.unk_id else 3]))
                for i, text in enumerate(tokenizer.specials)]  # fmt: skip
    unknown = as_varint(40 << 3) + as_varint(tokenizer.unk_id)  # trainer_spec.unk_id, of which the last counts
    rest = [field(2, value + unknown) if number == 2 else raw for number, value, raw in fields_of(tokenizer.model)
            if number != 1 or {key: part for key, part, _ in fields_of(value)}.get(3, 1) in (1, 4, 6)]  # fmt: skip
    return b"".join([*specials, *rest])
