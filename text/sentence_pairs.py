"""Next sentences: two parts of a corpus, and whether the second follows the first."""

import math

import numpy as np
import torch

from files.mistakes import UserError
from text.batches import EVALUATION, generator, pad_rows


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

        Those sentences are numbered as if the first of each document were left out. With documents of 3, 2 and 4
        sentences, so that these begin at 0, 3 and 5:

            sentence  0  1  2 | 3  4 | 5  6  7  8
            inner     -  0  1 | -  2 | -  3  4  5         self.inner = [0, 2, 3], self.inner_count = 6

        Where the boundary is in the second document, which has own = 1 of them, one of the five others is drawn: 0 and 1
        are themselves, 2 to 4 stand for 3 to 5, the document's own being passed over. Inner 4 is sentence 4 + 3, for the
        firsts of the three documents that begin up to it.

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

    def pair(self, index: int, epoch: int) -> tuple[np.ndarray, np.ndarray, int]:
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
