"""Learning curves of runs in one picture: a figure of their validations over the examples that each had read.

    python benchmarks/curves.py docs/squad.png f1 "from MiniLM=runs/minilm" "from nothing=runs/nothing"

Reads the history.json and settings.json that a run leaves in its --log-dir. An example is a row of a batch: of SQuAD a
window of a text with its question.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import needs
from files.mistakes import UserError, run_main
from files.reading import read_json
from files.writing import check_writable, write_picture


def points(folder: Path, figure: str) -> list[tuple[int, float]]:
    """(examples read, figure) at each validation of the run whose logs are in ``folder``."""
    batch_size = read_json(folder / "settings.json")["batch_size"]
    found = [(step * batch_size, figures[figure]) for step, kind, figures in read_json(folder / "history.json")
             if kind == "valid" and figure in figures]  # fmt: skip
    if not found:
        raise UserError(f"{folder}: no validation of this run tells {figure}; name another figure or run")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("picture", help="the .png to write")
    parser.add_argument("figure", help="what is drawn, such as f1, accuracy or loss")
    parser.add_argument("runs", nargs="+", help="NAME=FOLDER, as the curve is called and where the run's logs are")
    args = parser.parse_args()
    needs("matplotlib", "the picture")
    check_writable(args.picture, instead="another picture")
    curves = {name: points(Path(folder), args.figure) for name, _, folder in (run.partition("=") for run in args.runs)}
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, found in curves.items():
        axes.plot(*zip(*found, strict=True), marker="o", label=name)
    axes.set(xlabel="examples read", ylabel=f"{args.figure}, examples set aside")
    axes.grid(alpha=0.3)
    axes.legend()
    write_picture(args.picture, figure)


if __name__ == "__main__":
    run_main(main)
