"""Questions on a passage: windows of it, in which the answer is a span of tokens."""

import numpy as np
import torch

from files.mistakes import UserError
from text.batches import EVALUATION, marked, pad_rows
from text.places import Places
from text.questions import SquadSet
from text.tokenizer import Tokenizer
from text.tokens import encode_texts


class QuestionWindows:
    """Extractive question answering: [CLS] question [SEP] window of the context [SEP], answers as spans of tokens.

    A context that does not fit is cut into windows that overlap: each begins ``stride`` tokens after the one before, or
    half of its own tokens where those are fewer, so that no short answer falls between two.
    A question may take half of a row; what is longer loses its end. No question and no token of a context is left out.
    A window that does not hold the whole answer, and a question without one, point at the [CLS], position 0.

    With ``marks="question"`` a token of the context that stands in the question as well has a type of its own.
    ``show="question"`` blots out the context with mask tokens, to see what can be had without reading.
    ``windows`` (W, 3) has each window's question, its first context token and how many it has.
    A batch holds input_ids, token_type_ids, attention_mask (N, S), start and end (N,). In evaluation also context (N, S),
    true on the window's context, where an answer may end, and best, on what of it is `best_context`, where it may begin.
    """

    def __init__(
        self, squad: SquadSet, tokenizer: Tokenizer, places: Places, max_length: int, stride: int,
        description: str = "questions", show: str = "all", marks: str = "none",
    ):  # fmt: skip
        self.squad, self.tokenizer, self.show, self.marks = squad, tokenizer, show, marks
        self.longest, self.rows_each = max_length, 1
        if not stride > 0:
            raise UserError(f"--stride {stride}: must be at least 1")
        self.texts = encode_texts(
            [*squad.contexts, *(question.text for question in squad.questions)], tokenizer, places, description
        )
        lengths = np.diff(self.texts.texts, axis=1)[:, 0]
        context_lengths, windows = lengths[: len(squad.contexts)], []
        for number, question in enumerate(squad.questions):
            asked = min(int(lengths[len(squad.contexts) + number]), max_length // 2)
            room, total = max_length - 3 - asked, int(context_lengths[question.context])
            step, start = min(stride, max(1, room // 2)), 0
            while True:
                windows.append((number, start, min(room, total - start), asked))
                if start + room >= total:
                    break
                start += step
        self.use(np.array(windows, np.int64).reshape(-1, 4))

    def use(self, windows: np.ndarray) -> None:
        """``windows`` (W, 4), in the order of their questions: the three columns above and the question's length."""
        self.windows, self.asked = windows[:, :3], windows[:, 3]
        self.lengths = windows[:, 2] + windows[:, 3] + 3
        self.first_of = np.searchsorted(windows[:, 0], np.arange(len(self.squad.questions) + 1))

    def __len__(self) -> int:
        return len(self.windows)

    def spread(self, limit: int) -> "QuestionWindows":
        """Keep ``limit`` windows at most: all those of whole questions, spread evenly. At least one question stays.

        Validation on a part of the examples needs this: a question that is shown without the window of its answer
        would look unanswerable.
        """
        if len(self) <= limit:
            return self
        counts = np.diff(self.first_of)
        for wanted in range(min(len(counts), limit), 0, -1):
            chosen = np.unique(np.linspace(0, len(counts) - 1, wanted).round().astype(int))
            if counts[chosen].sum() <= limit or wanted == 1:
                keep = np.isin(self.windows[:, 0], chosen)
                self.use(np.column_stack([self.windows, self.asked])[keep])
                return self
        return self

    def question_tokens(self, window):
        question, asked = self.windows[window, 0], self.asked[window]
        return self.texts.text(len(self.squad.contexts) + question)[:asked]

    def answer_tokens(self, question):
        """The first and last context token of a question's first answer, None where it has none."""
        if not question.answers:
            return None
        text, start = question.answers[0]
        spans = self.texts.text_spans(question.context)
        inside = np.flatnonzero((spans[:, 1] > start) & (spans[:, 0] < start + len(text)))
        return (int(inside[0]), int(inside[-1])) if len(inside) else None

    def context_start(self, window: int) -> int:
        """The position in the row at which the window's context begins."""
        return 2 + int(self.asked[window])

    def collate(self, indices: np.ndarray, epoch: int) -> dict[str, torch.Tensor]:
        rows, starts, ends = [], [], []
        for window in indices:
            number, first, count = map(int, self.windows[window])
            question = self.squad.questions[number]
            context = self.texts.text(question.context)[first : first + count]
            if self.show == "question":
                context = np.full_like(context, self.tokenizer.mask_id)
            rows.append((self.question_tokens(window), context))
            answer, base = self.answer_tokens(question), self.context_start(window)
            held = answer is not None and first <= answer[0] and answer[1] < first + count
            starts.append(base + answer[0] - first if held else 0)
            ends.append(base + answer[1] - first if held else 0)
        batch = {**pad_rows(rows, self.tokenizer), "start": torch.tensor(starts), "end": torch.tensor(ends)}
        if self.marks == "question":
            for (asked, context), types in zip(rows, batch["token_type_ids"].numpy(), strict=True):
                types[len(asked) + 2 : len(asked) + 2 + len(context)] = marked(context, asked, 1)
        if epoch == EVALUATION:
            shown, best = (torch.zeros(batch["input_ids"].shape, dtype=torch.bool) for _ in range(2))
            for row, window in enumerate(indices):
                base = self.context_start(window)
                place = row, slice(base, base + int(self.windows[window, 2]))
                shown[place], best[place] = True, torch.from_numpy(self.best_context(window))
            batch |= {"context": shown, "best": best}
        return batch

    def best_context(self, window: int) -> np.ndarray:
        """True at the window's tokens that no other window shows with more context on their poorer side.

        google-research/bert's rule: a token's score in a window is min(left, right context) + 0.01 * window length.
        """
        question, first, count = self.windows[window]
        own, starts = slice(*self.first_of[question : question + 2]), self.windows[:, 1]
        before, behind = np.searchsorted(starts[own], (first - self.windows[own, 2].max(), first + count))
        rivals = range(own.start + before, own.start + behind)  # the windows of this question that may show these tokens
        places = np.arange(first, first + count)
        best, winner = np.full(count, -np.inf), np.full(count, -1)
        for rival in rivals:
            _, start, length = self.windows[rival]
            inside = (places >= start) & (places < start + length)
            score = np.minimum(places - start, start + length - 1 - places) + 0.01 * length
            better = inside & (score > best)
            best[better], winner[better] = score[better], rival
        return winner == window
