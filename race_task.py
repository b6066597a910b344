"""Fine-tune a BERT to choose among four options: RACE (Lai et al. 2017, arXiv 1704.04683).

    python race_task.py                                             # from ns_bert.pt, on the embedded data set
    python race_task.py --bert-model ns_bert.pt --dataset RACE --level middle --epochs 2
    python race_task.py --predict RACE/test --output answers.json   # by race_model.pt, or --bert-model FILE
    python race_task.py --ask "Who slept?" --options Ann Ben Cid Dora --context story.txt

Writes the model to race_model.pt. Scores are the accuracy on the test split, for middle, high and all.
"""

import math
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

import flags
import utils
from batches import OptionRows
from corpus import SPLITS
from data import LETTERS, Article, Places, load_race, load_race_splits, load_tokenizer
from files import UserError, read_context, run_main, write_json
from metrics import race_scores
from model import RaceTask
from ranks import launch


def arguments(words=None):
    p = flags.parser(
        "race", __doc__,
        save="race_model.pt", epochs=3, batch_size=16, bptt=512, optimizer="adamw",
        valid_examples=300,  # each is four rows, and costs as much as ten in pretraining
    )  # fmt: skip
    p.flag("level", "which part of RACE", choices=["middle", "high", "all"], default="all")
    p.flag("passage", "an article that is too long: read its beginning, or window by window",
           choices=["truncate", "window"], default="window")  # fmt: skip
    p.flag("show", "question: hide the article, options: the question too, to see what can be had without reading",
           choices=["all", "question", "options"], default="all")  # fmt: skip
    p.flag("predict", "no training: choose for the articles of this folder")
    p.flag("output", "where the answers of --predict go", default="answers.json")
    p.flag("scores", "with --predict: the probabilities of the four options too, in NAME.scores.json", action="store_true",
           default=False)  # fmt: skip
    p.flag("ask", "no training: choose among the --options for this question")
    p.flag("options", "the four texts among which --ask chooses", nargs=4, metavar=tuple(LETTERS))
    p.flag("context", "the text that --ask is about: a file, or - for standard input")
    args = p.parse_args(words)
    flags.check_all_or_none(args, ask="the question", options="four texts", context="the file to read")
    return flags.with_default_model(args, "ns_bert.pt")


def loss(model, batch):
    logits = model(**utils.inputs(batch))
    return F.cross_entropy(logits.float(), batch["labels"], reduction="sum")


def rows(model, batch, data, indices):
    """For each question the logits of its four options, over its windows each option's best."""
    few = len(indices)  # windows at a time, so that long articles take no more memory than short ones
    parts = [{name: x[i : i + few] for name, x in utils.inputs(batch).items()} for i in range(0, len(batch["labels"]), few)]
    logits = torch.cat([model(**part).float().cpu() for part in parts])  # (windows, 4)
    owner = batch["question"].cpu()[:, None].expand_as(logits)
    best = torch.full((len(indices), 4), -math.inf).scatter_reduce(0, owner, logits, "amax")
    return best.tolist()


def choices(data, rows):
    """Article's id -> the letters chosen, in the order of its questions."""
    chosen = {}
    for index, logits in rows:
        chosen.setdefault(data.questions[index][0].id, []).append("ABCD"[logits.index(max(logits))])
    return chosen


def probabilities(data, rows):
    """Article's id -> the probabilities of the four options (a softmax of their logits), question by question."""
    shares = {}
    for index, logits in rows:
        row = torch.tensor(logits, dtype=torch.double).softmax(0).tolist()
        shares.setdefault(data.questions[index][0].id, []).append(row)
    return shares


def figures(data, rows):
    articles = [data.questions[index][:2] for index, _ in rows]
    gold = {}
    for article, number in articles:
        gold.setdefault(article.id, []).append("ABCD"[article.answers[number]])
    labels = torch.tensor([article.answers[number] for article, number in articles])
    losses = F.cross_entropy(torch.tensor([logits for _, logits in rows]), labels, reduction="none")
    return {"loss": math.fsum(losses.tolist()) / len(losses), **race_scores(gold, choices(data, rows))}


def summary(part, figures):
    text = f"{part} loss {figures['loss']:8.5f}"
    for level in ("middle_", "high_", ""):
        if f"{level}accuracy" in figures:
            text += f" | {part} {level.replace('_', ' ')}accuracy {figures[f'{level}accuracy']:.2f}"
    return text.strip()


def look(args, ranks, model, tokenizer, articles, places, description):
    """The questions of articles whose answers need not be known, and the logits of their options."""
    data = OptionRows(articles, tokenizer, places, args.bptt, args.seed, args.passage, description)
    task = utils.Task("race", model.to(ranks.device), tokenizer, {"predict": data}, loss, rows,
                      lambda data, rows: rows, None)  # fmt: skip
    return data, utils.Computer(args, ranks).score(task, "predict", utils.evaluation_size(args))


def predict(args, ranks, model, tokenizer, places):
    articles = load_race(args.predict, args.level, answers_needed=False)
    data, found = look(args, ranks, model, tokenizer, articles, places, Path(args.predict).name)
    if not ranks.first:
        return
    chosen, files = choices(data, found), [args.output]
    write_json(args.output, chosen)
    if args.scores:
        files.append(f"{args.output.removesuffix('.json')}.scores.json")
        write_json(files[-1], probabilities(data, found))
    print(f"answers on {len(chosen)} articles written to {' and '.join(files)}")


def choose(args, ranks, model, tokenizer, text, question, options):
    """The probability of each of four options, by a text. Raises UserError for an option without text."""
    for letter, option in zip(LETTERS, options, strict=True):
        if not option.strip():
            raise UserError(f"option {letter}: empty; give four texts to choose among")
    article = Article("asked", text, [question], [options], [None])
    with tempfile.TemporaryDirectory() as folder:  # not worth a place in the token cache
        data, found = look(args, ranks, model, tokenizer, [article], Places(args.data_dir, folder), "asked")
        return probabilities(data, found)["asked"][0]


def ask(args, ranks, model, tokenizer):
    """Print the options of one question with their probabilities; a star marks the chosen one."""
    shares = choose(args, ranks, model, tokenizer, read_context(args.context), args.ask, args.options)
    if not ranks.first:
        return
    for number, (share, option) in enumerate(zip(shares, args.options, strict=True)):
        print(f"{'*' if number == shares.index(max(shares)) else ' '} {LETTERS[number]}  {share:.3f}  {option}")


def run(args, ranks):
    places = Places(args.data_dir, args.cache_dir)
    model, tokenizer = flags.new_or_loaded(RaceTask, args, lambda: load_tokenizer(args, args.dataset, places))
    if args.ask:
        return ask(args, ranks, model, tokenizer)
    if args.predict:
        return predict(args, ranks, model, tokenizer, places)
    splits = load_race_splits(args.dataset, places, args.level, ("test",) if args.evaluate else SPLITS)
    examples = {
        split: OptionRows(articles, tokenizer, places, args.bptt, args.seed, args.passage,
                          f"{Path(args.dataset).name}-{split}", args.show)
        for split, articles in splits.items()
    }  # fmt: skip
    task = utils.Task("race", model, tokenizer, examples, loss, rows, figures, summary, "accuracy")
    return utils.run(task, args, ranks)


if __name__ == "__main__":
    run_main(lambda: launch(run, arguments()))
