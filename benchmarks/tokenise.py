"""Text into the token cache: MB/s, the processors' seconds, and the memory that it takes.

    python benchmarks/tokenise.py --data-dir data
    python benchmarks/tokenise.py --data-dir data --forms 200       # 200 MB as .txt, .jsonl.gz and .parquet

BookCorpus's books, unpacked and read once before, with each tokenizer and both parts of the work counted: tokenising
in one process for each core, and writing the arrays. With --forms the books' pages, over and over, in the forms that text
comes in. Memory is the sum over the processes, sampled ten times a second.
"""

import argparse
import gzip
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import machine, needs, vocabulary
from files.mistakes import UserError, run_main
from text.places import default_data_dir


def resident(folder):
    """(parent's number, resident bytes) of a process; (0, 0) of one that has ended meanwhile."""
    try:
        parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        return parent, int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0, 0


def memory_of(process):
    """Resident bytes of a process and of those that it started, or these; what they share counts once for each."""
    found = {int(folder.name): resident(folder) for folder in Path("/proc").glob("[0-9]*")}

    def belongs(number):
        return number == process or (number in found and number > 1 and belongs(found[number][0]))

    return sum(size for number, (_, size) in found.items() if belongs(number))


def measure(name, size, *flags):
    """Prepare a data set, and print what that took."""
    command = [sys.executable, str(ROOT / "data.py"), "prepare", *map(str, flags)]
    begun, peak, before = time.perf_counter(), 0, resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(0.1)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name:24} {size / 1e6 / seconds:6.1f} MB/s of {size / 1e6:.0f} MB, {work:5.0f} processor seconds, peak memory "
          f"{peak / 2**20:5.0f} MiB", flush=True)  # fmt: skip


def write_forms(books, folder, size):
    """The books' pages, of some 5 kB each, as many as make ``size`` bytes, in one file of each form. Gives the files."""
    import pyarrow
    import pyarrow.parquet

    pages = [text[at : at + 5000] for text in map(Path.read_text, books) for at in range(0, len(text), 5000)]
    taken = list(itertools.islice(itertools.cycle(pages), size * len(pages) // sum(len(page.encode()) for page in pages)))
    files = [folder / name for name in ("pages.txt", "pages.jsonl.gz", "pages.parquet")]
    with open(files[0], "w") as stream:
        stream.writelines(f"{page}\n\n" for page in taken)
    with gzip.open(files[1], "wt", compresslevel=6) as stream:
        stream.writelines(f"{json.dumps({'text': page})}\n" for page in taken)
    pyarrow.parquet.write_table(pyarrow.table({"text": taken}), files[2])
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=default_data_dir())
    parser.add_argument("--forms", type=int, metavar="MB", help="so much text, in each of the forms that it comes in")
    args = parser.parse_args()
    if args.forms:
        needs("pyarrow", "--forms")
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(args.data_dir) / "books.tar.gz"
        if not archive.is_file():
            raise UserError(f"{archive}: no such file; put the books there, or name their folder by --data-dir")
        shutil.unpack_archive(archive, folder)
        books = sorted(Path(folder).rglob("*.txt"))
        if args.forms:
            for path in write_forms(books, Path(folder), args.forms * 10**6):
                measure(path.name, args.forms * 10**6, "--dataset", path, "--cache-dir", f"{folder}/cache-{path.name}",
                        "--vocab", vocabulary())  # fmt: skip
            return
        size = sum(path.stat().st_size for path in books)
        kinds = {
            "wordpiece": ["--vocab", vocabulary()],
            "sentencepiece, trained": ["--tokenizer", "sentencepiece"],
        }
        for name, flags in kinds.items():
            places = ["--data-dir", folder, "--cache-dir", f"{folder}/cache-{name[:4]}"]
            measure(name, size, "--dataset", "BookCorpus", *places, *flags)


if __name__ == "__main__":
    run_main(main)
