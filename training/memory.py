"""Memory: how much a device has, what a process has taken, what a step may take.

    keep_freed_memory()                                       # once, before a process computes on a CPU
    parts = micro_batches(config, data, examples, world=2)    # of a step, so that each takes MICRO_BYTES
"""

import contextlib
import ctypes
import os
import sys
from typing import Any

import numpy as np
import torch

from model import BertConfig

MICRO_BYTES = 1 << 30  # kept at once on a CPU: small machines have the room, and more is not faster


def keep_freed_memory() -> None:
    """Have glibc keep large blocks that are freed, for the next of their size, instead of giving them back each time.

    Attention scores or logits of over 32 MB would otherwise be given back and had anew many times a step, and a new page
    costs more than to compute what is written on it. Elsewhere than on glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        allocator = ctypes.CDLL(None)
        if not allocator.mallopt(-3, 1 << 30):  # M_MMAP_THRESHOLD: bytes from which a block is a mapping of its own
            allocator.mallopt(-3, 32 << 20)  # the most that an older one takes
        allocator.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: free bytes that are kept


def memory_of(device: torch.device) -> int:
    """Bytes that a GPU, or else this machine, has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that the GPU, or else this process, has held; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def micro_batches(config: BertConfig, data: Any, examples: np.ndarray, world: int) -> int:
    """In how many parts each of the ranks computes its share of a step's ``examples`` of ``data``: in as many as keep
    MICRO_BYTES each for the way back, of states and of attention's scores under dropout."""
    tokens = data.longest if data.lengths is None else int(data.lengths[examples].max())
    wide: Any = config.intermediate_size  # a number, once the config is made
    states = tokens * (10 * config.hidden_size + 3 * wide)
    scores = 3 * config.num_attention_heads * tokens**2
    rows = -(-len(examples) // world) * data.rows_each
    return max(1, round(rows * 4 * config.num_hidden_layers * (states + scores) / MICRO_BYTES))
