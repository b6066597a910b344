"""Fine-tune a BERT to answer questions with a span of a text: SQuAD 1.1 and 2.0 (Devlin et al. 2019, sections 4.2, 4.3).

    python qa_task.py                                               # from ns_bert.pt, on the embedded data set
    python qa_task.py --bert-model ns_bert.pt --dataset SQuAD1 --epochs 2
    python qa_task.py --predict dev-v2.0.json --output answers.json # by qa_model.pt, or --bert-model FILE
    python qa_task.py --predict dev-v2.0.json --bert-model a.pt b.pt    # by both together
    python qa_task.py --ask "Who wrote it?" --context book.txt      # or --context - for standard input

Writes the model to qa_model.pt. Scores are those of the official scripts, over every question of the development file.
To choose the best model, and the threshold from which an answer is withheld, some training articles are set aside; the
threshold is kept in the model file.

--predict writes {id: text} to answers.json and, for each question, a list of {text, probability, start_logit, end_logit},
best first, to answers.nbest.json: different texts, among which the probabilities are shared out by a softmax over the
sums of the logits. Where answers may be withheld (SQuAD 2.0) "no answer" is one of them, as the empty text, and
answers.null_odds.json has the probability of it against the best span alone: the logistic function of their difference
in score. It is a probability and not the difference itself so that the official script, which by default withholds what
lies above 1.0, takes the answers as they are written.

Several models, which may differ in all but the task, answer together (--predict, --evaluate, --ask). Each shares out a
probability of 1 among what it lists for a question, spans and no answer, by a softmax over the sums of the logits. A
span's score is the mean over the models of the logarithms of these; spans are the same where their characters are, and
one that a model does not list counts there as much as the last that it does. Null odds and threshold are means over the
models that hold a threshold, as logits, that is before the logistic function; so a model that withholds every answer
makes the ensemble do so.
"""

import flags


def arguments(words=None):
    p = flags.parser(
        "qa", __doc__,
        save="qa_model.pt", epochs=2, batch_size=32, bptt=384, optimizer="adamw",
    )  # fmt: skip
    p.flag("stride", "tokens from one window of a long text to the next", type=int, default=128)
    p.flag("max-answer-length", "tokens of an answer at most", type=flags.positive(int), default=30)
    p.flag("n-best", "answers to consider for each window, and to list for each question", type=flags.positive(int),
           default=20)  # fmt: skip
    p.flag("show", "question: hide the context, to see what can be had without reading", choices=["all", "question"],
           default="all")  # fmt: skip
    p.flag("predict", "no training: answer the questions of this SQuAD file")
    p.flag("output", "where the answers of --predict go", default="predictions.json")
    p.flag("ask", "no training: answer this question")
    p.flag("context", "the text in which --ask looks for the answer: a file, or - for standard input")
    args = p.parse_args(words)
    flags.check_all_or_none(args, ask="the question", context="the file to look in")
    return flags.with_default_model(args, "ns_bert.pt")


if __name__ == "__main__":  # what follows takes a second to import
    flags.answer_help(arguments)

import math
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

import utils
from batches import QuestionWindows
from corpus import sentences
from data import Places, Question, SquadSet, load_squad, load_squad_splits, load_tokenizer
from files import UserError, read_context, run_main, write_json
from metrics import exact_score, squad_scores
from model import QuestionAnswerTask
from ranks import launch


def span_losses(model, batch):
    """Start and end logits (N, S), and each window's loss: the mean of two cross-entropies."""
    start, end = (logits.float() for logits in model(**utils.inputs(batch)))
    padding = batch["attention_mask"] == 0
    start, end = start.masked_fill(padding, -1e4), end.masked_fill(padding, -1e4)
    losses = (F.cross_entropy(start, batch["start"], reduction="none")
              + F.cross_entropy(end, batch["end"], reduction="none")) / 2  # fmt: skip
    return start, end, losses


def loss(model, batch):
    return span_losses(model, batch)[2].sum()


def best_spans(begins, ends, n_best, longest):
    """The best spans of each row, best first: their scores and first and last places, each (N, K).

    A span's score is the sum of its logits in ``begins`` and ``ends``, (N, S) each, minus infinity where it must not
    begin or end; it takes at most ``longest`` places. Only sums of such spans are made: S * longest, not S * S.
    """
    longest = min(longest, ends.size(1))
    reach = F.pad(ends, (0, longest - 1), value=-math.inf).unfold(1, longest, 1)  # (N, S, longest), without a copy
    scores, places = (begins[:, :, None] + reach).flatten(1).topk(min(n_best, begins.size(1) * longest))
    return scores, places // longest, places // longest + places % longest


