"""Data sets: where their files come from, and from their text to the token cache.

    python data.py prepare --dataset BookCorpus --data-dir data     # vocabulary and token cache, ahead of a run
    srun -n 8 python data.py prepare --dataset BookCorpus           # the same; the tasks share the files
    python data.py inspect --dataset SQuAD1 --data-dir data         # what a data set holds, and an example

Files lie in ``--data-dir``; what is missing is fetched where the set is public. Archives are unpacked, and tokens kept,
under ``--cache-dir``, so that the data folder may be read-only. ``corpus.py`` reads plain text, ``questions.py`` reads
SQuAD and RACE, and ``batches.py`` turns what comes out into tensors.
"""

import argparse
import contextlib
import difflib
import hashlib
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

import cache
import sample
from corpus import CORPORA, PIECE, SPLITS, corpus_parts, cut_after, paragraphs, pieces, sentences
from files import UserError, download, extract, run_main, spellings
from questions import (  # noqa: F401  all that a task needs of data is to be had from here
    LETTERS,
    RACE_SETS,
    SQUAD_SETS,
    Article,
    Question,
    SquadSet,
    fill,
    fill_in,
    load_race,
    load_race_splits,
    load_squad,
    load_squad_splits,
    squad_path,
)
from tokenizer import Tokenizer, load_vocab, save_vocab, train_tokenizer

SETS = {"text": CORPORA, "questions": SQUAD_SETS, "choices": RACE_SETS}
SCRIPTS = {"text": "mlm_task.py and ns_task.py", "questions": "qa_task.py", "choices": "race_task.py"}


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
    any_layout: bool = False  # the archive's content serves, whatever its folders are called


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
    "BookCorpus": Source(
        "books.tar.gz", hint="BookCorpus is not public: put books as .txt files there, or into {archive}", any_layout=True
    ),
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

    def find(self, relative, name):
        """The path of ``relative``, from SOURCES[name]: in the data folder, else in its archive, else downloaded."""
        path, source = self.data / relative, SOURCES[name]
        if path.exists():
            return path
        if not source.archive:
            return self.fetch(source, path, path)
        archive = next((p for p in (self.data / source.archive, path.parent / source.archive) if p.exists()), None)
        archive = archive or self.fetch(source, self.data / source.archive, path)
        folder = self.cache / f"{Path(relative).parts[0]}-{cache.digest(cache.describe_file(archive))}"
        with cache.build_once(folder) as temporary:
            if temporary is not None:
                extract(archive, temporary / "content")
        content = folder / "content"
        if (content / relative).exists():
            return content / relative
        if not source.any_layout:
            raise UserError(f"{archive}: holds no {relative}; fetch the archive again, or unpack it by hand at {path}")
        return content

    def fetch(self, source, target, wanted):
        """Download ``source`` to ``target``, for want of the path ``wanted``."""
        if not source.url:
            raise UserError(f"{wanted}: not found; " + source.hint.format(archive=target))
        with cache.lock(self.cache / f"download-{target.name}.lock"):
            if not target.exists():
                try:
                    download(source.url, target, source.checksum)
                except UserError as error:
                    raise UserError(f"{wanted}: not found, and {error}") from None
        return target

    def sample(self):
        """The folder of the embedded data set, written out once."""
        folder = self.cache / f"sample-{cache.digest(cache.describe_file(sample.__file__)[1:])}"
        with cache.build_once(folder) as temporary:
            if temporary is not None:
                sample.write(temporary)
        return folder

    def own(self, name, kind=None):
        """The path that ``--dataset`` gives where it names no set of this kind (a key of SETS; None: of any)."""
        path = Path(name)
        if path.exists():
            return path
        known = ", ".join(SETS[kind] if kind else dict.fromkeys(set for sets in SETS.values() for set in sets))
        other = next((SCRIPTS[other] for other, names in SETS.items() if name in names), None)
        if other:
            raise UserError(f"--dataset {name}: that set is for {other}; choose {known}, or a path")
        spellings = {spelling.lower(): spelling for names in SETS.values() for spelling in names}
        near = difflib.get_close_matches(name.lower(), spellings, 1, 0.5)
        remedy = f"did you mean {spellings[near[0]]}?" if near else "check the spelling"
        raise UserError(f"--dataset {name}: neither a data set ({known}) nor a file or folder; {remedy}")


# --------------------------------------------------------------------------------------------------------------------
# From sentences to the token cache
# --------------------------------------------------------------------------------------------------------------------


