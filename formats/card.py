"""A model's card, the README.md that the hub shows: what its file knows, what a run has scored, and how it is used.

    text = card(content, "someone/model", result)       # content as checkpoint.read_model gives it, result.json or {}
"""

from typing import Any

from formats.huggingface import kind_of
from formats.names import ARCHITECTURES
from text.tokenizer import Tokenizer

# Of each head: the hub's name for its use, what it does, and the command that tries it here.
USES = {
    "MLMTask": ("fill-mask", "finds masked words", 'mlm_task.py --fill "The [MASK] went home."'),
    "NextSentenceTask": (None, "tells whether one text follows another",
                         "ns_task.py --predict pairs.tsv"),
    "QuestionAnswerTask": ("question-answering", "finds the answer to a question in a text",
                           'qa_task.py --ask "Who came?" --context story.txt'),
    "RaceTask": ("multiple-choice", "chooses among the options of a question on a text",
                 'race_task.py --ask "Who slept?" --options Anna Ben --context story.txt'),
    None: ("feature-extraction", "gives a state for each token of a text", "checkpoint.py embed {} --predict lines.txt"),
}  # fmt: skip
NETWORKS = {"bert": "BERT", "albert": "ALBERT", "megatron-bert": "Megatron-BERT"}
SCORES = ("test_ppl", "test_accuracy", "exact", "f1", "accuracy", "middle_accuracy", "high_accuracy", "test_loss")


def card(content: dict[str, Any], name: str, result: dict[str, Any]) -> str:
    """The text of README.md. ``result`` is a run's result.json, of which data and scores are taken."""
    task, config, tokenizer = content["task"], content["config"], Tokenizer.from_state(content["tokenizer"])
    use, does, command = USES[task]
    weights = sum(weight.numel() for part in (content["body"], *content["heads"].values()) for weight in part.values())
    facts = {
        "network": f"{NETWORKS[kind_of(config)]}, {config.num_hidden_layers} layers of {config.hidden_size}, "
                   f"{config.num_attention_heads} heads, {weights:,} weights",
        "vocabulary": f"{tokenizer.about}, {len(tokenizer):,} tokens",
        **{f"noted in training: {what}": value for what, value in content["notes"].items()},
        **{what: result[what] for what in ("dataset", "steps", "tokens") if what in result},
        **{what.removeprefix("test_") + " on test": f"{result[what]:.3f}" for what in SCORES
           if isinstance(result.get(what), int | float)},
    }  # fmt: skip
    head = ["---", "library_name: transformers", *([f"pipeline_tag: {use}"] if use else []), "---"]
    rows = ["| what | |", "|---|---|", *(f"| {what} | {value} |" for what, value in facts.items())]
    ending = ARCHITECTURES.get(task, "")
    ours = f"python {command.format(name)}" + ("" if task is None else f" --bert-model {name}{flags(content['notes'])}")
    if task == "NextSentenceTask":
        ending = "ForPreTraining" if kind_of(config) == "albert" else "ForNextSentencePrediction"
    auto = f"AutoModel{ending}"
    theirs = ["from transformers import AutoTokenizer, " + auto, f'model = {auto}.from_pretrained("{name}")',
              f'tokenizer = AutoTokenizer.from_pretrained("{name}")']  # fmt: skip
    parts = [head, [f"# {name.rpartition('/')[2]}"], [f"A model that {does}."], rows, ["## Use"],
             ["With transformers:"], ["```python", *theirs, "```"],
             ["With the scripts that trained it:"], ["```", ours, "```"]]  # fmt: skip
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def flags(notes):
    """How the model reads, as the flags that say it: a Hugging Face folder has no place for most of that."""
    return "".join(f" --{name.replace('null_', 'null-')} {value}" for name, value in notes.items() if name != "longest")
