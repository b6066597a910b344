"""Pretrain a BERT by masked language modelling (Devlin et al. 2019, section 3.1).

    python mlm_task.py                                              # the embedded data set
    python mlm_task.py --dataset BookCorpus --minutes 60            # data/books/*.txt, or data/books.tar.gz
    python mlm_task.py --evaluate --bert-model mlm_bert.pt --dataset BookCorpus          # perplexity on the test split
    python mlm_task.py --fill "the capital of france is [MASK]"     # by mlm_bert.pt, or --bert-model FILE
    python mlm_task.py --predict lines.txt --output words.json      # the same for each line of a file

Writes the model to mlm_bert.pt and its vocabulary to bert_vocab.pt. The score is the perplexity per masked token, with
15 % of the tokens of the whole test split masked in a fixed way.

--predict writes a list with an entry for each line that is not empty: {"text": the line, "masks": for each [MASK] of it
the likeliest words, [{"word", "probability"}, ...], best first}.
"""

from training import flags

READING = {"bptt": (128,)}  # how a model reads, unless a flag or its file says otherwise


def arguments(words: list[str] | None = None) -> "Namespace":
    p = flags.parser(
        "mlm", __doc__, READING, short={"batch_size": 32},
        save="mlm_bert.pt", epochs=2, batch_size=16, dropout=0.0, optimizer="muon",
    )  # fmt: skip
    p.flag("mask_frac", "share of the tokens to mask in training; scores always mask 0.15", type=float, default=0.3)
    p.flag("mask-unit", "what is masked at once", choices=["token", "whole-word"], default="token")
    p.flag("fill", "no training: the likeliest words for each [MASK] of this text")
    p.flag("predict", "no training: the likeliest words for each [MASK] of each line of this file")
    p.flag("output", "where the words of --predict go (default: words.json)")
    p.flag("top-k", "how many words for each [MASK]", type=flags.positive(int), default=5)
    return flags.with_default_model(flags.for_predict(p.parse_args(words), "words.json"), "mlm_bert.pt")


if __name__ == "__main__":  # what follows takes a second to import
    flags.answer_help(arguments)

import math
import os
import string
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

import utils
from files.hub import is_of_others
from files.mistakes import UserError, run_main, warn
from files.reading import read_lines
from files.writing import check_writable, write_json
from formats.torchtext_files import is_vocab_of_theirs
from formats.vocabularies import read_at_once
from model import MLMTask
from text.batches import EVALUATION
from text.masked_blocks import MaskedBlocks
from text.places import Places
from text.tokenizer import Tokenizer
from text.tokens import load_corpus
from text.vocabularies import save_vocab
from training.beginning import in_its_place
from training.ranks import launch


