"""Fine-tune a BERT to answer questions with a span of a text: SQuAD 1.1 and 2.0 (Devlin et al. 2019, sections 4.2, 4.3).

    python qa_task.py                                               # from ns_bert.pt, on the embedded data set
    python qa_task.py --bert-model ns_bert.pt --dataset SQuAD1 --epochs 2
    python qa_task.py --predict dev-v2.0.json                       # by qa_model.pt, or --bert-model FILE
    python qa_task.py --predict dev-v2.0.json --bert-model a.pt b.pt    # by both together
    python qa_task.py --ask "Who wrote it?" --context book.txt      # or --context - for standard input

Writes the model to qa_model.pt. Scores are those of the official scripts, over every question of the development file.
To choose the best model some training articles are set aside. Where the training set has questions without an answer,
the threshold from which an answer is withheld is found there, too, and kept in the model file; --null-threshold overrides
it.

--predict writes {id: text} to predictions.json and, for each question, a list of {text, probability, start_logit,
end_logit}, best first, to predictions.nbest.json: different texts, among which the probabilities are shared out by a
softmax over the sums of the logits. Where answers may be withheld (SQuAD 2.0) "no answer" is one of them, as the empty
text, and predictions.null_odds.json has the probability of it against the best span alone: the logistic function of
their difference in score. It is a probability and not the difference itself so that the official script, which by
default withholds what lies above 1.0, takes the answers as they are written.

Several models, which may differ in all but the task, answer together (--predict, --evaluate, --ask); how, is in
text/answers.py.
"""

from files.mistakes import UserError, run_main, warn
from training import flags
from training.parser import uses_trained

READING = {  # how a model reads, unless a flag or its file says otherwise
    "bptt": (384,), "stride": (128,), "marks": ("none", "question"),
}  # fmt: skip


def arguments(words: list[str] | None = None) -> "Namespace":
    p = flags.parser(
        "qa", __doc__, READING, short={"optimizer": "muon", "batch_size": 16, "marks": "question"},
        short_for=dict.fromkeys(["optimizer", "batch_size"], " of a body made here"),
        save="qa_model.pt", epochs=2, batch_size=32, optimizer="adamw",
    )  # fmt: skip
    p.flag("stride", "tokens from one window of a long text to the next", type=int)
    p.flag("marks", "question: mark the words of a text that stand in the question by a token type of their own, by which "
           "a short training gains much; other software does not give it", choices=READING["marks"])  # fmt: skip
    p.flag("max-answer-length", "tokens of an answer at most", type=flags.positive(int), default=30)
    p.flag("n-best", "answers to consider for each window, and to list for each question", type=flags.positive(int),
           default=20)  # fmt: skip
    p.flag("null-threshold", "withhold answers whose null odds are above this, from 0 (all) to 1 (none), whatever the "
           "model holds; with --predict, --evaluate or --ask", type=flags.share)  # fmt: skip
    p.flag("show", "question: hide the context, to see what can be had without reading", choices=["all", "question"],
           default="all")  # fmt: skip
    p.flag("predict", "no training: answer the questions of this file of SQuAD's layout or rows")
    p.flag("output", "where the answers of --predict go (default: predictions.json)")
    p.flag("ask", "no training: answer this question")
    p.flag("context", "the text in which --ask looks for the answer: a file, or - for standard input")
    args = flags.for_predict(p.parse_args(words), "predictions.json")
    flags.check_all_or_none(args, ask="the question", context="the file to look in")
    if args.null_threshold is not None and not uses_trained(args):
        raise UserError(f"--null-threshold {args.null_threshold:g}: training finds its own; add --predict, --evaluate or "
                        "--ask")  # fmt: skip
    return flags.with_default_model(args, "qa_model.pt", "ns_bert.pt")


if __name__ == "__main__":  # what follows takes a second to import
    flags.answer_help(arguments)

import math
import re
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

import utils
from files.tables import read_context
from files.writing import write_json
from metrics import exact_score, squad_scores
from model import QuestionAnswerTask
from text.answers import (
    Found,
    best_answers,
    best_spans,
    between,
    candidates,
    mean,
    n_best_answers,
    null_odds,
    text_of,
    together,
)
from text.places import Places
from text.question_windows import QuestionWindows
from text.questions import Question, SquadSet, load_squad, load_squad_splits
from text.sentences import sentences
from text.tokenizer import Tokenizer
from training.beginning import in_its_place
from training.ranks import Ranks, launch


