"""How a new network begins: heads that see a neighbour each, by position alone."""

import pytest
import torch

import initial
from model import BertConfig, BertModel


def first_attention(body, length=40):
    """Where the first layer's heads look, in 64 random texts: (H, S, S), a mean."""
    layer = body.layers[0]
    x = body.embedding(torch.randint(body.config.vocab_size, (64, length)))
    query, key, _ = layer.attention.in_proj(layer.norm1(x) if body.config.norm_first else x).chunk(3, -1)
    query, key = (y.unflatten(-1, (layer.attention.heads, -1)).transpose(1, 2) for y in (query, key))
    return (query @ key.transpose(-1, -2) * query.size(-1) ** -0.5).softmax(-1).mean(0)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("width, heads", [(32, 2), (128, 2), (224, 7), (256, 4), (768, 12)])
@torch.no_grad()
def test_each_head_begins_by_looking_at_its_neighbour(width, heads, norm_first):
    torch.manual_seed(0)
    body = BertModel(BertConfig(1000, width, 2, heads, norm_first=norm_first)).eval()
    seen = first_attention(body)
    for head, offset in zip(range(heads), initial.OFFSETS, strict=False):
        shares = {step: seen[head].diagonal(step)[10:-10].mean().item() for step in range(-6, 7)}
        assert max(shares, key=shares.get) == offset and shares[offset] > 0.4
    for head in range(len(initial.OFFSETS), heads):  # free
        assert seen[head].max() < 0.2


def test_its_values_and_output_begin_at_unit_gain():
    torch.manual_seed(0)
    attention = BertModel(BertConfig(100, 128, 1, 2)).layers[0].attention
    for weight in (attention.in_proj.weight[256:], attention.out_proj.weight):
        assert abs(weight.std() * 128**0.5 - 1) < 0.1


def test_a_wave_turned_is_that_of_another_position():
    table, angle = initial.waves(50, 16), initial.wave_angles(16) * 3
    sin, cos = table[:, 0::2], table[:, 1::2]
    torch.testing.assert_close((sin * angle.cos() + cos * angle.sin())[:-3], sin[3:])
    torch.testing.assert_close(table.pow(2).sum(1), torch.ones(50))


@pytest.mark.parametrize("sizes", [{"embedding_size": 16}, {"share_layers": True}, {"num_attention_heads": 16}])
def test_where_waves_do_not_reach_the_heads_they_begin_as_noise(sizes):
    body = BertModel(BertConfig(100, 32, 2, **{"num_attention_heads": 2, **sizes}))
    assert body.layers[0].attention.in_proj.weight.std() < 0.03


@torch.no_grad()
def test_the_words_of_a_new_network_are_still_told_apart():
    body = BertModel(BertConfig(1000, 64, 1, 2))
    words = body.embedding.embed.weight
    assert len(words.unique(dim=0)) == 1000 and 0 < (words == 0).all(0).sum() <= 16
