"""A run on the CPU that takes the way of a GPU: what is computed is not waited for, and the optimizer takes few calls."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import heads
from training.ranks import Ranks


def take_its_way(monkeypatch):
    """From here on; and few enough rows of words at a time that there are several pieces."""
    monkeypatch.setattr(Ranks, "queued", True)
    monkeypatch.setattr(heads.VocabularyLoss, "sizes", staticmethod(lambda device: (24, 64)))
    try:
        torch.optim.AdamW([torch.zeros(1)], fused=True)
    except RuntimeError:  # torch 2.3 has the fused kernel for GPUs only
        made = torch.optim.AdamW.__init__
        monkeypatch.setattr(torch.optim.AdamW, "__init__", lambda self, groups, fused, **more: made(self, groups, **more))
        monkeypatch.setattr(torch.optim.AdamW, "step", fused)


def fused(self, closure=None):
    """What the kernel computes (Loshchilov & Hutter 2019), and does not where ``found_inf`` is 1."""
    good = self.found_inf == 0
    for group in self.param_groups:
        rate, (beta1, beta2) = group["lr"], group["betas"]
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            for name, like in (("step", self.found_inf), ("exp_avg", weight), ("exp_avg_sq", weight)):
                state.setdefault(name, torch.zeros_like(like))
            step, mean = state["step"] + good, torch.lerp(state["exp_avg"], weight.grad, 1 - beta1)
            square = torch.lerp(state["exp_avg_sq"], weight.grad * weight.grad, 1 - beta2)
            moved = mean / (1 - beta1**step) / ((square / (1 - beta2**step)).sqrt() + group["eps"])
            new = weight * (1 - rate * group["weight_decay"]) - rate * moved
            for old, value in ((state["step"], step), (state["exp_avg"], mean), (state["exp_avg_sq"], square),
                               (weight, new)):  # fmt: skip
                old.copy_(torch.where(good, value, old))


class Calls(TorchDispatchMode):
    """Counts what torch is asked for within it, by name; ``reads`` are those for which the host waits for the device."""

    READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal", "aten::masked_select")

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split(".")[0]
        self.count[name] += 1
        if name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"):
            self.count["aten::nonzero"] += any(x is not None and x.dtype == torch.bool for x in args[1])  # by a mask
        return function(*args, **(kwargs or {}))

    @property
    def reads(self):
        return {name: self.count[name] for name in self.READS if self.count[name]}
