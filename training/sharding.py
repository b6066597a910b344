"""One model on several ranks, by torch's own engines: DDP, ZeRO and FSDP.

    --parallel DDP     each rank holds all; gradients are averaged, Muon's products divided
    --parallel ZeRO    the same, but each rank keeps the optimizer's numbers of its share of the parameters only
    --parallel FSDP    weights, gradients and optimizer are cut up; a layer is put together while it computes, in bf16
                       where products are; a GPU never holds all, the CPU's memory does: of each rank while it builds the
                       model, then of rank 0, which writes the files

What is saved is whole in every case, so a model does not tell how it was trained, and a run may go on with another
engine or another number of ranks. What takes the engine's module (``parallel``) is to be called by all ranks at once.
FSDP is imported where it is used: that takes as long as half of torch.
"""

import contextlib
import copy
import os
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from model import TransformerEncoderLayer
from training.compiling import compile_layers
from training.optimizer import make_optimizer
from training.ranks import Ranks, half_of_all


@dataclass
class Engine:
    """What trains: a model, the module that stands for it on several ranks, its optimizer, and the scaler of fp16.

    ``shell`` is what model files are made from: the model itself, or where it is cut up a whole copy, which only rank 0
    has, in the CPU's memory. Its calls are for all ranks at once.
    """

    model: torch.nn.Module
    shell: torch.nn.Module | None
    parallel: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: Any
    ranks: Ranks = field(default_factory=Ranks)

    def content(self) -> dict:
        """Weights and optimizer, whole on rank 0, as a saved state has them."""
        return {"model": weights_of(self.parallel), "optimizer": optimizer_state(self.parallel, self.optimizer, self.ranks),
                "scaler": self.scaler.state_dict()}  # fmt: skip

    def load(self, saved: dict) -> None:
        """Take over what ``content`` gave, as `Ranks.told` has it. Raises ValueError where it is of another model or
        optimizer."""
        load_weights(self.parallel, saved["model"], self.ranks)
        load_optimizer(self.parallel, self.optimizer, saved["optimizer"], self.ranks)
        if saved["scaler"]:  # empty of a run in another precision: the scale is found anew
            self.scaler.load_state_dict(saved["scaler"])

    def whole_model(self) -> torch.nn.Module | None:
        """The model with all of its weights, on rank 0; of a model that is cut, None on the others."""
        if is_cut(self.parallel):
            weights = weights_of(self.parallel)
            if self.shell is not None:
                self.shell.load_state_dict(weights)
        return self.shell


def share(model: torch.nn.Module, args: Namespace, ranks: Ranks, dtype: torch.dtype) -> Engine:
    """The engine that trains ``model``, built on the CPU, with --parallel, in products of ``dtype``."""
    if args.parallel == "FSDP" and ranks.world > 1:  # no GPU need hold it whole: FSDP moves it there piece by piece
        for weight in model.state_dict().values():  # as DDP does by itself
            weight.copy_(ranks.numbers(weight))
        shell = copy.deepcopy(model) if ranks.first else None
    else:
        shell = model.to(ranks.device)
        compile_layers(model, args, ranks)  # which FSDP would cut up
    parallel, optimizer = module_and_optimizer(model, args, ranks, dtype)
    return Engine(model, shell, parallel, optimizer, make_scaler(parallel, enabled=dtype == torch.float16), ranks)


def module_and_optimizer(model, args, ranks, dtype):
    """The module to train in the place of ``model``, and its optimizer."""
    on_cpu = torch.bfloat16 if dtype is torch.bfloat16 else torch.float32  # which multiply faster there than fp16
    products = half_of_all(ranks) if ranks.queued else on_cpu
    options = {"kind": args.optimizer, "weight_decay": args.weight_decay, "dtype": products, "queued": ranks.queued}
    if ranks.world == 1:
        return model, make_optimizer(model, **options)
    if args.parallel != "FSDP":
        devices = [ranks.device] if ranks.device.type == "cuda" else None
        parallel = torch.nn.parallel.DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
        zero = args.parallel == "ZeRO"
        return parallel, make_optimizer(model, **options, zero=zero, shared=not zero)
    # torch's second one, fully_shard, is not in torch 2.3: both would be more code than this one, which 2.13 still has.
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    dims = {name: parameter.dim() for name, parameter in model.named_parameters()}  # of a cut parameter: always 1
    parallel = FullyShardedDataParallel(
        model, auto_wrap_policy=ModuleWrapPolicy({TransformerEncoderLayer}), device_id=ranks.device, use_orig_params=True,
        mixed_precision=narrower(dtype),
    )  # fmt: skip
    if ranks.device.type == "cpu":
        parallel.register_comm_hook(None, reduce_and_cut)
    return parallel, make_optimizer(parallel, **options, dims=dims)


