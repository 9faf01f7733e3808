"""Fitting a table: BIMT networks behind scikit-learn's conventions, which work where it is not installed too."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import _anatomy, _fitting, _table
from ._scikit import (
    BaseEstimator,
    ClassifierMixin,
    RegressorMixin,
    check_classification_targets,
    check_is_fitted,
    check_random_state,
    validate_data,
)
from .nn import BioMLP
from .train import ABLATIONS

Names = list[str] | None

_FORMAT = "bimt_fast.estimator 1"
_MOST_VALIDATION = 10_000  # rows


class _BIMT(BaseEstimator):
    """What the regressor and the classifier share."""

    def __init__(
        self,
        hidden: Sequence[int] = (20, 20),
        *,
        seeds: int = 5,
        steps: int = 5_000,
        budget: float | None = None,
        tolerance: float = 0.02,
        validation: float = 0.2,
        ablation: str = "bimt",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.hidden = hidden
        self.seeds = seeds
        self.steps = steps
        self.budget = budget
        self.tolerance = tolerance
        self.validation = validation
        self.ablation = ablation
        self.random_state = random_state
        self.verbose = verbose

    def fit_table(self, X: Any, y: Any, names: Names = None, target_names: Names = None, warn: bool = True) -> "_BIMT":
        """fit for arrays whose columns have names; `warn` of what is odd about them. A failure changes nothing."""
        before = dict(vars(self))
        try:
            X, y = self.take_table(X, y, names, target_names, warn)
            self._search(X, *self._goals(y))
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise
        return self

    def take_table(
        self, X: Any, y: Any, names: Names = None, target_names: Names = None, warn: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """What fit does before it trains: checks what it was given, takes names, classes and scales.

        Returns:
            Float64 (n, inputs) rows, and float64 (n, targets) numbers or int64 (n,) indices of classes.
        """
        self._check()
        names, target_names = _checked_names("names", names, X), _checked_names("target_names", target_names, y)
        _refuse_bad_columns(X, names)
        X, y = self._validated(X, y, target_names)
        self.input_names_ = names or list(
            map(str, getattr(self, "feature_names_in_", _numbered("x", self.n_features_in_)))
        )
        if warn:
            _table.warn_about(self.input_names_, X, self.target_names_, y.reshape(len(y), -1).astype(float))
        return X, y

    def take(self, other: "_BIMT") -> None:
        """What another one of this kind has learned; parameters stay."""
        params = self.get_params()
        vars(self).update({name: value for name, value in vars(other).items() if name not in params})

    def _search(self, X: np.ndarray, goals: Tensor, outputs: int) -> None:
        """Trains on checked rows; goals (n, targets) standardised numbers, or int64 (n,) classes."""
        random = check_random_state(self.random_state)
        self.x_mean_, self.x_scale_ = X.mean(0), _scale(X)
        chosen_by = self._validation_rows(goals, random)
        x = torch.from_numpy(self._standardised(X)).float()
        goals = goals.float() if goals.is_floating_point() else goals
        constant = torch.tensor([_table.is_constant(column) for column in X.T])
        learned_from = ~chosen_by if not chosen_by.all() else chosen_by
        sides = (x[learned_from], goals[learned_from], x[chosen_by], goals[chosen_by])
        rows = _fitting.Rows(*sides, self._row_loss, constant)
        shape = (X.shape[1], *self.hidden, outputs)
        found, self.interrupted_ = _fitting.search(
            rows,
            shape,
            ablation=self.ablation,
            steps=self.steps,
            seeds=random.randint(2**31 - 1, size=self.seeds).tolist(),
            tolerance=self.tolerance,
            budget=self.budget,
            say=partial(print, flush=True) if self.verbose else lambda text: None,
        )
        # Without a penalty nothing trades wiring for error.
        chosen = _fitting.choose(found, self.tolerance) if self.ablation != "none" else min(found, key=_error)
        self.network_ = _network(shape, chosen.state)
        self.candidates_ = [_figures(candidate, candidate is chosen) for candidate in found]

    def _validation_rows(self, goals: Tensor, random: np.random.RandomState) -> Tensor:
        """Bool (n,): a share of the rows, of each class alike; all of them where that leaves too few to learn from."""
        classes = goals.numpy() if goals.dim() == 1 else np.zeros(len(goals))
        drawn = torch.from_numpy(_table.draw(classes, min(self.validation, _MOST_VALIDATION / len(goals)), random))
        return drawn if drawn.any() and not drawn.all() else torch.ones_like(drawn)

    def _check(self) -> None:
        """Refuses parameters that are not as they must be, with a ValueError."""
        hidden = self.hidden
        if not isinstance(hidden, (tuple, list)) or not hidden or not all(map(_is_count, hidden)):
            raise ValueError(f"hidden must be a tuple or list of positive integers, was {hidden!r}")
        for name in ("seeds", "steps"):
            if not _is_count(getattr(self, name)):
                raise ValueError(f"{name} must be a positive integer, was {getattr(self, name)!r}")
        if self.budget is not None and not (isinstance(self.budget, Real) and self.budget > 0):
            raise ValueError(f"budget must be a number of seconds above 0, or None, was {self.budget!r}")
        if not isinstance(self.tolerance, Real) or not self.tolerance >= 0:
            raise ValueError(f"tolerance must be a number of at least 0, was {self.tolerance!r}")
        if not isinstance(self.validation, Real) or not 0 < self.validation < 1:
            raise ValueError(f"validation must be a share between 0 and 1, was {self.validation!r}")
        if self.ablation not in ABLATIONS:
            raise ValueError(f"ablation must be one of {', '.join(ABLATIONS)}, was {self.ablation!r}")
        try:
            check_random_state(self.random_state)
        except (TypeError, ValueError):
            seeds = "an integer from 0 to 2**32 - 1, a RandomState or None"
            raise ValueError(f"random_state must be {seeds}, was {self.random_state!r}") from None

    def _standardised(self, X: np.ndarray) -> np.ndarray:
        return (X - self.x_mean_) / self.x_scale_

    def _checked_rows(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "network_")
        _refuse_bad_columns(X)
        return np.asarray(validate_data(self, X, reset=False, dtype=np.float64))

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """What the network says, float64 (n, outputs), from float64 rows (n, inputs) in the columns' units."""
        with torch.no_grad():
            return self.network_(torch.from_numpy(self._standardised(x))).numpy()

    def neuron_value(self, index: int) -> Callable[[np.ndarray], np.ndarray]:
        """What a neuron of the last hidden layer says: rows in the columns' units -> (n,)."""

        def value(x: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return self.network_.hidden(torch.from_numpy(self._standardised(x)))[-1][:, index].numpy()

        return value

    # What the network turned out to be

    @property
    def used_inputs(self) -> list[str]:
        """Names of the columns on which a prediction depends."""
        check_is_fitted(self, "network_")
        return [self.input_names_[i] for i in _anatomy.used_inputs(self.network_)]

    @property
    def parts(self) -> list[tuple[list[str], list[str]]]:
        """Parts of the network that share no neuron and no column: for each its columns and its outputs, by name."""
        check_is_fitted(self, "network_")
        inputs, outputs = self.input_names_, self.output_names
        return [
            ([inputs[i] for i in part.inputs], [outputs[o] for o in part.outputs])
            for part in _anatomy.parts(self.network_)
        ]

    # Files

    def save(self, path: str | os.PathLike) -> None:
        """Replaces a file that `load` reads; it holds tensors and plain data only.

        Raises:
            OSError: it cannot be written.
            sklearn's NotFittedError, a ValueError: before fit.
        """
        check_is_fitted(self, "network_")
        state = {
            "format": _FORMAT,
            "kind": type(self).__name__,
            "params": self.plain_params(),
            "columns": self.input_names_,
            "from_dataframe": hasattr(self, "feature_names_in_"),
            "x_mean": torch.from_numpy(self.x_mean_),
            "x_scale": torch.from_numpy(self.x_scale_),
            "targets": list(self.target_names_),
            "learned": self._learned(),
            "candidates": self.candidates_,
            "interrupted": self.interrupted_,
            "network": self.network_.state_dict(),
        }
        new = Path(f"{os.fspath(path)}.new")
        torch.save(state, new)
        os.replace(new, path)

    def plain_params(self) -> dict[str, Any]:
        """Parameters as a file holds them; None for a random_state that is no seed."""
        params = {name: _plain(value) for name, value in self.get_params().items()}
        seed = params["random_state"] if isinstance(params["random_state"], int) else None
        return params | {"hidden": list(map(int, self.hidden)), "random_state": seed}

    def _restore(self, state: dict[str, Any]) -> None:
        self.input_names_ = state["columns"]
        self.n_features_in_ = len(self.input_names_)
        if state["from_dataframe"]:
            self.feature_names_in_ = np.array(self.input_names_, dtype=object)
        self.x_mean_, self.x_scale_ = state["x_mean"].numpy(), state["x_scale"].numpy()
        self.target_names_ = state["targets"]
        self._relearn(state["learned"])
        self.candidates_, self.interrupted_ = state["candidates"], state["interrupted"]
        self.network_ = _network((self.n_features_in_, *self.hidden, len(self.output_names)), state["network"])


_PARAMETERS = """
    Args:
        hidden: neurons of each hidden layer.
        seeds: networks to train; the strength of the penalty differs from one to the next.
        steps: optimizer steps for each.
        budget: seconds of training for all of them; None: as long as it takes. Only without a budget, or with one that
            is not used up, do the same rows and random_state give the same network on every machine of one kind.
        tolerance: by how much the validation error may be worse for less wire, see below.
        validation: share of the rows, 10,000 at most, that no network is trained on and one is chosen by.
        ablation: what is left of BIMT (bimt_fast.train.ABLATIONS): "none" for an ordinary network, which is kept as it
            was where its validation error was least, "l1" for an ordinary penalty.
        random_state: seed, numpy RandomState, or None for numpy's global one.
        verbose: prints a line for each network.

    Every network is trained by the recipe bimt_fast.train.reliable, without merges of neurons where it has fewer than
    1500 steps or the budget is short, then pruned at several thresholds and trained on a little after each. Kept is the
    one with the least wire (the length of all its connections, base lengths included) among those whose validation
    error, the mean loss, is at most (1 + tolerance) times the least one plus tolerance / 10.

    Attributes:
        network_: the BioMLP, float64, of standardised columns.
        n_features_in_, feature_names_in_: the columns; names where fit was given a DataFrame.
        input_names_, target_names_: as given, or "x0", "x1", ... and "y" ("y0", "y1", ...).
        x_mean_, x_scale_: of the columns.
        candidates_: a dict of figures for each pruned network.
        interrupted_: whether Ctrl-C ended the search.
"""


class BIMTRegressor(RegressorMixin, _BIMT):
    __doc__ = f"""Predicts one or several numbers from columns by a modular network with few, short connections.

    Loss: squared error of standardised targets, so 1 is the error of the mean.
{_PARAMETERS}        y_mean_, y_scale_: of the targets.
    """
    classifies, output_unit = False, "target"

    def fit(self, X: Any, y: Any) -> "_BIMT":
        """Trains networks on the rows and keeps one.

        Args:
            X: (n, inputs) numbers: an array, rows, or a DataFrame.
            y: (n,) or (n, targets) numbers.

        Returns:
            self.

        Raises:
            TypeError, ValueError: a parameter or a column is not as it must be; the message names it.
            KeyboardInterrupt: before the first network was done; later the best so far is kept, with a warning.
        """
        return self.fit_table(X, y)

    def _validated(self, X: Any, y: Any, target_names: Names) -> tuple[np.ndarray, np.ndarray]:
        target_names = target_names or _target_names(y)
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=2)
        X, y = np.asarray(X), np.asarray(y, dtype=np.float64)
        self._flat, y = y.ndim == 1, y.reshape(len(y), -1)
        self.target_names_ = target_names or (["y"] if self._flat else _numbered("y", y.shape[1]))
        for name, column in zip(self.target_names_, y.T, strict=True):
            if _table.is_constant(column):
                raise ValueError(f"target {name!r} must vary, was {column[0]:g} in all of {len(column)} rows")
        self.y_mean_, self.y_scale_ = y.mean(0), _scale(y)
        return X, y

    def _goals(self, y: np.ndarray) -> tuple[Tensor, int]:
        return torch.from_numpy((y - self.y_mean_) / self.y_scale_), y.shape[1]

    def predict(self, X: Any) -> np.ndarray:
        """(n, inputs) -> float64 (n,) or (n, targets), as y was in fit.

        Raises:
            TypeError, ValueError: X is not as it must be, or fit was never called.
        """
        return self.predict_rows(self._checked_rows(X))

    def predict_rows(self, x: np.ndarray) -> np.ndarray:
        """The same from float64 rows, without checks."""
        y = self.outputs(x) * self.y_scale_ + self.y_mean_
        return y[:, 0] if self._flat else y

    def output_value(self, output: int) -> Callable[[np.ndarray], np.ndarray]:
        """What is predicted of one target: rows -> (n,)."""
        return lambda x: self.outputs(x)[:, output] * self.y_scale_[output] + self.y_mean_[output]

    def measure(self, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        """R^2 (the mean of the targets), loss, and figures of each target, on float64 rows.

        R^2 compares with the spread of the rows, so it is None of a target that does not vary in them.
        """
        y, said = y.reshape(len(y), -1).astype(float), self.predict_rows(x).reshape(len(y), -1)
        errors = np.square(y - said).mean(0)
        r2 = [
            None if _table.is_constant(column) else 1 - error / column.var()
            for column, error in zip(y.T, errors.tolist(), strict=True)
        ]
        known = [one for one in r2 if one is not None]
        figures = zip(self.target_names_, r2, np.sqrt(errors).tolist(), strict=True)
        return {
            "score": float(np.mean(known)) if known else None,
            "loss": (errors / self.y_scale_**2).mean().item(),
            "per target": {name: {"r2": one, "rmse": error} for name, one, error in figures},
        }

    @property
    def output_names(self) -> list[str]:
        """Of the network's outputs: the targets."""
        return list(self.target_names_)

    short_names = output_names

    @staticmethod
    def _row_loss(prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean(1)

    def _learned(self) -> dict[str, Any]:
        return {"mean": torch.from_numpy(self.y_mean_), "scale": torch.from_numpy(self.y_scale_), "flat": self._flat}

    def _relearn(self, learned: dict[str, Any]) -> None:
        self.y_mean_, self.y_scale_ = learned["mean"].numpy(), learned["scale"].numpy()
        self._flat = learned["flat"]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class BIMTClassifier(ClassifierMixin, _BIMT):
    __doc__ = f"""Predicts a class from columns by a modular network with few, short connections.

    Loss: cross entropy. Two classes need one output, more have one each.
{_PARAMETERS}        classes_: sorted.
    """
    classifies = True

    def fit(self, X: Any, y: Any) -> "_BIMT":
        """Trains networks on the rows and keeps one.

        Args:
            X: (n, inputs) numbers: an array, rows, or a DataFrame.
            y: (n,) classes: integers, strings or booleans, at least two.

        Returns:
            self.

        Raises:
            TypeError, ValueError: a parameter or a column is not as it must be; the message names it.
            KeyboardInterrupt: before the first network was done; later the best so far is kept, with a warning.
        """
        return self.fit_table(X, y)

    def _validated(self, X: Any, y: Any, target_names: Names) -> tuple[np.ndarray, np.ndarray]:
        target_names = target_names or _target_names(y, numbers=False)
        X, y = validate_data(self, X, y, dtype=np.float64)
        X, y = np.asarray(X), np.asarray(y)
        check_classification_targets(y)
        self.classes_, classes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least two classes, held one class: {_plain(self.classes_[0])!r}")
        self.target_names_ = target_names or ["y"]
        return X, classes.reshape(-1)

    def _goals(self, y: np.ndarray) -> tuple[Tensor, int]:
        return torch.from_numpy(y), 1 if len(self.classes_) == 2 else len(self.classes_)

    def predict(self, X: Any) -> np.ndarray:
        """(n, inputs) -> (n,) classes.

        Raises:
            TypeError, ValueError: X is not as it must be, or fit was never called.
        """
        return self.predict_rows(self._checked_rows(X))

    def predict_rows(self, x: np.ndarray) -> np.ndarray:
        """The same from float64 rows, without checks."""
        return self.classes_[self.probabilities(x).argmax(1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """(n, inputs) -> float64 (n, classes), the probability of each class in the order of classes_.

        Raises:
            TypeError, ValueError: X is not as it must be, or fit was never called.
        """
        return self.probabilities(self._checked_rows(X))

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """The same from float64 rows, without checks."""
        logits = torch.from_numpy(self.outputs(x))
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return logits.softmax(1).numpy()

    def output_value(self, output: int) -> Callable[[np.ndarray], np.ndarray]:
        """The score of a class: rows -> (n,)."""
        return lambda x: self.outputs(x)[:, output]

    @property
    def output_unit(self) -> str:
        """Of two classes' one output, or of many classes' scores, whose differences are log odds."""
        return "log odds" if len(self.classes_) == 2 else "score"

    def measure(self, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        """Accuracy and loss, on float64 rows of the classes that fit has seen."""
        p = self.probabilities(x)
        right = p[np.arange(len(y)), np.searchsorted(self.classes_, y)]
        return {
            "score": float((self.classes_[p.argmax(1)] == y).mean()),
            "loss": float(-np.log(right.clip(1e-12)).mean()),
        }

    @property
    def output_names(self) -> list[str]:
        """Of the network's outputs: one a class, or where there are two, the second."""
        return [f"{self.target_names_[0]} = {label}" for label in self.short_names]

    @property
    def short_names(self) -> list[str]:
        """The same without the target's name."""
        return [str(label) for label in (self.classes_[1:] if len(self.classes_) == 2 else self.classes_)]

    @staticmethod
    def _row_loss(prediction: Tensor, target: Tensor) -> Tensor:
        if prediction.shape[1] > 1:
            return nn.functional.cross_entropy(prediction, target, reduction="none")
        logits, second = prediction[:, 0], target.to(prediction.dtype)
        return nn.functional.binary_cross_entropy_with_logits(logits, second, reduction="none")

    def _learned(self) -> dict[str, Any]:
        return {"classes": list(map(_plain, self.classes_.tolist())), "dtype": self.classes_.dtype.str}

    def _relearn(self, learned: dict[str, Any]) -> None:
        self.classes_ = np.array(learned["classes"], dtype=learned["dtype"])


def fit(
    X: Any,
    y: Any,
    *,
    classify: bool = False,
    names: Sequence[str] | None = None,
    target_names: Sequence[str] | None = None,
    out: str | os.PathLike | None = None,
    **settings: Any,
) -> BIMTRegressor | BIMTClassifier:
    """Fits networks to a table and keeps one; with `out`, writes what it found to a folder.

    Args:
        X: (n, inputs) numbers: an array or a DataFrame.
        y: (n,) or (n, targets) numbers, or (n,) classes.
        classify: whether y holds classes.
        names: of the columns of an array.
        target_names: of y, where it is an array.
        out: folder for report.html (needs no other file), network.svg, model.pt (see load) and result.json. A fifth of
            the rows is then held out to test on, and an ordinary network and one with an ordinary penalty, both of the
            same size, are trained beside; a budget is for all of them.
        settings: of BIMTRegressor or BIMTClassifier: budget, seeds, hidden, random_state and so on.

    Returns:
        The fitted estimator.

    Raises:
        TypeError, ValueError: as the estimators' fit, or a setting is unknown.
        OSError: the folder cannot be written to.
        KeyboardInterrupt: before the first network was done; later the best so far is kept, with a warning.
    """
    estimator = (BIMTClassifier if classify else BIMTRegressor)(**settings)
    if out is None:
        return estimator.fit_table(X, y, names, target_names)
    from . import _report

    _report.fit(estimator, X, y, names, target_names, Path(out))
    return estimator


def load(path: str | os.PathLike) -> BIMTRegressor | BIMTClassifier:
    """The fitted estimator of a file that `save` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no such estimator.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever unpickling a broken file raises
        raise ValueError(f"{path} must be a model that fit saved, could not be read as one") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ValueError(f"{path} must be a model that fit saved, was another file")
    kinds = {kind.__name__: kind for kind in (BIMTRegressor, BIMTClassifier)}
    params = state["params"]
    estimator = kinds[state["kind"]](**(params | {"hidden": tuple(params["hidden"])}))
    estimator._restore(state)
    return estimator


def _network(shape: Sequence[int], state: dict[str, Any]) -> BioMLP:
    with torch.random.fork_rng(devices=[]):  # initial weights, which are replaced
        network = BioMLP(tuple(shape), dtype=torch.float64)
    network.load_state_dict(state)
    return network.requires_grad_(False)


def _figures(candidate: _fitting.Candidate, chosen: bool) -> dict[str, Any]:
    """What is kept of a candidate: plain numbers."""
    kept = {name: value for name, value in vars(candidate).items() if name != "state"}
    return {**kept, "wire": float(candidate.wire), "chosen": chosen}


def _error(candidate: _fitting.Candidate) -> float:
    return candidate.error


def _scale(columns: np.ndarray) -> np.ndarray:
    """Standard deviations, 1 where a column is constant."""
    return np.array([1.0 if _table.is_constant(column) else column.std() for column in columns.T])


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value > 0


def _plain(value: object) -> object:
    """A number or text of Python's own where it is one of numpy's."""
    return value.item() if isinstance(value, np.generic) else value


def _numbered(letter: str, count: int) -> list[str]:
    return [f"{letter}{k}" for k in range(count)]


def _checked_names(argument: str, names: Names, table: Any) -> Names:
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{argument} must be a list of strings, was {names!r}")
    names, shape = list(map(str, names)), np.shape(table)
    columns = shape[1] if len(shape) == 2 else 1
    if len(names) != columns:
        raise ValueError(f"{argument} must be one for each of {columns} columns, were {len(names)}")
    _table.check_names(names)
    return names


def _refuse_bad_columns(X: Any, names: Names = None) -> None:
    """Raises a ValueError that names the column where X is a table; what else is wrong with X is validated later."""
    if hasattr(X, "columns"):
        names = [str(name) for name in X.columns]
        _table.check_names(names)
        for name, original in zip(names, X.columns, strict=True):
            _table.refuse_bad(name, np.asarray(X[original]))
        return
    rows = np.asarray(X)
    if rows.ndim == 2 and len(rows):
        for name, column in zip(names or _numbered("x", rows.shape[1]), rows.T, strict=True):
            _table.refuse_bad(name, column)


def _target_names(y: Any, numbers: bool = True) -> list[str] | None:
    """Names of a Series or a DataFrame, its columns checked; None of an array."""
    if hasattr(y, "columns"):
        columns = {str(name): np.asarray(y[name]) for name in y.columns}
    elif isinstance(getattr(y, "name", None), str) and y.name:
        columns = {y.name: np.asarray(y)}
    else:
        return None
    for name, column in columns.items() if numbers else ():
        _table.refuse_bad(name, column, "target")
    return list(columns)
