"""Masked words: blocks of a corpus with words to restore."""

import numpy as np
import torch

from files.mistakes import UserError
from text.batches import EVALUATION, generator
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

    lengths = None

    def __init__(
        self, corpus: TokenCache, tokenizer: Tokenizer, bptt: int, seed: int, mask_frac: float = 0.15, unit: str = "token"
    ):
        if not 0 < mask_frac < 1:
            raise UserError(f"--mask_frac {mask_frac}: must lie between 0 and 1")
        self.corpus, self.tokenizer, self.seed, self.mask_frac, self.unit = corpus, tokenizer, seed, mask_frac, unit
        self.block_tokens = bptt - 1  # beside the [CLS]
        self.special = np.zeros(len(tokenizer), bool)
        self.special[self.special_ids(tokenizer)] = True
        self.ordinary = np.flatnonzero(~self.special)

    @staticmethod
    def special_ids(tokenizer):
        return [tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id]

    def __len__(self) -> int:
        return -(-len(self.corpus.tokens) // self.block_tokens)

    def block(self, index, epoch):
        """The tokens of a block; the last one of an epoch also takes what its phase cuts off at the beginning."""
        phase = 0 if epoch == EVALUATION else int(generator(self.seed, epoch, (1 << 62)).integers(self.block_tokens))
        start = phase + index * self.block_tokens
        tokens = self.corpus.tokens[start : start + self.block_tokens]
        if index == len(self) - 1:
            tokens = np.concatenate([tokens, self.corpus.tokens[:phase]])[: self.block_tokens]
        return tokens.astype(np.int64)

    def choose(self, tokens: np.ndarray, rng: np.random.Generator, evaluation: bool) -> np.ndarray:
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

    def collate(self, indices: np.ndarray, epoch: int) -> dict[str, torch.Tensor | None]:
        n, s = len(indices), self.block_tokens + 1
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
            "places": torch.from_numpy(np.flatnonzero(positions)),
            "labels": torch.from_numpy(original[positions]),
        }
