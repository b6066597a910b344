"""Data sets: where their files come from, and from their text to the token cache.

    python data.py prepare --dataset BookCorpus --data-dir data     # vocabulary and token cache, ahead of a run
    srun -n 8 python data.py prepare --dataset BookCorpus           # the same; the tasks share the files
    python data.py inspect --dataset SQuAD1 --data-dir data         # what a data set holds, and an example

Files lie in ``--data-dir``; what is missing is fetched where the set is public. Archives are unpacked, and tokens kept,
under ``--cache-dir``, so that the data folder may be read-only. What reads the texts is in ``text/``: ``corpus.py``
plain text, ``questions.py`` SQuAD and RACE; ``batches.py`` there turns what comes out into tensors.
"""

import contextlib
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from files.command_line import CommandLine, Help, check_not_empty, spellings
from files.mistakes import UserError, run_main, warn
from files.pretrained import resolved
from metrics import LETTERS
from text.corpus import TEXT_FLAGS, corpus_parts, paragraphs, pieces, sentences_of
from text.places import SPLITS, Places, default_cache_dir, default_data_dir, kinds_of
from text.questions import load_race_splits, load_squad_splits, squad_source
from text.sentences import sentence_language
from text.tokenizer import Tokenizer
from text.tokens import load_corpus, load_tokenizer, names_of
from text.vocabularies import VOCABULARY_FLAGS, says_itself


def prepare(args, places):
    """Vocabulary and token caches, as the tasks look for them; a line for each split."""
    names = names_of(args.dataset)  # several: of pretraining
    kinds, name = kinds_of(args.dataset, places) if len(names) == 1 else ["text"], Path(names[0]).name
    task, tasks = int(os.environ.get("SLURM_PROCID", 0)), int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if task:  # srun's other tasks would say the same
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if args.bert_model:
        if args.lowercase != "auto":
            raise says_itself(args.lowercase, args.bert_model)
        import checkpoint  # here for start-up time

        path = resolved([args.bert_model], "mlm_bert.pt")[0]  # all that are shipped have its vocabulary
        content = checkpoint.read_model(path, vocab=args.save_vocab, heads=1)  # heads tell nothing of tokens
        tokenizer = Tokenizer.from_state(content["tokenizer"])
    else:
        tokenizer = load_tokenizer(args, args.dataset, places)
    kind = f"{tokenizer.about} vocabulary of {len(tokenizer):,}"
    print(f"{', '.join(names)}: {kind}; tokens go to {places.cache}", flush=True)
    if "text" in kinds:
        for split in SPLITS:
            with reported(split) as counts:
                tokens = load_corpus(args.dataset, split, tokenizer, places, args.text_format, args.sentences, task, tasks)
                counts.update(documents=len(tokens.documents), sentences=len(tokens.sentences))
                counts.update(tokens=len(tokens.tokens), bytes=tokens.meta["bytes"])
    if "questions" in kinds:
        splits = squad_at_hand(args.dataset, places)
        from text.question_windows import QuestionWindows  # here for start-up time: the data may be bad

        for split, squad in splits.items():
            with reported(split) as counts:
                texts = QuestionWindows(squad, tokenizer, places, 384, 128, f"{name}-{split}").texts
                counts.update(documents=len(squad.contexts), questions=len(squad.questions))
                counts.update(tokens=len(texts.tokens), bytes=texts.meta["bytes"])
    if "choices" in kinds:
        splits = load_race_splits(args.dataset, places, args.level, skip=warn)
        from text.option_rows import OptionRows  # here for start-up time

        for split, articles in splits.items():
            with reported(split) as counts:
                rows = OptionRows(articles, tokenizer, places, 512, 0, "select", f"{name}-{split}", layout="joint")
                counts.update(documents=len(articles), questions=len(rows))
                counts.update(tokens=len(rows.texts.tokens), bytes=rows.texts.meta["bytes"])