def loss(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    """The cross-entropy of what stood at the masks, summed."""
    return model(**utils.inputs(batch), positions=batch["places"], labels=batch["labels"])


def rows(model, batch, data, indices):
    """For each block its summed loss and its number of masked tokens."""
    losses = model(**utils.inputs(batch), positions=batch["places"], labels=batch["labels"], each=True)
    losses = losses.double().cpu().numpy()
    counts = batch["positions"].sum(1).tolist()
    return [(math.fsum(part), count) for part, count in zip(np.split(losses, np.cumsum(counts)[:-1]), counts, strict=True)]


def figures(data, rows):
    masked = sum(count for _, (_, count) in rows)
    if not masked:
        raise UserError("no word that the vocabulary knows is in the blocks to score; take a --vocab or model of this "
                        "language, or more --valid-examples")  # fmt: skip
    mean = math.fsum(total for _, (total, _) in rows) / masked
    return {"loss": mean, "ppl": math.exp(min(mean, 100))}


def summary(part, figures):
    return f"{part} loss {figures['loss']:8.5f} | {part} ppl {math.exp(min(figures['loss'], 100)):8.5f}".strip()


# One of these stands before what follows a mask directly; the first with a token border behind it serves.
STAND_INS = ("the", *string.ascii_lowercase, *string.digits)


def ids_behind_a_mask(text: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a text as they are where a word stands directly before it: a full stop is no word of its own.

    Where the tokenizer allows no border there, as within a word of basic_english, those of the text alone.
    """
    if text[:1].isspace():
        return tokenizer.encode(text).ids
    for word in STAND_INS:
        encoding = tokenizer.encode(word + text)
        if not any(start < len(word) < end for start, end in encoding.offsets):
            return [i for i, (start, _) in zip(encoding.ids, encoding.offsets, strict=True) if start >= len(word)]
    return tokenizer.encode(text).ids


def layout(args: Namespace, model: MLMTask) -> tuple[int, bool]:
    """How a row was laid out in the model's training: how many tokens at most, and did a [SEP] end it?

    Ours and those of torchtext's example read blocks of running text, and their positions beyond --bptt are untrained.
    The BERTs of Hugging Face's folders and hub read texts that a [SEP] ends, and were trained on all positions that they
    have, unless their tokenizer's settings say less.
    """
    named, notes = args.checkpoint or args.bert_model, getattr(model, "notes", {})
    if is_of_others(named) or ("longest" in notes and "bptt" not in notes):  # the last: by save-as
        return args.bptt or read_at_once(notes, model.bert.config), True
    return flags.reading(args, model, READING).bptt, False


def masked_row(text: str, tokenizer: Tokenizer, longest: int, final_sep: bool, where: str) -> torch.Tensor:
    """Ids (1, S) of [CLS] and the text with the mask's id wherever it says ``[MASK]``, laid out as in training.

    Raises UserError, which names ``where``, for a text without a mask or of more than ``longest`` tokens.
    """
    first, *pieces = text.split("[MASK]")
    if not pieces:
        raise UserError(f"{where}: no [MASK] in it; write [MASK] where a word is to be found")
    row = [tokenizer.cls_id, *tokenizer.encode(first).ids]
    for piece in pieces:
        row += [tokenizer.mask_id, *ids_behind_a_mask(piece, tokenizer)]
    row += [tokenizer.sep_id] * final_sep
    if len(row) > longest:
        raise UserError(f"{where}: {len(row)} tokens, and the model reads at most {longest}; shorten the text")
    return torch.tensor([row])


@torch.no_grad()
def likeliest(
    model: MLMTask, tokenizer: Tokenizer, input_ids: torch.Tensor, compute: utils.Computer, count: int
) -> list[list[dict]]:
    """For each mask of a row its ``count`` likeliest words with their probabilities, best first."""
    input_ids = input_ids.to(compute.ranks.device)
    with compute.autocast():
        logits = model(input_ids, positions=input_ids == tokenizer.mask_id).float()  # (masks, V)
    return [[{"word": word, "probability": share} for word, share in best] for best in guesses(logits, tokenizer, count)]


def guesses(logits, tokenizer, count):
    """For each row of logits (n, V) the ``count`` likeliest words and their probabilities, best first."""
    logits = logits[:, : len(tokenizer)]  # the matrix may have more rows than there are words
    shares, words = logits.softmax(-1).topk(min(count, logits.size(1)))
    return [
        [(tokenizer.decode([word]), share) for word, share in zip(*pair, strict=True)]
        for pair in zip(words.tolist(), shares.tolist(), strict=True)
    ]


@torch.no_grad()
def samples(compute, model, data, _):
    """Some blocks as texts that stop before each chosen token, what stood there, and the model's first guesses."""
    tokenizer, found = data.tokenizer, []
    for index in range(min(len(data), utils.SAMPLES)):
        batch = utils.to_device(data.collate([index], EVALUATION), compute.ranks.device)
        with compute.autocast():
            logits = model.eval()(**utils.inputs(batch), positions=batch["positions"]).float()
        ids, places = batch["input_ids"][0].tolist(), batch["positions"][0].nonzero()[:, 0].tolist()
        texts = [tokenizer.decode(ids[first + 1 : last]) for first, last in pairwise([0, *places, len(ids)])]
        masks = [
            {"gold": tokenizer.decode([right]), "guesses": best}
            for right, best in zip(batch["labels"].tolist(), guesses(logits, tokenizer, 5), strict=True)
        ]
        found.append({"kind": "mlm", "texts": texts, "masks": masks})
    return found


def fill(args, ranks, model, tokenizer):
    """Print the words for --fill, or write those for the lines of --predict."""
    if args.fill:
        texts = {"--fill": args.fill}
    else:
        lines = read_lines(args.predict)
        texts = {f"{args.predict}, line {number}": line for number, line in enumerate(lines, 1) if line.strip()}
        if not texts:
            raise UserError(f"{args.predict}: no text in it; write lines with [MASK] where a word is to be found")
    (longest, final_sep), compute = layout(args, model), utils.Computer(args, ranks)
    model.to(ranks.device).eval()
    rows = [masked_row(text, tokenizer, longest, final_sep, where) for where, text in texts.items()]
    found = [likeliest(model, tokenizer, row, compute, args.top_k) for row in rows]
    if not ranks.first:
        return
    if args.predict:
        entries = [{"text": text, "masks": masks} for text, masks in zip(texts.values(), found, strict=True)]
        write_json(args.output, entries)
        print(f"words for {len(entries)} lines written to {args.output}")
        return
    for number, words in enumerate(found[0], 1):
        print(f"[MASK] {number}")
        for guess in words:
            print(f"  {guess['probability']:.3f}  {guess['word']}")


def is_examples(args: Namespace) -> bool:
    """Is --save-vocab the file of torchtext's BERT example, which is read with its models, and remains that example's?"""
    if not (Path(args.save_vocab).is_file() and is_vocab_of_theirs(args.save_vocab)):
        return False
    warn(f"{args.save_vocab} stays as it is, the vocabulary of models of torchtext's BERT example; the new model's file "
         "holds its own", word="note")  # fmt: skip
    return True


def is_given(args):
    """Is --save-vocab the file of --vocab, which has it already?"""
    return bool(args.vocab) and os.path.realpath(args.vocab) == os.path.realpath(args.save_vocab)


@in_its_place
def run(args, ranks):
    places = Places.of_text(args)
    if args.fill or args.predict:
        return fill(args, ranks, *flags.trained_models(MLMTask, args, READING)[0])
    keeps_vocabulary = ranks.first and not args.evaluate and not is_examples(args) and not is_given(args)
    if keeps_vocabulary:
        check_writable(args.save_vocab)
    model, tokenizer = flags.new_or_loaded(MLMTask, args, places, READING)
    splits = ("test",) if args.evaluate else ("train", "valid", "test")
    examples = {
        split: MaskedBlocks(
            load_corpus(args.dataset, split, tokenizer, places, args.text_format, args.sentences), tokenizer, args.bptt,
            args.seed, args.mask_frac, args.mask_unit,
        )
        for split in splits
    }  # fmt: skip

    def notes(figures):
        if keeps_vocabulary:  # together with the first model, for a run that never gets there has not replaced the old one
            save_vocab(tokenizer, args.save_vocab)
        return vars(flags.reading(args, model, READING))

    task = utils.Task("mlm", model, tokenizer, examples, loss, rows, figures, summary, samples=samples, notes=notes,
                      tested=("loss", "ppl"))  # fmt: skip
    if args.evaluate:
        return utils.evaluate([task], args, ranks)
    code = utils.run(task, args, ranks)
    if keeps_vocabulary and not Path(args.save_vocab).exists():  # under another name than before it went on
        save_vocab(tokenizer, args.save_vocab)
    return code


if __name__ == "__main__":
    run_main(lambda: launch(run, arguments()))
