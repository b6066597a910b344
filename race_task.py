"""Fine-tune a BERT to choose among options: RACE (Lai et al. 2017, arXiv 1704.04683).

    python race_task.py                                             # from ns_bert.pt, on the embedded data set
    python race_task.py --bert-model ns_bert.pt --dataset RACE --level middle --epochs 2
    python race_task.py --predict RACE/test --output answers.json   # by race_model.pt, or --bert-model FILE
    python race_task.py --predict RACE/test --bert-model a.pt b.pt  # by both together
    python race_task.py --head cls                                  # BERT's own head; a row for each option
    python race_task.py --ask "Who slept?" --options Ann Ben Cid Dora --context story.txt

Writes the model to race_model.pt. Scores are the accuracy on the test split, for middle, high and all.

Several models, which may differ in all but the task, answer together (--predict, --evaluate, --ask): an option's score
is the mean over the models of the logarithm of the probability that each gives it.
"""

from files.mistakes import UserError, run_main, warn
from files.tables import read_context
from files.writing import write_json
from metrics import LETTERS
from training import flags
from training.parser import uses_trained

READING = {  # how a model reads, unless a flag or its file says otherwise
    "bptt": (512,), "passage": ("window", "truncate", "select"), "layout": ("separate", "joint"),
    "marks": ("none", "question"), "sentences": ("rules",),
}  # fmt: skip


def arguments(words: list[str] | None = None) -> "Namespace":
    p = flags.parser(
        "race", __doc__, READING, new={"head": "dcmn", "passage": None, "layout": None}, short={"bptt": 128},
        short_for={"bptt": " of selected sentences"},
        save="race_model.pt", epochs=3, batch_size=16, optimizer="adamw",
        valid_examples=300,  # each is a row an option, and costs as much as ten in pretraining
    )  # fmt: skip
    p.flag("level", "which part of RACE", choices=["middle", "high", "all"], default="all")
    p.flag("passage", "an article that is too long: window: read window by window; truncate: its beginning; select: the "
           "sentences that say most of question and options (default: select, or window under --attention-window; a "
           "trained model's own, or window)", choices=READING["passage"])  # fmt: skip
    p.flag("head", "what scores an option: the pooled first token, co-attention, co-matching, or a mix of the last layers' "
           "first tokens (default: dcmn, or the trained model's)", choices=["cls", "duma", "dcmn", "mix"])  # fmt: skip
    p.flag("duma-layers", "layers of co-attention in the head duma (default: 1)", type=flags.positive(int))
    p.flag("compare-options", "the head dcmn compares the options with each other, too", action="store_true", default=False)
    p.flag("mix-layers", "how many layers the head mix reads (default: 4)", type=flags.positive(int))
    p.flag("layout", "separate: a row for each option; joint: article, question and all options in one row, for less work "
           "(default: joint for dcmn and one layer of duma without attention window; a trained model's own, or separate)",
           choices=READING["layout"])  # fmt: skip
    p.flag("marks", "question: mark words of the article that stand in the question, and of an option that stand in the "
           "article, by a token type of their own; other software does not give it", choices=READING["marks"])  # fmt: skip
    p.flag("attention-window", "each token sees this many on either side, and the first: texts of any --bptt, at a cost"
           " that grows with their length (default: all, or the trained model's)", type=flags.positive(int))  # fmt: skip
    p.flag("show", "question: hide the article, options: the question too, to see what can be had without reading",
           choices=["all", "question", "options"], default="all")  # fmt: skip
    p.flag("predict", "no training: choose for the articles of this folder, or file of rows")
    p.flag("output", "where the answers of --predict go (default: answers.json)")
    p.flag("scores", "with --predict: the probabilities of the options too, in NAME.scores.json", action="store_true",
           default=False)  # fmt: skip
    p.flag("ask", "no training: choose among the --options for this question")
    p.flag("options", "the texts among which --ask chooses, two or more", nargs="+", metavar=tuple(LETTERS[:2]))
    p.flag("context", "the text that --ask is about: a file, or - for standard input")
    args = flags.for_predict(p.parse_args(words), "answers.json")
    flags.check_all_or_none(args, ask="the question", options="two texts or more", context="the file to read")
    args = flags.with_default_model(args, "race_model.pt", "ns_bert.pt")
    if args.scores and not args.predict:
        raise UserError("--scores: goes with the answers of --predict; add --predict FOLDER")
    check_layout(args.layout, args.attention_window)
    for name, head in (("duma_layers", "duma"), ("compare_options", "dcmn"), ("mix_layers", "mix")):
        if getattr(args, name) and args.head != head and not (args.checkpoint or uses_trained(args)):
            raise UserError(f"--{name.replace('_', '-')}: not of the head {args.head}; add --head {head}")
    return args


