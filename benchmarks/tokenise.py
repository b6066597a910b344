"""Text into the token cache: MB/s, and the memory that it takes.

    python benchmarks/tokenise.py --data-dir data

BookCorpus's books, unpacked and read once before, with each tokenizer and both parts of the work counted: tokenising
in one process for each core, and writing the arrays. Memory is the sum over the processes, sampled ten times a second.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import machine, vocabulary  # noqa: E402
from text.places import default_data_dir  # noqa: E402


def resident(folder):
    """(parent's number, resident bytes) of a process; (0, 0) of one that has ended meanwhile."""
    try:
        parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        return parent, int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0, 0


def memory_of(process):
    """Resident bytes of a process and of those that it started; what they share counts once for each."""
    found = {int(folder.name): resident(folder) for folder in Path("/proc").glob("[0-9]*")}
    return sum(size for number, (parent, size) in found.items() if process in (number, parent))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=default_data_dir())
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        shutil.unpack_archive(Path(args.data_dir) / "books.tar.gz", folder)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.txt"))
        kinds = {
            "wordpiece": ["--vocab", str(vocabulary())],
            "sentencepiece, trained": ["--tokenizer", "sentencepiece"],
        }
        for name, flags in kinds.items():
            command = [sys.executable, str(ROOT / "data.py"), "prepare", "--dataset", "BookCorpus", "--data-dir", folder,
                       "--cache-dir", f"{folder}/cache-{name[:4]}", *flags]  # fmt: skip
            begun, peak = time.perf_counter(), 0
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None:
                peak = max(peak, memory_of(process.pid))
                time.sleep(0.1)
            seconds = time.perf_counter() - begun
            if process.returncode:
                sys.exit(f"{' '.join(command)} failed")
            print(f"{name:24} {size / 1e6 / seconds:6.1f} MB/s of {size / 1e6:.0f} MB, peak memory {peak / 2**20:5.0f} MiB")


if __name__ == "__main__":
    main()
