"""Devices and ranks: where a run computes, and with whom.

``--parallel DDP`` (or ZeRO, FSDP) works with one rank for each GPU (nccl), or ``--world_size`` ranks on the CPU (gloo).
How the processes came about is read from the environment and never configured:

    python mlm_task.py --parallel DDP                            this process starts the ranks of this machine
    torchrun --nproc-per-node 8 mlm_task.py --parallel DDP       each process is a rank, as LOCAL_RANK says
    srun --ntasks-per-node=1 python mlm_task.py --parallel DDP   each task starts the ranks of its node
    srun --ntasks-per-node=8 python mlm_task.py --parallel DDP   each task is a rank

Every rank then finds its place in torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR,
MASTER_PORT), which this module sets where torchrun did not. A `Ranks` object holds what a process must know of the
others; alone, all its calls give back what they got. The first rank that fails ends the others, and no rank waits for
another for longer than ``--timeout-minutes``. Nodes may start different numbers of ranks.
"""

import contextlib
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from tqdm import tqdm

from files.mistakes import UserError, out_of_memory, refused, take_any_text, warn
from text import cache
from training import slurm
from training.memory import keep_freed_memory
from training.stopping import CODES, INTERRUPTED

GRACE = 10  # seconds that a rank's last words may take
WAIT = 30.0  # minutes that a rank waits for another, where no --timeout-minutes says otherwise
T = TypeVar("T")


@dataclass
class Ranks:
    """This process among those that train together; alone, every call gives back what it got."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def queued(self) -> bool:
        """Does the device work through a queue, which runs empty while the host waits for what it computes?"""
        return self.device.type != "cpu"

    def sum(self, *values: float) -> Sequence[float]:
        """Each value (a number that the host has), summed over the ranks; by gloo, for which no GPU is waited for."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def sum_on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, which lies on the device and stays there, summed over the ranks."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def of_first(self, value: float) -> float:
        """Rank 0's number, on every rank."""
        return self.sum(value if self.first else 0.0)[0]

    def gather(self, value: Any) -> list:
        """The values (any plain object) of all ranks, in their order, on every rank."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def told(self, make: Callable[[], T]) -> T:
        """What ``make`` gives on rank 0, where alone it is called, on every rank; where it fails, every rank does.

        It gives plain values and tensors. Elsewhere than on rank 0 a tensor has its shape and type only (device "meta")
        until `numbers` fetches the rest, for a rank need not have room for all of a saved state.
        """
        if self.world == 1:
            return make()
        value, error = None, None
        if self.first:
            try:
                value = make()
            except Exception as raised:
                error = raised
        shown = with_tensors(value, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"))
        line = None if error is None else str(error) if isinstance(error, UserError) else refused(error)
        parcel: list = [(shown, None if error is None else line or str(error), line is not None)]
        dist.broadcast_object_list(parcel)
        if error is not None:
            raise error
        plain, failure, mistake = parcel[0]
        if failure is not None:
            raise UserError(failure) if mistake else Lost(failure)
        return cast(T, value if self.first else plain)

    def numbers(self, tensor: torch.Tensor) -> torch.Tensor:
        """The whole of a tensor that `told` gave, in the CPU's memory of every rank."""
        if self.world == 1:
            return tensor
        whole = tensor.contiguous() if self.first else torch.empty(tensor.shape, dtype=tensor.dtype)
        if whole.numel():
            dist.broadcast(whole.view(-1).view(torch.uint8), 0)  # bytes, for gloo does not know every type
        return whole


class Lost(Exception):
    """Rank 0 has failed, and tells why itself."""


def with_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Plain values and tensors, each tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: with_tensors(part, change) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(with_tensors(part, change) for part in value)
    return value


# --------------------------------------------------------------------------------------------------------------------
# Starting the ranks, or finding this one's place among them
# --------------------------------------------------------------------------------------------------------------------