def check_layout(layout, window):
    """Raises UserError where a layout and the attention window of flags, or of a model, exclude each other."""
    if layout == "joint" and window:
        raise UserError(f"--layout joint and --attention-window {window} (of the flags or the model): options that do not "
                        "see each other need all of the attention; choose one")  # fmt: skip


if __name__ == "__main__":  # what follows takes a second to import
    flags.answer_help(arguments)

import math
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

import utils
from metrics import race_scores
from model import BertConfig, RaceTask
from text.option_rows import OptionRows
from text.places import Places
from text.questions import Article, load_race, load_race_splits
from text.tokenizer import Tokenizer
from training import sharding
from training.beginning import in_its_place
from training.ranks import Ranks, launch


def settle_reading(args: Namespace, config: BertConfig) -> None:
    """Give --passage and --layout, where no flag says, what did best in the same minutes (docs/results.rst).

    In the joint layout heads that read first tokens alone hardly learn, nor, in bf16, several layers of co-attention
    (benchmarks/LOG.md). An attention window is for whole articles, and not for that layout.
    """
    whole = bool(config.attention_window)
    joint = not whole and (config.head == "dcmn" or (config.head == "duma" and config.duma_layers == 1))
    args.passage = args.passage or ("window" if whole else "select")
    args.layout = args.layout or ("joint" if joint else "separate")


def inputs(batch, *more):
    return utils.inputs(batch, "parts", "markers", "option_mask", *more)


