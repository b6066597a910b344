"""What `make bench` runs: every benchmark, one after the other, into one table.

    python benchmarks/run.py [--data-dir data] [--save benchmarks/RESULTS.md]

Those that need the real data sets are left out, and said to be, where ``--data-dir`` (default: ``$BERT_DATA``, else
``data``) has none. Nothing else should run on the machine meanwhile.
"""

import argparse
import subprocess
import sys
from datetime import date
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from files.mistakes import run_main
from files.writing import atomic_write, check_writable
from text.places import default_data_dir

SCRIPTS = [  # what it is about, the script and its flags, of which it needs one in the data folder
    ("Masked language modelling", ["mlm.py"], None),
    ("The commands themselves", ["commands.py"], None),
    ("SQuAD", ["finetune.py", "squad"], ["squad/train-v1.1.json"]),
    ("RACE", ["finetune.py", "race"], ["RACE", "RACE.tar.gz"]),
    ("Tokenising into the cache", ["tokenise.py"], ["books.tar.gz"]),
    ("Ranks", ["ranks.py"], None),
    ("Start-up", ["startup.py"], None),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=default_data_dir())
    parser.add_argument("--save", help="also write the table to this file")
    args = parser.parse_args()
    if args.save:
        check_writable(args.save, instead="another --save")
    failed: list[int] = []
    text = f"# Benchmarks\n\nWritten by `make bench` on {date.today()}.\n"
    print(text, flush=True)
    for title, (script, *flags), needed in SCRIPTS:
        if needed and not any((Path(args.data_dir) / name).exists() for name in needed):
            part = f"left out: no {' or '.join(needed)} in {args.data_dir}\n"
        else:
            flags += ["--data-dir", args.data_dir] if needed else []
            command = [sys.executable, str(FOLDER / script), *flags]
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            part = process.stdout + (f"ended with code {process.returncode}\n" if process.returncode else "")
            failed.append(process.returncode)
        part = f"\n## {title}\n\n`python benchmarks/{script} {' '.join(flags)}`\n\n```\n{part}```\n"
        print(part, flush=True)
        text += part
        if args.save:  # now, for the next may take the machine with it
            with atomic_write(args.save, "w") as stream:
                stream.write(text)
    return int(any(failed))


if __name__ == "__main__":
    run_main(main)
