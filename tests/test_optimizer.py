"""What optimizer.py promises: Muon's steps have one size in every direction, the rest is torch's AdamW, states resume."""

import copy

import pytest
import torch

from model import BertConfig, MLMTask, RaceTask
from training.optimizer import MuonAdamW, make_optimizer, orthogonalise

torch.set_num_threads(1)  # products as small as these are slower with more
both_kinds = pytest.mark.parametrize("kind", ["adamw", "muon"])


def small():
    torch.manual_seed(0)
    return MLMTask(BertConfig(40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=16,
                              hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))  # fmt: skip


def train(model, optimizer, steps, scale=1.0, rate=0.01):
    """Some steps on fixed random batches."""
    for step in steps:
        ids = torch.randint(40, (4, 8), generator=torch.Generator().manual_seed(step))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        loss = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        (scale * loss).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def same(one, other):
    return all(torch.equal(one.state_dict()[name], other.state_dict()[name]) for name in one.state_dict())


def names_of(model, group):
    return {name for name, p in model.named_parameters() if any(p is q for q in group["params"])}


# Muon


@pytest.mark.parametrize("shape", [(24, 24), (60, 20), (20, 60), (3, 24, 24)], ids=str)
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = left * torch.logspace(0, 2, min(shape[-2:])) @ right  # singular values from 1 to 100
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert values.min() > 0.5 and values.max() < 1.5


def test_orthogonalising_keeps_the_directions():
    left, values, right = torch.linalg.svd(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))
    got = orthogonalise(left @ torch.diag(values + 1) @ right)
    rotated = left.T @ got @ right.T  # diagonal where the singular vectors are the same
    assert (rotated - torch.diag(rotated.diag())).abs().max() < 1e-3


def test_a_muon_step_does_not_depend_on_the_size_of_the_gradient():
    one, other = small(), small()
    train(one, make_optimizer(one, "muon", 0.0), range(1), scale=1.0)
    train(other, make_optimizer(other, "muon", 0.0), range(1), scale=100.0)
    for layer, twin in zip(one.bert.layers, other.bert.layers, strict=True):
        torch.testing.assert_close(layer.linear1.weight, twin.linear1.weight, atol=1e-3, rtol=0)


def test_query_key_and_value_are_three_matrices_to_muon():
    torch.manual_seed(0)
    weight, gradient = torch.randn(48, 16), torch.randn(48, 16)
    together = torch.nn.Parameter(weight.clone())
    together.joined = True
    apart = [torch.nn.Parameter(part.clone()) for part in weight.split(16)]
    for parameters, gradients in (([together], [gradient]), (apart, gradient.split(16))):
        optimizer = MuonAdamW([{"params": parameters, "muon": True}], lr=0.1)
        for parameter, part in zip(parameters, gradients, strict=True):
            parameter.grad = part.clone()
        optimizer.step()
    torch.testing.assert_close(together.data, torch.cat([part.data for part in apart]))


def test_muon_is_for_the_matrices_of_the_layers_only():
    model = small()
    muon, *others = make_optimizer(model, "muon", 0.01).param_groups
    assert muon["muon"] and not any(group["muon"] for group in others)
    parts = ("attention.in_proj", "attention.out_proj", "linear1", "linear2")
    assert names_of(model, muon) == {f"bert.layers.{layer}.{part}.weight" for layer in range(2) for part in parts}
    assert not any(group["muon"] for group in make_optimizer(model, "adamw", 0.01).param_groups)
    choosing = RaceTask(BertConfig(40, 16, 2, 2, head="duma"))  # whose head has layers as well
    muon = make_optimizer(choosing, "muon", 0.01).param_groups[0]
    assert muon["params"] and all(name.startswith("bert.") for name in names_of(choosing, muon))


@pytest.mark.parametrize("queued", [False, True], ids=["cpu", "the way of a GPU"])
def test_a_feed_forward_layer_three_times_as_wide_is_one_matrix(queued):
    model = MLMTask(BertConfig(40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48))
    layer, before = model.bert.layers[0], model.bert.layers[0].linear1.weight.clone()
    optimizer = make_optimizer(model, "muon", 0.0)
    for matrix in (layer.attention.in_proj.weight, layer.linear1.weight):  # of one shape
        matrix.grad = torch.randn_like(matrix)
    optimizer.param_groups[0]["lr"] = 0.1
    step = optimizer.muon_together if queued else optimizer.muon_step
    with torch.no_grad():
        step([layer.attention.in_proj.weight, layer.linear1.weight], optimizer.param_groups[0])
    moved = (layer.linear1.weight - before) / -0.1 / 3**0.5
    values = torch.linalg.svdvals(moved)
    assert values.min() > 0.5 and values.max() < 1.5


# Both


@both_kinds
def test_every_parameter_is_in_one_group_and_only_matrices_decay(kind):
    model = small()
    groups = make_optimizer(model, kind, 0.01).param_groups
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(map(id, model.parameters()))
    for group in groups:
        assert {p.dim() == 2 for p in group["params"]} == {group["weight_decay"] > 0}


@both_kinds
def test_weights_decay_without_a_gradient_to_speak_of(kind):
    model = small()
    optimizer = make_optimizer(model, kind, 0.5)
    before = copy.deepcopy(model.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        kept = 1 - 0.1 * 0.5 if parameter.dim() == 2 else 1.0
        torch.testing.assert_close(parameter.data, kept * before[name])


def test_adamw_is_torchs():
    ours, theirs = small(), small()
    optimizer = make_optimizer(ours, "adamw", 0.1)
    optimizer.PIECE = 100  # several to a matrix, the last one short
    matrices, vectors = ([p for p in theirs.parameters() if (p.dim() == 2) is wanted] for wanted in (True, False))
    settings = {name: optimizer.defaults[name] for name in ("lr", "betas", "eps")}
    reference = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1, "scale": 1.0},
                                   {"params": vectors, "weight_decay": 0.0, "scale": 1.0}], **settings)  # fmt: skip
    train(ours, optimizer, range(4))
    train(theirs, reference, range(4))
    assert same(ours, theirs)


@both_kinds
def test_training_lowers_the_loss(kind):
    model = small()
    optimizer = make_optimizer(model, kind, 0.01)
    first = train(model, optimizer, [0])
    assert train(model, optimizer, [0] * 20) < 0.5 * first


@both_kinds
def test_a_saved_state_goes_on_bit_for_bit(kind, tmp_path):
    straight = small()
    train(straight, make_optimizer(straight, kind, 0.01), range(6))
    model = small()
    optimizer = make_optimizer(model, kind, 0.01)
    train(model, optimizer, range(3))
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = small()
    optimizer = make_optimizer(resumed, kind, 0.01)
    resumed.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    train(resumed, optimizer, range(3, 6))
    assert same(straight, resumed) and not same(straight, model)