def launch(function: Callable[[Namespace, Ranks], int | None], args: Namespace) -> int | None:
    """Call ``function(args, ranks)`` in this process, or with ``--parallel`` in one process for each rank.

    Gives the exit code. Raises UserError where the processes that were started do not go with the flags.
    """
    tasks, nodes = slurm.tasks()
    by_torchrun = told_by_torchrun()
    started = int(os.environ["WORLD_SIZE"]) if by_torchrun else tasks
    if args.parallel == "None":
        if args.world_size:
            raise UserError(f"--world_size {args.world_size}: is for --parallel; add --parallel DDP, or leave it out")
        if started > 1:
            one = "" if by_torchrun else " (in a shell of srun --pty, or a job sent from one: srun --overlap --ntasks=1)"
            raise UserError(f"--parallel None: {started} processes were started, which would do the same; add --parallel "
                            f"DDP, or start one{one}")  # fmt: skip
        device = local_device(0)
        settle(args, device)
        return function(args, Ranks(device=device))
    if by_torchrun:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", started))
        if args.world_size not in (None, here):
            raise UserError(f"--world_size {args.world_size}: torchrun has started {here} processes here; omit it, or "
                            "change --nproc-per-node")  # fmt: skip
        return run_rank({}, function, args)
    if tasks > nodes:  # srun with one task for each rank
        if args.world_size:
            raise UserError(f"--world_size {args.world_size}: srun has started a task for each of {tasks} ranks; omit it")
        return run_rank(slurm.place(), function, args)
    return start_ranks(function, args, nodes)


def told_by_torchrun():
    """Has torchrun, or who says what it says, started this process as one rank? In containers of NVIDIA's, enroot tells a
    task of srun its own number in these names, but not how many are here."""
    said = os.environ.get
    of_slurm = "SLURM_STEP_ID" in os.environ and "LOCAL_WORLD_SIZE" not in os.environ and (
        said("RANK"), said("WORLD_SIZE")) == (said("SLURM_PROCID"), said("SLURM_STEP_NUM_TASKS"))  # fmt: skip
    return {"LOCAL_RANK", "WORLD_SIZE"} <= set(os.environ) and not of_slurm


def start_ranks(function, args, nodes):
    """Start this machine's ranks, one of ``nodes`` such groups, and wait for them. Gives the first failure's exit code."""
    gpus = torch.cuda.device_count()
    here = args.world_size or gpus or 1
    if gpus and here > gpus:
        raise UserError(f"--world_size {here}: only {gpus} GPUs here; choose at most that")
    if nodes > 1:
        node, address = int(os.environ["SLURM_NODEID"]), slurm.address()
        counts, _held = counts_of_nodes(here, gpus, node, nodes, address, timeout_of(args))
        address |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}  # as torchrun: not rank 0's
    else:
        node, counts, address = 0, [here], {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    context = multiprocessing.get_context("spawn")
    processes = []
    for local in range(here):
        place = dict(RANK=sum(counts[:node]) + local, WORLD_SIZE=sum(counts), LOCAL_RANK=local, LOCAL_WORLD_SIZE=here,
                     **address)  # fmt: skip
        processes.append(context.Process(target=run_rank, args=(place, function, args, os.getpid())))
    hand_on = {number: lambda number, _: tell(processes, number) for number in CODES}
    hand_on[signal.SIGINT] = lambda *_: None  # Ctrl-C reaches the ranks as well
    handlers = {number: signal.signal(number, handler) for number, handler in hand_on.items()}
    try:
        with ctrl_c_kept():  # by the ranks as well, until they have imported what takes seconds
            for process in processes:
                process.start()
        return wait_for(processes)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def counts_of_nodes(here, gpus, node, nodes, address, timeout):
    """How many ranks each node starts, and the store at ``address`` in which they told each other.

    The first node holds it, for as long as the ranks run: they meet there as well. Raises UserError where the nodes do not
    find each other, or only some have GPUs, which could not talk to the others' CPUs.
    """
    where = address["MASTER_ADDR"], int(address["MASTER_PORT"])
    try:
        store = dist.TCPStore(*where, is_master=node == 0, timeout=timeout, wait_for_workers=False)
        store.set(f"node {node}", f"{here} {gpus} {socket.gethostname()}")
        told = [store.get(f"node {number}").decode().split() for number in range(nodes)]
        store.set(f"node {node} knows", "")
        if node == 0:  # which could leave with the store before the others have read it
            store.wait([f"node {number} knows" for number in range(nodes)])
    except RuntimeError as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{socket.gethostname()}: the {nodes} nodes of this step did not meet at {where[0]}, port "
                        f"{where[1]} ({reason}); see that all have started, or set MASTER_ADDR and MASTER_PORT") from None
    refuse_mixed([(count != "0", name) for _, count, name in told], "step")
    return [int(count) for count, _, _ in told], store


