"""Fine-tuning and prediction beside transformers: questions/s on SQuAD and on RACE.

    python benchmarks/finetune.py squad --data-dir data [--rounds 3]
    python benchmarks/finetune.py race --data-dir data

MiniLM's sizes (6 layers, width 384, 12 heads, bert-base-uncased's vocabulary), random weights, the same questions of
the real training sets for all, the same threads, bf16 autocast (fp32 where the CPU does not multiply bf16 fast), AdamW,
dropout 0.1, alternating, each in its own process; its steps counted once its rate is steady; the median of the rounds.
The peer pads to the full length (384 tokens with a stride of 128 for SQuAD, 512 for RACE), as its scripts do, or to the
longest of the batch, in batches of like length as ours (the Trainer's group_by_length); once more with the allocator
setting that ours makes for itself (memory.keep_freed_memory), which its scripts do not have. Nobody's tokenising is
counted. A question counts once, however many windows it has. Batches are of 16 windows, or 4 questions with four
options. Ours finds the answers when it predicts, the peer gives logits only; ours makes its weights narrower once for a
split, the peer for each batch, as the Trainer does. RACE's joint layout is another network from the same weights:
article and question are read once for all four options.
"""

import argparse
import contextlib
import itertools
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import qa_task
import race_task
from benchmarks.common import KEPT, alternate, differing, machine, needs, take_turns, their_optimizer, vocabulary
from files.command_line import positive
from files.mistakes import run_main
from model import BertConfig, QuestionAnswerTask, RaceTask
from text import batches
from text.option_rows import OptionRows
from text.places import Places, default_data_dir
from text.question_windows import QuestionWindows
from text.questions import SquadSet, fill, load_race_splits, load_squad_splits
from text.vocabularies import load_vocab
from training.memory import keep_freed_memory
from training.optimizer import make_optimizer
from training.ranks import has_fast_bf16

SIZES = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
QUESTIONS = {"squad": 640, "race": 160}  # of a pass, a random part of the training set
BATCH = {"squad": 16, "race": 4}  # windows; questions
PEER_TURN = {"squad": 4, "race": 2}  # batches of the peer's turn where all are alike; else it takes the whole pass, as ours


def autocast():
    return torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16(torch.device("cpu")))


def some(items, count):
    return [items[i] for i in sorted(np.random.default_rng(0).choice(len(items), count, replace=False))]


