"""Commands that need not import torch again, which takes longer than most of what a test lets them do.

    with Commands() as commands:
        done = commands.run([ROOT / "mlm_task.py", "--steps", "3"], cwd=folder, env=environment)  # as subprocess.run

A helper imports torch once and forks for each command. The fork takes over the command's folder, environment, streams
and arguments, runs the script as Python would, and ends as Python does. What it does not see is what Python and torch
read from the environment as they begin: for that a command needs a process of its own.
"""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

STREAMS = {"in": os.O_RDONLY, "out": os.O_WRONLY | os.O_CREAT, "err": os.O_WRONLY | os.O_CREAT}  # files for 0, 1 and 2


class Commands:
    """The helper, and this process's end of it."""

    def __enter__(self):
        self.helper = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        with self.helper:
            self.helper.kill()  # for other forks of this process may keep its pipe open

    def run(self, command: list, cwd: Path, env: dict, input: str | None = None, timeout: float = 300):
        """The finished process, its output as text; after ``timeout`` seconds it is killed, and its code is -14."""
        with tempfile.TemporaryDirectory() as folder:
            streams = {name: Path(folder, name) for name in STREAMS}
            streams["in"].write_text(input or "")
            request = {"command": [*map(str, command)], "cwd": str(cwd), "env": env, "folder": folder, "timeout": timeout}
            self.helper.stdin.write(json.dumps(request) + "\n")
            self.helper.stdin.flush()
            code = int(self.helper.stdout.readline())
            output, errors = (streams[name].read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(request["command"], code, output, errors)


def next_command():
    """In the helper: wait for requests, fork for each and tell its exit code. Returns in the forks only."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def become(command, cwd, env, folder, timeout):
    """Make this fork what it would be had it been started as that command."""
    signal.setitimer(signal.ITIMER_REAL, timeout)
    for number, (name, how) in enumerate(STREAMS.items()):
        os.dup2(os.open(Path(folder, name), how), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv, sys.path[0] = command, os.path.dirname(command[0])
    torch.set_num_threads(int(env["OMP_NUM_THREADS"]))


if __name__ == "__main__":
    import torch

    with contextlib.suppress(ImportError):  # what runs import if they find it
        import torch.utils.tensorboard

    become(**next_command())
    runpy.run_path(sys.argv[0], run_name="__main__")
