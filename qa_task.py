"""Fine-tune a BERT to answer questions with a span of a text: SQuAD 1.1 and 2.0 (Devlin et al. 2019, sections 4.2, 4.3).

    python qa_task.py                                               # from ns_bert.pt, on the embedded data set
    python qa_task.py --bert-model ns_bert.pt --dataset SQuAD1 --epochs 2
    python qa_task.py --predict dev-v2.0.json --output answers.json # by qa_model.pt, or --bert-model FILE
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
"""

import math
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

import flags
import utils
from batches import QuestionWindows
from corpus import SPLITS, sentences
from data import Places, Question, SquadSet, load_squad, load_squad_splits, load_tokenizer
from files import UserError, read_context, run_main, write_json
from metrics import squad_scores
from model import QuestionAnswerTask
from ranks import launch


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

    No answer is scored by the window in which it is least likely: the answer may stand in any.
    """
    nulls, spans = {}, {}
    for window, (_, null, found) in rows:
        question = int(data.windows[window, 0])
        nulls[question] = min(null, nulls.get(question, null), key=sum)
        spans.setdefault(question, []).extend(found)
    return {number: (nulls[number], sorted(spans[number], key=lambda span: -sum(span[:2]))) for number in sorted(spans)}


def place_of(data, question, span):
    """Where a span begins and ends in the context, in characters."""
    where = data.texts.text_spans(question.context)
    return int(where[span[2], 0]), int(where[span[3], 1])


def text_of(data, question, span):
    start, end = place_of(data, question, span)
    return data.squad.contexts[question.context][start:end]


def null_odds(null, spans):
    """The probability that there is no answer, against the best span: the logistic function of null less span."""
    if not spans:
        return 1.0
    return 1 / (1 + math.exp(min(700.0, max(-700.0, sum(spans[0][:2]) - sum(null)))))


def answers(data, rows):
    """``{id: text of the best span over all windows}``, whatever speaks for no answer, and ``{id: null_odds}``."""
    texts, odds = {}, {}
    for number, (null, spans) in candidates(data, rows).items():
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
    return getattr(model, "notes", {}).get("null_threshold")


def as_squad(data, ids):
    """The gold answers of the questions in ``ids``, laid out as metrics.squad_scores wants them."""
    questions = [
        {"id": q.id, "question": q.text, "answers": [{"text": text} for text, _ in q.answers]}
        | ({"is_impossible": not q.answers} if data.squad.with_impossible else {})
        for q in data.squad.questions if q.id in ids
    ]  # fmt: skip
    return {"data": [{"paragraphs": [{"context": "", "qas": questions}]}]}


def make_figures(model, find_threshold):
    def figures(data, rows):
        texts, odds = answers(data, rows)
        gold = as_squad(data, texts)
        if data.squad.with_impossible:
            threshold = null_threshold(model)
            if find_threshold():  # validating: by the threshold that is noted beside the model
                threshold = squad_scores(gold, texts, odds)["best_f1_thresh"]
            scores = squad_scores(gold, texts, odds, 1.0 if threshold is None else threshold)
        else:
            scores = squad_scores(gold, texts)
        return {"loss": math.fsum(loss for _, (loss, _, _) in rows) / len(rows), **scores}

    return figures


def summary(part, figures):
    text = f"{part} loss {figures['loss']:8.5f}"
    if "exact" in figures:
        text += f" | {part} exact {figures['exact']:.3f} | {part} f1 {figures['f1']:.3f}"
    return text.strip()


def notes(figures):
    return {"null_threshold": figures["best_f1_thresh"]} if "best_f1_thresh" in figures else {}


def look(args, ranks, model, tokenizer, squad, places, description):
    """The windows of questions whose answers need not be known, and the candidates that the model finds there."""
    data = QuestionWindows(squad, tokenizer, places, args.bptt, args.stride, description)
    task = utils.Task("qa", model.to(ranks.device), tokenizer, {"predict": data}, loss,
                      make_rows(args.n_best, args.max_answer_length), lambda data, rows: rows, None)  # fmt: skip
    rows = utils.Computer(args, ranks).score(task, "predict", utils.evaluation_size(args))
    return data, rows


def predict(args, ranks, model, tokenizer, places):
    """Answer the questions of a SQuAD file; an answer is withheld above the threshold that the model file holds."""
    squad, threshold = load_squad(args.predict, answers_needed=False), null_threshold(model)
    may_withhold = threshold is not None or squad.with_impossible
    data, rows = look(args, ranks, model, tokenizer, squad, places, Path(args.predict).stem)
    if not ranks.first:
        return
    texts, odds = answers(data, rows)
    lists = {}
    for number, (null, spans) in candidates(data, rows).items():
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


def answer(args, ranks, model, tokenizer, text, question):
    """What a model answers to one question from a text.

    Gives ``withheld``, whether that is no answer, and ``answers``, the n best with their probabilities, best first:
    {"text", "probability", "start", "end"}, the last two in characters of the text. Where answers may be withheld,
    "no answer" is one of them: the empty text, whose place is None.
    """
    asked, threshold = Question("asked", question, 0, "", []), null_threshold(model)
    squad = SquadSet([text], [asked], threshold is not None)
    with tempfile.TemporaryDirectory() as folder:  # not worth a place in the token cache
        data, rows = look(args, ranks, model, tokenizer, squad, Places(args.data_dir, folder), "asked")
        (null, spans), = candidates(data, rows).values()
        listed = n_best_answers(data, asked, null, spans, args.n_best, threshold is not None)
        places = {}
        for span in spans:
            places.setdefault(text_of(data, asked, span), place_of(data, asked, span))
    found = [
        {"text": one["text"], "probability": one["probability"], "start": start, "end": end}
        for one in listed for start, end in [places.get(one["text"], (None, None))]
    ]  # fmt: skip
    return {"withheld": not spans or (threshold is not None and null_odds(null, spans) > threshold), "answers": found}


def ask(args, ranks, model, tokenizer):
    """Answer one question from a text: the answer, its probability among the n best, and the sentence around it."""
    text = read_context(args.context)
    found = answer(args, ranks, model, tokenizer, text, args.ask)
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
    model, tokenizer = flags.new_or_loaded(QuestionAnswerTask, args, lambda: load_tokenizer(args, args.dataset, places))
    if args.ask:
        return ask(args, ranks, model, tokenizer)
    if args.predict:
        return predict(args, ranks, model, tokenizer, places)
    splits = load_squad_splits(args.dataset, places, ("test",) if args.evaluate else SPLITS)
    examples = {
        split: QuestionWindows(squad, tokenizer, places, args.bptt, args.stride, f"{Path(args.dataset).name}-{split}",
                               args.show)
        for split, squad in splits.items()
    }  # fmt: skip
    if not len(examples["test"]):
        raise UserError(f"{args.dataset}: no questions to score")
    if not args.evaluate:
        vars(model).pop("notes", None)  # of --checkpoint: training finds a threshold of its own
        examples["valid"].spread(args.valid_examples)
    task = utils.Task(
        "qa", model, tokenizer, examples, loss, make_rows(args.n_best, args.max_answer_length),
        make_figures(model, lambda: not hasattr(model, "notes")), summary, "f1", notes,
    )  # fmt: skip
    return utils.run(task, args, ranks)


if __name__ == "__main__":
    run_main(lambda: launch(run, arguments()))