def make_corpus_worker(tokenizer, style):
    """In a worker process: from a piece of text to tokens, sentences and documents (see cache.POINTS_INTO)."""

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


def describe_parts(parts):
    return [[*cache.describe_file(path), start, end] for path, start, end in parts]


def no_text(parts, split):
    where = parts[0][0] if len(parts) == 1 else parts[0][0].parent
    return f"{where}: no text for the {split} split; add more"


def load_corpus(name, split, tokenizer, places, task=0, tasks=1):
    """The token cache of a corpus' split, built on first use, by ``tasks`` processes that call this at once."""
    parts, style = corpus_parts(name, split, places)
    total = sum(end - start for _, start, end in parts)
    key = cache.digest("corpus", style, describe_parts(parts), tokenizer.fingerprint)
    folder = places.cache / f"{Path(name).name}-{split}-{key}"
    rest = (make_corpus_worker, (tokenizer, style), len(tokenizer), {"bytes": total}, total,
            f"tokenising {Path(name).name} {split}", no_text(parts, split))  # fmt: skip
    if tasks == 1:
        return cache.build(folder, pieces(parts, style), *rest)
    shares = [partial(pieces, share, style) for share in shared_out(parts, 4 * tasks)]
    return cache.build_together(folder, shares, task * len(shares) // tasks, *rest)


def shared_out(parts, count):
    """Files, or parts of them, in at most ``count`` groups of neighbours of about the same number of bytes."""
    total, groups, done = sum(end - start for _, start, end in parts), {}, 0
    for part in parts:
        groups.setdefault(done * count // max(total, 1), []).append(part)
        done += part[2] - part[1]
    return list(groups.values())


def corpus_lines(name, places, limit=16 << 20):
    """Lines of the training split to train a vocabulary on: pieces from all over it, up to ``limit`` bytes.

    SentencePiece would train ten times as long where a text occurs twice, and where nearly every word is new, as in a
    text without blanks. So each paragraph comes once, and with a quarter of ``limit`` in different words it is enough.
    """
    parts, style = corpus_parts(name, "train", places)
    spans, seen, words, size_of_words = [], set(), set(), 0
    for path, start, end in parts:
        inner = {min(end, cut_after(path, place, style, PIECE // 16)) for place in range(start + PIECE, end, PIECE)}
        spans += [(path, *span) for span in pairwise(sorted({start, end} | inner))]
    random.Random(0).shuffle(spans)
    left = limit
    for path, start, end in spans:
        for _, paragraph in (line for _, piece in pieces([(path, start, end)], style) for line in paragraphs(piece, style)):
            if paragraph not in seen:
                new = set(paragraph.split()) - words
                seen.add(paragraph)
                words |= new
                size_of_words += sum(map(len, new))
                yield paragraph
        left -= end - start
        if left < 0 or size_of_words > limit // 4:
            return
    if not seen:
        raise UserError(no_text(parts, "train"))


def load_tokenizer(args, name, places):
    """The vocabulary that the arguments name: ``--vocab FILE``, or one trained on the corpus, once."""
    if args.vocab:
        return load_vocab(args.vocab)
    kind, size = args.tokenizer or "sentencepiece", args.vocab_size or (1024 if name == "Sample" else 8192)
    if kind == "wordpiece":
        raise UserError("--tokenizer wordpiece: needs --vocab FILE, a vocab.txt with one token a line")
    if "text" not in kinds_of(name, places):
        raise UserError(f"--dataset {name}: no vocabulary comes from questions; add --vocab FILE, or --bert-model FILE")
    parts, style = corpus_parts(name, "train", places)
    key = cache.digest("vocabulary", kind, size, style, describe_parts(parts))
    folder = places.cache / f"{Path(name).name}-vocabulary-{key}"
    with cache.build_once(folder) as temporary:
        if temporary is not None:
            print(f"training a {kind} vocabulary of {size} on {name} ...", flush=True)
            save_vocab(train_tokenizer(kind, corpus_lines(name, places), size), temporary / "vocab.pt")
    return load_vocab(folder / "vocab.pt")


def make_text_worker(tokenizer):
    """In a worker process: from a list of texts to tokens with their places in the texts (see cache.POINTS_INTO)."""

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
    content, sizes = hashlib.sha256(), []
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        content.update(b"%d:" % len(encoded) + encoded)
        sizes.append(len(encoded))
    key = cache.digest("texts", content.hexdigest(), tokenizer.fingerprint)
    chunks = [(sum(sizes[i : i + 500]), texts[i : i + 500]) for i in range(0, len(texts), 500)]
    return cache.build(
        places.cache / f"{description}-{key}", chunks, make_text_worker, (tokenizer,), len(tokenizer),
        {"bytes": sum(sizes)}, sum(sizes), f"tokenising {description}",
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------------
# The commands
# --------------------------------------------------------------------------------------------------------------------


def kinds_of(name, places):
    """What a data set's name or path can be read as: some of the keys of SETS."""
    kinds = [kind for kind, names in SETS.items() if name in names]
    if kinds:
        return kinds
    path = places.own(name)
    if path.is_dir() and any(path.glob("train*.json")):
        return ["questions"]
    return ["choices"] if (path / "train").is_dir() and (path / "test").is_dir() else ["text"]


def prepare(args, places):
    """Vocabulary and token caches, as the tasks look for them; a line for each split."""
    kinds, name = kinds_of(args.dataset, places), Path(args.dataset).name
    task, tasks = int(os.environ.get("SLURM_PROCID", 0)), int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if task:  # srun's other tasks would say the same
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if args.bert_model:
        import checkpoint

        content = checkpoint.read_model(args.bert_model, vocab=args.save_vocab, heads=1)  # heads tell nothing of tokens
        tokenizer = Tokenizer.from_state(content["tokenizer"])
    else:
        tokenizer = load_tokenizer(args, args.dataset, places)
    print(f"{args.dataset}: {tokenizer.kind} vocabulary of {len(tokenizer):,}; tokens go to {places.cache}", flush=True)
    if "text" in kinds:
        for split in SPLITS:
            with reported(split) as counts:
                tokens = load_corpus(args.dataset, split, tokenizer, places, task, tasks)
                counts.update(documents=len(tokens.documents), sentences=len(tokens.sentences))
                counts.update(tokens=len(tokens.tokens), bytes=tokens.meta["bytes"])
    if "questions" in kinds:
        splits = squad_at_hand(args.dataset, places)
        from batches import QuestionWindows  # not above: it takes torch, and the data may be bad

        for split, squad in splits.items():
            with reported(split) as counts:
                texts = QuestionWindows(squad, tokenizer, places, 384, 128, f"{name}-{split}").texts
                counts.update(documents=len(squad.contexts), questions=len(squad.questions))
                counts.update(tokens=len(texts.tokens), bytes=texts.meta["bytes"])
    if "choices" in kinds:
        splits = load_race_splits(args.dataset, places, args.level)
        from batches import OptionRows

        for split, articles in splits.items():
            with reported(split) as counts:
                rows = OptionRows(articles, tokenizer, places, 512, 0, "window", f"{name}-{split}")
                counts.update(documents=len(articles), questions=len(rows))
                counts.update(tokens=len(rows.texts.tokens), bytes=rows.texts.meta["bytes"])


def squad_at_hand(name, places):
    """All splits of a set of questions; without its training file, the test split and a warning."""
    test = load_squad_splits(name, places, ("test",))
    try:
        if name != "Sample":
            squad_path(name, "train", places)
    except UserError as error:
        print(f"warning: only the test split; {error}", file=sys.stderr)
        return test
    return {**load_squad_splits(name, places, ("train", "valid")), **test}


@contextlib.contextmanager
def reported(split):
    counts, started = {}, time.monotonic()
    yield counts
    print(f"{split:5} {tell(counts)}, {time.monotonic() - started:.1f} seconds", flush=True)


def tell(counts):
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def inspect(args, places):
    """What a data set holds, split by split, and an example."""
    kinds = kinds_of(args.dataset, places)
    if "text" in kinds:
        inspect_text(args.dataset, places)
    if "questions" in kinds:
        inspect_questions(args.dataset, squad_at_hand(args.dataset, places))
    if "choices" in kinds:
        inspect_choices(args.dataset, load_race_splits(args.dataset, places, args.level))


def inspect_text(name, places):
    print(f"{name}: text for pretraining")
    for split in SPLITS:
        parts, style = corpus_parts(name, split, places)
        lengths, example = Counter(), []
        counts = Counter(files=len(parts), bytes=sum(end - start for _, start, end in parts))
        for _, piece in pieces(parts, style):
            for begins, paragraph in paragraphs(piece, style):
                counts.update(documents=begins, paragraphs=1)
                for sentence in sentences(paragraph):
                    lengths[len(sentence.split())] += 1
                    if len(example) < 3:
                        example.append(sentence)
        counts.update(sentences=lengths.total(), words=sum(length * count for length, count in lengths.items()))
        print(f"{split:5} {tell(counts)}\n      words a sentence: {spread(lengths)}")
        if split == "test":
            print("example:", *(f"  {shorten(sentence)}" for sentence in example), sep="\n")


def inspect_questions(name, splits):
    print(f"{name}: questions on passages")
    for split, squad in splits.items():
        counts = dict(articles=len({q.title for q in squad.questions}), passages=len(squad.contexts),
                      questions=len(squad.questions), unanswerable=sum(not q.answers for q in squad.questions))  # fmt: skip
        texts = {"passage": squad.contexts, "question": (q.text for q in squad.questions),
                 "answer": (text for q in squad.questions for text, _ in q.answers[:1])}  # fmt: skip
        print(f"{split:5} {tell(counts)}")
        print_spreads(texts)
    question = splits["test"].questions[0]
    print("example:", f"  {shorten(splits['test'].contexts[question.context])}", f"  {question.text}", sep="\n")
    answers = dict.fromkeys(text for text, _ in question.answers) or ["(no answer)"]
    print(*(f"  * {answer}" for answer in answers), sep="\n")


def inspect_choices(name, splits):
    print(f"{name}: questions with four options")
    for split, articles in splits.items():
        counts = Counter(articles=len(articles), questions=sum(len(a.questions) for a in articles))
        counts.update(f"of level {article.level}" for article in articles if article.level in ("middle", "high"))
        right = Counter(LETTERS[answer] for article in articles for answer in article.answers)
        texts = {"article": (a.text for a in articles), "question": (q for a in articles for q in a.questions),
                 "option": (option for a in articles for options in a.options for option in options)}  # fmt: skip
        print(f"{split:5} {tell(counts)}; right: {tell(dict(sorted((f'times {k}', v) for k, v in right.items())))}")
        print_spreads(texts)
    article = splits["test"][0]
    print(f"example: {article.id}", f"  {shorten(article.text)}", f"  {article.questions[0]}", sep="\n")
    for number, (letter, option) in enumerate(zip(LETTERS, article.options[0], strict=True)):
        print(f"  {'*' if number == article.answers[0] else ' '} {letter}  {option}")


def print_spreads(texts):
    for what, group in texts.items():
        lengths = Counter(len(text.split()) for text in group)
        print(f"      words {'an' if what[0] in 'ao' else 'a'} {what}: {spread(lengths)}")


def spread(lengths):
    """The middle and the upper end of a Counter of lengths."""
    places = np.cumsum([count for _, count in sorted(lengths.items())])
    if not len(places):
        return "none"
    at = [sorted(lengths)[np.searchsorted(places, share * places[-1])] for share in (0.5, 0.95, 1.0)]
    return "half have at most {:,}, 95 % at most {:,}, the longest {:,}".format(*at)


def shorten(text, limit=300):
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " ..."


def main():
    parser = argparse.ArgumentParser(description="Prepare or inspect a data set.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for function in (prepare, inspect):
        p = commands.add_parser(function.__name__, help=function.__doc__, description=function.__doc__, allow_abbrev=False)
        p.set_defaults(function=function)
        flags = [("dataset", "name of a data set, or a path", {"default": "Sample"}),
                 ("data-dir", "where data sets lie", {"default": cache.default_data_dir()}),
                 ("cache-dir", "where tokens and unpacked archives are kept", {"default": cache.default_cache_dir()}),
                 ("level", "which part of RACE", {"choices": ["middle", "high", "all"], "default": "all"})]  # fmt: skip
        if function is prepare:
            kinds = ["sentencepiece", "wordpiece", "basic_english"]
            flags += [("tokenizer", "kind of a new vocabulary", {"choices": kinds}),
                      ("vocab", "a given vocabulary: vocab.txt, or a file of --save-vocab", {}),
                      ("vocab-size", "size of a new vocabulary", {"type": int}),
                      ("bert-model", "take the vocabulary of this model file, or Hugging Face folder", {}),
                      ("save-vocab", "vocabulary of a --bert-model that torchtext's BERT example made",
                       {"default": "bert_vocab.pt"})]  # fmt: skip
        for name, help, options in flags:
            p.add_argument(*spellings(name), help=help, **options)
    args = parser.parse_args()
    args.function(args, Places(args.data_dir, args.cache_dir))


if __name__ == "__main__":
    run_main(main)