@contextlib.contextmanager
def ctrl_c_kept():
    """Within it a Ctrl-C waits, and so it does in processes that begin in it, until `let_ctrl_c_in`."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        multiprocessing.resource_tracker.ensure_running()  # which else begins with the first process, and lets it in
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        let_ctrl_c_in()


def let_ctrl_c_in():
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def timeout_of(args):
    return timedelta(minutes=min(getattr(args, "timeout_minutes", WAIT), 525_600))  # torch counts no more than years


def tell(processes, number):
    for process in processes:
        if process.is_alive():
            os.kill(process.pid, number)


def wait_for(processes):
    """Wait until all have ended; when one has failed, for GRACE seconds at most. Gives the first failure's exit code."""
    code, until = 0, None
    while True:
        running = [process for process in processes if process.is_alive()]
        failed = [(rank, p.exitcode) for rank, p in enumerate(processes) if p.exitcode]
        if failed and not code:
            rank, code = min(failed, key=lambda one: (one[1] >= 0, one[1] != 2))  # the others have lost that one
            until = time.monotonic() + (0 if code == 2 else GRACE)  # a user's mistake has been told by now
            if code < 0:
                name = signal.Signals(-code).name
                why = {"SIGKILL": " (by hand, or for want of memory)",
                       "SIGABRT": " (by NCCL, if it told of a timeout: --timeout-minutes have passed)"}  # fmt: skip
                print(f"error: {name} ended the process of local rank {rank}{why.get(name, '')}", file=sys.stderr)
                code = 128 - code  # as shells have it
        if not running:  # before their codes were read, not after: all may end in between
            return code
        if until is not None and time.monotonic() > until:
            for process in processes:
                process.kill()
        multiprocessing.connection.wait([process.sentinel for process in running], timeout=0.5)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def local_device(local_rank: int) -> torch.device:
    """The GPU of this number, or the CPU, for which freed memory is then kept."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank)
    keep_freed_memory()
    return torch.device("cpu")


def run_rank(place, function, args, parent=None):
    """One rank of several: join the others, run, leave. ``place`` is added to the environment.

    A user's mistake is told once, by rank 0: the others wait until that has spoken, and are then ended; where it has
    nothing to tell, the mistake was not common to all, and they speak themselves.
    """
    os.environ.update({name: str(value) for name, value in place.items()})
    tqdm.set_lock(threading.RLock())  # its own, between processes, is reported as leaked when a rank leaves (see below)
    if parent:
        threading.Thread(target=leave_with, args=(parent,), daemon=True).start()
        signal.signal(signal.SIGINT, signal.default_int_handler)
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if torch.cuda.is_available():  # Slurm may show each task its own GPU only
        local %= torch.cuda.device_count()
    device = local_device(local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    settle(args, device)
    torch.set_num_threads(threads())  # a GPU's rank has little to do on the CPU, but beside the others'
    take_any_text()
    try:
        let_ctrl_c_in()
        # Beside NCCL, gloo for what lies in the CPU's memory: plain values, and states that no GPU has room for.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=meeting_store(rank, world, timeout_of(args)), timeout=timeout_of(args),
                                rank=rank, world_size=world)  # fmt: skip
        check_gpus(device)
        check_alike(Ranks(rank, world, device))
        code = function(args, Ranks(rank, world, device)) or 0
        if device.type == "cuda":
            close_nccl(device)
    except KeyboardInterrupt:  # not in a training, which stops where its state is whole
        code = INTERRUPTED
    except Exception as error:
        where, code = f"rank {rank} of {world} on {socket.gethostname()}", 1
        if mistake := error if isinstance(error, UserError) else refused(error):
            told, code = mistake, 2
            if rank:
                time.sleep(GRACE)
        elif waited_too_long(error):
            told = (f"{where} has waited for another rank for {timeout_of(args).total_seconds() / 60:g} minutes; look for "
                    "one that does not say so, and go on with --resume, or with more --timeout-minutes")  # fmt: skip
        elif lost_a_peer(error):
            told = (f"rank {rank} stops, for it has lost another rank, whose message tells why; where none does, it is "
                    f"this: {' '.join(str(error).split())}")  # fmt: skip
        elif full := out_of_memory(error):
            told, code = f"{where}: {full}", 2
        else:
            told = f"{where}:\n{traceback.format_exc()}"
        sys.stderr.write(f"error: {told}\n")  # not print(), which writes the end of the line by itself: ranks would mix
    # Not dist.destroy_process_group(), nor Python's own clean-up, which calls it: gloo then joins its threads while it
    # holds the interpreter's lock, and hangs now and then, when one of them is waiting for that lock (torch 2.3).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def check_gpus(device):
    """Raises UserError where several ranks would share a GPU, but for one that Slurm, or who sets CUDA_VISIBLE_DEVICES,
    shows to each, which is its own."""
    gpus, here = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    apart = {"SLURM_GPUS_PER_TASK"} if gpus > 1 else {"SLURM_GPUS_PER_TASK", "SLURM_STEP_ID", "CUDA_VISIBLE_DEVICES"}
    if {"TORCHELASTIC_RUN_ID", "SLURM_STEP_ID"} <= set(os.environ):  # then these are of torchrun's one task
        apart = set()
    if device.type == "cuda" and gpus < here and not apart & set(os.environ):
        raise UserError(f"{here} ranks on {socket.gethostname()}, and GPUs for {gpus} of them; start one for each, by "
                        "srun's --ntasks-per-node or torchrun's --nproc-per-node")  # fmt: skip


def check_alike(ranks):
    """Raises UserError where only some nodes have GPUs, however the ranks were started: a driver may be broken."""
    kinds = ranks.gather((ranks.device.type, socket.gethostname()))
    refuse_mixed([(kind != "cpu", name) for kind, name in kinds], "run")


def refuse_mixed(nodes, whole):
    """Raises UserError where of ``nodes``, (has GPUs, name), only some have GPUs, which could not talk to others' CPUs."""
    without = next((name for gpus, name in nodes if not gpus), None)
    if without and any(gpus for gpus, _ in nodes):
        raise UserError(f"{without}: no GPU there, but on other nodes of this {whole}; leave that node out")


