"""Questions with options: rows of article, question and option."""

from collections import Counter

import numpy as np
import torch

from files.mistakes import UserError
from heads import MARKER, OPTION, PASSAGE, QUESTION, TAKEN
from text.batches import EVALUATION, IGNORED, RowPiece, generator, marked, pad_pieces
from text.places import Places
from text.questions import Article, blanks, fill_in
from text.sentences import sentence_ends
from text.tokenizer import Tokenizer
from text.tokens import encode_texts


def n_grams(ids, n):
    return Counter(zip(*(ids[first:] for first in range(n)), strict=False))


def rouge_recall(candidate, reference):
    """ROUGE-N (Lin 2004, section 2), of n-grams: the share of the reference's that the candidate has, each as often."""
    return (reference & candidate).total() / max(1, reference.total())


def options_there(counts):
    """(questions, most options), True at the options that a question has."""
    return np.arange(max(counts)) < np.array(counts)[:, None]


class Separate:
    """A row for each option of a question, [CLS] article [SEP] statement [SEP].

    A statement is the question with the option, which fills its blanks or follows it. It may take half of a row.
    """

    def __init__(self, max_length):
        self.statement_limit = max_length // 2

    def alone(self, question):
        """Is the statement the option alone?"""
        return False

    def beside_article(self, statements, question, there):
        """What of a row is not the article, in tokens: for the option that needs most, and what is computed for it.

        From the lengths of the statements (questions, most options), where ``there`` says that there is one, else 0, and
        of the question alone (questions,): twice (questions,).
        """
        longest = np.minimum(statements.max(1), self.statement_limit) + 3  # [CLS], [SEP], [SEP]
        return longest, longest

    def rows(self, read, question, statements, cls, sep):
        return [[*read, statement, (sep, 1, 0)] for statement in statements]

    def batch(self, rows, there, tokenizer):
        """Tensors of the rows of each question; an option that is not there is a row of padding alone."""
        most = there.shape[1]
        padded = pad_pieces([row for own in rows for row in own + [[]] * (most - len(own))], tokenizer)
        return {name: x.view(len(rows), most, -1) for name, x in padded.items()}

    def parts_of_options(self, batch):
        """What the tokens are to each option: (N, options, S)."""
        return batch["parts"].numpy()


