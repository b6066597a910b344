"""One page about some runs: settings, results, curves, and examples of what the models answered.

    python report.py runs/*
    python report.py runs/first runs/second --output compared.html

Reads what a run leaves in its --log-dir: settings.json, history.json, result.json, examples.json, and what --evaluate
leaves there: evaluation.json. The page stands alone: style, curves (SVG) and texts are in it, nothing is fetched, and no
script runs in it. Only Python itself is needed.
"""

import html
import os
from pathlib import Path

from files.command_line import CommandLine
from files.mistakes import UserError, run_main, warn
from files.reading import read_json
from files.writing import atomic_write
from metrics import LETTERS

HIDDEN = {"log_dir", "save", "data_dir", "cache_dir", "save_vocab", "resume", "log_interval", "save_minutes"}
CURVES = ("loss", "accuracy", "f1", "tokens_per_second", "lr", "gradient_norm", "busy")
COLOURS = ("#1f6f8b", "#c8553d", "#588157", "#7b5ea7", "#b08900", "#4c5c68")  # of the runs, in turn
PASSAGE = 1500  # characters shown of a passage without a mark
NOT_OURS = (LookupError, TypeError, ValueError, AttributeError, OverflowError)  # what a file provokes that no run wrote
STYLE = """
:root { color-scheme: light dark; --paper: #f7f6f2; --card: #fff; --ink: #22262b; --soft: #626a73; --line: #dfddd5;
  --mark: #ffe08a; --on-mark: #22262b; --good: #2b6b3f; --bad: #a3271f; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181b; --card: #1d2125; --ink: #e6e4df; --soft: #a2a9b0;
  --line: #343a40; --mark: #7a5c00; --on-mark: #fff6da; --good: #8fd3a4; --bad: #ff9d93; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .75rem; }
h3 { margin: 0; font-size: 1rem; }
.soft { color: var(--soft); font-size: .875rem; } .good { color: var(--good); } .bad { color: var(--bad); }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; background: var(--card); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .4rem .75rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1rem; }
.card { min-width: 0; padding: 1rem; border: 1px solid var(--line); border-radius: .5rem; background: var(--card); }
.card p { margin: .5rem 0 0; } .card ul { margin: .5rem 0 0; padding-left: 1.25rem; } svg { display: block; width: 100%; }
summary { margin-top: .5rem; cursor: pointer; }
.text { max-height: 14rem; overflow: auto; white-space: pre-wrap; }
.text, h3, li, b, mark { unicode-bidi: plaintext; }
.dot { display: inline-block; width: .7rem; height: .7rem; margin-right: .4rem; border-radius: 50%; }
mark { padding: 0 .15em; border-radius: .2em; background: var(--mark); color: var(--on-mark); }
"""


def arguments():
    p = CommandLine(description=__doc__.splitlines()[0])
    p.add_argument("runs", nargs="+", help="folders that --log-dir named; others among them are passed over")
    p.add_argument("--output", default="report.html", help="the page to write (default: report.html)")
    return p.parse_args()


def read_run(folder):
    """What a run left in its folder: a dictionary, or None for a folder that holds no run."""
    try:
        if not any((folder / f"{name}.json").is_file() for name in ("history", "result", "evaluation")):
            return None  # whatever other software calls settings
    except PermissionError:
        warn(f"{folder}: may not be looked into; passed over")
        return None
    found = {name: read_json(folder / f"{name}.json") if (folder / f"{name}.json").is_file() else None
             for name in ("settings", "history", "result", "examples", "evaluation")}  # fmt: skip
    if not (found["history"] or found["result"] or found["evaluation"]):
        return None
    kinds = {"settings": dict, "history": list, "result": dict, "examples": list, "evaluation": dict}
    for name, kind in kinds.items():
        found[name] = kind() if found[name] is None else found[name]
        if not isinstance(found[name], kind):
            raise UserError(f"{folder / name}.json: not what a run writes; remove it")
    return {"name": os.path.relpath(folder), **found}


def shown(value):
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)


# --------------------------------------------------------------------------------------------------------------------
# The parts of the page, each a piece of HTML; every text of a run passes through escape
# --------------------------------------------------------------------------------------------------------------------


def escape(value):
    return html.escape(shown(value))


def table(head, rows):
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{'' if cell is None else escape(cell)}</td>" for cell in row) for row in rows]
    return '<div class="wide"><table>' + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"


def entries(run):
    """What a run has in the table: (name, figures, minutes) of the run, of an evaluation in its folder, or of both."""
    seconds = run["result"].get("seconds")
    if run["history"] or run["result"]:
        without = "not tested" if run["settings"].get("no_test") else "unfinished"
        yield run["name"], run["result"], without if seconds is None else f"{seconds / 60:.1f}"
    if run["evaluation"]:
        yield evaluated(run), run["evaluation"], None