def narrower(dtype):
    """What FSDP exchanges: bf16 weights where products are bf16, half of the bytes; gradients are summed in fp32.

    Scores want the very weights of one rank, which autocast makes narrower where one rank does: hence the variable.
    """
    if dtype is not torch.bfloat16:
        return None
    from torch.distributed.fsdp import MixedPrecision

    os.environ["FSDP_USE_FULL_PREC_IN_EVAL"] = "1"  # torch has no argument for it
    return MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_root_forward_inputs=False)


def reduce_and_cut(_, whole, mine):
    """FSDP's exchange of gradients for gloo, which has no reduce-scatter in torch 2.3."""
    dist.all_reduce(whole)
    mine.copy_(whole.chunk(dist.get_world_size())[dist.get_rank()]).div_(dist.get_world_size())


def is_cut(parallel: torch.nn.Module) -> bool:
    """Is this FSDP's, a model of which each rank holds a part, so that all must call it together?"""
    return hasattr(parallel, "clip_grad_norm_")


def calls(parallel: torch.nn.Module, number: int) -> int:
    """How often to call the module where this rank alone would ``number`` times: if it is cut up, as often as any rank."""
    if not is_cut(parallel):
        return number
    most = torch.tensor(number, device=next(parallel.parameters()).device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def not_yet_summed(parallel: torch.nn.Module, last: bool) -> contextlib.AbstractContextManager:
    """Within it, gradients need not be summed over the ranks after a micro-batch that is not the ``last`` of a step.

    Those of a model that is cut are all the same: until they are summed, each rank would hold all of them.
    """
    return contextlib.nullcontext() if last or is_cut(parallel) or not hasattr(parallel, "no_sync") else parallel.no_sync()


def make_scaler(parallel, enabled):
    if is_cut(parallel):
        from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

        return ShardedGradScaler(enabled=enabled)
    return torch.amp.GradScaler("cuda", enabled=enabled)


def clip(parallel: torch.nn.Module, largest: float) -> torch.Tensor:
    """Scale the gradients down to this norm at most; gives the norm that they had, the same on every rank."""
    if not hasattr(parallel, "no_sync"):  # one rank
        return torch.nn.utils.clip_grad_norm_(parallel.parameters(), largest)
    gradients = [parameter.grad for parameter in parallel.parameters() if parameter.grad is not None]
    if is_cut(parallel):  # FSDP's own adds up in the order of a set, which no two runs have the same
        square = torch.zeros((), dtype=torch.float64, device=next(parallel.parameters()).device)
        for gradient in gradients:
            square += gradient.double().square().sum()
        dist.all_reduce(square)
        norm = square.sqrt().float()
    else:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        dist.broadcast(norm, 0)  # its last bits depend on a rank's threads, and weights that differ would never meet again
    torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))
    return norm


# --------------------------------------------------------------------------------------------------------------------
# Whole weights and a whole optimizer, to save and to load
# --------------------------------------------------------------------------------------------------------------------


def weights_of(parallel):
    """The whole weights under the names of model.py; of a model that is cut, on rank 0 only, in the CPU's memory."""
    if is_cut(parallel):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        moved = parallel.compute_device.type != "cpu"  # "moving" from the CPU to the CPU reads freed memory (torch 2.3)
        whole = get_model_state_dict(parallel, options=StateDictOptions(full_state_dict=True, cpu_offload=moved))
        return {name: weight.detach() for name, weight in whole.items()}  # FSDP's notes on a tensor would go to the file
    return getattr(parallel, "module", parallel).state_dict()


def load_weights(parallel: torch.nn.Module, weights: dict[str, torch.Tensor], ranks: Ranks) -> None:
    """Load weights that `Ranks.told` gave. Raises ValueError where they are not those of the model."""
    if is_cut(parallel):
        parallel.load_state_dict({name: ranks.numbers(weight) for name, weight in weights.items()})
        return
    own = getattr(parallel, "module", parallel).state_dict()
    if {n: w.shape for n, w in own.items()} != {n: w.shape for n, w in weights.items()}:
        raise ValueError("its weights are not those of this model")
    for name, weight in own.items():
        weight.copy_(ranks.numbers(weights[name]))


def optimizer_state(parallel, optimizer, ranks):
    """The whole optimizer's state, on rank 0.

    torch's own function for FSDP wants a GPU (2.3). Each rank has a piece of each parameter, flat and in the order of
    the ranks, so that the pieces put together are the whole, but for its shape. They are sent one by one, from the CPU's
    memory to the CPU's: rank 0's GPU has no room for all.
    """
    if hasattr(optimizer, "consolidate_state_dict"):  # ZeRO
        optimizer.consolidate_state_dict(to=0)
        return optimizer.state_dict() if ranks.first else {}
    state = optimizer.state_dict()
    if is_cut(parallel):
        state["state"] = together(state["state"], ranks)
    return state