def make_rows(n_best, longest):
    def rows(model, batch, data, indices):
        """For each window: its loss, the two logits of no answer, and its best spans.

        A span is (start logit, end logit, first and last context token). It begins and ends in the context, begins
        where no other window shows more context, and is not too long.
        """
        start, end, losses = (x.cpu() for x in span_losses(model, batch))
        begins, ends = torch.full_like(start, -math.inf), torch.full_like(end, -math.inf)
        for row, window in enumerate(indices):
            base, count = data.context_start(window), int(data.windows[window, 2])
            context, best = slice(base, base + count), torch.from_numpy(data.best_context(window))
            begins[row, context] = start[row, context].masked_fill(~best, -math.inf)
            ends[row, context] = end[row, context]
        scores, firsts, lasts = best_spans(begins, ends, n_best, longest)
        values = begins.gather(1, firsts).tolist(), ends.gather(1, lasts.clamp(max=ends.size(1) - 1)).tolist()
        result = []
        for row, window in enumerate(indices):
            shift = int(data.windows[window, 1]) - data.context_start(window)
            found = zip(scores[row].tolist(), values[0][row], values[1][row], firsts[row].tolist(), lasts[row].tolist(),
                        strict=True)  # fmt: skip
            spans = [(begin, finish, first + shift, last + shift)
                     for score, begin, finish, first, last in found if score > -math.inf]  # fmt: skip
            result.append((losses[row].item(), (start[row, 0].item(), end[row, 0].item()), spans))
        return result

    return rows


def candidates(data, rows):
    """For the number of each question: the logits of no answer, and the spans of all its windows, best first.

    A span is (start logit, end logit, first character in the context, the one behind its last). No answer is scored by
    the window in which it is least likely: the answer may stand in any.
    """
    nulls, spans = {}, {}
    for window, (_, null, found) in rows:
        question = int(data.windows[window, 0])
        nulls[question] = min(null, nulls.get(question, null), key=sum)
        where = data.texts.text_spans(data.squad.questions[question].context)
        spans.setdefault(question, []).extend(
            (begin, finish, int(where[first, 0]), int(where[last, 1])) for begin, finish, first, last in found
        )
    return {number: (nulls[number], sorted(spans[number], key=lambda span: -sum(span[:2]))) for number in sorted(spans)}


def text_of(data, question, span):
    return data.squad.contexts[question.context][span[2] : span[3]]


FARTHEST = 700.0  # where a difference of scores is cut off, which the exponential of a float just bears


def null_margin(null, spans):
    """By how much no answer scores above the best span."""
    return min(FARTHEST, max(-FARTHEST, sum(null) - sum(spans[0][:2]))) if spans else FARTHEST


def logistic(x):
    return 1 / (1 + math.exp(-x))


def null_odds(null, spans):
    """The probability that there is no answer, against the best span: the logistic function of null less span."""
    return logistic(null_margin(null, spans))


def together(members, thresholds):
    """The candidates of several models as those of one, and their threshold; the formula stands at the top.

    ``members``: of each what ``candidates`` gives; ``thresholds``: its null odds above which it withholds, or None. Spans
    are as they are there, but for the logits: means over the models, less half of log sum exp of what each lists. The
    logits of no answer are such that they lead to the mean null odds.
    """
    known = [threshold for threshold in thresholds if threshold is not None]
    telling = [not known or threshold is not None for threshold in thresholds]  # those whose null odds count
    found = {}
    for number in members[0]:
        shares = [shares_of(*member[number]) for member in members]
        shares = [share for share in shares if share]  # a context may hold no token of a model's
        lowest = [min(share.values(), key=sum) for share in shares]
        spans = []
        for place in set().union(*shares):
            begins, ends = zip(*(share.get(place, low) for share, low in zip(shares, lowest, strict=True)), strict=True)
            spans.append((mean(begins), mean(ends), *place))
        spans.sort(key=lambda span: (-sum(span[:2]), span[2:]))  # whatever the order of the models
        margin = mean([null_margin(*member[number]) for member, tells in zip(members, telling, strict=True) if tells])
        found[number] = ((sum(spans[0][:2]) + margin) / 2 if spans else 0.0,) * 2, spans
    return found, logistic(mean(map(logit, known))) if known else None


def shares_of(null, spans):
    """Place of each span -> the two halves of the logarithm of its probability among them and no answer."""
    total = torch.tensor([sum(null), *(sum(span[:2]) for span in spans)], dtype=torch.double).logsumexp(0).item()
    shares = {}
    for begin, finish, *place in spans:
        shares.setdefault(tuple(place), (begin - total / 2, finish - total / 2))
    return shares


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


