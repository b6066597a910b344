"""How much of the batches of fine-tuning is padding, and so what packing could gain: the share of all tokens.

    python benchmarks/padding.py --data-dir data [--batches 60]

Batches of an epoch of SQuAD 1.1 and RACE as training takes them (sorted by length within stretches, text/batches.py), each
whole and in parts of their own length, as a CPU's memory has them (``training/memory.py``). Tokens by
bert-base-uncased's words.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import vocabulary
from files.command_line import positive
from files.mistakes import run_main
from text import batches
from text.option_rows import OptionRows
from text.places import Places, default_cache_dir, default_data_dir
from text.question_windows import QuestionWindows
from text.questions import load_race_splits, load_squad_splits
from text.vocabularies import load_vocab

PARTS = 1, 2, 4


def padding(data, batch_size, parts, count):
    """Percent, over ``count`` batches of the first epoch, each in so many parts."""
    order = batches.epoch_batches(len(data), batch_size, 0, 0, data.lengths)
    tokens = places = 0
    for number in np.random.default_rng(0).choice(len(order), min(count, len(order)), replace=False):
        for part in np.array_split(order[number], parts):
            if not len(part):
                continue
            mask = data.collate(part, 0)["attention_mask"]
            tokens, places = tokens + int(mask.sum()), places + mask.numel()
    return 100 * (1 - tokens / places)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--data-dir", default=default_data_dir())
    parser.add_argument("--cache-dir", default=default_cache_dir())
    parser.add_argument("--batches", type=positive(int), default=60, help="of the epoch, drawn at random (default: 60)")
    args = parser.parse_args()
    places, tokenizer = Places(args.data_dir, args.cache_dir), load_vocab(vocabulary())
    squad = load_squad_splits("SQuAD1", places, ("train",))["train"]
    race = load_race_splits("RACE", places, "all", ("train",))["train"]
    kinds = {"SQuAD, windows of 384": (QuestionWindows(squad, tokenizer, places, 384, 128), (16, 32))}
    for layout, passage, length in (("separate", "window", 512), ("separate", "select", 128), ("joint", "select", 512),
                                    ("joint", "select", 128)):
        data = OptionRows(race, tokenizer, places, length, 0, passage, layout=layout)
        kinds[f"RACE, {layout}, {passage}, {length}"] = data, (4, 16)
    print(f"{'padding, percent, in parts:':32}{'batch':>8}" + "".join(f"{parts:>8}" for parts in PARTS))
    for name, (data, sizes) in kinds.items():
        for size in sizes:
            shares = [padding(data, size, parts, args.batches) for parts in PARTS]
            print(f"{name:32}{size:>8}" + "".join(f"{share:>8.2f}" for share in shares), flush=True)


if __name__ == "__main__":
    run_main(main)
