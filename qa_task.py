"""Fine-tune a BERT to answer questions with a span of a text: SQuAD 1.1 and 2.0 (Devlin et al. 2019, sections 4.2, 4.3).

    python qa_task.py                                               # from ns_bert.pt, on the embedded data set
    python qa_task.py --bert-model ns_bert.pt --dataset SQuAD1 --epochs 2
    python qa_task.py --bert-model qa_model.pt --predict dev-v1.1.json --output answers.json

Writes the model to qa_model.pt. Scores are those of the official scripts, over every question of the development file.
To choose the best model, and the threshold from which an answer is withheld, some training articles are set aside.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F

import utils
from batches import QuestionWindows
from corpus import SPLITS
from data import Places, load_squad, load_squad_splits, load_tokenizer
from files import UserError, run_main, write_json
from metrics import squad_scores
from model import QuestionAnswerTask
from ranks import launch


def arguments():
    p = utils.parser(
        "qa", "Fine-tune a BERT to answer questions with a span of a text.",
        bert_model="ns_bert.pt", save="qa_model.pt", epochs=2, batch_size=32, bptt=384, optimizer="adamw",
    )  # fmt: skip
    p.flag("stride", "tokens from one window of a long text to the next", type=int, default=128)
    p.flag("max-answer-length", "tokens of an answer at most", type=utils.positive(int), default=30)
    p.flag("n-best", "answers to consider for each window", type=utils.positive(int), default=20)
    p.flag("show", "question: hide the context, to see what can be had without reading", choices=["all", "question"],
           default="all")  # fmt: skip
    p.flag("predict", "no training: answer the questions of this SQuAD file")
    p.flag("output", "where the answers of --predict go", default="predictions.json")
    args = p.parse_args()
    if args.predict:  # the model is the trained one
        args.bert_model = args.bert_model if args.bert_model != "ns_bert.pt" else "qa_model.pt"
    return args


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


def make_rows(n_best, longest):
    def rows(model, batch, data, indices):
        """For each window: its loss, the score of no answer, and its best spans (score, first, last context token).

        A span begins and ends in the context, begins where no other window shows more context, and is not too long;
        its score is the sum of its start and end logits.
        """
        start, end, losses = span_losses(model, batch)
        n, s = start.shape
        begins, ends = torch.full((n, s), -math.inf), torch.full((n, s), -math.inf)
        for row, window in enumerate(indices):
            base, count = data.context_start(window), int(data.windows[window, 2])
            context = slice(base, base + count)
            best = torch.from_numpy(data.best_context(window))
            begins[row, context] = start[row, context].cpu().masked_fill(~best, -math.inf)
            ends[row, context] = end[row, context].cpu()
        band = torch.ones(s, s, dtype=torch.bool).triu().tril(longest - 1)
        scores = (begins[:, :, None] + ends[:, None]).masked_fill(~band, -math.inf)  # (N, S, S)
        top, places = scores.flatten(1).topk(min(n_best, s * s))
        result = []
        for row, window in enumerate(indices):
            shift = int(data.windows[window, 1]) - data.context_start(window)
            spans = [(value, place // s + shift, place % s + shift)
                     for value, place in zip(top[row].tolist(), places[row].tolist(), strict=True)
                     if value > -math.inf]  # fmt: skip
            result.append((losses[row].item(), (start[row, 0] + end[row, 0]).item(), spans))
        return result

    return rows


def answers(data, rows):
    """For each question the text of its best span over all windows, and the probability that it has no answer.

    The probability is the logistic function of the score of no answer (the lowest of the windows') less the best span's.
    """
    spans, nulls = {}, {}
    for window, (_, null, found) in rows:
        question = int(data.windows[window, 0])
        spans.setdefault(question, []).extend(found)
        nulls[question] = min(null, nulls.get(question, math.inf))
    texts, odds = {}, {}
    for number, question in enumerate(data.squad.questions):
        if number not in nulls:  # not among the examples that this validation took
            continue
        score, first, last = max(spans[number], default=(-math.inf, 0, -1))
        where = data.texts.text_spans(question.context)
        context = data.squad.contexts[question.context]
        texts[question.id] = context[where[first, 0] : where[last, 1]] if last >= 0 else ""
        odds[question.id] = 1 / (1 + math.exp(min(700.0, max(-700.0, score - nulls[number]))))
    return texts, odds


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
            scores = squad_scores(gold, texts, odds, getattr(model, "notes", {}).get("null_threshold", 0.5))
            if find_threshold():  # validating: the score at the best threshold, which is noted beside the model
                scores.update(exact=scores["best_exact"], f1=scores["best_f1"])
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


def predict(args, ranks, model, tokenizer, places):
    """Answer the questions of a SQuAD file; an answer is withheld above the threshold that the model file holds."""
    squad = load_squad(args.predict, answers_needed=False)
    data = QuestionWindows(squad, tokenizer, places, args.bptt, args.stride, Path(args.predict).stem)
    threshold = getattr(model, "notes", {}).get("null_threshold", math.inf)
    task = utils.Task("qa", model.to(ranks.device), tokenizer, {"predict": data}, loss,
                      make_rows(args.n_best, args.max_answer_length), answers, None)  # fmt: skip
    texts, odds = utils.Computer(args, ranks).score(task, "predict", utils.evaluation_size(args))
    if ranks.first:
        write_json(args.output, {id: "" if odds[id] > threshold else text for id, text in texts.items()})
        print(f"{len(texts)} answers written to {args.output}")


def run(args, ranks):
    places = Places(args.data_dir, args.cache_dir)
    model, tokenizer = utils.new_or_loaded(QuestionAnswerTask, args, lambda: load_tokenizer(args, args.dataset, places))
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
    task = utils.Task(
        "qa", model, tokenizer, examples, loss, make_rows(args.n_best, args.max_answer_length),
        make_figures(model, lambda: not hasattr(model, "notes")), summary, "f1", notes,
    )  # fmt: skip
    return utils.run(task, args, ranks)


if __name__ == "__main__":
    run_main(lambda: launch(run, arguments()))