def ours(task, data_dir, tokenizer, layout="separate"):
    """(training, prediction, turn): two functions that do the next batch and give its questions, and batches a turn."""
    places = Places(data_dir, "cache")
    config = BertConfig(vocab_size=len(tokenizer), **SIZES)
    if task == "squad":
        whole = load_squad_splits("SQuAD1", places, ("train",))["train"]
        part = SquadSet(whole.contexts, some(whole.questions, QUESTIONS[task]), whole.with_impossible)
        data, model = QuestionWindows(part, tokenizer, places, 384, 128), QuestionAnswerTask(config)
        rows, loss = qa_task.make_rows(20, 30), qa_task.loss
    else:
        part = some(load_race_splits("RACE", places, "all", ("train",))["train"], QUESTIONS[task] // 3)
        data, model = OptionRows(part, tokenizer, places, 512, 0, "truncate", layout=layout), RaceTask(config)
        rows, loss = race_task.rows, race_task.loss
    share = len(part.questions) / len(data) if task == "squad" else 1.0  # questions a window
    optimizer = make_optimizer(model, "adamw", 0.01)
    one_pass = batches.epoch_batches(len(data), BATCH[task], 0, 0, data.lengths)
    order = itertools.cycle(one_pass)

    def train():
        indices = next(order)
        with autocast():
            value = loss(model.train(), data.collate(indices, 0)) / len(indices)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return len(indices) * share

    @torch.no_grad()
    def predict():
        indices = next(order)
        with autocast():
            rows(model.eval(), data.collate(indices, batches.EVALUATION), data, indices)
        return len(indices) * share

    return train, predict, len(one_pass)


def their_features(task, data_dir, to_longest):
    """Batches of transformers' features, and the questions a row stands for; those padded to the longest are of rows of
    like length, in our order, as the Trainer makes them with group_by_length."""
    from transformers import BertTokenizerFast

    tokenizer = BertTokenizerFast(str(vocabulary()))
    places = Places(data_dir, "cache")
    padding = "do_not_pad" if to_longest else "max_length"
    if task == "squad":
        whole = load_squad_splits("SQuAD1", places, ("train",))["train"]
        chosen = some(whole.questions, QUESTIONS[task])
        encoded = tokenizer(
            [q.text for q in chosen], [whole.contexts[q.context] for q in chosen], truncation="only_second",
            max_length=384, stride=128, return_overflowing_tokens=True, padding=padding,
        )  # fmt: skip
        unit = 1
    else:
        articles = some(load_race_splits("RACE", places, "all", ("train",))["train"], QUESTIONS[task] // 3)
        pairs = [
            (article.text, fill(question, option))
            for article in articles for question, options in zip(article.questions, article.options, strict=True)
            for option in options
        ]  # fmt: skip
        encoded = tokenizer(*map(list, zip(*pairs, strict=True)), truncation="only_first", max_length=512, padding=padding)
        unit = 4
    names = ("input_ids", "token_type_ids", "attention_mask")
    rows = [{name: encoded[name][i] for name in names} for i in range(len(encoded["input_ids"]))]
    wholes = [rows[i : i + unit] for i in range(0, len(rows), unit)]  # a window, or a question's four rows
    lengths = np.array([max(len(row["input_ids"]) for row in whole) for whole in wholes])
    order = batches.epoch_batches(len(wholes), BATCH[task], 0, 0, lengths if to_longest else None)
    made = [tokenizer.pad([row for i in numbers for row in wholes[i]], return_tensors="pt") for numbers in order]
    return made, QUESTIONS[task] / len(rows) if task == "squad" else 0.25


def theirs(task, data_dir, to_longest):
    from transformers import BertConfig as Config
    from transformers import BertForMultipleChoice, BertForQuestionAnswering

    made, share = their_features(task, data_dir, to_longest)
    model = (BertForQuestionAnswering if task == "squad" else BertForMultipleChoice)(Config(vocab_size=30522, **SIZES))
    optimizer = their_optimizer(model, 1e-5)
    work = itertools.cycle(made)

    def batch():
        features = dict(next(work))
        count = len(features["input_ids"])
        if task == "squad":
            where = torch.ones(count, dtype=torch.long)
            return features | {"start_positions": where, "end_positions": where}, count * share
        features = {name: x.view(-1, 4, x.size(-1)) for name, x in features.items()}
        return features | {"labels": torch.zeros(count // 4, dtype=torch.long)}, count * share

    def train():
        features, count = batch()
        with autocast():
            value = model.train()(**features).loss
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return count

    @torch.no_grad()
    def predict():
        features, count = batch()
        with autocast():
            model.eval()(**features)
        return count

    return train, predict, len(made) if to_longest else PEER_TURN[task]


PEERS = "transformers, padded to the full length", "transformers, to the longest of a batch"
OURS = "ours", "ours, joint layout"


def contestant(name, kind, task, data_dir):
    """Take turns as this one."""
    torch.manual_seed(0)
    if name in OURS or name.endswith(KEPT):
        keep_freed_memory()
    if name in OURS:
        layout = "joint" if name == OURS[1] else "separate"
        *calls, count = ours(task, data_dir, load_vocab(vocabulary()), layout)
    else:
        *calls, count = theirs(task, data_dir, name.startswith(PEERS[1]))
    call, context = calls[kind == "prediction"], contextlib.nullcontext()
    if name in OURS and kind == "prediction":  # weights are made narrower once, as in utils.Computer.rows
        context = autocast()
    with context:
        take_turns(call, count)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=list(BATCH))
    parser.add_argument("--data-dir", default=default_data_dir())
    parser.add_argument("--rounds", type=positive(int), default=3)
    parser.add_argument("--kind", choices=("training", "prediction"), default="training", help="of --contestant")
    parser.add_argument("--beside", metavar="PYTHON", help="let another Python run them as well: the separate layout and "
                        "the peer at its best, no others; RACE's four want more than 24 GB")  # fmt: skip
    parser.add_argument("--contestant", help="be this one, and take a turn for each line read")
    args = parser.parse_args()
    if args.contestant:
        return contestant(args.contestant, args.kind, args.task, args.data_dir)
    needs("transformers", "the peer")
    own, peers = OURS[: 2 if args.task == "race" else 1], [*PEERS, *(name + KEPT for name in PEERS)]
    if args.beside:  # all twelve would want more than 24 GB, as would six
        own, peers = own[:1], peers[-1:]
    names = [*own, *peers]
    print(f"{args.task}: {machine()}")
    for kind in ("training", "prediction"):
        found = alternate(__file__, names, args.rounds, args.task, "--data-dir", args.data_dir, "--kind", kind,
                          beside=args.beside)  # fmt: skip
        print(f"\n{kind:58} questions/s" + "".join(f"{f'/ ({i})':>7}" for i in range(1, 1 + len(peers))))
        for name, rates in found.items():
            number = f"({peers.index(name) + 1}) " if name in peers else ""
            print(f"{number + name:58} {rates.steady:11.2f}"
                  + "".join(f"{rates.steady / found[peer].steady:7.2f}" for peer in peers))  # fmt: skip
        print(differing(found))


if __name__ == "__main__":
    run_main(main)
