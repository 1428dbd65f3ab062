"""Convolutional networks of DARTS in PyTorch: the supernet of a search and the network of a genotype (CIFAR-10).

Written as one would write them in PyTorch, to be measured against and to be checked by ``check_golden.py``; nothing of
the Rust crates is called. Modules are named so that ``state_dict`` has the names of the golden files. There is no
search here and no data: see ``bilevel.py`` and ``loaders.py``.
"""

from typing import NamedTuple, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)

STEM_MULTIPLIER = 3


class Genotype(NamedTuple):
    """A normal and a reduction cell: two (operation, source) pairs per node, and the nodes that are concatenated."""

    normal: Sequence[tuple[str, int]]
    normal_concat: Sequence[int]
    reduce: Sequence[tuple[str, int]]
    reduce_concat: Sequence[int]


DARTS_V2 = Genotype(
    normal=(
        ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1),
        ("skip_connect", 0),
        ("skip_connect", 0),
        ("dil_conv_3x3", 2),
    ),
    normal_concat=range(2, 6),
    reduce=(
        ("max_pool_3x3", 0),
        ("max_pool_3x3", 1),
        ("skip_connect", 2),
        ("max_pool_3x3", 1),
        ("max_pool_3x3", 0),
        ("skip_connect", 2),
        ("skip_connect", 2),
        ("max_pool_3x3", 1),
    ),
    reduce_concat=range(2, 6),
)


class Block(nn.Module):
    """Layers in a row, under the name ``op``."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int = 0, **options) -> nn.Conv2d:
    """A convolution without bias, as all of them are."""
    return nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False, **options)


def relu_conv_bn(c_in: int, c_out: int, affine: bool) -> Block:
    """Preprocessing of a cell's input: ReLU, 1×1 convolution, BN."""
    return Block(nn.ReLU(), conv(c_in, c_out, 1), nn.BatchNorm2d(c_out, affine=affine))


