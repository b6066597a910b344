"""Go on pretraining with next-sentence prediction (Devlin et al. 2019, section 3.1).

    python ns_task.py                                               # from mlm_bert.pt, on the embedded data set
    python ns_task.py --bert-model mlm_bert.pt --dataset BookCorpus --minutes 20
    python ns_task.py --objective sop                               # sentence order (Lan et al. 2020, section 3.1)

Writes the model to ns_bert.pt. The score is the accuracy of telling whether the second part follows the first.
"""

import math

import torch.nn.functional as F

import flags
import utils
from batches import SentencePairs
from data import Places, load_corpus, load_tokenizer
from files import run_main
from model import NextSentenceTask
from ranks import launch


def arguments():
    p = flags.parser(
        "ns", "Pretrain a BERT by next-sentence prediction.",
        save="ns_bert.pt", epochs=4, batch_size=64, bptt=128, dropout=0.0, optimizer="muon",
    )  # fmt: skip
    p.flag("frac_ns", "share of the pairs in which the second part follows", type=float, default=0.5)
    p.flag("min_sentence_len", "tokens of a part at least, where its document has them", type=int, default=1)
    p.flag("objective", "wrong second parts: of another document (nsp), or the parts swapped (sop)",
           choices=["nsp", "sop"], default="nsp")  # fmt: skip
    return flags.with_default_model(p.parse_args(), "mlm_bert.pt")


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
    return {"loss": math.fsum(loss for _, (loss, _) in rows) / len(rows), "test_accuracy": 100 * right / len(rows)}


def summary(part, figures):
    text = f"{part} loss {figures['loss']:8.5f}"
    if "test_accuracy" in figures:
        text += f" | {part} accuracy {figures['test_accuracy']:.2f}"
    return text.strip()


def run(args, ranks):
    places = Places(args.data_dir, args.cache_dir)
    model, tokenizer = flags.new_or_loaded(NextSentenceTask, args, lambda: load_tokenizer(args, args.dataset, places))
    splits = ("test",) if args.evaluate else ("train", "valid", "test")
    examples = {
        split: SentencePairs(
            load_corpus(args.dataset, split, tokenizer, places), tokenizer, args.bptt, args.seed, args.frac_ns,
            args.objective, args.min_sentence_len,
        )
        for split in splits
    }  # fmt: skip
    return utils.run(utils.Task("ns", model, tokenizer, examples, loss, rows, figures, summary), args, ranks)


if __name__ == "__main__":
    run_main(lambda: launch(run, arguments()))
