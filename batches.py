"""From cached tokens to batches of tensors, one class for each kind of example.

Every class has a length, ``collate(indices, epoch)``, which gives a dictionary of tensors, and ``lengths``, the number
of tokens of each example where they differ. Design choices:

- A batch is a pure function of the seed, the epoch and the examples' numbers. Masks, pairs and windows are drawn from a
  generator that belongs to the example, so a run resumes at any step, and any number of ranks sees the same examples.
- ``epoch=EVALUATION`` gives what scores are computed on: the same for every run, whatever the training used.
- Each row is [CLS] first [SEP] or [CLS] first [SEP] second [SEP], padded to the longest of the batch.
"""

import math
import re
from collections import Counter

import numpy as np
import torch

from data import encode_texts, fill_in
from files import UserError
from heads import MARKER, OPTION, PASSAGE, QUESTION

EVALUATION = -1
IGNORED = -100  # a label that no loss counts


def generator(seed, epoch, index):
    """The random generator of one example: independent streams for all (seed, epoch, index)."""
    if epoch == EVALUATION:
        seed, epoch = 0, 1 << 32
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, epoch, index]))


def epoch_batches(count, batch_size, seed, epoch, lengths=None):
    """The examples of an epoch as a list of index arrays, every example once, in a new order each epoch.

    With ``lengths``, examples of similar length come together: the shuffled order is sorted within stretches of 50
    batches, and the batches are shuffled again, which costs little randomness and saves most of the padding.
    """
    rng = generator(seed, epoch, (1 << 63) - 1)
    order = rng.permutation(count)
    if lengths is not None:
        stretch = 50 * batch_size
        stretches = [order[i : i + stretch] for i in range(0, count, stretch)]
        order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in stretches])
    batches = [order[i : i + batch_size] for i in range(0, count, batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))] if lengths is not None else batches


def evaluation_batches(count, batch_size, lengths=None):
    """All examples in a fixed order, by length where lengths differ."""
    order = np.arange(count) if lengths is None else np.argsort(lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, count, batch_size)]


def pad_rows(rows, tokenizer):
    """Rows of (first, second or None) token arrays -> input_ids, token_type_ids and attention_mask, each (N, S)."""
    length = max(2 + len(first) + (0 if second is None else 1 + len(second)) for first, second in rows)
    input_ids = np.full((len(rows), length), tokenizer.pad_id, np.int64)
    token_type_ids = np.zeros((len(rows), length), np.int64)
    attention_mask = np.zeros((len(rows), length), np.int64)
    for row, (first, second) in enumerate(rows):
        end = len(first) + 2
        input_ids[row, 0], input_ids[row, 1 : end - 1], input_ids[row, end - 1] = tokenizer.cls_id, first, tokenizer.sep_id
        if second is not None:
            start, end = end, end + len(second) + 1
            input_ids[row, start : end - 1], input_ids[row, end - 1] = second, tokenizer.sep_id
            token_type_ids[row, start:end] = 1
        attention_mask[row, :end] = 1
    names = ("input_ids", "token_type_ids", "attention_mask")
    return dict(zip(names, map(torch.from_numpy, (input_ids, token_type_ids, attention_mask)), strict=True))


