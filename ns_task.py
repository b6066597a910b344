"""Go on pretraining with next-sentence prediction (Devlin et al. 2019, section 3.1).

    python ns_task.py                                               # from mlm_bert.pt, on the embedded data set
    python ns_task.py --bert-model mlm_bert.pt --dataset BookCorpus --minutes 20
    python ns_task.py --objective sop                               # sentence order (Lan et al. 2020, section 3.1)
    python ns_task.py --predict pairs.tsv --output follows.json     # by ns_bert.pt, or --bert-model FILE

Writes the model to ns_bert.pt. The score is the accuracy of telling whether the second part follows the first.

--predict reads two texts a line with a tab between them, and writes a list of {"first", "second", "probability"}: how
likely the second follows the first. A pair that is too long keeps the end of the first and the beginning of the second.
"""

from training import flags

READING = {"bptt": (128,), "objective": ("nsp", "sop")}  # how a model reads, unless a flag or its file says otherwise


def arguments() -> "Namespace":
    p = flags.parser(
        "ns", __doc__, READING,
        save="ns_bert.pt", epochs=4, batch_size=64, dropout=0.0, optimizer="muon",
    )  # fmt: skip
    p.flag("frac_ns", "share of the pairs in which the second part does not follow", type=float, default=0.5)
    p.flag("min_sentence_len", "tokens of a part at least, where the documents have them", type=int, default=1)
    p.flag("objective", "wrong second parts: from elsewhere (nsp), or the parts swapped (sop)",
           choices=READING["objective"])  # fmt: skip
    p.flag("predict", "no training: for each line of this file, two texts with a tab between, does the second follow?")
    p.flag("output", "where the probabilities of --predict go (default: follows.json)")
    return flags.with_default_model(flags.for_predict(p.parse_args(), "follows.json"), "ns_bert.pt", "mlm_bert.pt")


if __name__ == "__main__":  # what follows takes a second to import
    flags.answer_help(arguments)

import math
from argparse import Namespace

import numpy as np
import torch
import torch.nn.functional as F

import utils
from files.mistakes import UserError, run_main
from files.reading import read_lines
from files.writing import write_json
from model import NextSentenceTask
from text.batches import EVALUATION, pad_rows
from text.places import Places
from text.sentence_pairs import SentencePairs, cut_longest_first
from text.splits import of_split
from text.tokens import load_corpus
from training.beginning import in_its_place
from training.ranks import launch


def loss(model, batch):
    logits = model(**utils.inputs(batch))
    return F.cross_entropy(logits.float(), batch["labels"], reduction="sum")


def rows(model, batch, data, indices):
    """For each pair its loss and whether the answer is right."""
    logits = model(**utils.inputs(batch)).float()
    losses = F.cross_entropy(logits, batch["labels"], reduction="none")
    return list(zip(losses.tolist(), (logits.argmax(1) == batch["labels"]).tolist(), strict=True))


def figures(data, rows):
    right = sum(right for _, (_, right) in rows)
    return {"loss": math.fsum(loss for _, (loss, _) in rows) / len(rows), "accuracy": 100 * right / len(rows)}


def samples(compute, model, data, rows):
    """Some pairs that were told right, and some that were told wrong."""
    found = {True: [], False: []}
    for index, (loss, right) in rows:
        if len(found[right]) < utils.SAMPLES:
            first, second, follows = data.pair(index, EVALUATION)
            share = math.exp(-loss)  # the probability of what is true
            found[right].append({"kind": "ns", "first": data.tokenizer.decode(first.tolist()),
                                 "second": data.tokenizer.decode(second.tolist()), "follows": bool(follows),
                                 "probability": share if follows else 1 - share, "right": right})  # fmt: skip
    return found[False] + found[True]


def summary(part, figures):
    text = f"{part} loss {figures['loss']:8.5f}"
    if "accuracy" in figures:  # ppl: what torchtext's BERT example ends with
        text += f" | {part} ppl {math.exp(min(figures['loss'], 100)):8.5f} | {part} accuracy {figures['accuracy']:.2f}"
    return text.strip()


def read_pairs(path):
    """The pairs of texts in a file of two columns. Raises UserError for a line that has not two, or where there is none."""
    pairs = []
    for number, line in enumerate(read_lines(path), 1):
        parts = line.split("\t")
        if not line.strip():
            continue
        if len(parts) != 2 or not all(part.strip() for part in parts):
            raise UserError(f"{path}, line {number}: not two texts with one tab between them; write FIRST<tab>SECOND")
        pairs.append(parts)
    if not pairs:
        raise UserError(f"{path}: no text in it; write FIRST<tab>SECOND, a pair a line")
    return pairs


@torch.no_grad()
def predict(args, ranks, model, tokenizer):
    pairs, compute, found = read_pairs(args.predict), utils.Computer(args, ranks), []
    model.to(ranks.device).eval()
    for start in range(0, len(pairs), compute.batch_size):
        rows = [
            cut_longest_first(*(np.array(tokenizer.encode(text).ids) for text in pair), args.bptt - 3)
            for pair in pairs[start : start + compute.batch_size]
        ]
        batch = utils.to_device(pad_rows(rows, tokenizer), ranks.device)
        with compute.autocast():
            found += model(**utils.inputs(batch)).float().softmax(-1)[:, 1].tolist()
    if ranks.first:
        entries = [{"first": first, "second": second, "probability": probability}
                   for (first, second), probability in zip(pairs, found, strict=True)]  # fmt: skip
        write_json(args.output, entries)
        print(f"probabilities of {len(entries)} pairs written to {args.output}")


@in_its_place
def run(args, ranks):
    places = Places.of_text(args)
    model, tokenizer = flags.new_or_loaded(NextSentenceTask, args, places, READING)
    if args.predict:
        return predict(args, ranks, model, tokenizer)
    splits = ("test",) if args.evaluate else ("train", "valid", "test")
    examples = {}
    for split in splits:
        with of_split(split):
            corpus = load_corpus(args.dataset, split, tokenizer, places, args.text_format, args.sentences)
            examples[split] = SentencePairs(corpus, tokenizer, args.bptt, args.seed, args.frac_ns, args.objective,
                                            args.min_sentence_len)  # fmt: skip
    task = utils.Task("ns", model, tokenizer, examples, loss, rows, figures, summary, samples=samples,
                      notes=lambda figures: vars(flags.reading(args, model, READING)),
                      tested=("loss", "accuracy"))  # fmt: skip
    return utils.evaluate([task], args, ranks) if args.evaluate else utils.run(task, args, ranks)


if __name__ == "__main__":
    run_main(lambda: launch(run, arguments()))
