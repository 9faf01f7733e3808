"""What the estimators take from scikit-learn where it is installed, and as much as they need where it is not."""

import inspect
from typing import Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import NotFittedError
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:

    class NotFittedError(ValueError, AttributeError):
        """An estimator is asked for what only fit gives it."""

    class BaseEstimator:
        """Parameters are the arguments of __init__, kept under their names."""

        @classmethod
        def _names(cls) -> list[str]:
            return sorted(name for name in inspect.signature(cls.__init__).parameters if name != "self")

        def get_params(self, deep: bool = True) -> dict[str, Any]:
            return {name: getattr(self, name) for name in self._names()}

        def set_params(self, **params: Any) -> "BaseEstimator":
            for name, value in params.items():
                if name not in self._names():
                    raise ValueError(
                        f"parameters of {type(self).__name__} are {', '.join(self._names())}, not {name!r}"
                    )
                setattr(self, name, value)
            return self

        def __repr__(self) -> str:
            defaults = inspect.signature(type(self).__init__).parameters
            changed = [
                f"{name}={value!r}" for name, value in self.get_params().items() if value != defaults[name].default
            ]
            return f"{type(self).__name__}({', '.join(changed)})"

    class RegressorMixin:
        """score is R^2, the mean of all targets."""

        def score(self, X: Any, y: Any) -> float:
            y = np.asarray(y, dtype=float)
            rest, spread = np.square(y - self.predict(X)).sum(0), np.square(y - y.mean(0)).sum(0)
            return float(np.mean(1 - rest / spread))

    class ClassifierMixin:
        """score is the share of right classes."""

        def score(self, X: Any, y: Any) -> float:
            return float(np.mean(self.predict(X) == np.asarray(y)))

    def check_random_state(seed: int | np.random.RandomState | None) -> np.random.RandomState:
        if seed is None:
            return np.random.mtrand._rand
        if isinstance(seed, np.random.RandomState):
            return seed
        return np.random.RandomState(seed)

    def check_classification_targets(y: np.ndarray) -> None:
        if y.dtype.kind == "f" and (y != y.round()).any():
            raise ValueError("y must hold classes, held numbers that are not whole")

    def check_is_fitted(estimator: BaseEstimator, attribute: str) -> None:
        if not hasattr(estimator, attribute):
            raise NotFittedError(f"{type(estimator).__name__} must be fitted first, was not")

    _NO_Y = object()

    def validate_data(
        estimator: BaseEstimator, X: Any, y: Any = _NO_Y, *, reset: bool = True, y_numeric: bool = False, **others: Any
    ) -> Any:
        """X as float64 (n, inputs), and y as an array where one is given."""
        names = [str(name) for name in X.columns] if hasattr(X, "columns") else None
        x = np.asarray(X, dtype=float)
        if x.ndim != 2 or not x.size:
            raise ValueError(f"X must have rows and columns, had shape {x.shape}")
        if not np.isfinite(x).all():
            raise ValueError("X must be finite, held NaN or infinity")
        if reset:
            estimator.n_features_in_ = x.shape[1]
            if names is not None:
                estimator.feature_names_in_ = np.array(names, dtype=object)
        elif x.shape[1] != estimator.n_features_in_:
            raise ValueError(f"X must have {estimator.n_features_in_} columns, as in fit, had {x.shape[1]}")
        elif names is not None and names != list(getattr(estimator, "feature_names_in_", names)):
            raise ValueError(f"columns of X must be {', '.join(estimator.feature_names_in_)}, were {', '.join(names)}")
        if y is _NO_Y:
            return x
        y = np.asarray(y, dtype=float if y_numeric else None)
        if y_numeric and not np.isfinite(y).all():
            raise ValueError("y must be finite, held NaN or infinity")
        if y.ndim not in (1, 2) or len(y) != len(x):
            raise ValueError(f"y must have a row for each of the {len(x)} rows of X, had shape {y.shape}")
        return x, y


__all__ = [
    "BaseEstimator",
    "ClassifierMixin",
    "NotFittedError",
    "RegressorMixin",
    "check_classification_targets",
    "check_is_fitted",
    "check_random_state",
    "validate_data",
]
