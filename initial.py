"""How the weights of a new network begin, where that is more than noise.

    table = waves(512, 128)                            # a position table (positions, D)
    look_around(words, attention)                      # the first layer's heads see a neighbour each

Until a run has found out where a token's neighbours are, it learns no more than how frequent words are. That took a BERT of
4 layers 5 million tokens; begun as here it is past it at once (benchmarks/LOG.md). Nothing of BERT's shape is touched.
"""

import torch
from torch import Tensor, nn

WAVES = 8  # of the fast ones, by which neighbours are told apart
OFFSETS = (-1, 1, -2, 2, -3, 3, -4, 4)  # tokens from a query to the key that a head begins by looking at; others are free
SHARPNESS = 3.0  # how far the score of that key is above the next one's


def wave_angles(width: int) -> Tensor:
    """The angle by which each pair of a position's dimensions turns from one position to the next: (width / 2,)."""
    return 10000.0 ** (-torch.arange(0, width, 2) / width)


def waves(count: int, width: int) -> Tensor:
    """The sinusoids of Vaswani et al. 2017 (section 3.5), of the size of a word's vector: (count, width)."""
    angle = torch.arange(count)[:, None] * wave_angles(width)  # (positions, width / 2)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width] * (2 / width) ** 0.5


def look_around(words: nn.Embedding, attention: nn.Module) -> None:
    """Let each head of the first layer begin by looking at one neighbour, by position alone.

    ``attention`` is a MultiheadAttention on states that are words plus `waves`, normalised. Turned by k times its angle,
    a wave is the one k positions on, so that a query that is its position's waves, turned, meets the key k tokens on with
    the highest score. (A relation such as Trockman & Kolter 2023, arXiv 2305.09828, give to words, here of positions.)
    Words leave the dimensions of these waves free at first, for theirs would be noise there. Values and output begin at
    the size at which a neighbour counts as much as the token itself.
    """
    width = words.embedding_dim
    each = width // attention.heads  # dimensions of a head
    count = min(WAVES, each // 4)
    if words.weight.is_meta or not count:
        return
    pairs = torch.arange(count) * max(1, width // 128)  # the first of width 128 are fast and differ; so are these
    angle, even = wave_angles(width)[pairs], torch.arange(0, 2 * count, 2)
    words.weight.data[:, torch.cat([2 * pairs, 2 * pairs + 1])] = 0

    def turned(steps):  # from states to their waves, so many positions on: (2 * count, width)
        cos, sin, turn = (steps * angle).cos(), (steps * angle).sin(), torch.zeros(2 * count, width)
        turn[even, 2 * pairs], turn[even, 2 * pairs + 1] = cos, sin
        turn[even + 1, 2 * pairs], turn[even + 1, 2 * pairs + 1] = -sin, cos
        return turn * (SHARPNESS * each**0.5 / (1 - angle.cos()).sum()) ** 0.5

    query, key, value = attention.in_proj.weight.data.view(3, attention.heads, each, width)
    for head, offset in zip(range(attention.heads), OFFSETS, strict=False):
        query[head, : 2 * count], key[head, : 2 * count] = turned(offset), turned(0)
    for weight in (value, attention.out_proj.weight.data):
        nn.init.normal_(weight, std=width**-0.5)
