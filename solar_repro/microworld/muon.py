"""The optimizer Muon in float32, for devices that only emulate bfloat16."""

import torch
from torch import Tensor


class Float32Muon(torch.optim.Muon):
    """PyTorch's Muon with the same settings and state, but with updates that are orthogonalised in float32.

    PyTorch does this in bfloat16, which takes most of a step's time where bfloat16 is emulated.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update each weight that has a gradient. A closure is not supported."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                momentum = state["momentum_buffer"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                direction = _orthogonalised(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(direction, alpha=-group["lr"] * 0.2 * max(weight.shape) ** 0.5)


def _orthogonalised(
    update: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """An orthogonal matrix near the update, found by the Newton–Schulz iteration (Jordan et al. 2024)."""
    a, b, c = coefficients
    tall = update.shape[0] > update.shape[1]
    matrix = update.T if tall else update
    matrix = matrix / matrix.norm().clamp(min=eps)
    for _ in range(steps):
        gram = matrix @ matrix.T
        matrix = torch.addmm(matrix, torch.addmm(gram, gram, gram, beta=b, alpha=c), matrix, beta=a)
    return matrix.T if tall else matrix
