"""From the logits of windows to answers: the best spans of a question, no answer among them, and several models as one.

Spans are told by characters, so that models with different tokens can be put together. Each model shares out a
probability of 1 among what it lists for a question, spans and no answer, by a softmax over the sums of the logits. A
span's score is the mean over the models of the logarithms of these; spans are the same where their characters are, and
one that a model does not list counts there as much as the last that it does. Null odds and threshold are means over the
models that hold a threshold, as logits, that is before the logistic function; so a model that withholds every answer
makes the ensemble do so.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from text.question_windows import QuestionWindows
from text.questions import Question

Null = tuple[float, float]  # the two logits of no answer
Span = tuple[float, float, int, int]  # start logit, end logit, first character in the context, the one behind its last
Candidates = dict[int, tuple[Null, list[Span]]]  # what `candidates` gives


@dataclass
class Found:
    """What a model, or several together, find: what ``candidates`` gives, the threshold of its file, and the mean loss."""

    candidates: Candidates
    threshold: float | None
    loss: float


def best_spans(
    begins: torch.Tensor, ends: torch.Tensor, n_best: int, longest: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best spans of each row, best first: their scores and first and last places, each (N, K).

    A span's score is the sum of its logits in ``begins`` and ``ends``, (N, S) each, minus infinity where it must not
    begin or end; it takes at most ``longest`` places. Only sums of such spans are made: S * longest, not S * S.
    """
    longest = min(longest, ends.size(1))
    reach = F.pad(ends, (0, longest - 1), value=-math.inf).unfold(1, longest, 1)  # (N, S, longest), without a copy
    scores, places = (begins[:, :, None] + reach).flatten(1).topk(min(n_best, begins.size(1) * longest))
    return scores, places // longest, places // longest + places % longest


def candidates(data: QuestionWindows, rows: Iterable[tuple[int, Any]]) -> Candidates:
    """For the number of each question: the logits of no answer, and the spans of all its windows, best first.

    A span is (start logit, end logit, first character in the context, the one behind its last). No answer is scored by
    the window in which it is least likely: the answer may stand in any.
    """
    nulls: dict[int, Null] = {}
    spans: dict[int, list[Span]] = {}
    for window, (_, null, found) in rows:
        question = int(data.windows[window, 0])
        nulls[question] = min(null, nulls.get(question, null), key=sum)
        where = data.texts.text_spans(data.squad.questions[question].context)
        spans.setdefault(question, []).extend(
            (begin, finish, int(where[first, 0]), int(where[last, 1])) for begin, finish, first, last in found
        )
    return {number: (nulls[number], sorted(spans[number], key=lambda span: -sum(span[:2]))) for number in sorted(spans)}


def text_of(data: QuestionWindows, question: Question, span: Span) -> str:
    """The words of a span, as they stand in the context."""
    return data.squad.contexts[question.context][span[2] : span[3]]


FARTHEST = 700.0  # where a difference of scores is cut off, which the exponential of a float just bears
SURE = 1 - 1e-6  # of the odds that there is no answer, where none was withheld to learn it from


def null_margin(null, spans):
    """By how much no answer scores above the best span."""
    return min(FARTHEST, max(-FARTHEST, sum(null) - sum(spans[0][:2]))) if spans else FARTHEST


def logistic(x):
    return 1 / (1 + math.exp(-x))


def null_odds(null: Null, spans: list[Span]) -> float:
    """The probability that there is no answer, against the best span: the logistic function of null less span."""
    return logistic(null_margin(null, spans))


def between(threshold: float, odds: Iterable[float]) -> float:
    """Halfway from the threshold to the next of ``odds`` above it, as logits: the same of them are above.

    The best threshold is the odds of an answer that was given, and of a sure model all such odds are next to nothing: any
    other answer a little less sure would be withheld. One that withholds all, 0, stays; where nothing is above, it goes
    halfway to SURE, which withholds next to nothing.
    """
    above = min((one for one in odds if one > threshold), default=SURE)
    middle = logistic(sum(min(logit(one), 36.0) for one in (threshold, above)) / 2)  # beyond 36 a float is 1
    return middle if 0 < threshold < middle < above else threshold


def best_answers(data: QuestionWindows, candidates: Candidates) -> tuple[dict[str, str], dict[str, float]]:
    """``{id: text of the best span over all windows}``, whatever speaks for no answer, and ``{id: null_odds}``."""
    texts, odds = {}, {}
    for number, (null, spans) in candidates.items():
        question = data.squad.questions[number]
        texts[question.id] = text_of(data, question, spans[0]) if spans else ""
        odds[question.id] = null_odds(null, spans)
    return texts, odds


def n_best_answers(
    data: QuestionWindows, question: Question, null: Null, spans: list[Span], n_best: int, may_withhold: bool
) -> list[dict[str, Any]]:
    """The best texts of a question, best first; of a text that stands in several places, the best place counts.

    With ``may_withhold`` the empty text is one more of them, with the logits of no answer.
    """
    found: dict[str, Null] = {}
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


def together(members: list[Found]) -> Found:
    """What several models find as that of one; the formula stands at the top.

    Spans are as ``candidates`` has them, but for the logits: means over the models, less half of log sum exp of what each
    lists. The logits of no answer are such that they lead to the mean null odds.
    """
    known = [member.threshold for member in members if member.threshold is not None]
    telling = [not known or member.threshold is not None for member in members]  # those whose null odds count
    found = {}
    for number in members[0].candidates:
        lists = [member.candidates[number] for member in members]
        shares = [share for share in (shares_of(*one) for one in lists) if share]  # a context may have no token
        lowest = [min(share.values(), key=sum) for share in shares]
        spans = []
        for place in set().union(*shares):
            begins, ends = zip(*(share.get(place, low) for share, low in zip(shares, lowest, strict=True)), strict=True)
            spans.append((mean(begins), mean(ends), *place))
        spans.sort(key=lambda span: (-sum(span[:2]), span[2:]))  # whatever the order of the models
        margin = mean([null_margin(*one) for one, tells in zip(lists, telling, strict=True) if tells])
        found[number] = ((sum(spans[0][:2]) + margin) / 2 if spans else 0.0,) * 2, spans
    threshold = logistic(mean(map(logit, known))) if known else None
    return Found(found, threshold, mean(member.loss for member in members))


def shares_of(null, spans):
    """Place of each span -> the two halves of the logarithm of its probability among them and no answer."""
    total = torch.tensor([sum(null), *(sum(span[:2]) for span in spans)], dtype=torch.double).logsumexp(0).item()
    shares = {}
    for begin, finish, *place in spans:
        shares.setdefault(tuple(place), (begin - total / 2, finish - total / 2))
    return shares


def mean(values: Iterable[float]) -> float:
    """Their mean, the same in whatever order they come."""
    values = list(values)
    return math.fsum(values) / len(values)


def logit(share):
    """The inverse of the logistic function, which bears what it gives."""
    return max(-FARTHEST, math.log(share / (1 - share))) if 0 < share < 1 else math.copysign(FARTHEST, share - 0.5)
