"""What others call our weights: one table of names for each network of transformers, for both directions.

    theirs = their_names(BODIES["bert"], "layers.0.linear1.weight")     # ["encoder.layer.0.intermediate.dense.weight"]
    ours = take(weights, BODIES["bert"], body_shapes(config, pooler=True), path)
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from files.mistakes import UserError

Table = Mapping[str, str | list[str]]  # a name of ours -> theirs, or the three that are stacked in ours
Weights = dict[str, torch.Tensor]

# Names: ours -> theirs, without ".weight" and ".bias", # for a layer's number; "" is the head itself
EMBEDDING = {
    "embedding.embed": "embeddings.word_embeddings",
    "embedding.position.embed": "embeddings.position_embeddings",
    "embedding.token_type.embed": "embeddings.token_type_embeddings",
    "embedding.norm": "embeddings.LayerNorm",
}
LAYER: Table = {
    "layers.#.attention.in_proj": [f"encoder.layer.#.attention.self.{part}" for part in ("query", "key", "value")],
    "layers.#.attention.out_proj": "encoder.layer.#.attention.output.dense",
    "layers.#.linear1": "encoder.layer.#.intermediate.dense",
    "layers.#.linear2": "encoder.layer.#.output.dense",
    "pooler": "pooler.dense",
}
HEADS = {
    "MLMTask": {
        "transform": "cls.predictions.transform.dense",
        "norm": "cls.predictions.transform.LayerNorm",
        "decoder": "cls.predictions.decoder",
        "": "cls.predictions",
    },
    "NextSentenceTask": {"classifier": "cls.seq_relationship"},
    "QuestionAnswerTask": {"classifier": "qa_outputs"},
    "RaceTask": {"classifier": "classifier"},
}
ALBERT_LAYER = "encoder.albert_layer_groups.#.albert_layers.0"
BODIES: dict[str, Table] = {  # by model_type
    "bert": {
        **EMBEDDING, **LAYER,
        "layers.#.norm1": "encoder.layer.#.attention.output.LayerNorm",
        "layers.#.norm2": "encoder.layer.#.output.LayerNorm",
    },
    "megatron-bert": {
        **EMBEDDING, **LAYER,
        "layers.#.norm1": "encoder.layer.#.attention.ln",
        "layers.#.norm2": "encoder.layer.#.ln",
        "norm": "encoder.ln",
    },
    "albert": {
        **EMBEDDING,
        "embedding.project": "encoder.embedding_hidden_mapping_in",
        "layers.#.attention.in_proj": [f"{ALBERT_LAYER}.attention.{part}" for part in ("query", "key", "value")],
        "layers.#.attention.out_proj": f"{ALBERT_LAYER}.attention.dense",
        "layers.#.norm1": f"{ALBERT_LAYER}.attention.LayerNorm",
        "layers.#.linear1": f"{ALBERT_LAYER}.ffn",
        "layers.#.linear2": f"{ALBERT_LAYER}.ffn_output",
        "layers.#.norm2": f"{ALBERT_LAYER}.full_layer_layer_norm",
        "pooler": "pooler",
    },
}  # fmt: skip
BODIES["electra"] = {  # the discriminator's, without a pooler
    **{ours: theirs for ours, theirs in BODIES["bert"].items() if ours != "pooler"},
    "embedding.project": "embeddings_project",
}
BODIES["roberta"] = BODIES["camembert"] = BODIES["xlm-roberta"] = BODIES["bert"]
DISTILBERT_LAYER = "transformer.layer.#"
BODIES["distilbert"] = {
    **EMBEDDING,
    "layers.#.attention.in_proj": [f"{DISTILBERT_LAYER}.attention.{part}_lin" for part in "qkv"],
    "layers.#.attention.out_proj": f"{DISTILBERT_LAYER}.attention.out_lin",
    "layers.#.norm1": f"{DISTILBERT_LAYER}.sa_layer_norm",
    "layers.#.linear1": f"{DISTILBERT_LAYER}.ffn.lin1",
    "layers.#.linear2": f"{DISTILBERT_LAYER}.ffn.lin2",
    "layers.#.norm2": f"{DISTILBERT_LAYER}.output_layer_norm",
}
# Those of "bert" but where said: these are read only, and leave as BERT (ELECTRA with a projection as ALBERT).
PREFIXES = {"albert": "albert.", "electra": "electra.", "distilbert": "distilbert.", "roberta": "roberta.",
            "camembert": "roberta.", "xlm-roberta": "roberta."}  # fmt: skip
ROBERTAS = ("roberta", "camembert", "xlm-roberta")
ALBERT_HEADS = {
    **HEADS,
    "MLMTask": {
        "transform": "predictions.dense", "norm": "predictions.LayerNorm", "decoder": "predictions.decoder",
        "": "predictions",
    },
    "NextSentenceTask": {"classifier": "sop_classifier.classifier"},
}  # fmt: skip
ROBERTA_HEADS = {
    "MLMTask": {"transform": "lm_head.dense", "norm": "lm_head.layer_norm", "decoder": "lm_head.decoder", "": "lm_head"},
    **{task: HEADS[task] for task in ("QuestionAnswerTask", "RaceTask")},
}
# Their heads for options have a layer of their own, which is none of ours; ELECTRA's for words are the generator's.
ELECTRA_HEADS = {"QuestionAnswerTask": HEADS["QuestionAnswerTask"]}
DISTILBERT_HEADS = {
    "MLMTask": {"transform": "vocab_transform", "norm": "vocab_layer_norm", "decoder": "vocab_projector",
                "": "vocab_projector"},
    **ELECTRA_HEADS,
}  # fmt: skip
CLASSES = {"bert": "Bert", "megatron-bert": "MegatronBert", "albert": "Albert"}
ARCHITECTURES = {"MLMTask": "ForMaskedLM", "NextSentenceTask": "ForNextSentencePrediction",
                 "QuestionAnswerTask": "ForQuestionAnswering", "RaceTask": "ForMultipleChoice"}  # fmt: skip


def heads_of(kind: str) -> dict[str, dict[str, str]]:
    """For a model_type of Hugging Face's, what its heads call their tensors: {task: {our name: theirs}}."""
    others = {"albert": ALBERT_HEADS, "electra": ELECTRA_HEADS, "distilbert": DISTILBERT_HEADS,
              **dict.fromkeys(ROBERTAS, ROBERTA_HEADS)}  # fmt: skip
    return others.get(kind, HEADS)