def evaluated(run):
    return f"{run['name']}, evaluated: {', '.join(map(str, run['evaluation']['models']))}"


def results(runs):
    """A row for each run: how long it took, and its scores; and one for each evaluation."""
    found = [(*line, run["settings"]) for run in runs for line in entries(run)]
    names = dict.fromkeys(name for _, result, _, _ in found for name, value in result.items()
                          if isinstance(value, int | float))  # fmt: skip
    cost = ("steps", "validation_seconds", "tokens_per_second", "peak_memory_bytes", "skipped_steps")  # after the scores
    names = [name for name in names if name not in (*cost, "seconds", "tokens", "total")] + [n for n in cost if n in names]
    rows = [
        [name, *(result.get(what) or told.get(what) for what in ("task", "dataset")), minutes, *map(result.get, names)]
        for name, result, minutes, told in found
    ]
    return table(["run", "task", "data", "minutes", *(name.replace("_", " ") for name in names)], rows)


def settings(runs):
    """What the runs were told differently; of a single run, everything."""
    names = dict.fromkeys(name for run in runs for name in run["settings"] if name not in HIDDEN)
    if len(runs) > 1:
        names = [name for name in names if any(run["settings"].get(name) != runs[0]["settings"].get(name) for run in runs)]
        return table(["run", *names], [[run["name"], *(run["settings"].get(name) for name in names)] for run in runs])
    return table(["setting", "value"], [[name, runs[0]["settings"][name]] for name in names])


def curve(name, runs):
    """One figure over the steps, a line for each run, dashed for validations; "" where no run has it."""
    lines = []
    for number, run in enumerate(runs):
        for kind in ("train", "valid"):
            found = [(step, figures.get(name)) for step, of, figures in run["history"] if of == kind]
            points = [(step, value) for step, value in found if isinstance(value, int | float) and abs(value) < 1e30]
            if points:
                lines.append((COLOURS[number % len(COLOURS)], kind, points))
    if not lines:
        return ""
    steps, values = ([point[axis] for _, _, points in lines for point in points] for axis in (0, 1))
    left, right, low, high = min(steps), max(steps), min(values), max(values)

    def place(step, value):  # in a picture of 400 by 200, the axes' texts outside 50..390 by 10..175
        x = 50 + 340 * (step - left) / ((right - left) or 1)
        y = 175 - 165 * (value - low) / ((high - low) or 1)
        return f"{x:.1f},{y:.1f}"

    drawn = ""
    for colour, kind, points in lines:
        dashes = ' stroke-dasharray="5 3"' if kind == "valid" else ""
        path = " ".join(place(*point) for point in points)
        drawn += f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
        ends = points if kind == "valid" or len(points) == 1 else []
        drawn += "".join('<circle cx="{}" cy="{}" r="3" fill="{}"/>'.format(*place(*p).split(","), colour) for p in ends)
    ends = [f"{value:.3g}" if value < 1000 else shown(value) for value in (high, low)]
    words = [(46, 18, "end", ends[0]), (46, 175, "end", ends[1]), (50, 192, "start", left), (390, 192, "end", right)]
    drawn += "".join(f'<text x="{x}" y="{y}" text-anchor="{side}" font-size="10" fill="currentColor">{escape(value)}</text>'
                     for x, y, side, value in words)  # fmt: skip
    title = escape(name.replace("_", " "))
    axes = '<path d="M50 10V175H390" fill="none" stroke="currentColor" opacity=".35"/>'
    svg = f'<svg viewBox="0 0 400 200" role="img" aria-label="{title} over the steps">{axes}{drawn}</svg>'
    return f'<div class="card"><h3>{title}</h3>{svg}</div>'


def curves(runs):
    runs = [run for run in runs if run["history"]]
    dots = [f'<span class="dot" style="background:{COLOURS[n % len(COLOURS)]}"></span>' for n in range(len(runs))]
    legend = "".join(f"{dot}{escape(run['name'])} &nbsp; " for dot, run in zip(dots, runs, strict=True))
    drawn = "".join(curve(name, runs) for name in CURVES)
    return f'<p class="soft">{legend}over the steps; dashed: validation</p><div class="cards">{drawn}</div>'