def squad_at_hand(name, places):
    """All splits of a set of questions; without its training file, the test split and a warning."""
    try:
        if name != "Sample":
            squad_source(name, "train", places)
    except UserError as error:
        test = load_squad_splits(name, places, ("test",))
        warn(f"only the test split; {error}")
        return test
    return load_squad_splits(name, places, skip=warn)


@contextlib.contextmanager
def reported(split):
    counts, started = {}, time.monotonic()
    yield counts
    print(f"{split:5} {tell(counts)}, {time.monotonic() - started:.1f} seconds", flush=True)


def tell(counts):
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def inspect(args, places):
    """What each data set holds, split by split, and an example."""
    for name in names_of(args.dataset):
        kinds = kinds_of(name, places)
        if "text" in kinds:
            inspect_text(name, places, args.text_format, args.sentences)
        if "questions" in kinds:
            inspect_questions(name, squad_at_hand(name, places))
        if "choices" in kinds:
            inspect_choices(name, load_race_splits(name, places, args.level, skip=warn))


def inspect_text(name, places, style, language):
    print(f"{name}: text for pretraining")
    for split in SPLITS:
        parts, style = corpus_parts(name, split, places, style)
        lengths, example = Counter(), []
        counts = Counter(files=len(parts), bytes=sum(end - start for _, start, end in parts))
        for _, piece in pieces(parts, style):
            for begins, paragraph in paragraphs(piece, style):
                counts.update(documents=begins, paragraphs=1)
                for sentence in sentences_of(paragraph, style, language):
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
    print(f"{name}: questions with options")
    for split, articles in splits.items():
        counts = Counter(articles=len(articles), questions=sum(len(a.questions) for a in articles))
        counts.update(f"of level {article.level}" for article in articles if article.level in ("middle", "high"))
        right = Counter(LETTERS[answer] for article in articles for answer in article.answers)
        texts = {"article": (a.text for a in articles), "question": (q for a in articles for q in a.questions),
                 "option": (option for a in articles for options in a.options for option in options)}  # fmt: skip
        print(f"{split:5} {tell(counts)}; right: {tell(dict(sorted((f'times {k}', v) for k, v in right.items())))}")
        print_spreads(texts)
    article = next(article for article in splits["test"] if article.questions)
    print(f"example: {article.id}", f"  {shorten(article.text)}", f"  {article.questions[0]}", sep="\n")
    for number, (letter, option) in enumerate(zip(LETTERS, article.options[0], strict=False)):
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
    parser = CommandLine(description="Prepare or inspect a data set.")
    commands = parser.add_subparsers(dest="command", required=True)
    for function in (prepare, inspect):
        about = {"help": function.__doc__, "description": function.__doc__}
        p = commands.add_parser(function.__name__, formatter_class=Help, **about)
        p.set_defaults(function=function)
        flags = [("dataset", "name of a data set, a path, or hub:owner/name; several: of pretraining, together",
                  {"default": "Sample", "nargs": "+"}),
                 *TEXT_FLAGS,
                 ("data-dir", "where data sets lie", {"default": default_data_dir()}),
                 ("cache-dir", "where tokens and unpacked archives are kept", {"default": default_cache_dir()}),
                 ("sentences", "where they end: by rules, or as sentencex has it for a language such as de",
                  {"type": sentence_language, "metavar": "{rules,LANGUAGE}", "default": "rules"}),
                 ("level", "which part of RACE", {"choices": ["middle", "high", "all"], "default": "all"})]  # fmt: skip
        if function is prepare:
            flags += [*VOCABULARY_FLAGS,
                      ("bert-model", "take the vocabulary of this model file, Hugging Face folder or name on the hub; "
                       "pretrained: of the models that come with the suite", {}),
                      ("save-vocab", "vocabulary of a --bert-model that torchtext's BERT example made",
                       {"default": "bert_vocab.pt"})]  # fmt: skip
        for name, help, options in flags:
            p.add_argument(*spellings(name), help=help, **options)
    args = parser.parse_args()
    check_not_empty(args)
    names = names_of(args.dataset)
    args.dataset = names[0] if len(names) == 1 else names
    args.function(args, Places.of_text(args))


if __name__ == "__main__":
    run_main(main)