def span_losses(model, batch):
    """Start and end logits (N, S), and each window's loss: the mean of two cross-entropies."""
    start, end = (logits.float() for logits in model(**utils.inputs(batch)))
    if batch["attention_mask"] is not None:
        padding = batch["attention_mask"] == 0
        start, end = start.masked_fill(padding, -1e4), end.masked_fill(padding, -1e4)
    losses = (F.cross_entropy(start, batch["start"], reduction="none")
              + F.cross_entropy(end, batch["end"], reduction="none")) / 2  # fmt: skip
    return start, end, losses


def loss(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    """The mean of the cross-entropies of begin and end, summed over the windows."""
    return span_losses(model, batch)[2].sum()


def make_rows(n_best: int, longest: int) -> Callable[..., list]:
    """A task's ``rows`` that keeps the ``n_best`` spans of a window, of ``longest`` tokens at most."""
    def rows(model, batch, data, indices):
        """For each window: its loss, the two logits of no answer, and its best spans.

        A span is (start logit, end logit, first and last context token). It begins and ends in the context, begins
        where no other window shows more context, and is not too long.
        """
        start, end, losses = span_losses(model, batch)
        begins, ends = start.masked_fill(~batch["best"], -math.inf), end.masked_fill(~batch["context"], -math.inf)
        scores, firsts, lasts = best_spans(begins, ends, n_best, longest)
        values = begins.gather(1, firsts).tolist(), ends.gather(1, lasts.clamp(max=ends.size(1) - 1)).tolist()
        losses, start, end, scores, firsts, lasts = (
            x.tolist() for x in (losses, start[:, 0], end[:, 0], scores, firsts, lasts)
        )
        result = []
        for row, window in enumerate(indices):
            shift = int(data.windows[window, 1]) - data.context_start(window)
            found = zip(scores[row], values[0][row], values[1][row], firsts[row], lasts[row], strict=True)
            spans = [(begin, finish, first + shift, last + shift)
                     for score, begin, finish, first, last in found if score > -math.inf]  # fmt: skip
            result.append((losses[row], (start[row], end[row]), spans))
        return result

    return rows


def null_threshold(model):
    """The null odds above which an answer is withheld; None for a model that was trained on answerable questions alone."""
    threshold = getattr(model, "notes", {}).get("null_threshold")
    if threshold is not None and type(threshold) not in (int, float):
        raise UserError(f"the model's null_threshold is {threshold!r}, not a number; train or fetch its file again")
    return threshold


def is_withheld(threshold, null, spans):
    """Is no answer the answer?"""
    return not spans or (threshold is not None and null_odds(null, spans) > threshold)


def as_squad(data, ids):
    """The gold answers of the questions in ``ids``, laid out as metrics.squad_scores wants them."""
    questions = [
        {"id": q.id, "question": q.text, "answers": [{"text": text} for text, _ in q.answers]}
        | ({"is_impossible": not q.answers} if data.squad.with_impossible else {})
        for q in data.squad.questions if q.id in ids
    ]  # fmt: skip
    return {"data": [{"paragraphs": [{"context": "", "qas": questions}]}]}


def official(data, candidates, threshold, find_threshold=False):
    """The official scores of ``candidates``, an answer being withheld above the threshold.

    With ``find_threshold`` it is found here, halfway beyond the best one, and given as ``null_threshold``.
    """
    texts, odds = best_answers(data, candidates)
    gold = as_squad(data, texts)
    if not data.squad.with_impossible:  # whose scores know no odds; an answer is withheld all the same
        withheld = {id for id in texts if threshold is not None and odds[id] > threshold}
        return squad_scores(gold, {id: "" if id in withheld else text for id, text in texts.items()})
    if find_threshold:  # of a few examples that are all of one kind, which show none, it is 1
        kinds = {bool(question["answers"]) for question in gold["data"][0]["paragraphs"][0]["qas"]}
        threshold = 1.0 if len(kinds) < 2 else between(squad_scores(gold, texts, odds)["best_f1_thresh"], odds.values())
    scores = squad_scores(gold, texts, odds, 1.0 if threshold is None else threshold)
    return {**scores, "null_threshold": threshold} if find_threshold else scores


def samples(compute, model, data, found):
    """Some questions of the first paragraphs that were answered right, and some that were answered wrong."""
    threshold, kept = found.threshold, {True: [], False: []}
    for number, (null, spans) in found.candidates.items():
        question = data.squad.questions[number]
        gold = [text for text, _ in question.answers]
        withheld = is_withheld(threshold, null, spans)
        text = "" if withheld else text_of(data, question, spans[0])
        right = exact_score(text, gold or [""]) > 0
        if len(kept[right]) < utils.SAMPLES:
            start, end = (None, None) if withheld else spans[0][2:]
            kept[right].append({
                "kind": "qa", "passage": data.squad.contexts[question.context], "question": question.text,
                "answer": text, "start": start, "end": end, "gold": sorted(set(gold)), "right": right,
            })  # fmt: skip
    return kept[False] + kept[True]


def settled(args, found):
    """What was found, by the threshold of --null-threshold where that is given."""
    return found if args.null_threshold is None else replace(found, threshold=args.null_threshold)


def summary(part, figures):
    text = f"{part} loss {figures['loss']:8.5f}"
    if "exact" in figures:
        text += f" | exact {figures['exact']:8.3f}% | f1 {figures['f1']:8.3f}%"
    return text.strip()


def make_task(args, model, tokenizer, places, sets, description):
    """The task of a model on sets of questions, split -> SquadSet."""
    how = flags.reading(args, model, READING)
    examples = {
        split: QuestionWindows(
            squad, tokenizer, places, how.bptt, how.stride, f"{description}{split}", args.show, how.marks
        )
        for split, squad in sets.items()
    }
    # Without a question to withhold an answer from, the best threshold would cut off what this model got wrong by chance.
    finds_threshold = {"train", "valid"} <= set(sets) and any(not question.answers for question in sets["train"].questions)
    kinds = {bool(question.answers) for question in sets["valid"].questions} if finds_threshold else set()
    if kinds == {False}:  # withholding all would be perfect, and the first model the best
        raise UserError("no question of the validation set has an answer, so that no model can be chosen by it; give a "
                        "valid file with questions of both kinds")  # fmt: skip
    if kinds == {True}:
        warn("every question of the validation set has an answer, so no threshold is found for withholding one; give "
             "--null-threshold when asking, or validation questions without an answer")  # fmt: skip
        finds_threshold = False

    def found(data, rows):
        return Found(candidates(data, rows), null_threshold(model), mean(loss for _, (loss, _, _) in rows))

    def figures(data, found):
        found, validating = settled(args, found), finds_threshold and not hasattr(model, "notes")  # noted beside the model
        return {"loss": found.loss, **official(data, found.candidates, found.threshold, validating)}

    def notes(figures):
        return {**vars(how), **({"null_threshold": figures["null_threshold"]} if finds_threshold else {})}

    return utils.Task(
        "qa", model, tokenizer, examples, loss, make_rows(args.n_best, args.max_answer_length), figures, summary, "f1",
        notes, lambda compute, model, data, found: samples(compute, model, data, settled(args, found)), found, together,
    )  # fmt: skip


def look(args, ranks, models, squad, places, description):
    """The windows of these questions, and what a trained model, or several together, find in them."""
    tasks = [make_task(args, *model, places, {description: squad}, "") for model in models]
    return tasks[0].examples[description], settled(args, utils.Computer(args, ranks).found(tasks, description))


def predict(args, ranks, models, places):
    """Answer the questions of a SQuAD file; an answer is withheld above the threshold that the model file holds."""
    squad = load_squad(args.predict, answers_needed=False)
    data, found = look(args, ranks, models, squad, places, Path(args.predict).stem)
    if not ranks.first:
        return
    threshold = found.threshold
    may_withhold = threshold is not None or squad.with_impossible
    texts, odds = best_answers(data, found.candidates)
    lists = {}
    for number, (null, spans) in found.candidates.items():
        question = squad.questions[number]
        lists[question.id] = n_best_answers(data, question, null, spans, args.n_best, may_withhold)
    if threshold is not None:
        texts = {id: "" if odds[id] > threshold else text for id, text in texts.items()}
    name = args.output.removesuffix(".json")
    write_json(args.output, texts)
    write_json(f"{name}.nbest.json", lists)
    if may_withhold:
        write_json(f"{name}.null_odds.json", odds)
    print(f"{len(texts)} answers written to {args.output}, {name}.nbest.json"
          + (f" and {name}.null_odds.json" if may_withhold else ""))  # fmt: skip


def answer(
    args: Namespace, ranks: Ranks, models: list[tuple[QuestionAnswerTask, Tokenizer]], text: str, question: str
) -> dict:
    """What a trained model, or several together, answer to one question from a text.

    Gives ``withheld``, whether that is no answer, and ``answers``, the n best with their probabilities, best first:
    {"text", "probability", "start", "end"}, the last two in characters of the text. Where answers may be withheld,
    "no answer" is one of them: the empty text, whose place is None.
    """
    asked = Question("asked", question, 0, "", [])
    with tempfile.TemporaryDirectory() as folder:  # not worth a place in the token cache
        squad = SquadSet([text], [asked], False)
        data, found = look(args, ranks, models, squad, Places(args.data_dir, Path(folder)), "asked")
    (null, spans), = found.candidates.values()
    threshold = found.threshold
    places = {text_of(data, asked, span): span[2:] for span in reversed(spans)}  # of a text that stands twice, the best
    listed = [
        {"text": one["text"], "probability": one["probability"], "start": start, "end": end}
        for one in n_best_answers(data, asked, null, spans, args.n_best, threshold is not None)
        for start, end in [places.get(one["text"], (None, None))]
    ]  # fmt: skip
    return {"withheld": is_withheld(threshold, null, spans), "answers": listed}


def ask(args, ranks, models, places):
    """Answer one question from a text: the answer, its probability among the n best, and the sentence around it."""
    text = read_context(args.context)
    found = answer(args, ranks, models, text, args.ask)
    if not ranks.first:
        return
    shares = {one["text"]: one["probability"] for one in found["answers"]}
    best = next((one for one in found["answers"] if one["text"]), None)
    wording = best and " ".join(best["text"].split())
    if found["withheld"]:
        print(f"answer       none in this text\nprobability  {shares.get('', 1.0):.3f}")
    if best:
        share = best["probability"]
        print(f"best guess   {wording} ({share:.3f})" if found["withheld"] else
              f"answer       {wording}\nprobability  {share:.3f}")  # fmt: skip
        print(f"sentence     {sentence_around(text, best['start'], best['end'], args.sentences)}")


def sentence_around(text, start, end, language="rules"):
    """The sentence in which the characters from ``start`` to ``end`` stand (all that they touch), blanks made single."""
    borders = [blank.span() for blank in re.finditer(r"\n\s*\n", text)]  # of its paragraph
    left = max((after for _, after in borders if after <= start), default=0)
    right = min((before for before, _ in borders if before >= end), default=len(text))
    first = count_letters(text[left:start])
    last, place, kept = first + count_letters(text[start:end]), 0, []
    for sentence in sentences(" ".join(text[left:right].split()), language):
        length = count_letters(sentence)
        if place < last and first < place + length:
            kept.append(sentence)
        place += length
    return " ".join(kept)


def count_letters(text):
    """Characters but blanks, of which a sentence has the same number in the text and on its own."""
    return len("".join(text.split()))


@in_its_place
def run(args, ranks):
    places = Places(args.data_dir, args.cache_dir)
    name = f"{Path(args.dataset).name}-"
    if uses_trained(args):
        models = flags.trained_models(QuestionAnswerTask, args, READING)
        if not args.evaluate:
            return (predict if args.predict else ask)(args, ranks, models, places)
        squads = load_squad_splits(args.dataset, places, ("test",), skip=None if args.strict else warn)
        tasks = [make_task(args, *model, places, squads, name) for model in models]
        return utils.evaluate(tasks, args, ranks)
    model, tokenizer = flags.new_or_loaded(QuestionAnswerTask, args, places, READING)
    vars(model).pop("notes", None)  # of --checkpoint: training finds a threshold of its own
    sets = load_squad_splits(args.dataset, places, skip=None if args.strict else warn)
    return utils.run(make_task(args, model, tokenizer, places, sets, name), args, ranks)


if __name__ == "__main__":
    run_main(lambda: launch(run, arguments()))
