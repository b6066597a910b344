"""What a tokenizer.json says, by the library tokenizers: the byte pairs of RoBERTa, the pieces of CamemBERT and XLM-R.

    rules = ByLibrary(index, unk_id, model)         # as Tokenizer has them: ``model`` is the file's bytes
    tokens = tokens_of(json.loads(model))           # its V token strings, by id

A word is encoded as it is within a text, with a blank before it, wherever it stands: RoBERTa's own tokenizer does so
with ``add_prefix_space``, and without it takes the first word of a text for the rest of one. What is special there is
left out, so that no text becomes a special token.
"""

import base64
import functools
import json
from typing import Any

from files.mistakes import UserError
from text.piece_models import is_sound
from text.subwords import without_surrogates


def tokens_of(content: Any) -> list[str]:
    """The tokens of a parsed tokenizer.json, those added to its vocabulary too. Raises ValueError where ids are missing."""
    vocabulary = content["model"]["vocab"]
    pairs = vocabulary.items() if isinstance(vocabulary, dict) else ((one[0], i) for i, one in enumerate(vocabulary))
    found = {i: token for token, i in pairs} | {one["id"]: one["content"] for one in content.get("added_tokens") or ()}
    if sorted(found) != list(range(len(found))) or not all(isinstance(token, str) for token in found.values()):
        raise ValueError("ids are missing")
    return [found[i] for i in range(len(found))]


def check_tables(normalizer: Any) -> None:
    """Raises ValueError where a table of characters leads out of itself, for the library follows it unchecked."""
    for step in (normalizer or {}).get("normalizers") or ():
        check_tables(step)
    table = (normalizer or {}).get("precompiled_charsmap")
    if table and not is_sound(base64.b64decode(table)):
        raise ValueError("a table of characters that leads out of itself")


class ByLibrary:
    """A vocabulary whose cutting the library `tokenizers` does, as its tokenizer.json says."""

    def __init__(self, index: dict[str, int], unk_id: int, model: bytes):
        self.known, self.unk_id, self.model = set(index.values()), unk_id, model
        self.lowercase = False

    @functools.cached_property
    def library(self) -> Any:
        try:
            import tokenizers
        except ImportError:
            raise UserError("this model's vocabulary, a tokenizer.json, needs tokenizers; pip install tokenizers") from None
        try:
            content = json.loads(self.model)
            check_tables(content.get("normalizer"))
            added = [one for one in content.get("added_tokens") or () if not one.get("special")]
            content |= {"added_tokens": added, "post_processor": None, "truncation": None, "padding": None}
            return tokenizers.Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the library's share no class with others
            raise UserError(f"this model's tokenizer.json is damaged ({str(error)[:100]}); fetch the model again") from None

    @functools.cached_property
    def own_ids(self) -> dict[int, int]:
        """The library's ids of added words, which it counts anew, to the file's."""
        added = json.loads(self.model).get("added_tokens") or ()
        return {self.library.token_to_id(one["content"]): one["id"] for one in added if not one.get("special")}

    @functools.cached_property
    def bytes_decoder(self) -> Any:
        """Turns the letters that stand for bytes back; None where pieces are text."""
        of_bytes = type(self.library.decoder).__name__ == "ByteLevel"
        return self.library.decoder if of_bytes else None

    def prepare(self, text: str) -> str:
        return without_surrogates(text)

    def ids(self, chunk: str) -> list[int]:
        return self.encode(chunk)[0]

    def encode(self, chunk: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = self.library.encode(" " + chunk, add_special_tokens=False)
        ids = [i if i in self.known else self.unk_id for i in (self.own_ids.get(i, i) for i in found.ids)]
        spans = [(max(0, start - 1), end - 1) for start, end in found.offsets]  # without the blank
        return ids, [(min(start, len(chunk) - 1), max(end, start + 1)) for start, end in spans]

    def spell(self, token: str) -> str:
        return self.join([token])

    def join(self, tokens: list[str]) -> str:
        """The text of tokens together: a character may be of several tokens, a byte or two in each."""
        return self.bytes_decoder.decode(tokens) if self.bytes_decoder else "".join(tokens).replace("▁", " ")