def meeting_store(rank, world, timeout):
    """The store in which the ranks find each other, as MASTER_ADDR and MASTER_PORT say.

    torchrun's own store outlives a restart, and since torch 2.5 nothing in it tells the addresses of those who have died
    from today's. Its count of restarts does, where one torchrun started all: each counts its own.
    """
    store, *_ = next(dist.rendezvous("env://", rank, world, timeout=timeout))
    store.set_timeout(timeout)
    alone = os.environ.get("GROUP_WORLD_SIZE") == "1"
    lasting = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and torch.__version__ >= "2.5"
    if not alone and lasting and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0):
        warn("several torchruns: after a restart the ranks would look for those that died; take --rdzv-backend c10d, and "
             "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1")  # fmt: skip
    return dist.PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT'] if alone else 0}", store)


def close_nccl(device):
    """Let go of what NCCL holds, once all that the ranks exchanged is done; it complains of ranks that just leave."""
    torch.cuda.synchronize(device)
    dist.barrier(device_ids=[device.index])
    nccl = dist.group.WORLD._get_backend(device)
    getattr(nccl, "shutdown", getattr(nccl, "_shutdown", lambda: None))()  # torch 2.3 has the second


def leave_with(parent):
    """A rank outlives a parent that is killed; so it looks once a second."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def waited_too_long(error):
    """Did this error come of --timeout-minutes? torch has no class for it."""
    return isinstance(error, RuntimeError) and re.search(r"tim(ed |e)out", str(error), re.IGNORECASE)


def lost_a_peer(error):
    """Did another rank's end cause this error? Of a device or a network that was set up wrong the classes are the same."""
    text = str(error)
    return isinstance(error, dist.DistError | Lost) or "gloo/transport" in text or "Connection closed by peer" in text


