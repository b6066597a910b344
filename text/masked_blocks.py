"""Masked words: blocks of a corpus with words to restore."""

import numpy as np
import torch

from files.mistakes import UserError
from text.batches import EVALUATION, generator, generators, whole_numbers
from text.cache import TokenCache
from text.tokenizer import Tokenizer


class MaskedBlocks:
    """Masked language modelling (Devlin et al. 2019, section 3.1): blocks of ``bptt`` tokens with words to restore.

    The corpus is one stream in which a sep separates documents; an epoch cuts it at a phase of its own into [CLS] and
    bptt - 1 tokens, so that nothing is padded but the two ends. ``mask_frac`` of each block's tokens are chosen; 80 %
    of those become the mask token, 10 % a random token, 10 % stay. ``unit="whole-word"`` chooses words. Evaluation
    always masks 15 % of the tokens.

    A batch holds input_ids (N, S), attention_mask (N, S) or None, positions (N, S), true where chosen, places (M,), the
    numbers of these among all N * S, and labels (M,).
    """

    lengths, rows_each = None, 1

    def __init__(
        self, corpus: TokenCache, tokenizer: Tokenizer, bptt: int, seed: int, mask_frac: float = 0.15, unit: str = "token"
    ):
        if not 0 < mask_frac < 1:
            raise UserError(f"--mask_frac {mask_frac}: must lie between 0 and 1")
        self.corpus, self.tokenizer, self.seed, self.mask_frac, self.unit = corpus, tokenizer, seed, mask_frac, unit
        self.longest, self.block_tokens = bptt, bptt - 1  # beside the [CLS]
        self.special = np.zeros(len(tokenizer), bool)
        self.special[tokenizer.special_ids] = True
        self.ordinary = np.flatnonzero(~self.special)

    def __len__(self) -> int:
        return -(-len(self.corpus.tokens) // self.block_tokens)

    def phase(self, epoch):
        """Where in the stream the first block of an epoch begins."""
        return 0 if epoch == EVALUATION else int(generator(self.seed, epoch, (1 << 62)).integers(self.block_tokens))

    def block(self, index, epoch):
        """The tokens of a block; the last one of an epoch also takes what its phase cuts off at the beginning."""
        phase = self.phase(epoch)
        start = phase + index * self.block_tokens
        tokens = self.corpus.tokens[start : start + self.block_tokens]
        if index == len(self) - 1:
            tokens = np.concatenate([tokens, self.corpus.tokens[:phase]])[: self.block_tokens]
        return tokens.astype(np.int64)

    def blocks(self, indices, epoch):
        """The tokens (n, T) of blocks of one length, of which those before the last two are."""
        if len(indices) == 1:
            return self.block(int(indices[0]), epoch)[None]
        starts = self.phase(epoch) + indices * self.block_tokens
        return self.corpus.tokens[starts[:, None] + np.arange(self.block_tokens)].astype(np.int64)

    def choose(self, tokens: np.ndarray, draws: np.ndarray, evaluation: bool) -> np.ndarray:
        """True at the tokens (n, T) to restore: in each row the given share of those that are not special.

        ``draws`` (n, T) are random numbers from 0 to 1; the smallest ones choose.
        """
        candidates = ~self.special[tokens]
        fraction = 0.15 if evaluation else self.mask_frac
        last = np.maximum(1, np.rint(fraction * candidates.sum(1)).astype(np.int64)) - 1
        if self.unit == "whole-word" and not evaluation:  # all parts of a word have one number, and are chosen together
            others = ~candidates & (tokens != self.tokenizer.unk_id)  # an unknown character may stand within a word
            word = np.cumsum(self.tokenizer.word_starts[tokens] | others, 1)
            draws = np.take_along_axis(draws, word - word[:, :1], 1)
        draws = np.where(candidates, draws, 2.0)
        largest = np.partition(draws, np.unique(last), 1)[np.arange(len(draws)), last]
        return candidates & (draws <= largest[:, None])

    def hidden(self, tokens, indices, epoch):
        """What of blocks (n, T) is to be restored, and what is shown of them, both (n, T)."""
        length, bound = tokens.shape[1], len(self.ordinary)
        draws, both, raw = np.empty((2, *tokens.shape)), np.empty((2, length)), []
        for row, rng in enumerate(generators(self.seed, epoch, indices.tolist())):
            draws[:, row] = rng.random(out=both)
            raw.append(rng.bit_generator.random_raw(-(-length // 2)))
        replaced, again = (x[:, :length] for x in whole_numbers(np.stack(raw), bound))
        for row in np.flatnonzero(again.any(1)):
            rng = generator(self.seed, epoch, int(indices[row]))
            rng.random(both.size)
            replaced[row] = rng.integers(bound, size=length)
        chosen, fate = self.choose(tokens, draws[0], epoch == EVALUATION), draws[1]
        shown = np.where(chosen & (fate < 0.8), self.tokenizer.mask_id, tokens)
        return chosen, np.where(chosen & (fate >= 0.9), self.ordinary[replaced], shown)

    def collate(self, indices: np.ndarray, epoch: int) -> dict[str, torch.Tensor | None]:
        indices = np.asarray(indices)
        n, s = len(indices), self.block_tokens + 1
        original = np.full((n, s), self.tokenizer.pad_id, np.int64)
        original[:, 0] = self.tokenizer.cls_id
        input_ids, positions, used = original.copy(), np.zeros((n, s), bool), np.ones(n, np.int64)
        whole = indices < len(self) - 2
        for rows in [np.flatnonzero(whole), *np.flatnonzero(~whole)[:, None]]:
            if len(rows):
                tokens = self.blocks(indices[rows], epoch)
                used[rows] = end = 1 + tokens.shape[1]
                original[rows, 1:end] = tokens
                positions[rows, 1:end], input_ids[rows, 1:end] = self.hidden(tokens, indices[rows], epoch)
        mask = None if used.min() == s else torch.from_numpy((np.arange(s) < used[:, None]).astype(np.int64))
        return {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": mask,
            "positions": torch.from_numpy(positions),
            "places": torch.from_numpy(np.flatnonzero(positions)),
            "labels": torch.from_numpy(original[positions]),
        }
