"""Layers that a GPU runs compiled, by torch.compile.

Weights' names and files know nothing of it: functions are compiled, no module is wrapped. On an H200 BERT-base's first
step took 14 s with it, and where lengths differ five variants 5 to 7 s each (docs/gpu.rst): too much of a short budget.
"""

from argparse import Namespace
from typing import Any

import heads
from files.mistakes import UserError, warn
from training.ranks import Ranks

SHORT = 10  # minutes of a budget under which --compile auto leaves it


def compile_layers(model: Any, args: Namespace, ranks: Ranks) -> None:
    """torch.compile for each layer, and on a GPU for the loss over the vocabulary, with --compile on, or auto on a GPU
    unless --minutes is under SHORT.

    A layer alone, so that a change of shape is cheap. Where the machine has no compiler for it, auto tells so and leaves
    it. Raises UserError where that is so with on.
    """
    wanted = getattr(args, "compile", "auto")
    short = (getattr(args, "minutes", None) or SHORT) < SHORT
    if wanted == "off" or (wanted == "auto" and (ranks.device.type != "cuda" or short)):
        return
    if reason := unable(ranks.device):
        if wanted == "on":
            raise UserError(f"--compile on: torch cannot compile here ({reason}); leave the flag out")
        warn(f"layers are not compiled, for torch cannot here ({reason}); --compile off says nothing of it", word="note")
        return
    import torch  # here for start-up time, which the next one doubles
    import torch._dynamo  # start-up

    # Each layer counts as a variant of the same code, in training and in scoring, in every kind of shape.
    torch._dynamo.config.cache_size_limit = 64
    torch._dynamo.config.accumulated_cache_size_limit = 1024
    for layer in model.bert.layers:
        layer.forward = torch.compile(layer.forward)
    if hasattr(model, "into_gradient") and ranks.device.type == "cuda":  # a CPU's 16 rows are in its cache as they are
        model.into_gradient = torch.compile(heads.into_gradient_at_once, dynamic=True)


def unable(device: Any) -> str:
    """Why torch compiles nothing for this device: an old GPU, no C compiler, a Python newer than torch; or ""."""
    import torch  # here for start-up time

    try:
        torch.compile(lambda x: x * 2)(torch.ones(8, device=device))
    except Exception as error:  # each of torch's parts has its own
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ""
