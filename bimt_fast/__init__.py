"""Brain-Inspired Modular Training with compiled kernels."""

from importlib import import_module

from . import analysis, geometry, nn, optim, plot
from ._trace import trace
from .backends import backend
from .functional import add_grad_, best_swaps, connection_cost, placement_cost, swap_deltas
from .quadratic import quadratic_assignment
from .wiring import Wiring

__version__ = "0.1.0"
__all__ = [
    "BIMTClassifier",
    "BIMTRegressor",
    "Wiring",
    "add_grad_",
    "analysis",
    "backend",
    "best_swaps",
    "connection_cost",
    "estimator",
    "fit",
    "geometry",
    "nn",
    "optim",
    "placement_cost",
    "plot",
    "quadratic_assignment",
    "swap_deltas",
    "trace",
]

_OF_ESTIMATOR = ("BIMTClassifier", "BIMTRegressor", "fit")  # imported when asked for: they bring scikit-learn


def __getattr__(name: str) -> object:
    if name in _OF_ESTIMATOR or name == "estimator":
        estimator = import_module(".estimator", __name__)
        return estimator if name == "estimator" else getattr(estimator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
