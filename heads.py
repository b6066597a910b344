"""What the heads of model.py are made of: the loss over a vocabulary, and what scores the options of a question.

    loss = VocabularyLoss.apply(x, weight, bias, labels, into_gradient)

is that of masked words. Options are scored (``--head``), beside BERT's own pooled first token ("cls", in model.py), by

    features = Duma(config)(states, parts, options)     # (R, S, D), (R, S) -> (R, Duma.width)

R rows, one for each option of N questions, of S tokens of width D = hidden_size. ``parts`` (R, S) says what a token is:
PASSAGE, QUESTION, OPTION, or something else ([CLS], [SEP], padding), which no head reads. ``options`` says which options
the questions have, `Options`. RaceTask turns the features into one score a row. Design choices:

- A part is a mask, not a slice: where an option fills a question's blank, the question stands on both sides of it.
- Every mean, maximum and softmax is over the tokens of a part alone. A part without tokens (a hidden article, a question
  that was cut) gives zeros instead of not-a-numbers.
- The tokens of a part are moved together first: the products between a passage and a question then cost what these
  take, not S times S.
- An option that is not there has no row, so that it costs nothing and can get nothing.
- Nothing here asks a GPU for a number, for which it would have to come to an end with all before: the batch tells.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

PASSAGE, QUESTION, OPTION, MARKER = 1, 2, 3, 4  # of the joint layout, the token that stands for an option
TAKEN = ((PASSAGE,), (QUESTION,), (OPTION,), (QUESTION, OPTION))  # what heads take together


class Options(NamedTuple):
    """The options of N questions: ``most`` each, R = N * most; or where they differ, ``mask`` (N, most) is True on those
    that there are, and ``places`` (R,) are their numbers among all N * most.

    ``longest`` tells of each of TAKEN the most tokens that a row has; None: to be found out.
    """

    most: int
    mask: torch.Tensor | None = None
    places: torch.Tensor | None = None
    longest: dict[tuple[int, ...], int] | None = None


# --------------------------------------------------------------------------------------------------------------------
# Masked words
# --------------------------------------------------------------------------------------------------------------------


def into_gradient(logits: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn logits (R, V) into the gradient by them of the cross-entropy of softmax(logits + bias), which is softmax minus
    one-hot; gives each row's loss (R,) and the gradient by the bias (V,)."""
    logs, right = logits.float().add_(bias).log_softmax(-1), labels[:, None]
    losses = -logs.gather(1, right)[:, 0]
    gradient = logs.exp_().scatter_add_(1, right, -torch.ones_like(right, dtype=logs.dtype))
    logits.copy_(gradient)
    return losses, gradient.sum(0)