def loss(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    """The cross-entropy of the right options, summed over the questions."""
    return model(**inputs(batch, "option_places", "longest"), labels=batch["labels"])


def rows(model: torch.nn.Module, batch: dict, data: OptionRows, indices: np.ndarray) -> list[list[float]]:
    """For each question the logits of its options, over its windows each option's best.

    On RACE's dev no mean of windows and no sum of their probabilities did better (benchmarks/LOG.md, Windows of an
    article): one window has what was asked about, and the others know nothing of it.
    """
    few = len(indices)  # windows at a time, so that long articles take no more memory than short ones
    cut = [(name, x) for name, x in inputs(batch).items() if x is not None]
    parts = [{name: x[i : i + few] for name, x in cut} for i in range(0, len(batch["labels"]), few)]
    parts += parts[-1:] * (sharding.calls(model, len(parts)) - len(parts))  # on every rank as many; the surplus is cut off
    logits = torch.cat([model(**part).float().cpu() for part in parts])[: len(batch["labels"])]  # (windows, options)
    owner = batch["question"].cpu()[:, None].expand_as(logits)
    best = torch.full((len(indices), logits.size(1)), -math.inf).scatter_reduce(0, owner, logits, "amax")
    return [row[: data.options(index)] for index, row in zip(indices, best.tolist(), strict=True)]


def choices(data, rows):
    """Article's id -> the letters chosen, in the order of its questions."""
    chosen = {}
    for index, logits in rows:
        chosen.setdefault(data.questions[index][0].id, []).append(LETTERS[logits.index(max(logits))])
    return chosen


def probabilities(data, rows):
    """Article's id -> the probabilities of the options (a softmax of their logits), question by question."""
    shares = {}
    for index, logits in rows:
        shares.setdefault(data.questions[index][0].id, []).append(shares_of(logits))
    return shares


def shares_of(logits):
    return torch.tensor(logits, dtype=torch.double).softmax(0).tolist()


def samples(compute, model, data, rows):
    """Some questions that were answered right, and some that were answered wrong."""
    found = {True: [], False: []}
    for index, logits in rows:
        article, number = data.questions[index][:2]
        chosen = logits.index(max(logits))
        right = chosen == article.answers[number]
        if len(found[right]) < utils.SAMPLES:
            found[right].append({"kind": "race", "passage": article.text, "question": article.questions[number],
                                 "options": article.options[number], "probabilities": shares_of(logits),
                                 "chosen": chosen, "gold": article.answers[number], "right": right})  # fmt: skip
    return found[False] + found[True]


def padded(rows, dtype=torch.float):
    """The logits of all questions, (questions, most options); what is not there has no probability."""
    each = [torch.tensor(logits, dtype=dtype) for _, logits in rows]
    return pad_sequence(each, batch_first=True, padding_value=-math.inf)


def figures(data, rows):
    articles = [data.questions[index][:2] for index, _ in rows]
    gold = {}
    for article, number in articles:
        gold.setdefault(article.id, []).append(LETTERS[article.answers[number]])
    labels = torch.tensor([article.answers[number] for article, number in articles])
    losses = F.cross_entropy(padded(rows), labels, reduction="none")
    return {"loss": math.fsum(losses.tolist()) / len(losses), **race_scores(gold, choices(data, rows))}


def summary(part, figures):
    text = f"{part} loss {figures['loss']:8.5f}"
    for level in ("middle_", "high_", ""):
        if f"{level}accuracy" in figures:
            text += f" | {part} {level.replace('_', ' ')}accuracy {figures[f'{level}accuracy']:.2f}"
    return text.strip()


def together(members):
    """The rows of several models as those of one: for each option the mean over the models of log softmax(logits)."""
    logs = [padded(rows, torch.double).log_softmax(1).tolist() for rows in members]
    return [  # fsum: whatever the order of the models
        (index, [math.fsum(option) / len(logs) for option in zip(*found, strict=True)][: len(logits)])
        for (index, logits), *found in zip(members[0], *logs, strict=True)
    ]


def make_task(args, model, tokenizer, places, sets, description):
    """The task of a model on sets of articles, split -> articles."""
    how = flags.reading(args, model, READING)
    check_layout(how.layout, model.bert.config.attention_window)
    examples = {
        split: OptionRows(
            articles, tokenizer, places, how.bptt, args.seed, how.passage, f"{description}{split}", args.show, how.layout,
            how.sentences, how.marks,
        )
        for split, articles in sets.items()
    }  # fmt: skip
    return utils.Task(
        "race", model, tokenizer, examples, loss, rows, figures, summary, "accuracy",
        lambda figures: vars(how), samples, together=together,
    )  # fmt: skip


def look(args, ranks, models, articles, places, description):
    """The questions of these articles, and the rows that a trained model, or several together, give them."""
    tasks = [make_task(args, *model, places, {description: articles}, "") for model in models]
    return tasks[0].examples[description], utils.Computer(args, ranks).found(tasks, description)


def predict(args, ranks, models, places):
    articles = load_race(args.predict, args.level, answers_needed=False)
    data, found = look(args, ranks, models, articles, places, Path(args.predict).name)
    if not ranks.first:
        return
    chosen, files = choices(data, found), [args.output]
    write_json(args.output, chosen)
    if args.scores:
        files.append(f"{args.output.removesuffix('.json')}.scores.json")
        write_json(files[-1], probabilities(data, found))
    print(f"answers on {len(chosen)} articles written to {' and '.join(files)}")


def choose(
    args: Namespace, ranks: Ranks, models: list[tuple[RaceTask, Tokenizer]], text: str, question: str, options: list[str]
) -> list[float]:
    """The probability of each of some options, by a text, from a trained model or several together.

    Raises UserError for an option without text, and for fewer or more options than a question may have.
    """
    if not 2 <= len(options) <= len(LETTERS):
        raise UserError(f"--options: {len(options)} of them; give 2 to {len(LETTERS)} texts")
    for letter, option in zip(LETTERS, options, strict=False):
        if not option.strip():
            raise UserError(f"option {letter}: empty; give a text or leave it out")
    article = Article("asked", text, [question], [options], [None])
    with tempfile.TemporaryDirectory() as folder:  # not worth a place in the token cache
        data, found = look(args, ranks, models, [article], Places(args.data_dir, Path(folder)), "asked")
    return probabilities(data, found)["asked"][0]


def ask(args, ranks, models, places):
    """Print the options of one question with their probabilities; a star marks the chosen one."""
    shares = choose(args, ranks, models, read_context(args.context), args.ask, args.options)
    if not ranks.first:
        return
    for number, (share, option) in enumerate(zip(shares, args.options, strict=True)):
        print(f"{'*' if number == shares.index(max(shares)) else ' '} {LETTERS[number]}  {share:.3f}  {option}")


@in_its_place
def run(args, ranks):
    places = Places(args.data_dir, args.cache_dir)
    name = f"{Path(args.dataset).name}-"
    if uses_trained(args):
        models = flags.trained_models(RaceTask, args, READING)
        if not args.evaluate:
            return (predict if args.predict else ask)(args, ranks, models, places)
        articles = load_race_splits(args.dataset, places, args.level, ("test",), skip=None if args.strict else warn)
        tasks = [make_task(args, *model, places, articles, name) for model in models]
        return utils.evaluate(tasks, args, ranks)
    model, tokenizer = flags.new_or_loaded(RaceTask, args, places, READING)
    settle_reading(args, model.bert.config)
    sets = load_race_splits(args.dataset, places, args.level, skip=None if args.strict else warn)
    task = make_task(args, model, tokenizer, places, sets, name)
    return utils.run(task, args, ranks)


if __name__ == "__main__":
    run_main(lambda: launch(run, arguments()))
