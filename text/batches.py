"""From cached tokens to batches of tensors: what all kinds of example share. Each kind is a class in a file of its own.

Every such class has a length, ``collate(indices, epoch)``, which gives a dictionary of tensors (beside them at most plain
numbers about them), ``rows_each``, how many rows an example has at most, ``lengths``, the number of tokens of each
example's rows where they differ, and ``longest``, how many an example is padded to at most. Design choices:

- A batch is a pure function of the seed, the epoch and the examples' numbers. Masks, pairs and windows are drawn from a
  generator that belongs to the example, so a run resumes at any step, and any number of ranks sees the same examples.
- ``epoch=EVALUATION`` gives what scores are computed on: the same for every run, whatever the training used.
- Each row is [CLS] first [SEP] or [CLS] first [SEP] second [SEP], padded to the longest of the batch.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from text.permutation import ROUNDS, permuted
from text.tokenizer import Tokenizer

EVALUATION = -1
IGNORED = -100  # a label that no loss counts
MARKED = 2  # the type of a marked token, beside those of the two parts of a pair
HELD = 1 << 20  # examples: the order of more is computed; a shuffle is the better one of few, and these take 8 MB
STRETCH = 50  # batches, within which examples are sorted by length
RowPiece = tuple[np.ndarray | list[int], int | np.ndarray, int | np.ndarray]  # tokens, type, part; see pad_pieces


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator of one example: independent streams for all (seed, epoch, index)."""
    if epoch == EVALUATION:
        seed, epoch = 0, 1 << 32
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, epoch, index]))


def generators(seed: int, epoch: int, indices: Iterable[int]) -> Iterator[np.random.Generator]:
    """The generators of several examples, each to be used before the next is asked for.

    It is one that is set to the beginning of each stream: making one takes ten times as long as what is drawn from it.
    """
    rng = generator(seed, epoch, 0)
    state = rng.bit_generator.state
    for index in indices:
        state["state"]["counter"][3] = index
        rng.bit_generator.state = state
        yield rng


def whole_numbers(raw: np.ndarray, bound: int) -> tuple[np.ndarray, np.ndarray]:
    """What ``integers(bound, size=2 * k)`` draws, for all rows of ``raw`` (n, k) at once, the next 64-bit numbers of each
    row's generator; and where numpy would draw once more (n, 2 * k), which happens once in 2^32 / bound numbers at most.

    As numpy does it, by halves of the numbers, times bound (Lemire 2019, arXiv 1805.10941), in a third of the time.
    """
    products = raw.astype("<u8", copy=False).view("<u4").astype(np.uint64) * np.uint64(bound)
    return (products >> np.uint64(32)).astype(np.int64), (products & np.uint64((1 << 32) - 1)) < ((1 << 32) - bound) % bound


def epoch_batches(
    count: int, batch_size: int, seed: int, epoch: int, lengths: np.ndarray | None = None
) -> Sequence[np.ndarray]:
    """The examples of an epoch as a sequence of index arrays, every example once, in a new order each epoch.

    With ``lengths``, examples of similar length come together: the shuffled order is sorted within stretches of 50
    batches, and the batches are shuffled again, which costs little randomness and saves most of the padding.
    """
    rng = generator(seed, epoch, (1 << 63) - 1)
    if count > HELD:
        return ComputedBatches(count, batch_size, rng, lengths)
    order = rng.permutation(count)
    if lengths is not None:
        stretch = STRETCH * batch_size
        stretches = [order[i : i + stretch] for i in range(0, count, stretch)]
        order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in stretches])
    batches = [order[i : i + batch_size] for i in range(0, count, batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))] if lengths is not None else batches


class ComputedBatches(Sequence):
    """The same of so many examples that their order would fill the memory: each batch is worked out when asked for."""

    def __init__(self, count: int, batch_size: int, rng: np.random.Generator, lengths: np.ndarray | None):
        self.total, self.batch_size, self.lengths = count, batch_size, lengths
        self.keys, self.batch_keys = rng.integers(1 << 64, size=(2, ROUNDS), dtype=np.uint64)

    def __len__(self):
        return -(-self.total // self.batch_size)

    def __getitem__(self, number):
        if not 0 <= number < len(self):
            raise IndexError(number)
        if self.lengths is None:
            return self.examples(number, number + 1)
        number = int(permuted(np.array([number]), len(self), self.batch_keys)[0])
        first = number - number % STRETCH
        stretch = self.examples(first, first + STRETCH)
        stretch = stretch[np.argsort(self.lengths[stretch], kind="stable")]
        return stretch[(number - first) * self.batch_size :][: self.batch_size]

    def examples(self, first, last):
        """Those of the batches from ``first`` up to, not including, ``last``, in shuffled order."""
        places = np.arange(first * self.batch_size, min(last * self.batch_size, self.total))
        return permuted(places, self.total, self.keys)


def evaluation_batches(count: int, batch_size: int, lengths: np.ndarray | None = None) -> list[np.ndarray]:
    """All examples in a fixed order, by length where lengths differ."""
    order = np.arange(count) if lengths is None else np.argsort(lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, count, batch_size)]


def pad_rows(rows: Sequence[tuple[np.ndarray, np.ndarray | None]], tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
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


def marked(tokens: np.ndarray, others: np.ndarray, kind: int) -> np.ndarray:
    """The types of ``tokens`` of a part ``kind``: MARKED where they are among the ``others`` as well.

    The exact match of DrQA (Chen et al. 2017, arXiv 1704.00051, section 3.2).
    """
    return np.where(np.isin(tokens, others), MARKED, kind)


def pad_pieces(rows: list[list[RowPiece]], tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
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
