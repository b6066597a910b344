"""What stands in a SentencePiece model file, as far as it must be known or mended before a library reads it.

The file is a protocol buffer (sentencepiece_model.proto): field 1, repeated: a piece (1 text, 2 score, 3 type); field 2:
how it was trained; field 3: the normaliser, whose field 2 is a table of characters; field 5: another, for the way back.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np


def sentencepiece_pieces(model: bytes) -> list[tuple[str, int]]:
    """[(text, type)] of a SentencePiece model. Raises ValueError where the bytes are something else."""
    pieces, _, _ = sentencepiece_fields(model)
    return [(piece[1].decode(), piece.get(3, 1)) for piece in pieces]


def sentencepiece_fields(model: bytes) -> tuple[list[dict[int, Any]], dict[int, Any], dict[int, Any]]:
    """The pieces of a SentencePiece model, how it was trained, and its normaliser: each the fields of its message.

    Raises ValueError where the bytes are something else.
    """
    try:
        fields = [(number, value) for number, value, _ in fields_of(model)]
        pieces = [{key: part for key, part, _ in fields_of(value)} for number, value in fields if number == 1]
        how, normaliser = ({key: part for key, part, _ in fields_of(dict(fields).get(number, b""))} for number in (2, 3))
        sound = all(piece[1].decode() and len(piece.get(2, b"four")) == 4 for piece in pieces)
        if not sound or not isinstance(normaliser.get(2, b""), bytes):
            raise TypeError("a piece without letters, a score that is no number, or no table")
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("no SentencePiece model") from error
    if not pieces or 3 not in dict(fields):  # the normaliser comes last: without it the file was cut off
        raise ValueError("no pieces, or no end")
    return pieces, how, normaliser


def check_tables(model: bytes) -> None:
    """Raises ValueError where the libraries, which follow a normaliser's table without looking, would leave it.

    A table is the size of a tree in bytes, the tree, and texts that each end with a zero. The tree is a double array
    (Yata's Darts-clone): units of 32 bits in blocks of 256. Bits 10 to 30 of a unit, eight bits higher where bit 9 is set,
    are XORed to its own place and then to the next letter of the text: that is where the next unit stands. Bit 8: at the
    first of these two places is a value, where in the texts the letters' substitute begins. Bit 31 marks such a value.
    """
    for number, normaliser, _ in fields_of(model):
        tables = [table for part, table, _ in fields_of(normaliser) if part == 2 and table] if number in (3, 5) else []
        if not all(map(is_sound, tables)):
            raise ValueError("a table of characters that leads out of itself")


def is_sound(table: bytes) -> bool:
    """Is it a table of normalisations as SentencePiece writes one? Raises ValueError where its texts are no UTF-8."""
    size = int.from_bytes(table[:4], "little")
    texts = table[4 + size :]
    if not size or size % 1024 or not texts.endswith(b"\0"):
        return False
    texts.decode()  # else UnicodeDecodeError, a ValueError
    units = np.frombuffer(table[4 : 4 + size], "<u4")
    followed = units >> 31 == 0
    followed[0] = True  # whatever it is
    own = units[followed]
    places = np.flatnonzero(followed) ^ ((own >> 10) << ((own & 512) >> 6))
    if (places >= len(units)).any():  # else all 256 places around it are inside as well
        return False
    values = units[places[own >> 8 & 1 == 1]] & 0x7FFFFFFF
    return bool((values < len(texts)).all() and not (np.frombuffer(texts, "u1")[values] >> 6 == 2).any())  # 2: in a letter


def fields_of(message: bytes) -> Iterator[tuple[int, Any, bytes]]:
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
        yield (key & 0xFFFFFFFF) >> 3, value, message[start:at]  # of 32 bits, as the libraries take it


def as_varint(value: int) -> bytes:
    """A number of 0 or more as protocol buffers have it: seven bits a byte, the lowest first."""
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
