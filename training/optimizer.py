"""Optimizers: AdamW, and Muon for the matrices of the layers beside AdamW for everything else.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) replaces a matrix's momentum by the nearest matrix
with equal singular values, so that rare directions move as far as frequent ones. On short runs from random weights it
needs several times fewer steps here. Weights that AdamW made of much text are better trained by AdamW (benchmarks/LOG.md).

A GPU is given its work ahead of time, in few calls: AdamW is torch's fused kernel, Muon takes all matrices of a shape
in one product, and whether a step counts is a number on the device, which nobody waits for. A CPU takes one parameter
after the other, while it is in its cache.
"""

import inspect
from typing import Any

import torch
import torch.distributed as dist

# The quintic iteration's coefficients from the same source: after five rounds all singular values lie near 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
MOMENTUM = 0.95  # Muon's


def orthogonalise(matrix, rounds=5, dtype=None):
    """The nearest matrix with singular values near 1, for each (r, c) in (..., r, c); by products in ``dtype``."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.size(-2) > matrix.size(-1)
    x = matrix.mT if tall else matrix
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype or x.dtype)  # last: fp16 could not hold all matrices
    for _ in range(rounds):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class MuonAdamW(torch.optim.AdamW):
    """torch's AdamW, but Muon for the groups that say ``muon=True``.

    Query, key and value stand in one matrix (3 D, D) and are three matrices to Muon; such a parameter says that it is
    ``joined``. ``dtype`` is that of its products: singular values near 1 are all it wants, for which bf16 will do (and
    does in its authors' code). With ``shared`` the ranks divide those products among them. On a CPU AdamW takes PIECE
    numbers at a time: its dozen operations on a whole embedding each wait for the memory. With ``queued`` all is done as
    a GPU likes it.
    """

    PIECE = 1 << 16  # four such pieces, 1 MiB, stay in a core's cache

    # torch keeps these out of what torch.compile compiles, and imports all of that for it: 1.5 s of a run's beginning.
    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)

    def __init__(self, groups, dtype=torch.float32, shared=False, queued=False, **options):
        super().__init__(groups, **options, **({"fused": True} if queued else {}))
        self.dtype, self.shared, self.queued = dtype, shared, queued

    @torch.no_grad()
    def step(self, closure=None, good=None):
        """With ``queued``, ``good`` is a truth value on the device: where it is False, nothing changes."""
        for group in self.param_groups:
            here = [p for p in group["params"] if p.grad is not None and (group["muon"] or not self.queued)]
            if not group["muon"]:
                for parameter in here:
                    self.adamw_step(parameter, group)
            elif self.queued:
                self.muon_together(here, group, good)
            else:
                self.muon_step(here, group)
            for parameter in here:
                parameter.grad = None  # torch's AdamW passes over what has no gradient
        left = any(p.grad is not None for group in self.param_groups for p in group["params"])
        if good is not None:
            self.found_inf = 1.0 - good.float()  # by which torch's kernel knows
        return super().step(closure) if left or closure else None

    def adamw_step(self, parameter, group):
        """The operations of torch's AdamW, in its order, so with its very results (Loshchilov & Hutter 2019)."""
        state, rate, (beta1, beta2) = self.state[parameter], group["lr"], group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        bias1, bias2 = (1 - beta ** state["step"].item() for beta in (beta1, beta2))
        whole = parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"]
        for weight, gradient, mean, square in zip(*(x.reshape(-1).split(self.PIECE) for x in whole), strict=True):
            weight.mul_(1 - rate * group["weight_decay"])
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            weight.addcdiv_(mean, (square.sqrt() / bias2**0.5).add_(group["eps"]), value=-rate / bias1)

    def muon_step(self, parameters, group):
        if not self.shared:
            for parameter in parameters:
                direction = self.muon_direction(parameter).to(self.dtype)
                self.move(parameter, self.orthogonal(direction, parameter), group)
        elif parameters:
            mine, (bits, steps) = share_out(parameters), zeros_like_all(parameters, self.dtype)
            for number, (parameter, step) in enumerate(zip(parameters, steps, strict=True)):
                direction = self.muon_direction(parameter)
                if number in mine:
                    step.copy_(self.orthogonal(direction.to(self.dtype), parameter))
            dist.all_reduce(bits)  # each step is zero on all ranks but one
            for parameter, step in zip(parameters, steps, strict=True):
                self.move(parameter, step, group)

    def muon_together(self, parameters, group, good=None):
        """As muon_step, with all matrices of a shape, of which each rank with ``shared`` takes some, in one product."""
        kinds: dict[tuple, list] = {}
        for parameter in parameters:
            kinds.setdefault((parameter.shape, rows_of(parameter)), []).append(parameter)
        for same in kinds.values():
            good = torch.ones((), dtype=torch.bool, device=same[0].device) if good is None else good
            averages = [self.momentum_of(parameter) for parameter in same]
            average, gradient = torch.stack(averages), torch.stack([parameter.grad for parameter in same])
            gradient = torch.where(good, gradient, average)  # which leaves the average what it was
            average.lerp_(gradient, 1 - MOMENTUM)
            torch._foreach_copy_(averages, list(average.unbind()))
            step = self.steps_of_all(gradient.lerp_(average, MOMENTUM), same)  # Nesterov's look ahead
            step = step.float() * (good * (-group["lr"] * reach(same[0])))
            torch._foreach_mul_(same, 1 - good * (group["lr"] * group["weight_decay"]))
            torch._foreach_add_(same, list(step.unbind()))

    def steps_of_all(self, directions, same):
        """The orthogonal matrices (n, r, c) of all directions; of which each rank makes a share, if they share."""
        if not self.shared:
            return self.orthogonal(directions, same[0])
        rank, world, count = dist.get_rank(), dist.get_world_size(), len(same)
        first, last = count * rank // world, count * (rank + 1) // world
        bits, steps = zeros_like_all(same, self.dtype)
        if first < last:
            torch._foreach_copy_(steps[first:last], list(self.orthogonal(directions[first:last], same[0]).unbind()))
        dist.all_reduce(bits)  # each step is zero on all ranks but one
        return torch.stack(steps)

    def orthogonal(self, directions, parameter):
        """For directions (..., r, c) of ``parameter``, or of others of its kind."""
        matrices = directions.view(-1, rows_of(parameter), parameter.size(1))
        return orthogonalise(matrices, dtype=self.dtype).view_as(directions)

    def move(self, parameter, step, group):
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(step, alpha=-group["lr"] * reach(parameter))

    def muon_direction(self, parameter):
        gradient = parameter.grad
        average = self.momentum_of(parameter).lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(average, MOMENTUM)  # Nesterov's look ahead

    def momentum_of(self, parameter):
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
            state["step"] = torch.zeros(())  # never read, but AdamW's load_state_dict looks for it
        return state["momentum"]


def rows_of(parameter):
    """Of each of the matrices that a parameter is made of: query, key and value are joined in one."""
    return parameter.size(0) // (3 if getattr(parameter, "joined", False) else 1)


def reach(parameter):
    return max(1, rows_of(parameter) / parameter.size(1)) ** 0.5


def share_out(matrices):
    """The numbers of the matrices that fall to this rank: the largest first, each to the rank that has least."""
    loads, mine = [0] * dist.get_world_size(), set()
    for number in sorted(range(len(matrices)), key=lambda i: -matrices[i].numel()):
        rank = loads.index(min(loads))
        loads[rank] += matrices[number].numel()
        mine |= {number} if rank == dist.get_rank() else set()
    return mine


def zeros_like_all(tensors, dtype):
    """Zeros in the shapes of ``tensors``, and the memory of them all as whole numbers: sums of those over the ranks keep
    every bit of any type (and gloo adds no bf16)."""
    sizes = [tensor.numel() for tensor in tensors]
    bits = torch.zeros(-(-sum(sizes) * dtype.itemsize // 4), dtype=torch.int32, device=tensors[0].device)
    parts = bits.view(dtype)[: sum(sizes)].split(sizes)
    return bits, [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def make_optimizer(
    model: torch.nn.Module, kind: str, weight_decay: float, dtype: torch.dtype = torch.float32,
    dims: dict[str, int] | None = None, zero: bool = False, shared: bool = False, queued: bool = False,
) -> torch.optim.Optimizer:  # fmt: skip
    """AdamW, or Muon and AdamW ("muon"), for ``model``. A group's rate is ``scale`` times the schedule's.

    No weight decay for biases and norms (Devlin et al. 2019 and their code). ``dtype``: of Muon's products. ``dims``: how
    many dimensions each parameter has, by name, where ``model`` is cut up and its own do not tell. ``zero``: each rank
    keeps the state of a share of the parameters (Rajbhandari et al. 2020, arXiv 1910.02054, stage 1). ``shared``: all
    ranks keep all of it, and divide Muon's products. ``queued``: the weights are on a GPU, see MuonAdamW.
    """
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    vectors: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        name = name.replace("_fsdp_wrapped_module.", "")
        parameter.joined = name.endswith("in_proj.weight")  # type: ignore[attr-defined]
        inner = "bert.layers." in name  # the body's, not those of a head
        kind_of = vectors if (dims[name] if dims else parameter.dim()) != 2 else matrices if inner else others
        kind_of.append(parameter)
    muon = kind == "muon"
    groups = [
        {"params": matrices, "muon": muon, "scale": 6.0 if muon else 1.0, "weight_decay": weight_decay},
        {"params": others, "muon": False, "scale": 1.0, "weight_decay": weight_decay},
        {"params": vectors, "muon": False, "scale": 1.0, "weight_decay": 0.0},
    ]
    options: dict[str, Any] = dict(lr=0.0, betas=(0.9, 0.98), eps=1e-6, dtype=dtype, queued=queued)
    if not zero:
        return MuonAdamW(groups, **options, shared=shared)
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(groups, MuonAdamW, **options)
