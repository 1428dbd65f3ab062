"""The recurrent models of DARTS in PyTorch: the supernet of a search and the model of a genotype.

Written as one would write them in PyTorch for speed on a CPU: the input's half of the first product is one product for
all time steps, and in the search a node's sources go through its matrix together. Names are those of the golden files.
Dropout masks are arguments, so that what a pass computes is a function of what it is given.
"""

from dataclasses import dataclass
from typing import NamedTuple, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRIMITIVES = ("none", "tanh", "relu", "sigmoid", "identity")
ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda x: x}
NODES = 8


class Genotype(NamedTuple):
    """(activation, predecessor) of each node, and the nodes whose mean is the output."""

    recurrent: Sequence[tuple[str, int]]
    concat: Sequence[int]


DARTS_V2 = Genotype(
    recurrent=(
        ("sigmoid", 0),
        ("relu", 1),
        ("relu", 1),
        ("identity", 1),
        ("tanh", 2),
        ("sigmoid", 5),
        ("tanh", 3),
        ("relu", 5),
    ),
    concat=range(1, 9),
)


@dataclass
class Rates:
    """Dropout rates: output, hidden state, x, embedding, embedding rows."""

    output: float = 0.75
    hidden: float = 0.25
    x: float = 0.75
    embedding: float = 0.2
    rows: float = 0.0


@dataclass
class Masks:
    """Dropout masks of a sequence, divided by their keep probability; ``None`` drops nothing.

    ``x``, ``h`` [B, H], the same at every time step; ``embedding``, ``output`` [1, B, H]; ``rows`` [V, 1], for the lookup.
    """

    x: Tensor | None = None
    h: Tensor | None = None
    embedding: Tensor | None = None
    output: Tensor | None = None
    rows: Tensor | None = None

    @classmethod
    def draw(
        cls, rates: Rates, batch: int, hidden: int, vocabulary: int, device: torch.device | None = None
    ) -> "Masks":
        """Fresh masks."""

        def mask(rate: float, *shape: int) -> Tensor | None:
            return torch.bernoulli(torch.full(shape, 1.0 - rate, device=device)) / (1.0 - rate) if rate > 0.0 else None

        return cls(
            x=mask(rates.x, batch, hidden),
            h=mask(rates.hidden, batch, hidden),
            embedding=mask(rates.embedding, 1, batch, hidden),
            output=mask(rates.output, 1, batch, hidden),
            rows=mask(rates.rows, vocabulary, 1),
        )


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x, with what the mask drops dropped."""
    return x if mask is None else x * mask


class RecurrentCell(nn.Module):
    """One time step. Without a genotype it is the search's cell, whose ``mixture`` [36, 5] is an argument."""

    def __init__(self, hidden: int, genotype: Genotype | None):
        super().__init__()
        nodes = NODES if genotype is None else len(genotype.recurrent)
        self.genotype = genotype
        self._W0 = nn.Parameter(torch.empty(2 * hidden, 2 * hidden))
        self._Ws = nn.ParameterList(nn.Parameter(torch.empty(hidden, 2 * hidden)) for _ in range(nodes))
        if genotype is None:
            self.bn = nn.BatchNorm1d(hidden, affine=False)

    def project(self, x: Tensor) -> Tensor:
        """The input's part of [c₀, h₀], for any number of time steps."""
        return x @ self._W0[: x.shape[-1]]

    def forward(self, projected: Tensor, h: Tensor, mask: Tensor | None, mixture: Tensor | None) -> Tensor:
        """The next hidden state [B, H]."""
        gate, candidate = (projected + masked(h, mask) @ self._W0[h.shape[-1] :]).chunk(2, dim=-1)
        s0 = h + torch.sigmoid(gate) * (torch.tanh(candidate) - h)
        return self.discrete(s0, mask) if mixture is None else self.mixed(s0, mask, mixture)

    def discrete(self, s0: Tensor, mask: Tensor | None) -> Tensor:
        """Every node from its one predecessor."""
        states = [s0]
        for (name, source), weight in zip(self.genotype.recurrent, self._Ws):
            s = states[source]
            gate, candidate = (masked(s, mask) @ weight).chunk(2, dim=-1)
            states.append(s + torch.sigmoid(gate) * (ACTIVATIONS[name](candidate) - s))
        return torch.stack([states[i] for i in self.genotype.concat]).mean(dim=0)

    def mixed(self, s0: Tensor, mask: Tensor | None, mixture: Tensor) -> Tensor:
        """Every node from all states before it.

        Σ_k p_k·(s + c·(f_k(h) − s)) = P·s + c·(Σ_k p_k·f_k(h) − P·s) with P = Σ_k p_k over all but ``none``.
        """
        states = [self.bn(s0)]
        first_row = 0
        for weight in self._Ws:
            s = torch.stack(states)
            gate, candidate = (masked(s, mask) @ weight).chunk(2, dim=-1)
            p = mixture[first_row : first_row + len(states), :, None, None].unbind(1)
            first_row += len(states)
            total = sum(p[1:]) * s
            activated = sum(p[k] * ACTIVATIONS[name](candidate) for k, name in enumerate(PRIMITIVES) if name != "none")
            states.append(self.bn((total + torch.sigmoid(gate) * (activated - total)).sum(dim=0)))
        return torch.stack(states[1:]).mean(dim=0)


