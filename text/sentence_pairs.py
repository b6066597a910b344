"""Next sentences: two parts of a corpus, and whether the second follows the first."""

import math

import numpy as np
import torch

from files.mistakes import UserError
from text.batches import EVALUATION, generators, pad_rows
from text.cache import TokenCache
from text.tokenizer import Tokenizer

SPARE = 1.5  # sentences taken for a part beyond what its share of the row holds, of which the cut leaves that


class SentencePairs:
    """Next-sentence prediction: two parts, and whether the second follows the first (section 3.1 of the paper).

    A sentence that is not the first of its document, an inner one, is where the first part ends and the true second part
    begins. That is the second part, but in ``frac_ns`` of the pairs ("nsp") it begins at an inner sentence elsewhere, or
    ("sop", Lan et al. 2020) the two parts change places. Each example has its share of the inner sentences, in order;
    there are as many examples as stretches of ``bptt`` tokens.

    Nothing but both parts together may tell the answer (tests/test_give_aways.py), so all that is drawn is drawn alike:

    - Second parts, true or wrong, begin at every inner sentence equally often. (Were a wrong one a document's beginning,
      or a true one the sentence behind a token drawn, which likes what stands behind long sentences, it had its look.)
    - A part has so many sentences, and so many tokens at most, as its document's mean length and a share of the row that
      is drawn allow, and as both places have. (Were sentences added until some tokens are reached, the last would be a
      long one; were a part longer where the other is short, its length would depend on the other's document.)
    - Parts change places before they are cut: what comes first in the row then loses its beginning, what comes second its
      end, so that both orders have sentences' borders where the parts meet.

    A batch holds input_ids, token_type_ids, attention_mask (N, S) and labels (N,), 1 where the second follows.
    """

    lengths, rows_each = None, 1

    def __init__(
        self, corpus: TokenCache, tokenizer: Tokenizer, bptt: int, seed: int, frac_ns: float = 0.5,
        objective: str = "nsp", min_length: int = 1,
    ):  # fmt: skip
        if not 0 <= frac_ns <= 1:
            raise UserError(f"--frac_ns {frac_ns}: must lie between 0 and 1")
        self.corpus, self.tokenizer, self.bptt, self.seed, self.longest = corpus, tokenizer, bptt, seed, bptt
        self.frac_ns, self.objective, self.min_length = frac_ns, objective, min_length
        # The sentences of each document but its first are numbered through: with documents of 3, 2 and 4 sentences
        #     sentence  0  1  2 | 3  4 | 5  6  7  8
        #     inner     -  0  1 | -  2 | -  3  4  5         self.inner_before = [0, 2, 3], self.inner_count = 6
        inner = np.maximum(np.diff(corpus.documents.astype(np.int64), append=len(corpus.sentences)) - 1, 0)
        self.inner_before, self.inner_count = np.cumsum(inner) - inner, int(inner.sum())
        if not self.inner_count:
            raise UserError(
                "next sentences: no document has two sentences; use a corpus of running text, such as WikiText103"
            )
        self.apart = max(1, min(int(inner.max()), self.inner_count // 3))

    def __len__(self) -> int:
        return max(1, len(self.corpus.tokens) // self.bptt)

    def inner_of(self, index, rng):
        """Any inner sentence of example ``index``'s share; over all examples each sentence is as likely as every other."""
        return (index * self.inner_count + int(rng.integers(self.inner_count))) // len(self)

    def elsewhere(self, inner, rng):
        """Another inner sentence, which is ``apart`` or more away, counted in a circle.

        The distance does not depend on the place, so each sentence is taken to another one; were any of another document
        drawn instead, those of large documents would come too rarely. ``apart`` is as many as the largest document has,
        which leads to another document, but a third of all at most: where one document has more than that, the others
        hold too little to choose from, and its own far-off sentences serve as well. (Of a single one there is no other:
        then the wrong second part is its document's beginning.)
        """
        return (inner + int(rng.integers(self.apart, self.inner_count - self.apart + 1))) % self.inner_count

    def place(self, inner: int) -> tuple[int, int, int]:
        """The number of an inner sentence among all, the first sentence of its document, and that of the next one."""
        documents = self.corpus.documents
        number = int(self.inner_before.searchsorted(inner, "right")) - 1
        begin = int(documents[number])
        end = documents[number + 1] if number + 1 < len(documents) else len(self.corpus.sentences)
        return begin + 1 + inner - int(self.inner_before[number]), begin, int(end)

    def count(self, place: tuple[int, int, int], room: int, fewest: int) -> int:
        """How many sentences have rather more than ``room`` tokens, by the mean length of the document's."""
        _, begin, end = place
        tokens = max(1, self.corpus.sentences[end - 1, 1] - self.corpus.sentences[begin, 0])
        return max(fewest, math.ceil(SPARE * room * (end - begin) / tokens))

    def take(self, first, last):
        """The tokens of the sentences from ``first`` up to, not including, ``last``."""
        sentences = self.corpus.sentences
        return self.corpus.tokens[sentences[first, 0] : sentences[last - 1, 1]].astype(np.int64)

    def pair(self, index: int, epoch: int) -> tuple[np.ndarray, np.ndarray, int]:
        return next(self.pairs([index], epoch))

    def pairs(self, indices, epoch):
        """For each example the tokens of its first and second part, and 1 where the second follows, else 0."""
        for index, rng in zip(indices, generators(self.seed, epoch, indices), strict=True):
            yield self.drawn(index, epoch, rng)

    def drawn(self, index, epoch, rng):
        inner, room = self.inner_of(index, rng), self.bptt - 3
        wanted = 1 if epoch == EVALUATION else self.min_length
        least = min(max(wanted, room // 4), room // 2)
        keep = int(rng.integers(least, room - least + 1))  # tokens of the first part, and the rest of the second
        follows = rng.random() < (0.5 if epoch == EVALUATION else 1 - self.frac_ns)
        here = there = self.place(inner)
        if self.objective == "nsp":
            there = self.place(self.elsewhere(inner, rng)) if self.inner_count > 1 else (here[1], *here[1:])
        before = max(1, min(sentence - begin for sentence, begin, _ in (here, there)))
        after = min(end - sentence for sentence, _, end in (here, there))
        start = here if follows else there
        first = self.take(here[0] - min(before, self.count(here, keep, wanted)), here[0])
        second = self.take(start[0], start[0] + min(after, self.count(start, room - keep, wanted)))
        if not follows and self.objective == "sop":
            first, second, keep = second, first, room - keep
        return first[max(0, len(first) - keep) :], second[: room - keep], int(follows)

    def collate(self, indices: np.ndarray, epoch: int) -> dict[str, torch.Tensor]:
        pairs = list(self.pairs([int(index) for index in indices], epoch))
        batch = pad_rows([pair[:2] for pair in pairs], self.tokenizer)
        return {**batch, "labels": torch.tensor([pair[2] for pair in pairs])}


def cut_longest_first(first: np.ndarray, second: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Two texts within ``room`` tokens: the longer gives way, the first at its beginning, the second at its end."""
    keep_first = min(len(first), max(room - len(second), room // 2))
    keep_second = min(len(second), room - keep_first)
    return first[len(first) - keep_first :], second[:keep_second]
