"""Brain-Inspired Modular Training with compiled kernels."""

from . import analysis, geometry, nn, optim, plot
from ._trace import trace
from .backends import backend
from .functional import add_grad_, best_swaps, connection_cost, placement_cost, swap_deltas
from .quadratic import quadratic_assignment
from .wiring import Wiring

__version__ = "0.1.0"
__all__ = [
    "Wiring",
    "add_grad_",
    "analysis",
    "backend",
    "best_swaps",
    "connection_cost",
    "geometry",
    "nn",
    "optim",
    "placement_cost",
    "plot",
    "quadratic_assignment",
    "swap_deltas",
    "trace",
]
