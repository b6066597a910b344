"""Random models of transformers and of ours, folders of theirs, and how the two are compared, for test_huggingface*.py.

Skips whatever imports it where transformers or safetensors is missing.
"""

import json

import pytest
import torch
import toys

from checkpoint import load_body
from model import BertConfig, MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask

transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)

HEADS = [MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask]
every_head = pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
CLASS = {MLMTask: "MaskedLM", NextSentenceTask: "NextSentencePrediction", QuestionAnswerTask: "QuestionAnswering",
         RaceTask: "MultipleChoice"}  # fmt: skip
FAMILY = {"bert": "Bert", "megatron-bert": "MegatronBert", "albert": "Albert", "electra": "Electra",
          "distilbert": "DistilBert", "roberta": "Roberta", "camembert": "Camembert",
          "xlm-roberta": "XLMRoberta"}  # fmt: skip
LETTERS = toys.letters()
V, OPTIONS, S = len(LETTERS), 4, 11
SIZES = dict(vocab_size=V, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
             max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # fmt: skip
TEXT = [f"the {name} has {number},{number} things, it said ''yes'' or no" for number in range(40)
        for name in ("cat", "dog", "river", "house", "garden")]  # fmt: skip


def theirs(kind, ending, seed=0, **changes):
    """A random model of transformers, with weights so large that a mistake cannot hide below a tolerance."""
    torch.manual_seed(seed)
    sizes = {**SIZES, **({"embedding_size": 20} if kind == "albert" else {}), **changes}
    config = getattr(transformers, f"{FAMILY[kind]}Config")(**sizes)
    made = getattr(transformers, f"{FAMILY[kind]}{ending}")(config).eval()
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, float("norm" in name.lower() and "weight" in name), 0.2)
    return made


def save(made, folder, vocabulary=LETTERS.tokens, **options):
    made.save_pretrained(folder, **options)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    return folder


def change_weights(folder, edit):
    weights = safetensors_torch.load_file(folder / "model.safetensors")
    edit(weights)
    safetensors_torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def change_json(folder, name="config.json", **changes):
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}))
    return folder


def ours(head, seed=0, **changes):
    """A random model of ours, with large weights."""
    torch.manual_seed(seed)
    made = head(BertConfig(**{**SIZES, **changes})).eval()
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, float("norm" in name and "weight" in name), 0.2)
    return made


def batch(head):
    """Rows that differ in length."""
    generator = torch.Generator().manual_seed(1)
    shape = (2, OPTIONS, S) if head is RaceTask else (3, S)
    ids = torch.randint(V, shape, generator=generator)
    types = torch.randint(2, shape, generator=generator)
    lengths = torch.randint(S // 2, S + 1, shape[:-1], generator=generator)
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": (torch.arange(S) < lengths[..., None]).long()}


def agree(our_model, their_model, head):
    """Both give the same logits on a padded batch, where there is a token; at most 1e-5 apart."""
    inputs = batch(head)
    with torch.no_grad():
        mine, other = our_model.eval()(**inputs), their_model(**inputs)
    real = inputs["attention_mask"].bool()
    if head is QuestionAnswerTask:
        pairs = [(mine[0][real], other.start_logits[real]), (mine[1][real], other.end_logits[real])]
    elif head is MLMTask:
        pairs = [(mine[real], other.logits[real])]
    elif head is NextSentenceTask:  # class 0 of theirs is that the second part follows
        logits = other.sop_logits if "sop_logits" in other else other.seq_relationship_logits if (
            "seq_relationship_logits" in other) else other.logits  # fmt: skip
        pairs = [(mine, logits.flip(1))]
    else:
        pairs = [(mine, other.logits)]
    for a, b in pairs:
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def refused(path, *words, load=load_body, head=QuestionAnswerTask, **options):
    toys.refused(lambda: load(head, path, **options), *words)
