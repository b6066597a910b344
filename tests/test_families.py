"""BERT's relatives, ELECTRA, DistilBERT, RoBERTa, CamemBERT and XLM-R: the same numbers as in transformers."""

import json

import pytest
import torch
from their_models import CLASS, batch, change_json, change_weights, refused, save, theirs

from checkpoint import load_body, load_model, read_model
from formats.huggingface import write_folder
from model import BertModel, MLMTask, QuestionAnswerTask, RaceTask

# name -> sizes, and which heads of theirs are heads of ours
KINDS = {
    "electra": ({"embedding_size": 20}, [QuestionAnswerTask]),
    "electra wide": ({"embedding_size": 32}, [QuestionAnswerTask]),
    "distilbert": ({"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "dropout": 0.0, "attention_dropout": 0.0},
                   [MLMTask, QuestionAnswerTask]),
    **{kind: ({"max_position_embeddings": 42, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5},
              [MLMTask, QuestionAnswerTask, RaceTask]) for kind in ("roberta", "camembert", "xlm-roberta")},
}  # fmt: skip
CASES = [(kind, head) for kind, (_, heads) in KINDS.items() for head in [*heads, BertModel]]


def compared(mine, other, real):
    """(ours, theirs) of a pair of outputs, where there is a token."""
    if "start_logits" in other:
        return torch.stack(mine)[:, real], torch.stack([other.start_logits, other.end_logits])[:, real]
    if "last_hidden_state" in other:
        return mine[real], other.last_hidden_state[real]
    return (mine, other.logits) if mine.dim() == 2 else (mine[real], other.logits[real])


@pytest.mark.parametrize(("kind", "head"), CASES, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_each_head_gives_the_numbers_of_transformers(kind, head, tmp_path, record_property):
    sizes, _ = KINDS[kind]
    made = theirs(kind.split()[0], "Model" if head is BertModel else f"For{CLASS[head]}", **sizes)
    if "roberta" in kind or kind == "camembert":  # their positions depend on which tokens are padding
        made.config.pad_token_id = 1
    model, _ = load_model(head, save(made, tmp_path))
    inputs = batch(head if head is RaceTask else MLMTask)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    ids[ids == 1] = 7
    ids[mask == 0] = 1
    with torch.no_grad():
        types = {"token_type_ids": inputs["token_type_ids"]} if kind.startswith("electra") else {}
        mine = model.eval()(ids, types.get("token_type_ids"), mask)
        other = made(input_ids=ids, attention_mask=mask, **types)
    mine, other = compared(mine, other, mask.bool())
    record_property("difference", (mine - other).abs().max().item())
    print(f"{kind:12} {head.__name__:20} {(mine - other).abs().max().item():.1e}")
    torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)


def test_what_they_lack_is_told_and_either_part_of_a_pair_reads_alike(tmp_path, capsys):
    second = "a second token type (like the first)"
    for kind, told in (("distilbert", "the token types (zeros)"), ("roberta", second), ("bert", second)):
        made = theirs(kind, "Model", **(KINDS[kind][0] if kind in KINDS else {"type_vocab_size": 1}))
        model, _ = load_body(QuestionAnswerTask, save(made, tmp_path / kind))
        assert told in capsys.readouterr().out
        ids = torch.arange(5, 12)[None]
        with torch.no_grad():
            one, other = (model.eval()(ids, torch.full_like(ids, part))[0] for part in (0, 1))
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("kind", "ending", "dropped"), [
    ("electra", "ForPreTraining", "discriminator_predictions"), ("electra", "ForMultipleChoice", "sequence_summary"),
    ("distilbert", "ForMultipleChoice", "pre_classifier"), ("roberta", "ForSequenceClassification", "classifier.dense"),
])  # fmt: skip
def test_heads_that_are_none_of_ours_are_dropped_and_named(kind, ending, dropped, tmp_path, capsys):
    load_body(RaceTask, save(theirs(kind, ending, **KINDS[kind][0]), tmp_path))
    assert f"{dropped}" in capsys.readouterr().out.partition("not used:")[2]


@pytest.mark.parametrize(("kind", "leaves"), [("electra", "albert"), ("electra wide", "bert"), ("distilbert", "bert"),
                                              ("roberta", "bert")])  # fmt: skip
def test_they_leave_as_bert_or_albert_with_the_same_numbers(kind, leaves, tmp_path):
    made = theirs(kind.split()[0], "ForQuestionAnswering", **KINDS[kind][0])
    content = read_model(save(made, tmp_path / "theirs"))
    write_folder(content, tmp_path / "ours")
    again = read_model(tmp_path / "ours")
    assert again["config"].share_layers is False
    assert f'"model_type": "{leaves}"' in (tmp_path / "ours" / "config.json").read_text()
    task = "QuestionAnswerTask"
    for one, other in ((content["body"], again["body"]), (content["heads"][task], again["heads"][task])):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert content["heads"].keys() == again["heads"].keys()


def test_a_config_without_its_sizes_is_one_line(tmp_path):
    save(theirs("distilbert", "Model", **KINDS["distilbert"][0]), tmp_path)
    change_json(tmp_path, dim="wide")
    refused(tmp_path, "config.json: hidden_size is 'wide'")
    made = theirs("roberta", "Model", **KINDS["roberta"][0])
    change_json(save(made, tmp_path / "r"), max_position_embeddings=1)
    refused(tmp_path / "r", "config.json: max_position_embeddings is -1")


def test_positions_that_are_not_the_configs_are_refused_not_shifted(tmp_path):
    folder = save(theirs("roberta", "Model", **KINDS["roberta"][0]), tmp_path)
    rows = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    refused(change_json(folder, max_position_embeddings=rows - 2), "embeddings.position_embeddings.weight is [")


def test_a_pooler_where_the_network_has_none_is_left_over(tmp_path):
    folder = save(theirs("distilbert", "Model", **KINDS["distilbert"][0]), tmp_path)
    change_weights(folder, lambda weights: weights.update({"pooler.dense.weight": torch.zeros(2, 2)}))
    refused(folder, "left-over weight pooler.dense.weight")


def test_embeddings_of_a_wrong_shape_are_one_line(tmp_path):
    for name in ("position", "token_type"):
        folder = save(theirs("roberta", "Model", **KINDS["roberta"][0]), tmp_path / name)
        change_weights(folder, lambda weights, name=name: weights.update({
            f"embeddings.{name}_embeddings.weight": torch.tensor(1.0)}))  # fmt: skip
        refused(folder, f"weight embeddings.{name}_embeddings.weight is []")