class Output(NamedTuple):
    """``logits`` [T, B, V]; ``raw`` and ``dropped`` [T, B, H], the cell's outputs before and after their dropout."""

    logits: Tensor
    raw: Tensor
    dropped: Tensor

    @property
    def hidden(self) -> Tensor:
        """The state to carry on [1, B, H]."""
        return self.raw[-1:]

    def nll(self, target: Tensor) -> Tensor:
        """Mean cross-entropy over ``target`` [T·B]."""
        return F.cross_entropy(self.logits.flatten(0, 1), target)

    def regularizer(self, activation: float, temporal: float) -> Tensor:
        """activation·mean(o²) + temporal·mean((h_t − h_{t−1})²)."""
        penalty = temporal * (self.raw[1:] - self.raw[:-1]).pow(2).mean()
        return penalty + activation * self.dropped.pow(2).mean() if activation else penalty


class RecurrentModel(nn.Module):
    """Embedding, one recurrent layer, decoder tied to the embedding. ``alphas`` [36, 5] where it is a supernet."""

    def __init__(self, vocabulary: int, hidden: int, genotype: Genotype | None = None):
        super().__init__()
        self.encoder = nn.Embedding(vocabulary, hidden)
        self.rnns = nn.ModuleList([RecurrentCell(hidden, genotype)])
        self.decoder = nn.Linear(hidden, vocabulary)
        self.decoder.weight = self.encoder.weight
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.04, 0.04)
        nn.init.zeros_(self.decoder.bias)
        if genotype is None:
            self.alphas = nn.Parameter(1e-3 * torch.randn(NODES * (NODES + 1) // 2, len(PRIMITIVES)))

    def forward(self, tokens: Tensor, hidden: Tensor, masks: Masks = Masks()) -> Output:
        """From ``tokens`` [T, B] and the incoming state [1, B, H]."""
        cell = self.rnns[0]
        mixture = F.softmax(self.alphas, dim=-1) if hasattr(self, "alphas") else None
        x = F.embedding(tokens, masked(self.encoder.weight, masks.rows))
        projected = cell.project(masked(masked(x, masks.embedding), masks.x))
        h, states = hidden[0], []
        for step in projected.unbind():
            h = cell(step, h, masks.h, mixture)
            states.append(h)
        raw = torch.stack(states)
        dropped = masked(raw, masks.output)
        return Output(self.decoder(dropped), raw, dropped)
