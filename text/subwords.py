"""SentencePiece, by the library that is there: torchtext 0.18.0, which fits torch 2.3 only, or else sentencepiece.

    encode = encoder(model)                            # of a model file's bytes; encode(text) gives pieces, as text
    train(sample, 30_000, "unigram", prefix)           # or "bpe"; a file of lines in, prefix.model out

Nothing else knows of the two. Both give the same pieces for the same model: sentencepiece is pinned for that, since from
0.2.2 on it decides otherwise between cuttings that are equally likely ("....." in 25 of 592,000 words of books and SQuAD).
What they train of the same lines is alike and not the same: torchtext's trainer of unigram models is an older one.
"""

import io
import re
from collections.abc import Callable
from types import ModuleType

from files.mistakes import UserError
from text.piece_models import check_tables

SURROGATE = re.compile("[\ud800-\udfff]")


def library() -> ModuleType:
    """torchtext.data.functional or sentencepiece, or the one line that says what to install."""
    try:
        import torchtext

        torchtext.disable_torchtext_deprecation_warning()
        from torchtext.data import functional

        return functional
    except (ImportError, OSError, AttributeError, RuntimeError) as error:  # its compiled part fits one torch only
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:80]
    try:
        import sentencepiece

        return sentencepiece
    except ImportError:
        raise UserError(
            f"SentencePiece needs a library to read raw text, and there is neither torchtext ({reason}) nor sentencepiece; "
            "pip install sentencepiece==0.2.1, or use a prepared cache"
        ) from None


def encoder(model: bytes) -> Callable[[str], list[str]]:
    """The function from a text to its pieces; an unknown piece comes as its text. Raises UserError for a broken model."""
    found = library()
    try:
        check_tables(model)
        if hasattr(found, "load_sp_model"):
            processor = found.load_sp_model(io.BufferedReader(io.BytesIO(model)))
        else:
            processor = found.SentencePieceProcessor()
            processor.LoadFromSerializedProto(model)
    except (RuntimeError, ValueError, LookupError, TypeError):
        raise UserError("the vocabulary's SentencePiece model is damaged; fetch it again") from None
    return processor.EncodeAsPieces


def train(sample: str, size: int, algorithm: str, prefix: str) -> None:
    """Write ``prefix``.model, of ``size`` pieces with <unk>, <s> and </s>. Raises RuntimeError where it cannot."""
    found = library()
    if hasattr(found, "generate_sp_model"):
        found.generate_sp_model(sample, size, algorithm, prefix)
    else:
        found.SentencePieceTrainer.Train(input=sample, model_prefix=prefix, vocab_size=size, model_type=algorithm)


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for each half of a character, as broken JSON has them, which C++ and Rust do not take."""
    return text if text.isascii() else SURROGATE.sub("\ufffd", text)
