"""From texts to the token cache: a corpus, a vocabulary made of it, or a list of texts.

    tokens = load_corpus("BookCorpus", "train", tokenizer, places)      # .tokens, .sentences, .documents
    tokenizer = load_tokenizer(args, "BookCorpus", places)
    texts = encode_texts(["one", "two"], tokenizer, places, "squad-dev")    # .text(0), .text_spans(0)


Each is made on first use, by all cores, and read from the cache ever after; cache.POINTS_INTO says what the arrays hold.
"""

import hashlib
import itertools
import random
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from files.mistakes import UserError, speaks, warn
from text import cache
from text.corpus import PIECE, corpus_parts, cut_after, paragraphs, pieces, sentences_of, warn_of_twin_files
from text.places import Places
from text.sentences import sentence_version
from text.splits import of_split
from text.tokenizer import Tokenizer
from text.vocabularies import load_vocab, save_vocab, train_tokenizer


def make_corpus_worker(tokenizer, style, language):
    """In a worker process: from a piece of text to tokens, sentences and documents (see cache.POINTS_INTO)."""

    def work(piece):
        tokens, spans, documents, notes = [], [], [], {"unknown": 0, "example": ""}
        for begins, paragraph in paragraphs(piece, style):
            if begins and not (documents and documents[-1] == len(spans)):  # else the one before has no token
                documents.append(len(spans))
                tokens.append(tokenizer.sep_id)
            for sentence in sentences_of(paragraph, style, language):
                ids = tokenizer.encode_ids(sentence)
                if ids:
                    spans.append((len(tokens), len(tokens) + len(ids)))
                    tokens.extend(ids)
                    note_unknown(notes, ids, sentence, tokenizer)
        return {
            "notes": notes,
            "tokens": np.array(tokens, np.int32),
            "sentences": np.array(spans, np.int64).reshape(-1, 2),
            "documents": np.array(documents, np.int64),
        }

    return work


UNKNOWN = 0.2  # share of the tokens from which on there is a warning: another language, script or case


def note_unknown(notes, ids, text, tokenizer):
    """Add the unknown ones of a text's ids to the notes, and a word of which one comes."""
    unknown = ids.count(tokenizer.unk_id)
    if unknown and not notes["unknown"]:
        encoding = tokenizer.encode(text[:1000])  # a line without blanks may have a megabyte, and offsets take time
        if tokenizer.unk_id not in encoding.ids[:-1]:  # nor is it the last word there, which may be cut in two
            encoding = tokenizer.encode(text)
        start, end = encoding.offsets[encoding.ids.index(tokenizer.unk_id)]
        notes["example"] = text[start : min(end, start + 30)]
    notes["unknown"] += unknown


def check_known(tokens: cache.TokenCache, tokenizer: Tokenizer, what: str, all_is_lost: bool) -> None:
    """Warn, on the first rank, where the vocabulary hardly knows a text; where it knows nothing, and ``all_is_lost`` with
    that, raise a UserError."""
    notes, total = tokens.meta.get("notes", {}), len(tokens.tokens)
    unknown = notes.get("unknown", 0)
    total -= len(tokens.documents) if "documents" in tokens.meta["arrays"] else 0  # each begins with a separator
    word = f", such as {notes['example']!r}" if notes.get("example") else ""
    if all_is_lost and unknown == total:
        raise UserError(f"{what}: the vocabulary knows no word of it{word}; take a --vocab or model of this language and "
                        "script, or train a vocabulary")  # fmt: skip
    if unknown > UNKNOWN * total:
        warn(f"{what}: {100 * unknown / total:.0f} % of the tokens are unknown to the vocabulary{word}; is it of this "
             "language, script and case?", once=unknown_to(tokenizer))  # fmt: skip


def unknown_to(tokenizer: Tokenizer) -> str:
    """What names the warning of unknown tokens in mistakes.TOLD."""
    return f"unknown to {tokenizer.fingerprint}"


def describe_parts(parts):
    return [[*cache.describe_file(path), start, end] for path, start, end in parts]


