"""Questions without an answer, on SQuAD 2.0's development set where its training set is not to be had.

    python benchmarks/squad2.py FOLDER --bert-model ns_bert.pt --minutes 10     # further flags go to qa_task.py

Splits the articles of squad/dev-v2.0.json (in --data-dir) into a training and a development file, three articles to
one, and writes them to FOLDER in the layout of SQuAD 2.0; runs qa_task.py on them, which sets an article aside to
validate and to find its threshold; lets the model answer the development file; prints a table:

    always empty    no answer, everywhere
    never empty     the best span, everywhere
    --predict       the best span, or no answer above the threshold that was found on the article set aside
    in hindsight    the same by the best threshold for these questions: best_exact and best_f1 of the official script

The model tells answerable from unanswerable questions if its best_f1 is above both of the first two; the exit code is 1
if it is not.
"""

import argparse
import hashlib
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from files.mistakes import UserError, run_main
from files.reading import read_json
from files.writing import write_json
from metrics import squad_scores
from text.places import default_data_dir


def split(path, folder):
    """Write the articles of a SQuAD file to a training and a development file; one in four is for development."""
    articles = read_json(path)["data"]
    articles.sort(key=lambda article: hashlib.sha256(article["title"].encode()).hexdigest())
    for part, chosen in (("dev", articles[::4]), ("train", [a for n, a in enumerate(articles) if n % 4])):
        write_json(folder / "squad" / f"{part}-v2.0.json", {"version": "v2.0", "data": chosen})
        questions = [q for article in chosen for paragraph in article["paragraphs"] for q in paragraph["qas"]]
        print(f"{part:5} {len(chosen)} articles, {len(questions)} questions, "
              f"{sum(q['is_impossible'] for q in questions)} of them without an answer", flush=True)  # fmt: skip


def qa_task(*arguments):
    code = subprocess.run([sys.executable, str(ROOT / "qa_task.py"), *map(str, arguments)]).returncode
    if code:
        sys.exit(code)


def for_answers(flags: list[str]) -> list[str]:
    """Those of the flags of a training on which answers depend besides the model."""
    kept = {"cache_dir", "precision", "max_answer_length", "n_best", "show"}
    words = [part for word in flags for part in (word.split("=", 1) if word.startswith("--") else [word])]
    return [word for flag, value in pairwise(words) if flag.lstrip("-").replace("-", "_") in kept for word in (flag, value)]


def main():
    parser = argparse.ArgumentParser(description="SQuAD 2.0 from its development set alone.", allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="where files, model and answers go")
    parser.add_argument("--data-dir", type=Path, default=Path(default_data_dir()))
    args, flags = parser.parse_known_args()

    if (args.folder / "squad").resolve() == (args.data_dir / "squad").resolve():
        raise UserError(f"{args.folder}: is --data-dir, whose files would be overwritten; name another folder")
    split(args.data_dir / "squad" / "dev-v2.0.json", args.folder)
    gold, model, output = args.folder / "squad" / "dev-v2.0.json", args.folder / "qa_model.pt", args.folder / "answers.json"
    qa_task("--dataset", "SQuAD2", "--data-dir", args.folder, "--log-dir", args.folder / "log", "--save", model, *flags)
    qa_task("--predict", gold, "--output", output, "--save", model, *for_answers(flags))

    data, odds = read_json(gold), read_json(output.with_suffix(".null_odds.json"))
    lists = read_json(output.with_suffix(".nbest.json"))
    spans = {id: next((entry["text"] for entry in found if entry["text"]), "") for id, found in lists.items()}
    never = squad_scores(data, spans, odds)
    table = {
        "always empty": squad_scores(data, dict.fromkeys(spans, "")), "never empty": never,
        "--predict": squad_scores(data, read_json(output)),
        "in hindsight": {"exact": never["best_exact"], "f1": never["best_f1"]},
    }  # fmt: skip
    print(f"\n{'':14} {'exact':>7} {'F1':>7} {'F1 with answer':>15} {'without':>8}   of {never['total']} questions")
    for name, scores in table.items():
        parts = [f"{scores[key]:{width}.2f}" for key, width in (("HasAns_f1", 15), ("NoAns_f1", 8)) if key in scores]
        print(f"{name:14} {scores['exact']:7.2f} {scores['f1']:7.2f}", *parts)
    return int(never["best_f1"] <= max(table["always empty"]["f1"], never["f1"]))


if __name__ == "__main__":
    run_main(main)
