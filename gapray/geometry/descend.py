"""Quasi-Newton minimisation of a differentiable function of a few variables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize
from torch import Tensor


@torch.enable_grad()  # callers may have disabled gradients
def minimize_lbfgs(
    cost: Callable[[Tensor], Tensor],
    start: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    *,
    iterations: int,
    device: torch.device | str = "cpu",
) -> NDArray[np.float64]:
    """Minimise a function by L-BFGS-B from one start.

    Value and gradient come from the same tensor: a line search that is given the gradient of something else stops too
    early.

    Args:
        cost: float32 [P] -> scalar tensor, differentiable.
        start: float64 [P].
        low: float64 [P], lower bounds.
        high: float64 [P], upper bounds.
        iterations: Maximum number; evaluations may be half as many again.
        device: Device of the tensor passed to `cost`.

    Returns:
        float64 [P], the minimum found.
    """

    def evaluate(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        leaf = torch.tensor(values, dtype=torch.float32, device=device, requires_grad=True)
        value = cost(leaf)
        [gradient] = torch.autograd.grad(value, leaf)
        return float(value.detach()), gradient.cpu().numpy().astype(np.float64)

    options = {"maxiter": iterations, "maxfun": iterations * 3 // 2}
    result = minimize(evaluate, start, jac=True, method="L-BFGS-B", bounds=Bounds(low, high), options=options)
    return np.asarray(result.x, np.float64)
