"""How a new network begins: heads that see their neighbourhood, by position alone."""

import pytest
import torch

import initial
from model import BertConfig, BertModel


@torch.no_grad()
def where_heads_look(body, length=80):
    """For each layer and head {step: share of attention on the token so many steps on}, a mean over random texts."""
    x = body.embedding(torch.randint(body.config.vocab_size, (32, length)))
    seen = []
    for layer in body.layers:
        query, key, _ = layer.attention.in_proj(layer.norm1(x) if body.config.norm_first else x).chunk(3, -1)
        query, key = (y.unflatten(-1, (layer.attention.heads, -1)).transpose(1, 2) for y in (query, key))
        shares = (query @ key.transpose(-1, -2) * query.size(-1) ** -0.5).softmax(-1).mean(0)  # (H, S, S)
        seen.append([{step: head.diagonal(step)[20:-20].mean().item() for step in range(-19, 20)} for head in shares])
        x = layer(x, None)
    return seen


def new_body(width, heads, layers=4, **options):
    torch.manual_seed(0)
    return BertModel(BertConfig(1000, width, layers, heads, **options)).eval()


SIZES = pytest.mark.parametrize("width, heads", [(32, 2), (128, 2), (224, 7), (256, 4), (768, 12)])


@SIZES
@pytest.mark.parametrize("norm_first", [False, True])
def test_each_head_of_the_first_layer_begins_by_looking_at_its_neighbour(width, heads, norm_first):
    seen, *behind = where_heads_look(new_body(width, heads, norm_first=norm_first))
    offsets = initial.LAYERS[0][0]
    for shares, offset in zip(seen, offsets, strict=False):
        assert max(shares, key=shares.get) == offset and shares[offset] > 0.4
    assert all(max(shares.values()) < 0.2 for shares in seen[len(offsets) :])  # free
    if norm_first:
        assert all(max(shares.values()) < 0.05 for layer in behind for shares in layer)


@SIZES
def test_heads_of_the_second_and_third_layer_begin_by_looking_at_a_window(width, heads):
    _, *behind, fourth = where_heads_look(new_body(width, heads))
    for seen, (offsets, *_) in zip(behind, initial.LAYERS[1:], strict=True):
        for shares, offset in zip(seen, offsets, strict=False):
            assert abs(max(shares, key=shares.get) - offset) <= 1
            assert sum(shares.get(offset + step, 0) for step in (-2, -1, 0, 1, 2)) > 0.4
        assert all(max(shares.values()) < 0.05 for shares in seen[len(offsets) :])  # free
    assert all(max(shares.values()) < 0.05 for shares in fourth)


def test_values_and_output_begin_at_unit_gain_in_the_first_layer_and_at_half_of_it_behind():
    first, second, third = (layer.attention for layer in new_body(256, 4, 3).layers)
    for attention, size in ((first, 1), (second, 0.5), (third, 0.5)):
        assert abs(attention.in_proj.weight[512:].std() * 256**0.5 - 1) < 0.05
        rows = attention.out_proj.weight[attention.out_proj.weight.any(1)]  # the waves' are 0
        assert 220 <= len(rows) < 256 and abs(rows.std() * 256**0.5 / size - 1) < 0.05


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
    words = new_body(64, 2).embedding.embed.weight
    assert len(words.unique(dim=0)) == 1000 and (words == 0).all(0).sum() <= 22
