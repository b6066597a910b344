"""Dropout as torch has it, with masks that CPUs draw fast.

    x = drop_out(x, 0.1)                               # in training
    layer.dropout = Dropout(0.1)                       # a module: in training only
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    import numpy as np
except ImportError:  # which torch can do without: its own masks, then
    np = None  # type: ignore[assignment]
# Whether torch draws a mask of dropout on one thread of a CPU, bit by bit, and numpy can do it instead.
SERIAL_MASKS = np is not None and torch.__version__ >= "2.4"


def drop_out(x: Tensor, p: float) -> Tensor:
    """x with a share ``p`` of its numbers set to 0 and the others divided by 1 - p (Srivastava et al. 2014, section 10).

    On CPUs newer releases of torch spend a third of a training step on the masks. numpy draws them eight times as fast,
    16 random bits a number, so that ``p`` is exact to 2^-17; its seed is drawn by torch, whose generator decides all.
    """
    if not p or not SERIAL_MASKS or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p)
    generator = np.random.Generator(np.random.SFC64(torch.empty(2, dtype=torch.int64).random_().numpy()))
    bits = generator.integers(0, 1 << 64, -(-x.numel() // 4), dtype=np.uint64).view(np.uint16)[: x.numel()]
    kept = torch.from_numpy(bits >= round(p * (1 << 16))).view(x.shape)
    return x * kept.to(x.dtype).mul_(1 / (1 - p))


class Dropout(nn.Dropout):
    """``drop_out`` in training."""

    def forward(self, x):
        return drop_out(x, self.p) if self.training else x