def logit(share):
    """The inverse of the logistic function."""
    return math.log(share / (1 - share)) if 0 < share < 1 else math.copysign(FARTHEST, share - 0.5)


def answers(data, found):
    """``{id: text of the best span over all windows}``, whatever speaks for no answer, and ``{id: null_odds}``.

    ``found``: what ``candidates`` gives.
    """
    texts, odds = {}, {}
    for number, (null, spans) in found.items():
        question = data.squad.questions[number]
        texts[question.id] = text_of(data, question, spans[0]) if spans else ""
        odds[question.id] = null_odds(null, spans)
    return texts, odds


def n_best_answers(data, question, null, spans, n_best, may_withhold):
    """The best texts of a question, best first; of a text that stands in several places, the best place counts.

    With ``may_withhold`` the empty text is one more of them, with the logits of no answer.
    """
    found = {}
    for span in spans:
        if len(found) == n_best:
            break
        found.setdefault(text_of(data, question, span), span[:2])
    if may_withhold or not found:
        found[""] = null
    ordered = sorted(found.items(), key=lambda item: -sum(item[1]))
    shares = torch.tensor([sum(logits) for _, logits in ordered], dtype=torch.double).softmax(0).tolist()
    return [{"text": text, "probability": share, "start_logit": begin, "end_logit": finish}
            for (text, (begin, finish)), share in zip(ordered, shares, strict=True)]  # fmt: skip


def null_threshold(model):
    """The null odds above which an answer is withheld; None for a model that met no unanswerable question."""
    threshold = getattr(model, "notes", {}).get("null_threshold")
    if threshold is not None and type(threshold) not in (int, float):
        raise UserError(f"the model's null_threshold is {threshold!r}, not a number; train or fetch its file again")
    return threshold


def as_squad(data, ids):
    """The gold answers of the questions in ``ids``, laid out as metrics.squad_scores wants them."""
    questions = [
        {"id": q.id, "question": q.text, "answers": [{"text": text} for text, _ in q.answers]}
        | ({"is_impossible": not q.answers} if data.squad.with_impossible else {})
        for q in data.squad.questions if q.id in ids
    ]  # fmt: skip
    return {"data": [{"paragraphs": [{"context": "", "qas": questions}]}]}


def official(data, found, threshold, find_threshold=False):
    """The official scores of what ``candidates`` gives, an answer being withheld above the threshold (or the best one)."""
    texts, odds = answers(data, found)
    gold = as_squad(data, texts)
    if not data.squad.with_impossible:
        return squad_scores(gold, texts)
    if find_threshold:
        threshold = squad_scores(gold, texts, odds)["best_f1_thresh"]
    return squad_scores(gold, texts, odds, 1.0 if threshold is None else threshold)


def samples(compute, model, data, rows):
    """Some questions of the first paragraphs that were answered right, and some that were answered wrong."""
    threshold, found = null_threshold(model), {True: [], False: []}
    for number, (null, spans) in candidates(data, rows).items():
        question = data.squad.questions[number]
        gold = [text for text, _ in question.answers]
        withheld = not spans or (threshold is not None and null_odds(null, spans) > threshold)
        text = "" if withheld else text_of(data, question, spans[0])
        right = exact_score(text, gold or [""]) > 0
        if len(found[right]) < utils.SAMPLES:
            start, end = (None, None) if withheld else spans[0][2:]
            found[right].append({
                "kind": "qa", "passage": data.squad.contexts[question.context], "question": question.text,
                "answer": text, "start": start, "end": end, "gold": sorted(set(gold)), "right": right,
            })  # fmt: skip
    return found[False] + found[True]


def mean_loss(rows):
    return mean(loss for _, (loss, _, _) in rows)


def make_figures(model):
    def figures(data, rows):
        validating = not hasattr(model, "notes")  # by the threshold that will be noted beside the model
        found = candidates(data, rows)
        return {"loss": mean_loss(rows), **official(data, found, null_threshold(model), validating)}

    return figures


def summary(part, figures):
    text = f"{part} loss {figures['loss']:8.5f}"
    if "exact" in figures:
        text += f" | {part} exact {figures['exact']:.3f} | {part} f1 {figures['f1']:.3f}"
    return text.strip()


def notes(figures):
    return {"null_threshold": figures["best_f1_thresh"]} if "best_f1_thresh" in figures else {}


