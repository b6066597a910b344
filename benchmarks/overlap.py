"""What of the passages that will be asked about stands in the text that is pretrained on: eight words in a row.

    python benchmarks/overlap.py --dataset BookCorpus SQuAD1 library.tar.gz [--held-out SQuAD1 RACE BookCorpus]

Reads the training text of the sets as the tasks do, and looks for every run of eight words of each passage to validate and
test with (text/passages.py); of running text a passage is a document, such as a book. Prints how many passages share one,
how many share a fifth of their runs or more, and the largest share, with an example: single runs are mostly phrases that
everybody uses or quotes, a fifth is a common source.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from files.mistakes import run_main
from text.corpus import corpus_parts, paragraphs, pieces
from text.passages import ALIKE, passages_of, runs, runs_of, words_of
from text.places import Places, default_cache_dir, default_data_dir, kinds_of

COPIED = 0.2  # share of a passage's runs from which on it is called copied


def found_runs(dataset: list[str], places: Places, wanted: set) -> dict:
    """Those of the ``wanted`` runs that stand in the training text, each with the file where it was first seen."""
    found: dict = {}
    for name in dataset:
        parts, style = corpus_parts(name, "train", places, None, tuple(dataset))
        for _, piece in pieces(parts, style):
            words: list[str] = []
            for begins, text in paragraphs(piece, style):
                words = ([] if begins else words[1 - ALIKE :]) + words_of(text)  # a run may begin a paragraph earlier
                for run in runs_of(words) & wanted:
                    found.setdefault(run, Path(piece[0]).name)
    return found


def scored_passages(name: str, split: str, places: Places) -> list[str]:
    """What a set is validated or tested with: the passages of its questions, or the documents of its text."""
    if "text" not in kinds_of(name, places):
        return [text for texts in passages_of(name, places)[split] for text in texts]
    parts, style = corpus_parts(name, split, places)
    documents: list[list[str]] = []
    for _, piece in pieces(parts, style):
        for begins, text in paragraphs(piece, style):
            if begins or not documents:
                documents.append([])
            documents[-1].append(text)
    return [" ".join(texts) for texts in documents]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--dataset", nargs="+", default=["BookCorpus", "SQuAD1"], help="what is pretrained on")
    parser.add_argument("--held-out", nargs="+", default=["SQuAD1", "RACE"], help="sets whose valid and test are sought")
    parser.add_argument("--data-dir", default=default_data_dir())
    parser.add_argument("--cache-dir", default=default_cache_dir())
    args = parser.parse_args()
    places, owners, sizes = Places(args.data_dir, args.cache_dir), defaultdict(list), {}
    for name in args.held_out:
        for split in ("valid", "test"):
            for number, text in enumerate(scored_passages(name, split, places)):
                own = runs(text)
                sizes[name, split, number] = len(own)
                for run in own:
                    owners[run].append((name, split, number))
    found, shared = found_runs(args.dataset, places, set(owners)), defaultdict(list)
    for run in found:
        for owner in owners[run]:
            shared[owner].append(run)
    for name, split in dict.fromkeys(key[:2] for key in sizes):
        all_of_it = [key for key in sizes if key[:2] == (name, split)]
        touched = [key for key in all_of_it if key in shared]
        copied = [key for key in touched if len(shared[key]) >= COPIED * sizes[key]]
        most = max((len(shared[key]) / sizes[key] for key in touched), default=0)
        print(f"{name} {split}: of {len(all_of_it):,} passages {len(touched):,} share eight words in a row with the text, "
              f"{len(copied):,} a fifth of them or more; at most {most:.1%} of one's")  # fmt: skip
        for key in (copied or touched)[:1]:
            run = shared[key][0]
            print(f"    such as {' '.join(run)!r} in {found[run]}")


if __name__ == "__main__":
    run_main(main)