def into_gradient_at_once(
    logits: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in operations of which torch.compile makes two passes over the logits."""
    scores = logits.float() + bias
    total = scores.logsumexp(-1)
    right = labels[:, None] == torch.arange(scores.size(1), device=labels.device)
    losses = total - torch.where(right, scores, 0.0).sum(-1)
    gradient = (scores - total[:, None]).exp() - right.float()
    logits.copy_(gradient)
    return losses, gradient.sum(0)


class VocabularyLoss(torch.autograd.Function):
    """Cross-entropy of softmax(x Wᵀ + b), summed over the M rows of x (M, D), for words W (V, D) and labels (M,).

    The logits are held once, in x's precision, and turned into their own gradient a few rows at a time in fp32 (by
    ``work``, `into_gradient` or the like). As separate operations, a vocabulary of 30,000 words makes several copies of
    them in fp32, which take longer to move than the matrix products to compute.
    """

    @staticmethod
    def sizes(device: torch.device) -> tuple[int, int]:
        """Rows at a time, and what the words are filled up to a multiple of.

        Of 30,000 fp32 logits, a core's cache holds 16 rows. A GPU wants work: a call for it costs as much time as 50
        rows; its matrix units take numbers by the 64, and are several times as slow beside such sizes.
        """
        return (16, 1) if device.type == "cpu" else (4096, 64)

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor, work: Callable
    ) -> torch.Tensor:
        (count, multiple), (v, _) = VocabularyLoss.sizes(x.device), weight.shape
        words = weight.to(x.dtype)
        if v % multiple:
            words = F.pad(words, (0, 0, 0, -v % multiple))
        logits = x @ words.t()  # (M, V), or wider: the rest is 0, and stays so
        losses, bias_gradient = torch.empty(len(labels), device=x.device), torch.zeros_like(bias, dtype=torch.float32)
        for first in range(0, len(labels), count):
            rows = slice(first, first + count)
            losses[rows], of_bias = work(logits[rows, :v], bias, labels[rows])
            bias_gradient += of_bias
        ctx.save_for_backward(logits, x, words, bias_gradient)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> tuple:
        gradient, x, words, bias_gradient = ctx.saved_tensors  # that of the unscaled logits
        scaled = (x.float() * scale).to(x.dtype)
        of_x, of_weight = ((gradient @ words).float() * scale).to(x.dtype), (gradient.t() @ scaled).float()
        return of_x, of_weight[: len(bias_gradient)], bias_gradient * scale, None, None


# --------------------------------------------------------------------------------------------------------------------
# Options
# --------------------------------------------------------------------------------------------------------------------


def rows_of(x: torch.Tensor, options: Options) -> torch.Tensor:
    """(N, options, ...) -> (R, ...): a row for each option that there is."""
    return x.flatten(0, 1) if options.places is None else x.flatten(0, 1).index_select(0, options.places)


def by_question(x: torch.Tensor, options: Options, nothing: float = 0.0) -> torch.Tensor:
    """(R, ...) -> (N, options, ...), with ``nothing`` where there is no option."""
    if options.mask is None or options.places is None:
        return x.unflatten(0, (-1, options.most))
    whole = x.new_full((options.mask.numel(), *x.shape[1:]), nothing)
    return whole.index_copy(0, options.places, x).unflatten(0, options.mask.shape)


def take(states, parts, wanted, options):
    """The tokens of the ``wanted`` parts, in their order: (R, S, D) -> (R, L, D) and what of it is real, (R, L).

    L is the number of tokens in the row that has most of them.
    """
    mask = parts == wanted[0]
    for part in wanted[1:]:
        mask = mask | (parts == part)
    length = max(1, int(mask.sum(1).max()) if options.longest is None else options.longest[wanted])
    order = mask.int().argsort(dim=1, descending=True, stable=True)[:, :length]
    return states.gather(1, order[..., None].expand(-1, -1, states.size(-1))), mask.gather(1, order)


def masked_softmax(scores, mask):
    """Over the last dimension, where ``mask`` (broadcast) holds; zeros where it holds nowhere."""
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1) * mask


def masked_mean(x, mask):
    """(R, L, D) -> (R, D), over the tokens where ``mask`` (R, L) holds; zeros where it holds nowhere."""
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


class CrossAttention(nn.Module):
    """MHA(query x, key and value y) of H heads (Vaswani et al. 2017, section 3.2.2): (R, L, D), (R, M, D) -> (R, L, D).

    No residual connection and no norm. The encoder's attention has one source and one fused product for all three
    projections; this has two sources, either of which may be empty.
    """

    def __init__(self, config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.query, self.value, self.output = (nn.Linear(config.hidden_size, config.hidden_size) for _ in range(3))
        self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=False)  # the softmax would cancel a bias

    def forward(self, x, y, mask):
        def split(z):
            return z.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (R, H, length, d)

        query, key, value = split(self.query(x)), split(self.key(y)), split(self.value(y))
        weights = masked_softmax(query @ key.transpose(-2, -1) * query.size(-1) ** -0.5, mask[:, None, None])
        return self.output((weights.to(value.dtype) @ value).transpose(1, 2).flatten(2))


class Duma(nn.Module):
    """Dual multi-head co-attention (Zhu et al. 2020, arXiv 2001.09415, section 3).

    With E_P (R, P, D) the passage's states and E_QA (R, A, D) those of question and option,

        O1 = MHA(query E_QA, key and value E_P),    O2 = MHA(query E_P, key and value E_QA),
        features = [mean of O1; mean of O2]                                                     (R, 2 D)

    by the same MHA in both directions. ``duma_layers`` above 1 stacks it: O1 takes the place of E_QA and O2 that of
    E_P; each layer has weights of its own.
    """

    def __init__(self, config):
        super().__init__()
        self.width = 2 * config.hidden_size
        self.layers = nn.ModuleList(CrossAttention(config) for _ in range(config.duma_layers))

    def forward(self, states, parts, options):
        passage, passage_mask = take(states, parts, (PASSAGE,), options)
        asked, asked_mask = take(states, parts, (QUESTION, OPTION), options)
        for attend in self.layers:
            asked, passage = attend(asked, passage, passage_mask), attend(passage, asked, asked_mask)
        return torch.cat([masked_mean(asked, asked_mask), masked_mean(passage, passage_mask)], -1)


def start_as_dot_product(linear):
    """x W yᵀ begins as x yᵀ / sqrt(D): equal words find each other, and the softmax is not saturated at any width."""
    nn.init.eye_(linear.weight)
    linear.weight.data *= linear.in_features**-0.5


class Match(nn.Module):
    """Two texts x (R, L, D) and y (R, M, D) matched in both directions -> (R, D); the inner part of Dcmn.

        E_x = softmax(x W yᵀ) y,    E_y = softmax(y W xᵀ) x
        m_x = max over tokens of ReLU(E_x W1),    m_y = max over tokens of ReLU(E_y W2)
        g = sigmoid(W3 m_x + W4 m_y + b),    g * m_x + (1 - g) * m_y
    """

    def __init__(self, width):
        super().__init__()
        self.compare, self.first, self.second, self.gate_first = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )  # W, W1, W2, W3
        self.gate_second = nn.Linear(width, width)  # W4, b

    def initialise(self):
        start_as_dot_product(self.compare)

    def side(self, x, x_mask, y, y_mask, linear):
        """m_x (R, D); what ReLU gives is at least 0, so a 0 on padding leaves the maximum as it is."""
        weights = masked_softmax(self.compare(x) @ y.transpose(1, 2), y_mask[:, None])  # (R, L, M)
        return torch.relu(linear(weights.to(y.dtype) @ y)).masked_fill(~x_mask[..., None], 0).amax(1)

    def forward(self, x, x_mask, y, y_mask):
        first, second = self.side(x, x_mask, y, y_mask, self.first), self.side(y, y_mask, x, x_mask, self.second)
        gate = torch.sigmoid(self.gate_first(first) + self.gate_second(second))
        return gate * first + (1 - gate) * second


class Comparison(nn.Module):
    """Each option's tokens o_i (L, D) with what the other options of its question have to do with them; Dcmn's second part.

        H_ij = ReLU(softmax(o_i W o_jᵀ) o_j),    H_i = (mean of H_ij over j other than i) W1
        g = sigmoid(o_i W2 + H_i W3 + b),    o_i becomes g * o_i + (1 - g) * H_i

    Dcmn's paper concatenates the H_ij before W1, by which the order of the options would count; hence the mean.
    """

    def __init__(self, width):
        super().__init__()
        self.compare, self.others, self.gate_own = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.gate_others = nn.Linear(width, width)

    def initialise(self):
        start_as_dot_product(self.compare)

    def forward(self, x, mask, options):
        own, real = by_question(x, options), by_question(mask, options)  # (N, options, L, D), (N, options, L)
        scores = torch.einsum("nild,njmd->nijlm", self.compare(own), own)
        weights = masked_softmax(scores, real[:, None, :, None]).to(own.dtype)
        related = torch.relu(torch.einsum("nijlm,njmd->nijld", weights, own))
        most = own.size(1)
        share = (1 - torch.eye(most, device=x.device, dtype=related.dtype)) / max(1, most - 1)
        if options.mask is not None:  # what is not there is 0 in ``related``, and does not count
            count = (options.mask.sum(1).to(related.dtype) - 1).clamp(min=1)
            related = related * (max(1, most - 1) / count)[:, None, None, None, None]
        others = self.others(torch.einsum("nijld,ij->nild", related, share))
        gate = torch.sigmoid(self.gate_own(own) + self.gate_others(others))
        return rows_of(gate * own + (1 - gate) * others, options)


class Dcmn(nn.Module):
    """Dual co-matching network (Zhang et al. 2019, arXiv 1908.11511): features (R, 3 D).

    The Matches of (passage, question), (passage, option) and (question, option), each with weights of its own,
    concatenated. With ``compare_options`` the options first take note of each other, by Comparison.
    """

    def __init__(self, config):
        super().__init__()
        self.width = 3 * config.hidden_size
        self.pairs = nn.ModuleList(Match(config.hidden_size) for _ in range(3))
        self.comparison = Comparison(config.hidden_size) if config.compare_options else None

    def forward(self, states, parts, options):
        passage, question, option = (take(states, parts, (part,), options) for part in (PASSAGE, QUESTION, OPTION))
        if self.comparison is not None:
            option = self.comparison(*option, options), option[1]
        pairs = (passage, question), (passage, option), (question, option)
        return torch.cat([match(*x, *y) for match, (x, y) in zip(self.pairs, pairs, strict=True)], -1)


class Mix(nn.Module):
    """The first token's states in the last k layers, mixed: sum over layers of softmax(w)_l h_l, (k, R, D) -> (R, D).

    The mix is that of ELMo (Peters et al. 2018, arXiv 1802.05365, section 3.2) without its factor; k is ``mix_layers``
    or, in a shallower body, all layers. RaceTask trains it with multi-sample dropout (Inoue 2019, arXiv 1905.09788): the
    mean loss of SAMPLES dropout masks over one forward pass of the body.
    """

    SAMPLES = 5

    def __init__(self, config):
        super().__init__()
        self.width = config.hidden_size
        self.weights = nn.Parameter(torch.zeros(min(config.mix_layers, config.num_hidden_layers)))

    def forward(self, firsts):
        return torch.einsum("k,krd->rd", self.weights.softmax(0), firsts)


HEADS = {"duma": Duma, "dcmn": Dcmn, "mix": Mix}


def joint_views(markers: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How the tokens of rows in the joint layout see each other, from where the options begin: ``markers`` (N, options).

    A row is article and question, then the options one after another. Gives ``position_ids`` (N, S), in which each
    option begins where the first one does; ``visible`` (N, S, S), True where a token may look at another: every one at
    article and question, an option's at those of the same option too; and ``own`` (N, options, S), True at what belongs
    to an option: article, question and itself. So options that change places only change the order of their scores. An
    option that is not there has its marker behind the row, at S.
    """
    place = torch.arange(length, device=markers.device)
    number = (place[:, None] >= markers[:, None]).sum(-1)  # (N, S): 0 article and question, then 1, 2, ... the options
    begins = torch.cat([markers[:, :1], markers], 1).gather(1, number)
    position_ids = place - begins + markers[:, :1]
    shared = (number == 0)[:, None]  # (N, 1, S)
    visible = shared | (number[:, None] == number[..., None])
    own = shared | (number[:, None] == torch.arange(1, markers.size(1) + 1, device=markers.device)[:, None])
    return position_ids, visible, own
