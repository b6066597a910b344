"""Which weights a model has: what a file of it must hold, no more and no less.

    body_shapes(config, pooler=True)       # {"embedding.embed.weight": [8000, 128], ...}
    head_shapes("MLMTask", config)

They are those of our own model of that config, made without memory for it.
"""

import torch
from torch.overrides import TorchFunctionMode

from model import TASKS, BertConfig, BertModel


class Unfilled(TorchFunctionMode):
    """No numbers are put into weights: where these have no memory, torch imports sympy for that, half a second."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in ("normal_", "uniform_", "kaiming_uniform_", "eye"):
            return None
        return (torch.empty if func is torch.zeros else func)(*args, **(kwargs or {}))


def body_shapes(config: BertConfig, pooler: bool) -> dict[str, list[int]]:
    """name -> shape of the body's tensors."""
    return shapes(BertModel, config, pooler)


def head_shapes(task: str, config: BertConfig) -> dict[str, list[int]]:
    """name -> shape of the tensors that the head of that task adds to the body."""
    return {name: shape for name, shape in shapes(TASKS[task], config).items() if not name.startswith("bert.")}


def shapes(cls, *arguments):
    with torch.device("meta"), Unfilled():
        return {name: list(tensor.shape) for name, tensor in cls(*arguments).state_dict().items()}
