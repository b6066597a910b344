"""A SentencePiece vocabulary of our own as tokenizer.json, the form that the library tokenizers applies.

    tokenizer_json(tokenizer, model)       # a dict for json.dump, or None

transformers makes such a file of a spiece.model by itself, but for ALBERT's specials, not for ours. What stands in it is
described at https://huggingface.co/docs/tokenizers; the pieces and their scores are SentencePiece's own, and its
normaliser goes along as the table of characters that it is.
"""

import base64
import struct
from typing import Any

from text.piece_models import sentencepiece_fields
from text.tokenizer import Tokenizer

PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


def tokenizer_json(tokenizer: Tokenizer, model: bytes) -> dict[str, Any] | None:
    """What tokenizer.json says of a "sentencepiece" tokenizer; None where it cannot say it. ``model`` is its file, in which
    the pieces have the tokenizer's ids.

    That is where the text is cleaned in ALBERT's way, where pieces stand for bytes or are a user's own, and where words
    begin without a blank.
    """
    pieces, how, normaliser = sentencepiece_fields(model)
    plain = all(piece.get(3, 1) in (1, 2, 3) for piece in pieces) and normaliser.get(3, 1) and not how.get(24, 0)
    if tokenizer.clean or how.get(3, 1) not in (1, 2) or not plain:
        return None
    scored = [(piece[1].decode(), struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0) for piece in pieces]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": number, "content": tokenizer.tokens[number], **PLAIN}
                         for number in sorted(tokenizer.special_ids)],
        "normalizer": precompiled(normaliser.get(2)),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]},
        "post_processor": pairs(tokenizer),
        "decoder": METASPACE,
        "model": byte_pairs(scored, tokenizer) if how.get(3, 1) == 2 else unigram(scored, tokenizer),
    }  # fmt: skip


def precompiled(table):
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()} if table else None


def pairs(tokenizer: Tokenizer) -> dict:
    """[CLS] a [SEP] b [SEP], the second text with token type 1."""
    specials = {tokenizer.tokens[number]: number for number in (tokenizer.cls_id, tokenizer.sep_id)}
    begin, end = ({"SpecialToken": {"id": text, "type_id": 0}} for text in specials)
    first, second = ({"Sequence": {"id": name, "type_id": kind}} for kind, name in enumerate("AB"))
    last = {"SpecialToken": {**end["SpecialToken"], "type_id": 1}}
    return {"type": "TemplateProcessing", "single": [begin, first, end], "pair": [begin, first, end, second, last],
            "special_tokens": {text: {"id": text, "ids": [number], "tokens": [text]} for text, number in specials.items()},
            }  # fmt: skip


def unigram(scored, tokenizer):
    return {"type": "Unigram", "unk_id": tokenizer.unk_id, "vocab": [list(pair) for pair in scored], "byte_fallback": False}


def byte_pairs(scored, tokenizer):
    """SentencePiece joins the two neighbours whose union has the best score; here the unions stand by rank instead."""
    ids = {text: number for number, (text, _) in enumerate(scored)}
    merges = []
    plain = [pair for pair in scored if pair[0] not in tokenizer.specials]
    for text, _ in sorted(plain, key=lambda pair: -pair[1]):
        cuts = [(text[:at], text[at:]) for at in range(1, len(text))]
        merges += [list(cut) for cut in cuts if cut[0] in ids and cut[1] in ids]
    return {"type": "BPE", "dropout": None, "unk_token": tokenizer.tokens[tokenizer.unk_id], "fuse_unk": True,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "byte_fallback": False, "ignore_merges": False,
            "vocab": ids, "merges": merges}  # fmt: skip