def look(args, ranks, models, squad, places, description):
    """What a trained model, or several together, find: data, candidates, threshold; and the mean of their losses."""
    members, thresholds, losses = [], [], []
    for model, tokenizer in models:
        data = QuestionWindows(squad, tokenizer, places, args.bptt, args.stride, description, args.show)
        task = utils.Task("qa", model.to(ranks.device), tokenizer, {"seen": data}, loss,
                          make_rows(args.n_best, args.max_answer_length), lambda data, rows: rows, None)  # fmt: skip
        rows = utils.Computer(args, ranks).score(task, "seen")
        members.append(candidates(data, rows))
        thresholds.append(null_threshold(model))
        losses.append(mean_loss(rows))
        model.cpu()  # room for the next
    found, threshold = (members[0], thresholds[0]) if len(members) == 1 else together(members, thresholds)
    return data, found, threshold, mean(losses)


def evaluate(args, ranks, models, places):
    squad = load_squad_splits(args.dataset, places, ("test",))["test"]
    data, found, threshold, loss = look(args, ranks, models, squad, places, f"{Path(args.dataset).name}-test")
    figures = {"loss": loss, **official(data, found, threshold)}
    return utils.conclude("qa", summary, figures, args, ranks, utils.State())


def predict(args, ranks, models, places):
    """Answer the questions of a SQuAD file; an answer is withheld above the threshold that the model file holds."""
    squad = load_squad(args.predict, answers_needed=False)
    data, found, threshold, _ = look(args, ranks, models, squad, places, Path(args.predict).stem)
    if not ranks.first:
        return
    may_withhold = threshold is not None or squad.with_impossible
    texts, odds = answers(data, found)
    lists = {}
    for number, (null, spans) in found.items():
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


def answer(args, ranks, models, text, question):
    """What a trained model, or several together, answer to one question from a text.

    Gives ``withheld``, whether that is no answer, and ``answers``, the n best with their probabilities, best first:
    {"text", "probability", "start", "end"}, the last two in characters of the text. Where answers may be withheld,
    "no answer" is one of them: the empty text, whose place is None.
    """
    asked = Question("asked", question, 0, "", [])
    with tempfile.TemporaryDirectory() as folder:  # not worth a place in the token cache
        squad = SquadSet([text], [asked], False)
        data, found, threshold, _ = look(args, ranks, models, squad, Places(args.data_dir, folder), "asked")
    (null, spans), = found.values()
    places = {text_of(data, asked, span): span[2:] for span in reversed(spans)}  # of a text that stands twice, the best
    listed = [
        {"text": one["text"], "probability": one["probability"], "start": start, "end": end}
        for one in n_best_answers(data, asked, null, spans, args.n_best, threshold is not None)
        for start, end in [places.get(one["text"], (None, None))]
    ]  # fmt: skip
    return {"withheld": not spans or (threshold is not None and null_odds(null, spans) > threshold), "answers": listed}


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
        print(f"sentence     {sentence_around(text, best['start'], best['end'])}")


def sentence_around(text, start, end):
    """The sentence in which the characters from ``start`` to ``end`` stand (all that they touch), blanks made single."""
    left, right = text.rfind("\n\n", 0, start), text.find("\n\n", end)  # its paragraph
    left, right = max(0, left), right if right >= 0 else len(text)
    first = count_letters(text[left:start])
    last, place, kept = first + count_letters(text[start:end]), 0, []
    for sentence in sentences(" ".join(text[left:right].split())):
        length = count_letters(sentence)
        if place < last and first < place + length:
            kept.append(sentence)
        place += length
    return " ".join(kept)


def count_letters(text):
    """Characters but blanks, of which a sentence has the same number in the text and on its own."""
    return len("".join(text.split()))


def run(args, ranks):
    places = Places(args.data_dir, args.cache_dir)
    if flags.uses_trained(args):
        models = flags.trained_models(QuestionAnswerTask, args)
        return (predict if args.predict else ask if args.ask else evaluate)(args, ranks, models, places)
    model, tokenizer = flags.new_or_loaded(QuestionAnswerTask, args, lambda: load_tokenizer(args, args.dataset, places))
    examples = {
        split: QuestionWindows(squad, tokenizer, places, args.bptt, args.stride, f"{Path(args.dataset).name}-{split}",
                               args.show)
        for split, squad in load_squad_splits(args.dataset, places).items()
    }  # fmt: skip
    if not len(examples["test"]):
        raise UserError(f"{args.dataset}: no questions to score")
    vars(model).pop("notes", None)  # of --checkpoint: training finds a threshold of its own
    examples["valid"].spread(args.valid_examples)
    task = utils.Task(
        "qa", model, tokenizer, examples, loss, make_rows(args.n_best, args.max_answer_length),
        make_figures(model), summary, "f1", notes, samples,
    )  # fmt: skip
    return utils.run(task, args, ranks)


if __name__ == "__main__":
    run_main(lambda: launch(run, arguments()))
