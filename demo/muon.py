"""Muon: momentum made orthogonal, for the matrices between embedding and output.

Following Keller Jordan's description (2024): the momentum of each matrix is replaced by the nearest matrix whose
singular values are all about one, found with a few Newton-Schulz steps. Every direction then learns at the same pace,
and no direction of the weights grows far beyond the others, which suits a model that will be quantized.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Optimizer for 2-D weights.

    Parameters
    ----------
    weights : iterable of Tensor
        Matrices only.
    lr : float
        Size of an update, as its spectral norm for a square matrix.
    momentum : float
        How much of the last direction stays.
    weight_decay : float
        Fraction of the weight taken off per unit of ``lr``.
    """

    def __init__(
        self, weights: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(list(weights), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Move every weight once."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                by_shape[weight.shape].append(weight)
            for shape, weights in by_shape.items():
                updates = orthogonalize(torch.stack([self._direction(weight, group["momentum"]) for weight in weights]))
                # A tall matrix takes larger steps, so that its outputs move as much as a square one's.
                size = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for weight, update in zip(weights, updates, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(update, alpha=-size)

    def _direction(self, weight: Tensor, momentum: float) -> Tensor:
        """Nesterov momentum of one weight."""
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        assert weight.grad is not None
        state["momentum"].lerp_(weight.grad, 1 - momentum)
        direction: Tensor = weight.grad.lerp(state["momentum"], momentum)
        return direction


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring the singular values of each matrix near one: (count, rows, columns) -> the same."""
    tall = matrices.shape[1] > matrices.shape[2]
    result: Tensor = matrices.mT if tall else matrices
    result = result / (result.norm(dim=(1, 2), keepdim=True) + 1e-7)
    linear, cubic, quintic = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = result @ result.mT
        result = linear * result + (cubic * gram + quintic * gram @ gram) @ result
    restored: Tensor = result.mT if tall else result
    return restored
