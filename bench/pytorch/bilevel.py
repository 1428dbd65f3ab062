"""The steps of a search: the gradient of the architecture, first and second order, and what both need.

A loss is a function without arguments that makes a forward pass at the present weights. Weights are moved in place and
put back; running statistics change in weight steps only. Which batch or hidden state a loss uses is its own matter.
"""

from contextlib import contextmanager
from typing import Callable, Iterator, NamedTuple, Sequence

import torch
from torch import Tensor, nn

Loss = Callable[[], Tensor]
Parameters = Sequence[nn.Parameter]


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The weights and the architecture of a model."""
    named = list(model.named_parameters())
    weights = [parameter for name, parameter in named if not name.startswith("alphas")]
    return weights, [parameter for name, parameter in named if name.startswith("alphas")]


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norm uses the batch and leaves its running statistics alone."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def gradients(loss: Loss, wanted: Parameters, unwanted: Parameters) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The loss, and its gradients for ``wanted``; a pass spends nothing on those of ``unwanted``."""
    for parameter in unwanted:
        parameter.requires_grad_(False)
    try:
        value = loss()
        return value.detach(), torch.autograd.grad(value, wanted)
    finally:
        for parameter in unwanted:
            parameter.requires_grad_(True)


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """One Euclidean norm over all of them."""
    return nn.utils.get_total_norm(tensors)


def clip_coefficient(total: Tensor, limit: float | None) -> float:
    """min(1, limit/(norm + 1e-6))."""
    return 1.0 if limit is None else min(1.0, limit / (total.item() + 1e-6))


class Virtual(NamedTuple):
    """The virtual step w′ = w − ξ(momentum·buf + clip(∇w) + wd·w), and the radius of the finite difference."""

    lr: float
    weight_decay: float
    momentum: float = 0.0
    buffers: Sequence[Tensor] | None = None
    clip: float | None = None
    radius: float = 0.01


class AlphaGradient(NamedTuple):
    """The gradient of α, the validation loss it was taken at, and (second order) ‖∇w′ L_val‖ before clipping."""

    gradients: Sequence[Tensor]
    loss: Tensor
    norm: Tensor


def first_order(model: nn.Module, valid: Loss) -> AlphaGradient:
    """∇α L_val(w, α)."""
    weights, alphas = split(model)
    with frozen_statistics(model):
        loss, grads = gradients(valid, alphas, weights)
    return AlphaGradient(grads, loss, norm(grads))


def second_order(model: nn.Module, train: Loss, valid: Loss, virtual: Virtual) -> AlphaGradient:
    """∇α L_val(w′, α) − ξ·c·[∇α L_train(w⁺, α) − ∇α L_train(w⁻, α)]/(2ε).

    w± = w ± ε·v, v = clip(∇w′ L_val(w′, α)), ε = radius/‖v‖, and c is the virtual step's clip coefficient.
    """
    weights, alphas = split(model)
    original = [w.detach().clone() for w in weights]
    with frozen_statistics(model):
        _, grads = gradients(train, weights, alphas)
        coefficient = clip_coefficient(norm(grads), virtual.clip) if virtual.clip else 1.0
        with torch.no_grad():
            step = torch._foreach_mul(grads, coefficient)
            torch._foreach_add_(step, original, alpha=virtual.weight_decay)
            if virtual.buffers is not None:
                torch._foreach_add_(step, list(virtual.buffers), alpha=virtual.momentum)
            torch._foreach_add_(weights, step, alpha=-virtual.lr)
        loss, both = gradients(valid, [*weights, *alphas], [])
        direction, direct = both[: len(weights)], both[len(weights) :]
        total = norm(direction)
        direction = torch._foreach_mul(direction, clip_coefficient(total, virtual.clip))
        epsilon = virtual.radius / norm(direction).item()
        sides = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                torch._foreach_copy_(weights, original)
                torch._foreach_add_(weights, direction, alpha=sign * epsilon)
            sides.append(gradients(train, alphas, weights)[1])
        with torch.no_grad():
            torch._foreach_copy_(weights, original)
    scale = virtual.lr * coefficient / (2.0 * epsilon)
    grads = [d - scale * (plus - minus) for d, plus, minus in zip(direct, *sides)]
    return AlphaGradient(grads, loss, total)


def alpha_step(optimizer: torch.optim.Optimizer, alphas: Parameters, gradient: AlphaGradient) -> None:
    """Hands the gradient to α's optimizer."""
    for alpha, grad in zip(alphas, gradient.gradients):
        alpha.grad = grad
    optimizer.step()


def weight_step(optimizer: torch.optim.Optimizer, model: nn.Module, loss: Loss, clip: float) -> tuple[Tensor, Tensor]:
    """Loss and gradient norm (before clipping) of an optimizer's step on the weights, statistics included."""
    weights, alphas = split(model)
    value, grads = gradients(loss, weights, alphas)
    for weight, grad in zip(weights, grads):
        weight.grad = grad
    total = nn.utils.clip_grad_norm_(weights, clip)
    optimizer.step()
    return value, total
