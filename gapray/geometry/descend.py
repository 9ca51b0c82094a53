"""Quasi-Newton search of a differentiable function of a few numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize
from torch import Tensor


@torch.enable_grad()  # callers work without gradients
def descended(
    cost: Callable[[Tensor], Tensor],
    start: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    *,
    iterations: int,
    device: torch.device | str = "cpu",
) -> NDArray[np.float64]:
    """The smallest value that L-BFGS-B finds from a start.

    Value and gradient come from one and the same tensor: a line search that is given the gradient of something else stops
    too early.

    Args:
        cost: float32 [P] -> scalar tensor, differentiable.
        start: float64 [P].
        low: float64 [P], lower bounds.
        high: float64 [P], upper bounds.
        iterations: At most; half as many evaluations more.
        device: Of the tensor that `cost` is given.

    Returns:
        float64 [P].
    """

    def evaluated(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        leaf = torch.tensor(values, dtype=torch.float32, device=device, requires_grad=True)
        value = cost(leaf)
        [slope] = torch.autograd.grad(value, leaf)
        return float(value.detach()), slope.cpu().numpy().astype(np.float64)

    options = {"maxiter": iterations, "maxfun": iterations * 3 // 2}
    found = minimize(evaluated, start, jac=True, method="L-BFGS-B", bounds=Bounds(low, high), options=options)
    return np.asarray(found.x, np.float64)
