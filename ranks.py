"""Devices and ranks: where a run computes, and with whom.

``--parallel DDP`` runs one process for each GPU (nccl), or ``--world_size`` processes on the CPU (gloo). Started by
torchrun, each process finds its place in the environment; else this module starts the processes itself. A `Ranks`
object holds what a process must know of the others; alone, all its calls give back what they got.
"""

import contextlib
import os
import resource
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

import cache
from files import UserError


@dataclass
class Ranks:
    """This process among those that train together; alone, every call gives back what it got."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self):
        return self.rank == 0

    def sum(self, *values):
        """Each value (a number), summed over the ranks."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def of_first(self, value):
        """Rank 0's number, on every rank."""
        return self.sum(value if self.first else 0.0)[0]

    def gather(self, value):
        """The values (any plain object) of all ranks, in their order, on every rank."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value)
        return values


def launch(function, args):
    """Call ``function(args, ranks)`` in this process, or with ``--parallel DDP`` in one process for each rank."""
    if args.parallel == "None":
        return function(args, Ranks(device=local_device(0)))
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # started by torchrun
        return run_rank(None, function, args, os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"])
    world = args.world_size or torch.cuda.device_count() or 1
    if torch.cuda.device_count() not in (0, world) and torch.cuda.device_count() < world:
        raise UserError(f"--world_size {world}: only {torch.cuda.device_count()} GPUs here; choose at most that")
    os.environ.update(WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    processes = torch.multiprocessing.start_processes(
        run_rank, (function, args, "127.0.0.1", free_port()), nprocs=world, join=False, start_method="spawn"
    )
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the ranks as well; they stop together
    try:
        while not processes.join():
            pass
    except torch.multiprocessing.ProcessExitedException as error:  # the rank has printed its message
        return error.exit_code
    finally:
        signal.signal(signal.SIGINT, handler)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def local_device(local_rank):
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def run_rank(local_rank, function, args, address, port):
    """One rank of several: join the others, run, leave. A user's mistake is told once, by rank 0.

    The first rank that fails ends the others, so those wait until rank 0 has spoken; where it has nothing to tell, the
    mistake was not common to all, and they speak themselves.
    """
    local_rank = int(os.environ["LOCAL_RANK"]) if local_rank is None else local_rank
    rank, world = int(os.environ.get("RANK", local_rank)), int(os.environ["WORLD_SIZE"])
    device = local_device(local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, cache.cores() // int(os.environ.get("LOCAL_WORLD_SIZE", world))))
    store = f"tcp://{address}:{port}"
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store, rank=rank, world_size=world)
    try:
        code = function(args, Ranks(rank, world, device)) or 0
    except UserError as error:
        if rank:
            time.sleep(10)
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = 2
    # Not dist.destroy_process_group(), nor Python's own clean-up, which calls it: gloo then joins its threads while it
    # holds the interpreter's lock, and hangs now and then, when one of them is waiting for that lock (torch 2.3).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def has_fast_bf16(device):
    """GPUs from Ampere on, and CPUs whose matrix units take bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    with contextlib.suppress(OSError):
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    return False


def precision_of(args, device):
    """The dtype of the matrix products. Raises UserError where the device cannot."""
    name = args.precision
    if name == "auto":
        name = "bf16" if has_fast_bf16(device) else "fp16" if device.type == "cuda" else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16: needs a GPU; use bf16 or fp32 on a CPU")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def peak_memory(device):
    """Bytes: the most that the GPU, or else this process, has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