def separable(c: int, kernel: int, stride: int, affine: bool) -> Block:
    """(ReLU, depthwise, pointwise, BN) twice; the first depthwise has the stride.

    The second ReLU works in place: what BN gave is read by nobody else.
    """
    layers: list[nn.Module] = []
    for s in (stride, 1):
        layers += [
            nn.ReLU(inplace=bool(layers)),
            conv(c, c, kernel, s, kernel // 2, groups=c),
            conv(c, c, 1),
            nn.BatchNorm2d(c, affine=affine),
        ]
    return Block(*layers)


def dilated(c: int, kernel: int, stride: int, affine: bool) -> Block:
    """ReLU, depthwise with dilation 2, pointwise, BN."""
    depthwise = conv(c, c, kernel, stride, kernel - 1, dilation=2, groups=c)
    return Block(nn.ReLU(), depthwise, conv(c, c, 1), nn.BatchNorm2d(c, affine=affine))


class FactorizedReduce(nn.Module):
    """ReLU, two 1×1 convolutions of stride 2, the second on the input without its first row and column, BN."""

    def __init__(self, c_in: int, c_out: int, affine: bool):
        super().__init__()
        self.conv_1 = conv(c_in, c_out // 2, 1, 2)
        self.conv_2 = conv(c_in, c_out // 2, 1, 2)
        self.bn = nn.BatchNorm2d(c_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], dim=1))


def operation(name: str, c: int, stride: int, search: bool) -> nn.Module:
    """The operation of a primitive; in a search BN has no affine parameters, and a pool is followed by one."""
    affine = not search
    kind, kernel = name.rsplit("_", 1) if name[-1].isdigit() else (name, "")
    match kind:
        case "max_pool" | "avg_pool":
            average = nn.AvgPool2d(3, stride, 1, count_include_pad=False)
            pool = nn.MaxPool2d(3, stride, 1) if kind == "max_pool" else average
            return nn.Sequential(pool, nn.BatchNorm2d(c, affine=False)) if search else pool
        case "none" | "skip_connect":
            return FactorizedReduce(c, c, affine) if kind == "skip_connect" and stride == 2 else nn.Identity()
        case "sep_conv":
            return separable(c, int(kernel[0]), stride, affine)
        case "dil_conv":
            return dilated(c, int(kernel[0]), stride, affine)
        case "conv_7x1":
            row = nn.Conv2d(c, c, (1, 7), (1, stride), (0, 3), bias=False)
            column = nn.Conv2d(c, c, (7, 1), (stride, 1), (3, 0), bias=False)
            return nn.Sequential(nn.ReLU(), row, column, nn.BatchNorm2d(c, affine=affine))
    raise ValueError(f"no operation is called {name!r}")


class MixedOperation(nn.Module):
    """An edge of the supernet: every primitive, weighted. ``none`` adds nothing, and is not computed."""

    def __init__(self, c: int, stride: int):
        super().__init__()
        self._ops = nn.ModuleList(operation(name, c, stride, search=True) for name in PRIMITIVES)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        pairs = zip(weights.unbind(), self._ops, PRIMITIVES)
        return sum(weight * op(x) for weight, op, name in pairs if name != "none")


class Cell(nn.Module):
    """What the cells of both networks share: preprocessing of the two inputs, and whether the cell reduces."""

    def __init__(self, c_before: tuple[int, int], c: int, reduction: bool, after_reduction: bool, affine: bool):
        super().__init__()
        self.reduction = reduction
        first = FactorizedReduce if after_reduction else relu_conv_bn
        self.preprocess0 = first(c_before[0], c, affine)
        self.preprocess1 = relu_conv_bn(c_before[1], c, affine)

    def stride(self, source: int) -> int:
        """Only edges from the cell's inputs reduce."""
        return 2 if self.reduction and source < 2 else 1


class SearchCell(Cell):
    """Four nodes, each the sum of mixed operations on all states before it."""

    def __init__(self, c_before: tuple[int, int], c: int, reduction: bool, after_reduction: bool, nodes: int = 4):
        super().__init__(c_before, c, reduction, after_reduction, affine=False)
        self.nodes = nodes
        self._ops = nn.ModuleList(MixedOperation(c, self.stride(j)) for i in range(nodes) for j in range(2 + i))

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        rows = zip(self._ops, weights.unbind())
        for _ in range(self.nodes):
            states.append(sum(edge(state, row) for state, (edge, row) in zip(list(states), rows)))
        return torch.cat(states[2:], dim=1)


class DiscreteCell(Cell):
    """A genotype's cell. ``masks`` [operations, N] drop paths: sample by sample, every operation but the identity."""

    def __init__(self, genotype: Genotype, c_before: tuple[int, int], c: int, reduction: bool, after_reduction: bool):
        super().__init__(c_before, c, reduction, after_reduction, affine=True)
        edges = genotype.reduce if reduction else genotype.normal
        self.concat = list(genotype.reduce_concat if reduction else genotype.normal_concat)
        self.sources = [source for _, source in edges]
        self._ops = nn.ModuleList(operation(name, c, self.stride(source), search=False) for name, source in edges)

    def forward(self, s0: Tensor, s1: Tensor, masks: Tensor | None) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for node in range(len(self._ops) // 2):
            terms = []
            for position in (2 * node, 2 * node + 1):
                op = self._ops[position]
                term = op(states[self.sources[position]])
                if masks is not None and not isinstance(op, nn.Identity):
                    term = term * masks[position].view(-1, 1, 1, 1)
                terms.append(term)
            states.append(terms[0] + terms[1])
        return torch.cat([states[i] for i in self.concat], dim=1)


def auxiliary_head(c: int, classes: int) -> nn.Module:
    """The classifier on the output of layer 2L/3 that training adds (8×8 inputs)."""
    head = nn.Module()
    head.features = nn.Sequential(
        nn.ReLU(),
        nn.AvgPool2d(5, stride=3),
        conv(c, 128, 1),
        nn.BatchNorm2d(128),
        nn.ReLU(inplace=True),
        conv(128, 768, 2),
        nn.BatchNorm2d(768),
        nn.ReLU(inplace=True),
    )
    head.classifier = nn.Linear(768, classes)
    return head


class Network(nn.Module):
    """Stem, cells (those at L/3 and 2L/3 reduce and double the channels), global average pool, linear.

    A supernet without ``genotype``, with α in ``alphas_normal`` and ``alphas_reduce`` [edges, primitives].
    """

    def __init__(
        self, c: int, layers: int, classes: int = 10, genotype: Genotype | None = None, auxiliary: bool = False
    ):
        super().__init__()
        stem = STEM_MULTIPLIER * c
        self.stem = nn.Sequential(conv(3, stem, 3, padding=1), nn.BatchNorm2d(stem))
        self.cells = nn.ModuleList()
        self.auxiliary_layer = 2 * layers // 3 if auxiliary else None
        before, after_reduction = (stem, stem), False
        for layer in range(layers):
            reduction = layer in (layers // 3, 2 * layers // 3)
            c = 2 * c if reduction else c
            if genotype is None:
                cell, width = SearchCell(before, c, reduction, after_reduction), 4
            else:
                cell = DiscreteCell(genotype, before, c, reduction, after_reduction)
                width = len(cell.concat)
            self.cells.append(cell)
            before, after_reduction = (before[1], width * c), reduction
            if layer == self.auxiliary_layer:
                self.auxiliary_head = auxiliary_head(width * c, classes)
        self.classifier = nn.Linear(before[1], classes)
        if genotype is None:
            edges = len(self.cells[0]._ops)
            self.alphas_normal = nn.Parameter(1e-3 * torch.randn(edges, len(PRIMITIVES)))
            self.alphas_reduce = nn.Parameter(1e-3 * torch.randn(edges, len(PRIMITIVES)))

    def forward(self, images: Tensor, masks: Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits, and those of the auxiliary head in training; ``masks`` has one tensor for each (discrete) cell."""
        mixtures = self.mixtures()
        auxiliary = None
        s0 = s1 = self.stem(images)
        for layer, cell in enumerate(self.cells):
            extra = mixtures[cell.reduction] if mixtures else masks and masks[layer]
            s0, s1 = s1, cell(s0, s1, extra)
            if layer == self.auxiliary_layer and self.training:
                features = self.auxiliary_head.features(s1)
                auxiliary = self.auxiliary_head.classifier(features.flatten(1))
        return self.classifier(s1.mean(dim=(2, 3))), auxiliary

    def mixtures(self) -> tuple[Tensor, Tensor] | None:
        """Softmax of the rows of α for normal and for reduction cells; nothing where the network is discrete."""
        if not hasattr(self, "alphas_normal"):
            return None
        return F.softmax(self.alphas_normal, dim=-1), F.softmax(self.alphas_reduce, dim=-1)

    def draw_masks(self, batch: int, probability: float) -> list[Tensor]:
        """Path dropout of a batch: 0 with ``probability``, else 1/(1 − probability)."""
        keep, device = 1.0 - probability, self.classifier.weight.device
        return [torch.bernoulli(torch.full((len(cell._ops), batch), keep, device=device)) / keep for cell in self.cells]