class MaskedBlocks:
    """Masked language modelling (Devlin et al. 2019, section 3.1): blocks of ``bptt`` tokens with words to restore.

    The corpus is one stream in which a sep separates documents; an epoch cuts it at a phase of its own into [CLS] and
    bptt - 1 tokens, so that nothing is padded but the two ends. ``mask_frac`` of each block's tokens are chosen; 80 %
    of those become the mask token, 10 % a random token, 10 % stay. ``unit="whole-word"`` chooses words. Evaluation
    always masks 15 % of the tokens.

    A batch holds input_ids (N, S), attention_mask (N, S) or None, positions (N, S), true where chosen, and labels (M,).
    """

    lengths = None

    def __init__(self, corpus, tokenizer, bptt, seed, mask_frac=0.15, unit="token"):
        if not 0 < mask_frac < 1:
            raise UserError(f"--mask_frac {mask_frac}: must lie between 0 and 1")
        self.corpus, self.tokenizer, self.seed, self.mask_frac, self.unit = corpus, tokenizer, seed, mask_frac, unit
        self.stride = bptt - 1
        self.special = np.zeros(len(tokenizer), bool)
        self.special[self.special_ids(tokenizer)] = True
        self.ordinary = np.flatnonzero(~self.special)

    @staticmethod
    def special_ids(tokenizer):
        return [tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id]

    def __len__(self):
        return -(-len(self.corpus.tokens) // self.stride)

    def block(self, index, epoch):
        """The tokens of a block; the last one of an epoch also takes what its phase cuts off at the beginning."""
        phase = 0 if epoch == EVALUATION else int(generator(self.seed, epoch, (1 << 62)).integers(self.stride))
        start = phase + index * self.stride
        tokens = self.corpus.tokens[start : start + self.stride]
        if index == len(self) - 1:
            tokens = np.concatenate([tokens, self.corpus.tokens[:phase]])[: self.stride]
        return tokens.astype(np.int64)

    def choose(self, tokens, rng, evaluation):
        """True at the tokens to restore: the given share of those that are not special."""
        candidates = ~self.special[tokens]
        fraction = 0.15 if evaluation else self.mask_frac
        wanted = max(1, round(fraction * candidates.sum()))
        draw = rng.random(len(tokens))
        if self.unit == "whole-word" and not evaluation:
            word = np.cumsum(self.tokenizer.word_starts[tokens] | ~candidates)  # the same number for all parts of a word
            draw = draw[word - word[0]]
            order = np.lexsort((word, np.where(candidates, draw, 2.0)))
        else:
            order = np.argsort(np.where(candidates, draw, 2.0), kind="stable")
        chosen = np.zeros(len(tokens), bool)
        chosen[order[:wanted]] = True
        if self.unit == "whole-word" and not evaluation:  # finish the last word
            chosen |= np.isin(word, word[chosen]) & candidates
        return chosen & candidates

    def collate(self, indices, epoch):
        n, s = len(indices), self.stride + 1
        original = np.full((n, s), self.tokenizer.pad_id, np.int64)
        original[:, 0] = self.tokenizer.cls_id
        input_ids, positions, used = original.copy(), np.zeros((n, s), bool), np.ones(n, np.int64)
        for row, index in enumerate(indices):
            rng, tokens = generator(self.seed, epoch, int(index)), self.block(int(index), epoch)
            chosen = self.choose(tokens, rng, epoch == EVALUATION)
            fate = rng.random(len(tokens))
            shown = np.where(chosen & (fate < 0.8), self.tokenizer.mask_id, tokens)
            random_ids = self.ordinary[rng.integers(len(self.ordinary), size=len(tokens))]
            shown = np.where(chosen & (fate >= 0.9), random_ids, shown)
            used[row] = end = 1 + len(tokens)
            original[row, 1:end], input_ids[row, 1:end], positions[row, 1:end] = tokens, shown, chosen
        mask = None if used.min() == s else torch.from_numpy((np.arange(s) < used[:, None]).astype(np.int64))
        return {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": mask,
            "positions": torch.from_numpy(positions),
            "labels": torch.from_numpy(original[positions]),
        }


class SentencePairs:
    """Next-sentence prediction: two parts, and whether the second follows the first (section 3.1 of the paper).

    Each example belongs to a stretch of ``bptt`` tokens of the corpus; a sentence that begins there, not first in its
    document, is where the first part ends and the true second part begins. Parts are whole sentences on either side; the
    longer part is cut until both fit. With ``frac_ns`` the second part is the true one, else ("nsp") it begins at any
    sentence of another document but its first, or ("sop", Lan et al. 2020) the two parts change places. (A true second
    part is never a document's beginning; were a wrong one, it could be told by its look, without the first part.)

    A batch holds input_ids, token_type_ids, attention_mask (N, S) and labels (N,), 1 where the second follows.
    """

    lengths = None

    def __init__(self, corpus, tokenizer, bptt, seed, frac_ns=0.5, objective="nsp", min_length=1):
        if not 0 <= frac_ns <= 1:
            raise UserError(f"--frac_ns {frac_ns}: must lie between 0 and 1")
        self.corpus, self.tokenizer, self.bptt, self.seed = corpus, tokenizer, bptt, seed
        self.frac_ns, self.objective, self.min_length = frac_ns, objective, min_length
        if len(corpus.sentences) == len(corpus.documents):
            raise UserError(
                "next sentences: no document has two sentences; use a corpus of running text, such as WikiText103"
            )
        # If the first sentence of each document were left out: the number of the sentence after it, and of the last.
        self.inner = np.asarray(corpus.documents) - np.arange(len(corpus.documents))
        self.inner_count = len(corpus.sentences) - len(corpus.documents)

    def __len__(self):
        return max(1, len(self.corpus.tokens) // self.bptt)

    def document_of(self, sentence):
        """The document's number, its first sentence and the first sentence of the next one."""
        documents = self.corpus.documents
        number = int(np.searchsorted(documents, sentence, "right")) - 1
        end = documents[number + 1] if number + 1 < len(documents) else len(self.corpus.sentences)
        return number, int(documents[number]), int(end)

    def boundary(self, index, rng):
        """A sentence in stretch ``index`` that is not the first of its document, or the next such one."""
        place = math.ceil((index + rng.random()) * self.bptt)  # an integer: for a float all starts would be converted
        sentence = int(np.searchsorted(self.corpus.sentences[:, 0], place))
        for offset in range(len(self.corpus.sentences)):
            candidate = (sentence + offset) % len(self.corpus.sentences)
            if self.document_of(candidate)[1] != candidate:
                return candidate
        raise AssertionError("the constructor found a document of two sentences")

    def take(self, first, last):
        """The tokens of the sentences from ``first`` up to, not including, ``last``."""
        sentences = self.corpus.sentences
        return self.corpus.tokens[sentences[first, 0] : sentences[last - 1, 1]].astype(np.int64)

    def forwards(self, sentence, room):
        """Whole sentences from ``sentence`` on, within its document, until ``room`` tokens are reached."""
        end, stop = sentence + 1, self.document_of(sentence)[2]
        start = self.corpus.sentences[sentence, 0]
        while end < stop and self.corpus.sentences[end - 1, 1] - start < room:
            end += 1
        return self.take(sentence, end)

    def backwards(self, sentence, room):
        """Whole sentences before ``sentence``, within its document, until ``room`` tokens are reached."""
        start, stop = sentence - 1, self.document_of(sentence)[1]
        end = self.corpus.sentences[sentence - 1, 1]
        while start > stop and end - self.corpus.sentences[start, 0] < room:
            start -= 1
        return self.take(start, sentence)

    def elsewhere(self, boundary, rng):
        """Any sentence of another document but its first.

        Where no other document has two sentences: one of the same document that is not near, nor its first if it has
        three.
        """
        number, first, end = self.document_of(boundary)
        own = end - first - 1  # its sentences but the first
        if own < self.inner_count:
            inner = int(rng.integers(self.inner_count - own))
            inner += own if inner >= self.inner[number] else 0
            return inner + int(np.searchsorted(self.inner, inner, "right"))
        if own == 1:
            return first
        near = max(1, min(self.bptt, own // 3))
        return first + 1 + (boundary - first - 1 + int(rng.integers(near, own - near + 1))) % own

    def pair(self, index, epoch):
        rng = generator(self.seed, epoch, index)
        room = self.bptt - 3
        boundary = self.boundary(index, rng)
        share = rng.uniform(0.25, 0.75)
        follows = rng.random() < (0.5 if epoch == EVALUATION else self.frac_ns)
        first = self.backwards(boundary, max(self.min_length, share * room))
        start = boundary if follows or self.objective == "sop" else self.elsewhere(boundary, rng)
        second = self.forwards(start, max(self.min_length, room - min(len(first), share * room)))
        first, second = cut_longest_first(first, second, room)
        if not follows and self.objective == "sop":
            first, second = second, first
        return first, second, int(follows)

    def collate(self, indices, epoch):
        pairs = [self.pair(int(index), epoch) for index in indices]
        batch = pad_rows([pair[:2] for pair in pairs], self.tokenizer)
        return {**batch, "labels": torch.tensor([pair[2] for pair in pairs])}


def cut_longest_first(first, second, room):
    """Both parts within ``room`` tokens: the longer gives way, the first at its beginning, the second at its end."""
    keep_first = min(len(first), max(room - len(second), room // 2))
    keep_second = min(len(second), room - keep_first)
    return first[len(first) - keep_first :], second[:keep_second]


class QuestionWindows:
    """Extractive question answering: [CLS] question [SEP] window of the context [SEP], answers as spans of tokens.

    A context that does not fit is cut into windows that overlap: each begins ``stride`` tokens after the one before.
    A question may take half of a row; what is longer loses its end. No question and no token of a context is left out.
    A window that does not hold the whole answer, and a question without one, point at the [CLS], position 0.

    ``show="question"`` blots out the context with mask tokens, to see what can be had without reading.
    ``windows`` (W, 3) has each window's question, its first context token and how many it has.
    A batch holds input_ids, token_type_ids, attention_mask (N, S), start and end (N,).
    """

    def __init__(self, squad, tokenizer, places, max_length, stride, description="questions", show="all"):
        self.squad, self.tokenizer, self.max_length, self.show = squad, tokenizer, max_length, show
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
            step, start = min(stride, room), 0
            while True:
                windows.append((number, start, min(room, total - start), asked))
                if start + room >= total:
                    break
                start += step
        self.use(np.array(windows, np.int64).reshape(-1, 4))

    def use(self, windows):
        """``windows`` (W, 4), in the order of their questions: the three columns above and the question's length."""
        self.windows, self.asked = windows[:, :3], windows[:, 3]
        self.lengths = windows[:, 2] + windows[:, 3] + 3
        self.first_of = np.searchsorted(windows[:, 0], np.arange(len(self.squad.questions) + 1))

    def __len__(self):
        return len(self.windows)

    def spread(self, limit):
        """Keep ``limit`` windows at most: all those of whole questions, spread evenly. At least one question stays.

        Validation on a part of the examples needs this: a question that is shown without the window of its answer
        would look unanswerable.
        """
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

    def context_start(self, window):
        """The position in the row at which the window's context begins."""
        return 2 + int(self.asked[window])

    def collate(self, indices, epoch):
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
        return {**pad_rows(rows, self.tokenizer), "start": torch.tensor(starts), "end": torch.tensor(ends)}

    def best_context(self, window):
        """True at the window's tokens that no other window shows with more context on their poorer side.

        google-research/bert's rule: a token's score in a window is min(left, right context) + 0.01 * window length.
        """
        question, first, count = self.windows[window]
        rivals = range(self.first_of[question], self.first_of[question + 1])
        if len(rivals) == 1:
            return np.ones(count, bool)
        places = np.arange(first, first + count)
        best, winner = np.full(count, -np.inf), np.full(count, -1)
        for rival in rivals:
            _, start, length = self.windows[rival]
            inside = (places >= start) & (places < start + length)
            score = np.minimum(places - start, start + length - 1 - places) + 0.01 * length
            better = inside & (score > best)
            best[better], winner[better] = score[better], rival
        return winner == window


def pad_pieces(rows, tokenizer):
    """Rows of pieces (tokens, type, part), a number or one for each token -> input_ids, token_type_ids, attention_mask
    and parts, each (N, S)."""
    length = max(sum(len(tokens) for tokens, _, _ in row) for row in rows)
    input_ids = np.full((len(rows), length), tokenizer.pad_id, np.int64)
    token_type_ids, attention_mask, parts = (np.zeros((len(rows), length), np.int64) for _ in range(3))
    for number, row in enumerate(rows):
        end = 0
        for tokens, kind, part in row:
            place, end = (number, slice(end, end + len(tokens))), end + len(tokens)
            input_ids[place], token_type_ids[place], parts[place] = tokens, kind, part
        attention_mask[number, :end] = 1
    names = ("input_ids", "token_type_ids", "attention_mask", "parts")
    return dict(zip(names, map(torch.from_numpy, (input_ids, token_type_ids, attention_mask, parts)), strict=True))


SENTENCE_END = re.compile(r"""[.!?]["'”’)]*\s+|\n+""")


def n_grams(ids, n):
    return Counter(zip(*(ids[first:] for first in range(n)), strict=False))


def rouge_recall(candidate, reference, n):
    """ROUGE-N (Lin 2004, section 2): the share of the reference's n-grams that the candidate has, each as often."""
    wanted = n_grams(reference, n)
    return (wanted & n_grams(candidate, n)).total() / max(1, wanted.total())


class OptionRows:
    """Multiple choice, in one of two layouts:

        separate   four rows a question, each [CLS] article [SEP] statement [SEP]
        joint      one row, [CLS] article [SEP] question [SEP], then for each option [CLS] statement [SEP]

    In the separate layout a statement is the question with the option, which fills its blank or follows it. In the joint
    one it is the option alone where the question has no blank; the [CLS] before it is the option's marker, and since an
    option stands at the positions at which it would stand alone (see heads.joint_views), ``max_length`` bounds what one
    option sees, not the row.

    Question and options are kept whole (up to half a row; a longer one loses its beginning, so that the option
    stays); the article gives way. ``passage="truncate"`` keeps its beginning; ``"window"`` cuts it into windows that
    overlap by half: training takes one of them at random, scoring takes all of them and each option's best; ``"select"``
    keeps the sentences that have most to do with question and options.

    ``show="question"`` leaves the article out, ``"options"`` the question too, to see what can be had without reading.

    A batch holds labels (N,), and input_ids, token_type_ids, attention_mask and parts, each (N, 4, S) or, joint, (N, S)
    with markers (N, 4), the places of the options' [CLS]. ``parts`` says what a token is, as heads.py has it. Where an
    option fills the blank, its words are the option, wherever they stand, and the others of the statement the question.
    """

    def __init__(
        self, articles, tokenizer, places, max_length, seed, passage="window", description="choices", show="all",
        layout="separate",
    ):  # fmt: skip
        self.tokenizer, self.max_length, self.seed, self.passage = tokenizer, max_length, seed, passage
        self.show, self.layout = show, layout
        self.questions, texts = [], []  # (article, number of the question, article's text, first statement's text)
        for article in articles:
            base = len(texts)
            texts.append(article.text if show == "all" else "")
            for number, (question, options) in enumerate(zip(article.questions, article.options, strict=True)):
                self.questions.append((article, number, base, len(texts)))
                texts.extend(self.statement(question, option)[0] for option in options)
                if layout == "joint":
                    texts.append("" if show == "options" else question)
        if not self.questions:
            raise UserError("no questions in these articles; name another folder or level")
        self.texts = encode_texts(texts, tokenizer, places, description)
        sizes = np.diff(self.texts.texts, axis=1)[:, 0]
        passages, first = (np.array([places[column] for places in self.questions]) for column in (2, 3))
        statements = sizes[first[:, None] + np.arange(4)]  # (questions, 4)
        if layout == "joint":  # half of a row is for question and option, with three special tokens of their own
            self.limit = max(1, (max_length - 5) // 4)
            statements, shared = np.minimum(statements, self.limit) + 2, np.minimum(sizes[first + 4], self.limit) + 3
            seen, asked = shared + statements.max(1), shared + statements.sum(1)
        else:
            self.limit = max_length // 2
            seen = asked = np.minimum(statements.max(1), self.limit) + 3
        self.sizes, self.room = sizes[passages], max_length - seen
        self.lengths = np.minimum(self.sizes, self.room) + asked

    def __len__(self):
        return len(self.questions)

    def statement(self, question, option):
        """What an option's row or part of a row says of it, and the characters that are the option; see fill_in."""
        alone = self.show == "options" or (self.layout == "joint" and "_" not in question)
        return (option, 0, len(option)) if alone else fill_in(question, option)

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
        long as there is room.
        """
        article, number, base, first = self.questions[index]
        tokens, room = self.texts.text(base), int(self.room[index])
        ends = [end.end() for end in SENTENCE_END.finditer(article.text)]
        owners = np.searchsorted(ends, self.texts.text_spans(base)[:, 0], side="right")
        sentences = np.split(np.arange(len(tokens)), np.flatnonzero(np.diff(owners)) + 1)
        asked = self.layout == "joint" and self.show != "options" and "_" not in article.questions[number]
        shared = self.texts.text(first + 4).tolist() if asked else []
        wanted = [shared + self.texts.text(first + option).tolist() for option in range(4)]
        found = [tokens[sentence].tolist() for sentence in sentences]
        worth = [max(rouge_recall(ids, one, 1) + rouge_recall(ids, one, 2) for one in wanted) for ids in found]
        order, taken = sorted(range(len(sentences)), key=lambda number: -worth[number]), []
        for best in order:
            for number in (best, best - 1, best + 1):
                if 0 <= number < len(sentences) and number not in taken and len(sentences[number]) <= room:
                    taken.append(number)
                    room -= len(sentences[number])
        return np.concatenate([sentences[number] for number in sorted(taken)] or [sentences[order[0]][:room]])

    def stated(self, index, option):
        """The piece that states an option, each token marked as the question's or the option's."""
        article, number, _, first = self.questions[index]
        _, start, end = self.statement(article.questions[number], article.options[number][option])
        spans = self.texts.text_spans(first + option)
        inside = (spans[:, 1] > start) & (spans[:, 0] < end)
        parts = np.where(inside, OPTION, QUESTION)
        return self.texts.text(first + option)[-self.limit :], 1, parts[-self.limit :]

    def rows(self, index, start):
        """The pieces of each row of a question, for the window of the article that begins at token ``start``."""
        _, _, base, first = self.questions[index]
        passage = self.texts.text(base)
        if self.passage == "select" and self.sizes[index] > self.room[index]:
            passage = passage[self.selected(index)]
        passage = passage[start : start + int(self.room[index])]
        cls, sep = [self.tokenizer.cls_id], [self.tokenizer.sep_id]
        read = [(cls, 0, 0), (passage, 0, PASSAGE), (sep, 0, 0)]
        stated = [self.stated(index, option) for option in range(4)]
        if self.layout == "separate":
            return [[*read, piece, (sep, 1, 0)] for piece in stated]
        asked = [(self.texts.text(first + 4)[-self.limit :], 1, QUESTION), (sep, 1, 0)]
        return [[*read, *asked, *(part for piece in stated for part in ((cls, 1, MARKER), piece, (sep, 1, 0)))]]

    def collate(self, indices, epoch):
        """A row for each question; in evaluation one for each window, ``question`` (N,) saying whose it is."""
        rows, labels, owners = [], [], []
        for owner, index in enumerate(map(int, indices)):
            starts = self.starts(index)
            if epoch != EVALUATION:
                starts = [starts[int(generator(self.seed, epoch, index).integers(len(starts)))]]
            article, number, _, _ = self.questions[index]
            for start in starts:
                rows.extend(self.rows(index, start))
                labels.append(IGNORED if article.answers[number] is None else article.answers[number])
                owners.append(owner)
        batch = pad_pieces(rows, self.tokenizer)
        if self.layout == "joint":
            batch["markers"] = (batch["parts"] == MARKER).nonzero()[:, 1].view(-1, 4)
        else:
            batch = {name: x.view(len(owners), 4, -1) for name, x in batch.items()}
        return {**batch, "labels": torch.tensor(labels), "question": torch.tensor(owners)}
