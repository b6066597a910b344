"""How the weights of a new network begin, where that is more than noise.

    table = waves(512, 128)                            # a position table (positions, D)
    look_around(words, layers)                         # the first three layers' heads see what stands around

Until a run has found out where a token's neighbours are, it learns no more than how frequent words are. That took a BERT of
4 layers 5 million tokens; begun as here it is past it at once. Questions need what stands further off as well, which a run
of minutes never finds (benchmarks/LOG.md has both). Nothing of BERT's shape is touched.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WAVES = 8  # by which a head tells positions apart
LAYERS = (  # of each of the first: tokens from a query to the key that a head looks at, others are free; how far the score
    # of that key would be above those so many tokens from it, were waves all there is; the size of what is added
    ((-1, 1, -2, 2, -3, 3, -4, 4), 3.0, 1, 1.0),
    ((-4, 4, -8, 8), 3.0, 4, 0.5),
    ((-8, 8, -16, 16), 8.5, 8, 0.5),
)


def wave_angles(width: int) -> Tensor:
    """The angle by which each pair of a position's dimensions turns from one position to the next: (width / 2,)."""
    return 10000.0 ** (-torch.arange(0, width, 2) / width)


def waves(count: int, width: int) -> Tensor:
    """The sinusoids of Vaswani et al. 2017 (section 3.5), of the size of a word's vector: (count, width)."""
    angle = torch.arange(count)[:, None] * wave_angles(width)  # (positions, width / 2)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width] * (2 / width) ** 0.5


def look_around(words: nn.Embedding, layers: nn.ModuleList) -> None:
    """Let the heads of the first layers begin by looking at what stands around a token, by position alone.

    The first of ``layers``, each with a MultiheadAttention, is on states that are words plus `waves`, normalised. There a
    head sees one neighbour; its values and output begin at the size at which that counts as much as the token itself. In
    the two behind, whose states have their neighbours in them, it sees a window, half of it within two tokens of the place,
    and adds half as much. (Layers that do not normalise what they hand on drown the waves: of such, give the first.) Words,
    and what the attention of these layers adds, leave the dimensions of their waves free at first, for it would be noise.
    """
    width, heads = words.embedding_dim, layers[0].attention.heads
    count = min(WAVES, width // heads // 4)
    if words.weight.is_meta or not count:
        return
    fast = torch.arange(count) * max(1, width // 128)  # of width 128 the first are fast and differ; so are these
    slow = (torch.linspace(6, 20, count) * width / 128).round().long().unique()  # a turn in 15 to 110 tokens
    seeing = list(zip((layer.attention for layer in layers), (fast, slow, slow), LAYERS, strict=False))
    free = torch.cat([2 * pairs + part for _, pairs, _ in seeing for part in (0, 1)])
    words.weight.data[:, free] = 0
    for attention, pairs, (offsets, sharpness, away, size) in seeing:
        point(attention, offsets, pairs, sharpness, away)
        nn.init.normal_(attention.in_proj.weight.data[2 * width :], std=width**-0.5)
        nn.init.normal_(attention.out_proj.weight.data, std=size * width**-0.5)
        attention.out_proj.weight.data[free] = 0


def point(attention: nn.Module, offsets: Sequence[int], pairs: Tensor, sharpness: float, away: int) -> None:
    """Let each head look as many tokens on as its one of ``offsets`` says, by the waves in these ``pairs`` of dimensions.

    The key there scores by ``sharpness`` more than those ``away`` tokens from it, where states are waves of width 1 alone.

    Turned by k times its angle, a wave is the one k positions on, so that a query that is its position's waves, turned,
    meets the key k tokens on with the highest score. (A relation such as Trockman & Kolter 2023, arXiv 2305.09828, give to
    words, here of positions.)
    """
    width = attention.out_proj.weight.size(1)
    each, angle, even = width // attention.heads, wave_angles(width)[pairs], torch.arange(0, 2 * len(pairs), 2)

    def turned(steps):  # from states to their waves, so many positions on: (2 * pairs, width)
        cos, sin, turn = (steps * angle).cos(), (steps * angle).sin(), torch.zeros(2 * len(pairs), width)
        turn[even, 2 * pairs], turn[even, 2 * pairs + 1] = cos, sin
        turn[even + 1, 2 * pairs], turn[even + 1, 2 * pairs + 1] = -sin, cos
        return turn * (sharpness * each**0.5 / (1 - (away * angle).cos()).sum()) ** 0.5

    query, key, _ = attention.in_proj.weight.data.view(3, attention.heads, each, width)
    for head, offset in zip(range(attention.heads), offsets, strict=False):
        query[head, : 2 * len(pairs)], key[head, : 2 * len(pairs)] = turned(offset), turned(0)