def question(example):
    """A question with its passage; the answer is marked where it stands in it."""
    right = example["right"]
    verdict = f'<span class="{"good" if right else "bad"}">{"right" if right else "wrong"}</span>'
    passage, start, end = example["passage"], example.get("start"), example.get("end")
    if start is None:
        text = escape(passage[:PASSAGE]) + ("…" if len(passage) > PASSAGE else "")
    else:
        text = f"{escape(passage[:start])}<mark>{escape(passage[start:end])}</mark>{escape(passage[end:])}"
    if example["kind"] == "race":
        told = ""
        for n, (option, share) in enumerate(zip(example["options"], example["probabilities"], strict=True)):
            words = f"{LETTERS[n]}&nbsp; {escape(option)}"
            words = f"<mark>{words}</mark>" if n == example["chosen"] else words
            told += f"<li>{words} {share:.0%}{' <b>right</b>' * (n == example['gold'])}</li>"
        told = f"<ul>{told}</ul>"
    else:
        gold, answer = ", ".join(example["gold"]) or "no answer", example["answer"] or "no answer"
        told = f'<p>answered: <b>{escape(answer)}</b></p><p class="soft">wanted: {escape(gold)}</p>'
    return f'<div class="card"><h3>{escape(example["question"])}</h3>{verdict}{told}<p class="text soft">{text}</p></div>'


def pair(example):
    """Two parts, and whether the second follows the first."""
    words, right = ("does not follow", "follows"), example["right"]
    verdict = f'<span class="{"good" if right else "bad"}">{"right" if right else "wrong"}</span>'
    share = example["probability"]
    told = f"<p>answered: <b>the second {words[share > 0.5]}</b> ({max(share, 1 - share):.0%})</p>"
    wanted = f'<p class="soft">wanted: the second {words[bool(example["follows"])]}</p>'
    parts = "".join(f'<p class="text soft">{escape(example[part])}</p>' for part in ("first", "second"))
    return f'<div class="card">{verdict}{told}{wanted}{parts}</div>'


def masks(example):
    """A text whose masked words are what the model guesses, with the guesses that come next."""
    text, listed = escape(example["texts"][0]), ""
    for mask, after in zip(example["masks"], example["texts"][1:], strict=True):
        word = mask["guesses"][0][0]
        right = "good" if word == mask["gold"] else "bad"
        others = ", ".join(f"{other} {part:.0%}" for other, part in mask["guesses"])
        text += f" <mark>{escape(word or '?')}</mark> {escape(after)}"
        listed += f'<li><span class="{right}">{escape(mask["gold"] or "?")}</span>: {escape(others)}</li>'
    guesses = '<details class="soft"><summary>what stood there, and the guesses</summary><ul>' + listed + "</ul></details>"
    return f'<div class="card"><p class="text">{text}</p>{guesses}</div>'


CARDS = {"mlm": masks, "ns": pair, "qa": question, "race": question}


def examples(run):
    """What the model of a run answers, and what was answered in an evaluation in its folder."""
    told = ""
    for name, found, file in ((run["name"], run["examples"], "examples"),
                              (run["evaluation"] and evaluated(run), run["evaluation"].get("examples", []), "evaluation")):
        try:
            cards = "".join(CARDS[one["kind"]](one) for one in found)
        except NOT_OURS as error:
            raise UserError(f"{run['name']}/{file}.json: not what a run writes ({error!r}); remove it") from None
        told += f'<h2>What {escape(name)} answers</h2><div class="cards">{cards}</div>' if cards else ""
    return told


def page(runs):
    told = [run for run in runs if run["settings"]]  # an evaluation has none
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        'initial-scale=1"><meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src '
        f"'unsafe-inline'; img-src data:\"><link rel=\"icon\" href=\"data:,\"><title>Runs</title><style>{STYLE}</style>"
        f"<h1>{len(runs)} run{'s' * (len(runs) > 1)}</h1>{results(runs)}<h2>Curves</h2>{curves(runs)}"
        f"<h2>Settings{' that differ' * (len(told) > 1)}</h2>{settings(told)}{''.join(map(examples, runs))}</html>"
    )


def main():
    args = arguments()
    # Of a folder of runs, such as the demo's, all of them.
    folders = dict.fromkeys(inner for folder in map(Path, args.runs) for inner in (folder, *sorted(folder.glob("*/"))))
    runs = [run for folder in folders if (run := read_run(folder))]
    if not runs:
        raise UserError(f"{' '.join(args.runs)}: no run in there (no history.json, result.json or evaluation.json); name a "
                        "--log-dir")  # fmt: skip
    try:
        text = page(runs)
    except NOT_OURS as error:
        raise UserError(f"{' '.join(args.runs)}: a file there is not what a run writes ({error!r}); remove it") from None
    with atomic_write(Path(args.output)) as stream:
        stream.write(text.encode("utf-8", "replace"))
    print(f"{len(runs)} runs in {args.output}; open it in a browser")
    return 0


if __name__ == "__main__":
    run_main(main)