def together(state, ranks):
    """What the ranks keep of each parameter, whole on rank 0; the count of steps is the same in all."""
    kept = ranks.gather({number: {name: value.cpu() if value.dim() == 0 else (value.numel(), value.dtype)
                                  for name, value in values.items()} for number, values in state.items()})  # fmt: skip
    whole: dict[int, dict] = {}
    for number in sorted(set().union(*kept)):
        holders = {rank: values[number] for rank, values in enumerate(kept) if number in values}
        whole[number] = {}
        for name, plain in next(iter(holders.values())).items():
            if not isinstance(plain, torch.Tensor):
                sizes = [holders[rank][name][0] if rank in holders else 0 for rank in range(ranks.world)]
                mine = state[number][name] if number in state else torch.empty(0, dtype=plain[1])
                plain = joined(mine, sizes, ranks)
            whole[number][name] = plain
    return whole


def joined(mine, sizes, ranks):
    """The ranks' pieces, of so many numbers each, in one flat tensor in the CPU's memory of rank 0; elsewhere None."""
    if not ranks.first:
        if mine.numel():
            dist.send(mine.detach().flatten().cpu(), 0)
        return None
    whole = torch.empty(sum(sizes), dtype=mine.dtype)
    for rank, part in enumerate(whole.split(sizes)):
        if rank == 0:
            part.copy_(mine.detach().flatten())
        elif part.numel():
            dist.recv(part, rank)
    return whole


# What this code sets in an optimizer's groups. The rest is torch's own, and another with each version of it.
SETTINGS = ("lr", "betas", "eps", "weight_decay", "muon", "scale")


def belongs(saved, groups, count):
    """Does a saved state have the parts that the optimizer's has, of the same kinds?"""
    theirs, state = saved.get("param_groups"), saved.get("state")
    names = ({"momentum", "step"}, {"exp_avg", "exp_avg_sq", "step"})  # Muon's, AdamW's
    return (
        isinstance(theirs, list) and isinstance(state, dict) and len(theirs) == len(groups)
        and all(isinstance(group, dict) and alike(group, own) for group, own in zip(theirs, groups, strict=True))
        and [number for group in theirs for number in group["params"]] == list(range(count))
        and all(type(number) is int and 0 <= number < count and isinstance(values, dict) and set(values) in names
                and all(isinstance(value, torch.Tensor) and (value.dim() == 0) == (name == "step")
                        for name, value in values.items())
                for number, values in state.items())
    )  # fmt: skip


def alike(group, own):
    """Settings of one kind; those that are switched on or off, the same. What only one version of torch has is free, and
    whether the steps are a GPU's."""
    numbers = group.get("params")
    return (set(SETTINGS) <= set(group) and isinstance(numbers, list) and all(type(n) is int for n in numbers)
            and len(numbers) == len(own["params"])
            and all(isinstance(group[name], type(value)) and (not isinstance(value, bool) or group[name] == value)
                    for name, value in own.items() if name in group and name not in ("fused", "queued")))  # fmt: skip


def load_optimizer(parallel, optimizer, saved, ranks):
    """Load a whole optimizer's state, which `Ranks.told` gave, on every rank: its piece where the model is cut.

    Raises ValueError where it is the state of another optimizer, on all ranks or none: they send it to each other.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not belongs(saved, optimizer.param_groups, len(parameters)):
        raise ValueError("its optimizer is not that of this run")
    cut = is_cut(parallel)
    sizes = sizes_of_pieces(parameters, ranks) if cut else [(parameter.numel(),) for parameter in parameters]
    if any(value.dim() and value.numel() != sum(sizes[number])
           for number, values in saved["state"].items() for value in values.values()):  # fmt: skip
        raise ValueError("its optimizer has averages of other sizes than this model")

    def mine(value, number):
        whole, parameter = ranks.numbers(value), parameters[number]
        if value.dim() == 0:  # the count of steps
            return whole
        start = sum(sizes[number][: ranks.rank]) if cut else 0
        piece = whole.flatten()[start : start + parameter.numel()].view_as(parameter)
        return piece.clone() if cut else piece  # the rest need not stay in memory

    state = {number: {name: mine(value, number) for name, value in values.items()}
             for number, values in saved["state"].items()}  # fmt: skip
    if cut:  # a piece without numbers is never stepped: its count would stay behind, and be taken for that of the whole
        state = {number: values for number, values in state.items() if parameters[number].numel()}
    groups = [{**own, **{name: group[name] for name in ("params", *SETTINGS)}}
              for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)]  # fmt: skip
    inner = getattr(optimizer, "optim", None)  # ZeRO's own, of which it keeps what a state of step 0 does not have
    if inner is not None:
        inner.state.clear()
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    if inner is not None:
        optimizer.state.clear()  # a second copy of what its own has, which nobody steps
        counts_to_their_weights(inner)


def counts_to_their_weights(optimizer):
    """ZeRO has put each parameter's count of steps into the CPU's memory, where the fused AdamW of a GPU cannot use it."""
    for parameter, values in optimizer.state.items():
        if optimizer.queued and "step" in values:
            values["step"] = values["step"].to(parameter.device)


def sizes_of_pieces(parameters, ranks):
    """How many numbers of each parameter each rank has; flat and in the order of the ranks, they are the whole."""
    return list(zip(*ranks.gather([parameter.numel() for parameter in parameters]), strict=True))