def no_text(parts, split):
    where = parts[0][0] if len(parts) == 1 else parts[0][0].parent
    return f"{where}: no text for the {split} split; add more"


def load_corpus(
    name: str | Sequence[str], split: str, tokenizer: Tokenizer, places: Places, style: str | None = None,
    language: str = "rules", task: int = 0, tasks: int = 1,
) -> cache.TokenCache:  # fmt: skip
    """The token cache of a corpus' split, built on first use, by ``tasks`` processes that call this at once.

    Of several sets it is one cache, one set after the other. ``style``: how the text is laid out (STYLES), where it is
    not as the set's name says; ``language`` is that of ``sentences``.
    """
    names = names_of(name)
    if split == "train" and speaks():
        warn_of_twin_files(names, places, style)
    caches = [load_one(one, split, tokenizer, places, style, language, task, tasks, tuple(names)) for one in names]
    if len(caches) == 1:
        return caches[0]
    folder = places.cache / f"{len(caches)}-sets-{split}-{cache.digest('joined', [one.folder.name for one in caches])}"
    total = sum(one.meta["bytes"] for one in caches)
    return cache.join(folder, caches, len(tokenizer), {"bytes": total}, 0)


def names_of(dataset: str | Sequence[str]) -> list[str]:
    """The sets that --dataset names: one, or a list of several."""
    return [dataset] if isinstance(dataset, str) else list(dict.fromkeys(dataset))