def their_names(table: Table, name: str) -> list[str]:
    """What others call our tensor ``name``: one name, or three that are stacked in ours (query, key, value)."""
    module, _, kind = name.rpartition(".")
    number = next((part for part in module.split(".") if part.isdigit()), "")
    theirs = table[".".join("#" if part.isdigit() else part for part in module.split("."))]
    return [f"{one.replace('#', number)}.{kind}" for one in ([theirs] if isinstance(theirs, str) else theirs)]


def take(weights: Weights, table: Table, wanted: dict[str, list[int]], path: str | Path) -> Weights:
    """Our tensors ``wanted`` (name -> shape), moved out of ``weights``. Raises UserError where one lacks or differs."""
    taken = {}
    for name, shape in wanted.items():
        theirs = their_names(table, name)
        part = [shape[0] // len(theirs), *shape[1:]]
        for one in theirs:
            if one not in weights:
                raise UserError(f"{path}: lacks weight {one}; fetch or convert it again")
            if list(weights[one].shape) != part:
                found = list(weights[one].shape)
                raise UserError(f"{path}: weight {one} is {found}, the model's sizes ask for {part}; fetch it again")
        parts = [weights.pop(one).float() for one in theirs]
        taken[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
    return taken


def swap_rows(head: Weights) -> Weights:
    """A classifier of two classes that counts them the other way round."""
    return {name: weight.flip(0) for name, weight in head.items()}
