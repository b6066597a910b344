"""Pretrain a BERT by masked language modelling (Devlin et al. 2019, section 3.1).

    python mlm_task.py                                              # the embedded data set
    python mlm_task.py --dataset BookCorpus --minutes 60            # data/books/*.txt, or data/books.tar.gz
    python mlm_task.py --evaluate --bert-model mlm_bert.pt          # perplexity on the test split

Writes the model to mlm_bert.pt and its vocabulary to bert_vocab.pt. The score is the perplexity per masked token, with
15 % of the tokens of the whole test split masked in a fixed way.
"""

import math

import numpy as np
import torch.nn.functional as F

import flags
import utils
from batches import MaskedBlocks
from data import Places, load_corpus, load_tokenizer
from files import run_main
from model import MLMTask
from ranks import launch
from tokenizer import save_vocab


def arguments():
    p = flags.parser(
        "mlm", "Pretrain a BERT by masked language modelling.",
        save="mlm_bert.pt", epochs=2, batch_size=16, bptt=128, dropout=0.0, optimizer="muon",
    )  # fmt: skip
    p.flag("mask_frac", "share of the tokens to mask in training; scores always mask 0.15", type=float, default=0.3)
    p.flag("mask-unit", "what is masked at once", choices=["token", "whole-word"], default="token")
    return flags.with_default_model(p.parse_args())


def loss(model, batch):
    return model(**utils.inputs(batch), positions=batch["positions"], labels=batch["labels"])


def rows(model, batch, data, indices):
    """For each block its summed loss and its number of masked tokens."""
    logits = model(**utils.inputs(batch), positions=batch["positions"])
    losses = F.cross_entropy(logits.float(), batch["labels"], reduction="none").double().cpu().numpy()
    counts = batch["positions"].sum(1).tolist()
    return [(math.fsum(part), count) for part, count in zip(np.split(losses, np.cumsum(counts)[:-1]), counts, strict=True)]


def figures(data, rows):
    mean = math.fsum(total for _, (total, _) in rows) / sum(count for _, (_, count) in rows)
    return {"loss": mean, "test_ppl": math.exp(min(mean, 100))}


def summary(part, figures):
    return f"{part} loss {figures['loss']:8.5f} | {part} ppl {math.exp(min(figures['loss'], 100)):8.5f}".strip()


def run(args, ranks):
    places = Places(args.data_dir, args.cache_dir)
    model, tokenizer = flags.new_or_loaded(MLMTask, args, lambda: load_tokenizer(args, args.dataset, places))
    splits = ("test",) if args.evaluate else ("train", "valid", "test")
    examples = {
        split: MaskedBlocks(
            load_corpus(args.dataset, split, tokenizer, places), tokenizer, args.bptt, args.seed, args.mask_frac,
            args.mask_unit,
        )
        for split in splits
    }  # fmt: skip
    if ranks.first and not args.evaluate:
        save_vocab(tokenizer, args.save_vocab)
    return utils.run(utils.Task("mlm", model, tokenizer, examples, loss, rows, figures, summary), args, ranks)


if __name__ == "__main__":
    run_main(lambda: launch(run, arguments()))