def threads():
    """How many threads a rank may use on the CPU: its share of the cores that its task has."""
    own = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if "SLURM_CPUS_PER_TASK" in os.environ and slurm.tasks()[0] > slurm.tasks()[1]:
        return min(int(os.environ["SLURM_CPUS_PER_TASK"]), cache.cores())  # srun may give less than a job asked for
    return max(1, cache.cores() // own)


def restarted() -> bool:
    """Has torchrun, or Slurm by a requeue, started this run again?"""
    return any(int(os.environ.get(name) or 0) for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


# --------------------------------------------------------------------------------------------------------------------
# Devices
# --------------------------------------------------------------------------------------------------------------------


def has_fast_bf16(device: torch.device) -> bool:
    """GPUs from Ampere on, and CPUs that multiply bfloat16 in hardware (a training step takes about half of the time)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    with contextlib.suppress(OSError):
        features = Path("/proc/cpuinfo").read_text()
        return "amx_bf16" in features or "avx512_bf16" in features
    return False


def settle(args: Namespace, device: torch.device) -> None:
    """What a GPU is told before it computes, --precision tf32 and --deterministic too. A CPU is deterministic as it is.

    cuDNN plans its attention anew for each length of rows, 70 ms of the host, and is level with torch's kernels where
    lengths do not differ, at 128 tokens (benchmarks/LOG.md).
    """
    if device.type == "cpu":
        return
    torch.backends.cuda.enable_cudnn_sdp(False)
    if getattr(args, "precision", None) == "tf32":
        torch.set_float32_matmul_precision("high")
    if getattr(args, "deterministic", False):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)  # of what torch has no such way for, it tells
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def all_fast(ranks: Ranks) -> bool:
    """Has every rank fast bf16? Else one node's numbers would differ from another's. For all ranks at once."""
    return bool(ranks.sum(has_fast_bf16(ranks.device))[0] == ranks.world)


def half_of_all(ranks: Ranks) -> torch.dtype:
    """The half precision of GPUs that share their work."""
    return torch.bfloat16 if all_fast(ranks) else torch.float16


def half_precision(device: torch.device) -> torch.dtype:
    """The half precision that a GPU multiplies fastest; a CPU has bf16 only."""
    return torch.bfloat16 if device.type == "cpu" or has_fast_bf16(device) else torch.float16


def precision_of(args: Namespace, ranks: Ranks) -> torch.dtype:
    """The dtype of the matrix products, the same on all ranks. Raises UserError where this one's device cannot."""
    name, device = args.precision, ranks.device
    if name == "auto":
        name = "bf16" if all_fast(ranks) else "fp16" if device.type == "cuda" else "fp32"
    if name in ("fp16", "tf32") and device.type == "cpu":
        raise UserError(f"--precision {name}: needs a GPU; use bf16 or fp32 on a CPU")
    return {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
