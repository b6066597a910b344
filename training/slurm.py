"""Slurm: what srun tells a task, in torchrun's terms.

    tasks()         # (8, 2): so many tasks, on so many nodes; (1, 1) where there is no srun
    place()         # RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT of a task that is a rank
"""

import os
import re
import socket
from typing import Any

from files.mistakes import UserError


def tasks() -> tuple[int, int]:
    """How many tasks this step has, and on how many nodes; (1, 1) outside of srun, and in a batch script itself."""
    if "SLURM_STEP_NUM_TASKS" not in os.environ or os.environ.get("SLURM_STEP_ID") in (None, "batch"):
        return 1, 1
    return int(os.environ["SLURM_STEP_NUM_TASKS"]), int(os.environ.get("SLURM_STEP_NUM_NODES", 1))


def place() -> dict[str, Any]:
    """The place of a task that is a rank, in torchrun's terms."""
    here = tasks_of_node(os.environ["SLURM_STEP_TASKS_PER_NODE"], int(os.environ["SLURM_NODEID"]))
    return dict(RANK=os.environ["SLURM_PROCID"], WORLD_SIZE=os.environ["SLURM_STEP_NUM_TASKS"],
                LOCAL_RANK=os.environ["SLURM_LOCALID"], LOCAL_WORLD_SIZE=here, **address())  # fmt: skip


def tasks_of_node(counts, node):
    """From Slurm's "2(x3),1", tasks of each node in their order, those of one node."""
    numbers = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts):
        numbers += [int(count)] * int(times or 1)
    return numbers[node]


def address() -> dict[str, str]:
    """Where the ranks meet: the step's first node, and a port that jobs and steps which run at once do not share.

    MASTER_ADDR and MASTER_PORT of the user's come first. Raises UserError where the node's name does not resolve, which
    torch would try for ever.
    """
    job, step = int(os.environ["SLURM_JOB_ID"]), int(os.environ["SLURM_STEP_ID"])
    port = 10000 + job % 2800 * 8 + step % 8  # below the ports that systems give away by themselves
    alone = int(os.environ.get("SLURM_STEP_NUM_NODES", 1)) == 1
    node = os.environ.get("MASTER_ADDR") or ("127.0.0.1" if alone else first_node(os.environ["SLURM_STEP_NODELIST"]))
    try:
        socket.getaddrinfo(node, None)
    except OSError:
        raise UserError(f"the node name {node} does not resolve here; set MASTER_ADDR to an address of it") from None
    return {"MASTER_ADDR": node, "MASTER_PORT": os.environ.get("MASTER_PORT") or str(port)}


def first_node(names):
    """The first of Slurm's node list: "gpu[03-07,11],login" -> "gpu03"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", names)[0]
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first)