def load_one(name, split, tokenizer, places, style, language, task, tasks, beside):
    parts, style = corpus_parts(name, split, places, style, beside)
    title = Path(name).absolute().name  # of --dataset . too
    total = sum(end - start for _, start, end in parts)
    key = cache.digest("corpus", style, describe_parts(parts), tokenizer.fingerprint, sentence_version(language))
    folder = places.cache / f"{cache.short(title)}-{split}-{key}"
    rest = (make_corpus_worker, (tokenizer, style, language), len(tokenizer), {"bytes": total}, total,
            f"tokenising {title} {split}", no_text(parts, split))  # fmt: skip
    with of_split(split):
        if tasks == 1:
            tokens = cache.build(folder, pieces(parts, style), *rest)
        else:
            shares = [partial(pieces, share, style) for share in shared_out(parts, 4 * tasks)]
            tokens = cache.build_together(folder, shares, task * len(shares) // tasks, *rest)
    if not task:  # the others would say the same
        check_known(tokens, tokenizer, f"{title}, {split} split", all_is_lost=True)
    return tokens


def shared_out(parts, count):
    """Files, or parts of them, in at most ``count`` groups of neighbours of about the same number of bytes."""
    total, groups, done = sum(end - start for _, start, end in parts), {}, 0
    for part in parts:
        groups.setdefault(done * count // max(total, 1), []).append(part)
        done += part[2] - part[1]
    return list(groups.values())


def corpus_lines(dataset, places, limit=16 << 20, style=None):
    """Lines of the training split to train a vocabulary on: pieces from all over it, up to ``limit`` bytes.

    SentencePiece would train ten times as long where a text occurs twice, and where nearly every word is new, as in a
    text without blanks. So each paragraph comes once, and with a quarter of ``limit`` in different words it is enough.
    """
    spans, seen, words, size_of_words = [], set(), set(), 0
    for parts, layout in training_parts(dataset, places, style):
        for path, start, end in parts:
            edges = [start, *range(start + PIECE, end, PIECE), end]
            spans += [((path, start, end), span, layout) for span in itertools.pairwise(edges)]
    random.Random(0).shuffle(spans)
    left = limit
    for (path, start, end), places_in, layout in spans:
        cuts = (place if place in (start, end) else min(end, cut_after(path, place, layout, PIECE // 16))
                for place in places_in)  # fmt: skip
        span = (path, *cuts)
        for _, paragraph in (line for _, piece in pieces([span], layout) for line in paragraphs(piece, layout)):
            if paragraph not in seen:
                new = set(paragraph.split()) - words
                seen.add(paragraph)
                words |= new
                size_of_words += sum(map(len, new))
                yield paragraph
        left -= span[2] - span[1]
        if left < 0 or size_of_words > limit // 4:
            return
    if not seen:
        raise UserError(no_text(parts, "train"))


def training_parts(dataset, places, style):
    """What `corpus_parts` gives for each set's training split."""
    names = names_of(dataset)
    return [corpus_parts(name, "train", places, style, tuple(names)) for name in names]


def load_tokenizer(args: Namespace, dataset: str | Sequence[str], places: Places) -> Tokenizer:
    """The vocabulary that the arguments name: ``--vocab FILE``, or one trained on the text of the sets, once.

    Raises UserError where FILE is none, a flag contradicts it, or the text does not bear so large a one.
    """
    if args.lowercase != "auto" and not args.vocab:
        raise UserError(f"--lowercase {args.lowercase}: is for a given vocabulary; add --vocab FILE, a vocab.txt")
    if args.vocab:
        given = load_vocab(args.vocab, {"auto": None, "yes": True, "no": False}[args.lowercase])
        for name in ("vocab_size", "tokenizer"):
            if (value := getattr(args, name, None)) not in (None, given.kind, len(given)):
                flag = f"--{name.replace('_', '-')} {value}"
                raise UserError(f"{flag}: of a new vocabulary; {args.vocab} is {given.kind} of {len(given)}; leave one out")
        return given
    kind, size = args.tokenizer or "sentencepiece", args.vocab_size or (1024 if dataset == "Sample" else 8192)
    if kind == "wordpiece":
        raise UserError("--tokenizer wordpiece: needs --vocab FILE, a vocab.txt with one token a line")
    style = getattr(args, "text_format", None)  # a flag of pretraining only
    described = [(layout, describe_parts(parts)) for parts, layout in training_parts(dataset, places, style)]
    key = cache.digest("vocabulary", kind, size, *itertools.chain.from_iterable(described))
    names = names_of(dataset)
    title = cache.short(Path(names[0]).name) if len(names) == 1 else f"{len(names)}-sets"
    folder = places.cache / f"{title}-vocabulary-{key}"
    with cache.build_once(folder) as temporary:
        if temporary is not None:
            print(f"training a {kind} vocabulary of {size} on {', '.join(names)} ...", flush=True)
            save_vocab(train_tokenizer(kind, corpus_lines(dataset, places, style=style), size), temporary / "vocab.pt")
    return load_vocab(folder / "vocab.pt")


def make_text_worker(tokenizer):
    """In a worker process: from a list of texts to tokens with their places in the texts (see cache.POINTS_INTO)."""

    def work(texts):
        tokens, spans, ends, notes = [], [], [0], {"unknown": 0, "example": ""}
        for text in texts:
            encoding = tokenizer.encode(text)
            tokens.extend(encoding.ids)
            note_unknown(notes, encoding.ids, text, tokenizer)
            spans.extend(encoding.offsets)
            ends.append(len(tokens))
        return {
            "notes": notes,
            "tokens": np.array(tokens, np.int32),
            "spans": np.array(spans, np.int32).reshape(-1, 2),
            "texts": np.array([ends[:-1], ends[1:]], np.int64).T,
        }

    return work


def encode_texts(texts: list[str], tokenizer: Tokenizer, places: Places, description: str) -> cache.TokenCache:
    """The token cache of a list of texts, in their order; built on first use."""
    content, sizes = hashlib.sha256(), []
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        content.update(b"%d:" % len(encoded) + encoded)
        sizes.append(len(encoded))
    key = cache.digest("texts", content.hexdigest(), tokenizer.fingerprint)
    chunks = [(sum(sizes[i : i + 500]), texts[i : i + 500]) for i in range(0, len(texts), 500)]
    tokens = cache.build(
        places.cache / f"{cache.short(description)}-{key}", chunks, make_text_worker, (tokenizer,), len(tokenizer),
        {"bytes": sum(sizes)}, sum(sizes), f"tokenising {description}",
    )  # fmt: skip
    check_known(tokens, tokenizer, description, all_is_lost=False)
    return tokens