class Joint:
    """One row a question, [CLS] article [SEP] question [SEP], then for each option [CLS] statement [SEP].

    The statement is the option alone where the question has no blank; the [CLS] before it is the option's marker. Since an
    option stands at the positions at which it would stand alone (see heads.joint_views), ``max_length`` bounds what one
    option sees, not the row. Question and statement may each take a quarter of that.
    """

    def __init__(self, max_length):
        self.statement_limit = max(1, (max_length - 5) // 4)  # five special tokens

    def alone(self, question):
        return not blanks(question)

    def beside_article(self, statements, question, there):
        shared = np.minimum(question, self.statement_limit) + 3  # [CLS], [SEP], [SEP]
        each = (np.minimum(statements, self.statement_limit) + 2) * there  # [CLS], [SEP]
        return shared + each.max(1), shared + each.sum(1)

    def rows(self, read, question, statements, cls, sep):
        asked = [(question[-self.statement_limit :], 1, QUESTION), (sep, 1, 0)]
        options = (part for statement in statements for part in ((cls, 1, MARKER), statement, (sep, 1, 0)))
        return [[*read, *asked, *options]]

    def batch(self, rows, there, tokenizer):
        padded = pad_pieces([row for own in rows for row in own], tokenizer)
        markers = torch.full(there.shape, padded["parts"].size(1))  # of what is not there: behind the row
        markers[torch.from_numpy(there)] = (padded["parts"] == MARKER).nonzero()[:, 1]
        return {**padded, "markers": markers}

    def parts_of_options(self, batch):
        parts, most = batch["parts"].numpy(), batch["markers"].size(1)
        number = np.cumsum(parts == MARKER, 1)[:, None]  # 0 article and question, then 1, 2, ... the options
        return np.where((number == 0) | (number == np.arange(1, most + 1)[:, None]), parts[:, None], 0)


class OptionRows:
    """Multiple choice, in one of two layouts, ``Separate`` or ``Joint``.

    Question and options are kept whole (a longer one than the layout allows loses its beginning, or what is behind
    the option); the article gives way. ``passage="truncate"`` keeps its beginning; ``"window"`` cuts it into windows that
    overlap by half: training takes one of them at random, scoring takes all of them and each option's best; ``"select"``
    keeps the sentences (``language`` is that of ``sentence_ends``) that have most to do with question and options.

    With ``marks="question"`` tokens of the article that stand in the question have a type of their own, and so have those
    of a statement that stand in what is read of the article.
    ``show="question"`` leaves the article out, ``"options"`` the question too, to see what can be had without reading.

    A batch holds labels (N,), and input_ids, token_type_ids, attention_mask and parts, each (N, options, S) or, joint,
    (N, S) with markers (N, options), the places of the options' [CLS]. Where questions have differently many options,
    option_mask (N, options) is True on those that there are, and option_places are their numbers. ``parts`` says what a
    token is, and ``longest`` how many tokens of a part a row has at most, as heads.py has it. Where an option fills the
    blank, its words are the option, wherever they stand, and the others of the statement the question.
    """

    def __init__(
        self, articles: list[Article], tokenizer: Tokenizer, places: Places, max_length: int, seed: int,
        passage: str = "window", description: str = "choices", show: str = "all", layout: str = "separate",
        language: str = "rules", marks: str = "none",
    ):  # fmt: skip
        self.tokenizer, self.seed, self.passage, self.show, self.language = tokenizer, seed, passage, show, language
        self.marks = marks
        self.layout = (Joint if layout == "joint" else Separate)(max_length)
        # (article, number of the question, article's text, first statement's text)
        self.questions: list[tuple[Article, int, int, int]] = []
        texts: list[str] = []
        for article in articles:
            base = len(texts)
            texts.append(article.text if show == "all" else "")
            for number, (question, options) in enumerate(zip(article.questions, article.options, strict=True)):
                self.questions.append((article, number, base, len(texts)))
                texts.extend(self.statement(question, option)[0] for option in options)
                texts.append("" if show == "options" else question)
        if not self.questions:
            raise UserError("no questions in these articles; name another folder or level")
        self.texts = encode_texts(texts, tokenizer, places, description)
        sizes = np.diff(self.texts.texts, axis=1)[:, 0]
        passages, first = (np.array([where[column] for where in self.questions]) for column in (2, 3))
        there = options_there([self.options(index) for index in range(len(self))])
        statements = np.zeros(there.shape, sizes.dtype)
        statements[there] = sizes[(first[:, None] + np.arange(there.shape[1]))[there]]
        seen, computed = self.layout.beside_article(statements, sizes[first + there.sum(1)], there)
        self.sizes, self.room = sizes[passages], max_length - seen  # of each question's article, and what fits of it
        self.lengths = np.minimum(self.sizes, self.room) + computed
        self.rows_each = 1 if layout == "joint" else there.shape[1]
        self.longest = int(self.lengths.max()) * self.rows_each
        self.kept: dict[int, np.ndarray] = {}  # by ``selected``, of the questions so far

    def __len__(self) -> int:
        return len(self.questions)

    def options(self, index: int) -> int:
        """How many options a question has."""
        article, number, _, _ = self.questions[index]
        return len(article.options[number])

    def statement(self, question: str, option: str) -> tuple[str, list[tuple[int, int]]]:
        """What an option's row or part of a row says of it, and the characters that are the option; see fill_in."""
        alone = self.show == "options" or self.layout.alone(question)
        return (option, [(0, len(option))]) if alone else fill_in(question, option)

    def starts(self, index):
        """Where the windows of the article begin, for one question."""
        room, size = int(self.room[index]), int(self.sizes[index])
        if size <= room or self.passage != "window":
            return [0]
        return [*range(0, size - room, max(1, room // 2)), size - room]

    def selected(self, index):
        """The places in the article of the tokens that ``passage="select"`` keeps, in their order.

        A sentence counts by its ROUGE-1 plus ROUGE-2 recall of question and option, for the option that it suits best, so
        that all options are read beside the same sentences. From the best on, each is taken, and its two neighbours, as
        long as there is room. One that is longer than all the room is taken in parts, as if they were sentences.
        """
        if index not in self.kept:  # which takes as long as to train on it
            self.kept[index] = self.most_telling(index).astype(np.int32)
        return self.kept[index]

    def most_telling(self, index):
        article, number, base, first = self.questions[index]
        tokens, room = self.texts.text(base), int(self.room[index])
        ends = sentence_ends(article.text, self.language)
        owners = np.searchsorted(ends, self.texts.text_spans(base)[:, 0], side="right")
        sentences = np.split(np.arange(len(tokens)), np.flatnonzero(np.diff(owners)) + 1)
        part = max(1, room // 3)  # with its neighbours they fill the row
        sentences = [some for one in sentences
                     for some in (np.split(one, range(part, len(one), part)) if len(one) > room else [one])]  # fmt: skip
        alone = self.layout.alone(article.questions[number])
        options = self.options(index)
        asked = self.texts.text(first + options).tolist() if alone else []  # else each statement holds the question
        wanted = [asked + self.texts.text(first + option).tolist() for option in range(options)]
        found = [tokens[sentence].tolist() for sentence in sentences]
        of_wanted, of_found = ([[n_grams(ids, n) for n in (1, 2)] for ids in texts] for texts in (wanted, found))
        worth = [max(sum(map(rouge_recall, have, one)) for one in of_wanted) for have in of_found]
        order, taken = sorted(range(len(sentences)), key=lambda number: -worth[number]), []
        for best in order:
            for number in (best, best - 1, best + 1):
                if 0 <= number < len(sentences) and number not in taken and len(sentences[number]) <= room:
                    taken.append(number)
                    room -= len(sentences[number])
        return np.concatenate([sentences[number] for number in sorted(taken)] or [np.arange(0)])

    def stated(self, index, option):
        """The piece that states an option, each token marked as the question's or the option's."""
        article, number, _, first = self.questions[index]
        _, places = self.statement(article.questions[number], article.options[number][option])
        spans, limit = self.texts.text_spans(first + option), self.layout.statement_limit
        parts = np.full(len(spans), QUESTION)
        for start, end in places:
            parts[(spans[:, 1] > start) & (spans[:, 0] < end)] = OPTION
        begin = max(0, len(spans) - limit)
        if len(own := np.flatnonzero(parts == OPTION)):  # in front where the question begins with a blank
            begin = min(begin, max(own[0], own[-1] + 1 - limit))
        return self.texts.text(first + option)[begin : begin + limit], 1, parts[begin : begin + limit]

    def rows(self, index: int, start: int) -> list[list[RowPiece]]:
        """The pieces of each row of a question, for the window of the article that begins at token ``start``."""
        _, _, base, first = self.questions[index]
        passage = self.texts.text(base)
        if self.passage == "select" and self.sizes[index] > self.room[index]:
            passage = passage[self.selected(index)]
        passage = passage[start : start + int(self.room[index])]
        cls, sep = [self.tokenizer.cls_id], [self.tokenizer.sep_id]
        options = self.options(index)
        question, statements = self.texts.text(first + options), [self.stated(index, option) for option in range(options)]
        kinds: np.ndarray | int = 0
        if self.marks == "question":
            kinds = marked(passage, question, 0)
            statements = [(tokens, marked(tokens, passage, kind), part) for tokens, kind, part in statements]
        read = [(cls, 0, 0), (passage, kinds, PASSAGE), (sep, 0, 0)]
        return self.layout.rows(read, question, statements, cls, sep)

    def collate(self, indices: np.ndarray, epoch: int) -> dict[str, torch.Tensor]:
        """A row for each question; in evaluation one for each window, ``question`` (N,) saying whose it is."""
        rows, counts, labels, owners = [], [], [], []
        for owner, index in enumerate(map(int, indices)):
            starts = self.starts(index)
            if epoch != EVALUATION:
                starts = [starts[int(generator(self.seed, epoch, index).integers(len(starts)))]]
            article, number, _, _ = self.questions[index]
            for start in starts:
                rows.append(self.rows(index, start))
                counts.append(len(article.options[number]))
                labels.append(IGNORED if article.answers[number] is None else article.answers[number])
                owners.append(owner)
        there = options_there(counts)
        batch = self.layout.batch(rows, there, self.tokenizer)
        mask = {} if there.all() else {"option_mask": torch.from_numpy(there),
                                       "option_places": torch.from_numpy(np.flatnonzero(there))}  # fmt: skip
        parts = self.layout.parts_of_options(batch)
        each = {part: np.count_nonzero(parts == part, -1) for part in (PASSAGE, QUESTION, OPTION)}
        longest = {wanted: int(np.sum([each[part] for part in wanted], 0).max()) for wanted in TAKEN}
        return {**batch, **mask, "longest": longest, "labels": torch.tensor(labels), "question": torch.tensor(owners)}
