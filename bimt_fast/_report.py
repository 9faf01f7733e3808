"""The report of a fitted table: a page that needs no other file, the model, and the figures as JSON."""

import json
import os
import platform
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import _anatomy, _figure, _fitting, _panels, _table, plot
from ._page import Page
from ._scikit import check_random_state

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .estimator import BIMTClassifier, BIMTRegressor

    Estimator = BIMTRegressor | BIMTClassifier

PAGE, MODEL, FIGURES, PICTURE = "report.html", "model.pt", "result.json", "network.svg"
_HELD_OUT = 0.2  # of the rows
_NAMES = {"bimt": "BIMT", "l1": "an L1 penalty", "none": "no penalty"}
_SHARES = {"bimt": 0.5, "l1": 0.3, "none": 0.2}  # of the time budget
_THRESHOLDS = ", ".join(map(str, _fitting.THRESHOLDS))
_MOST_PANELS = 12
_GREY = (0.6, 0.6, 0.6)
_NAME_WIDTH = 0.085  # inches a character of a name, about


def fit(estimator: "Estimator", X: Any, y: Any, names: Any, target_names: Any, out: Path) -> dict[str, Any]:
    """Fits on four rows in five, as it does two baselines, tests all on the others and writes the folder.

    Returns:
        What result.json holds.
    """
    if estimator.ablation != "bimt":
        raise ValueError(f"ablation must be 'bimt' where a report is written, was {estimator.ablation!r}")
    start, told, whole = perf_counter(), [], _with_share(estimator, "bimt")
    with _noted_warnings(told):
        x, targets = whole.take_table(X, y, names, target_names)
        tested = _held_out(targets, estimator)
        with _folder(out):
            fitted = _fit_all(estimator, _rows(X, ~tested), _rows(y, ~tested), names, target_names)
    estimator.take(fitted["bimt"])
    fitted["bimt"] = estimator
    y_test = whole.classes_[targets[tested]] if estimator.classifies else targets[tested]
    result = _result(fitted, x[tested], y_test, int((~tested).sum()), told, perf_counter() - start)
    estimator.save(out / MODEL)
    _write_json(result, out / FIGURES)
    _page(estimator, result, x[~tested], x[tested], y_test, out).write(out / PAGE)
    return result


def _fit_all(
    estimator: "Estimator", X: Any, y: Any, names: Sequence[str] | None, target_names: Sequence[str] | None
) -> dict[str, "Estimator"]:
    """One with each penalty; after an interruption those that are done, where the one that counts is."""
    fitted = {}
    for ablation in _SHARES:
        if estimator.verbose:
            print(f"{_NAMES[ablation]}:", flush=True)
        one = _with_share(estimator, ablation)
        try:
            one.fit_table(X, y, names, target_names, warn=False)
        except KeyboardInterrupt:
            if ablation == "bimt":
                raise
            warnings.warn(f"interrupted: no network was trained with {_NAMES[ablation]}")
            break
        fitted[ablation] = one
        if one.interrupted_:
            break
    return fitted


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Made before the training, which would be in vain without; gone again where that fails."""
    new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            path.rmdir()
        raise


def _with_share(estimator: "Estimator", ablation: str) -> "Estimator":
    """An estimator like it, with its share of the time budget."""
    params = estimator.get_params()
    budget = None if params["budget"] is None else _SHARES[ablation] * params["budget"]
    return type(estimator)(**(params | {"ablation": ablation, "budget": budget}))


@contextmanager
def _noted_warnings(told: list[str]) -> Iterator[None]:
    """What is warned of is shown as ever, and kept for the page."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message, category, *place, **more) -> None:
            if category is UserWarning:
                told.append(str(message))
            shown(message, category, *place, **more)

        warnings.showwarning = show
        yield


def _held_out(y: np.ndarray, estimator: "Estimator") -> np.ndarray:
    """Bool (n,): a share of the rows, of each class alike."""
    classes = y if estimator.classifies else np.zeros(len(y))
    drawn = _table.draw(classes, _HELD_OUT, check_random_state(estimator.random_state))
    if drawn.any():
        return drawn
    if estimator.classifies:
        raise ValueError(f"classes must have at least 3 rows each, the commonest had {np.bincount(y).max()}")
    raise ValueError(f"the table must have at least 3 rows to hold some out for a test, had {len(y)}")


def _rows(table: Any, which: np.ndarray) -> Any:
    """Of an array or a DataFrame, which keeps its names."""
    if hasattr(table, "iloc"):
        return table.iloc[which]
    return table.filter(which) if hasattr(table, "filter") else np.asarray(table)[which]


def _result(
    fitted: dict[str, "Estimator"], x: np.ndarray, y: np.ndarray, learned: int, told: list[str], seconds: float
) -> dict[str, Any]:
    """Settings, versions, figures and times, as result.json holds them."""
    from . import __version__

    estimator = fitted["bimt"]
    return {
        "kind": type(estimator).__name__,
        "settings": estimator.plain_params(),
        "versions": {"bimt_fast": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "rows": {"learned from": learned, "tested on": len(x)},
        "columns": estimator.input_names_,
        "targets": list(estimator.target_names_),
        "used": estimator.used_inputs,
        "parts": [{"columns": inputs, "outputs": outputs} for inputs, outputs in estimator.parts],
        "shuffled": _shuffled(estimator, x, y),
        "tested": {ablation: _figures(one, x, y) for ablation, one in fitted.items()},
        "simplest": _simplest(estimator, y),
        "candidates": estimator.candidates_,
        "warnings": told,
        "seconds": seconds,
    }


def _figures(estimator: "Estimator", x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """On the test rows, and of the network."""
    connections, neurons = _anatomy.counts(estimator.network_)
    wire = next(candidate["wire"] for candidate in estimator.candidates_ if candidate["chosen"])
    return {
        **estimator.measure(x, y),
        "connections": connections,
        "hidden neurons": neurons,
        "columns used": len(_anatomy.used_inputs(estimator.network_)),
        "wire": wire,
        "networks": len({candidate["run"] for candidate in estimator.candidates_}),
    }


def _simplest(estimator: "Estimator", y: np.ndarray) -> float | None:
    """The score of who always says the mean of these rows, or their commonest class."""
    if estimator.classifies:
        return float(np.max(np.unique(y, return_counts=True)[1]) / len(y))
    return None if all(map(_table.is_constant, y.T)) else 0.0


def _shuffled(estimator: "Estimator", x: np.ndarray, y: np.ndarray) -> dict[str, float | None]:
    """The test score where one column's values are dealt anew, by the names of the columns that are used."""
    random, scores = np.random.RandomState(0), {}
    for column in _anatomy.used_inputs(estimator.network_):
        dealt = x.copy()
        dealt[:, column] = random.permutation(dealt[:, column])
        scores[estimator.input_names_[column]] = estimator.measure(dealt, y)["score"]
    return scores


def _write_json(result: dict[str, Any], path: Path) -> None:
    new = Path(f"{path}.new")
    new.write_text(json.dumps(result, indent=2, default=float) + "\n")
    os.replace(new, path)


# The page


def summary(result: dict[str, Any]) -> list[str]:
    """What was found, a sentence each."""
    columns, used = result["columns"], result["used"]
    unused = [name for name in columns if name not in used]
    found = [f"{_list(part['columns'])} → {_list(part['outputs'])}" for part in result["parts"] if part["columns"]]
    constant = [name for part in result["parts"] if not part["columns"] for name in part["outputs"]]
    lines = [f"Used: {_list(used)}." if used else "No column is of use: the network says the same for every row."]
    if unused:
        lines.append(f"Not used: {_list(unused)}.")
    if found:
        lines.append(
            f"{len(found)} parts do not talk to each other: {'; '.join(found)}." if found[1:] else f"{found[0]}."
        )
    if constant and used:
        lines.append(f"The same for every row: {_list(constant)}.")
    lines.append(_said_score(result))
    return lines


def _said_score(result: dict[str, Any]) -> str:
    rows, own = result["rows"]["tested on"], result["tested"]["bimt"]
    if own["score"] is None:
        return (
            f"Rows held out: {rows}, too few to score, for no target varies in them; {own['connections']} connections."
        )
    score = "accuracy" if result["kind"] == "BIMTClassifier" else "R²"
    beside = [f"{result['tested'][a]['score']:.3f} with {_NAMES[a]}" for a in ("none", "l1") if a in result["tested"]]
    return (
        f"On {rows} rows held out: {score} {own['score']:.3f} with {own['connections']} connections"
        f"{f'; networks of the same size: {_list(beside)}' if beside else ''}."
    )


def _list(names: Sequence[str], most: int = 30) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _page(
    estimator: "Estimator", result: dict[str, Any], learned: np.ndarray, x: np.ndarray, y: np.ndarray, out: Path
) -> Page:
    """The page; the picture of the network becomes a file as well."""
    page = Page(f"{_list(result['targets'], 5)} from {len(result['columns'])} columns")
    page.text("\n\n".join(summary(result)))
    if result["warnings"]:
        page.text("Note: " + "; ".join(result["warnings"]) + ".")
    drawn = _can_draw(page)
    if drawn:
        network = _network_figure(estimator)
        _figure.save_figure(network, out / PICTURE)
        page.figure(network, *_network_caption(estimator))
    _say_structure(page, estimator, result)
    if drawn:
        _draw_functions(page, estimator, learned)
    _say_scores(page, estimator, result, x, y, drawn)
    _say_choice(page, estimator, result, drawn)
    _say_settings(page, result)
    return page


def _can_draw(page: Page) -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        page.text("There are no pictures: they need matplotlib (pip install 'bimt_fast[plot]').")
        return False
    return True


def _network_figure(estimator: "Estimator") -> "Figure":
    """With the columns' names, those that are not used in grey, and the numbers of the last hidden neurons."""
    network = estimator.network_
    neurons = {neuron.index for neuron in _anatomy.last_hidden(network)}
    last, width = f"h{len(estimator.hidden)}", estimator.hidden[-1]
    labels = {
        last: [str(k + 1) if k in neurons else "" for k in range(width)],
        "in": [_panels.plain(name) for name in estimator.input_names_],
        "out": [_panels.plain(name) for name in estimator.short_names],
    }
    ax = _network_axes(labels["in"], labels["out"], len(estimator.hidden) + 1)
    plot.network(network.wiring, labels=labels, threshold=0.0, ax=ax)
    for text in ax.texts[: len(neurons)]:  # small, at the upper right of their dots
        text.set(rotation=0, fontsize=7, ha="left", va="bottom", color=_GREY)
        text.xyann = (3, 1)
    used = _anatomy.used_inputs(network)
    varying = {output for part in _anatomy.parts(network) if part.inputs for output in part.outputs}
    idle = [k not in used for k in range(len(labels["in"]))] + [o not in varying for o in range(len(labels["out"]))]
    for text, grey in zip(ax.texts[len(neurons) :], idle, strict=True):
        if grey:
            text.set_color(_GREY)
    return ax.figure


def _network_axes(below: list[str], above: list[str], layers: int) -> "Axes":
    """High enough for names that must stand upright."""
    width = float(np.clip(0.2 * len(below), 5.0, 12.0))
    height = 1.1 * layers + 0.3
    for names in (below, above):
        if _NAME_WIDTH * sum(len(name) + 2 for name in names) > width:
            height += _NAME_WIDTH * max(map(len, names))
    return _figure.new_axes((width, height))


def _network_caption(estimator: "Estimator") -> tuple[str, str]:
    caption = (
        "The network, from the columns below to what it says above. Blue weights are positive, red ones negative, the"
        " wider the larger; small grey dots are neurons that nothing uses. The numbers are those of the neurons below."
    )
    parts = "; ".join(f"{_list(inputs)} to {_list(outputs)}" for inputs, outputs in estimator.parts)
    return caption, f"Network diagram. Connected parts: {parts}."


def _say_structure(page: Page, estimator: "Estimator", result: dict[str, Any]) -> None:
    page.heading("Which columns are used, and what does not talk to what")
    page.text(
        "Parts share no neuron and no column. What one of them says does not depend on another's columns at all. A"
        " column that is not used may still tell what a used one tells as well."
    )
    if len(estimator.output_names) > 1 and estimator.classifies:
        page.text("Outputs are scores of classes; the likeliest class has the highest score.")
    rows = [(k + 1, _list(part["columns"]) or "none", _list(part["outputs"])) for k, part in enumerate(result["parts"])]
    page.table(("part", "columns", "outputs"), rows)
    if result["used"] and result["tested"]["bimt"]["score"] is not None:
        score = "accuracy" if estimator.classifies else "R²"
        page.text(f"How much each column matters: test {score} with its values shuffled between rows, and as they are.")
        scores = sorted(result["shuffled"].items(), key=lambda item: item[1])
        page.table(
            ("column", f"{score}, shuffled", f"{score}, as it is"),
            [(name, value, result["tested"]["bimt"]["score"]) for name, value in scores],
        )


def _draw_functions(page: Page, estimator: "Estimator", rows: np.ndarray) -> None:
    network, names = estimator.network_, estimator.input_names_
    outputs = [
        _panels.Panel(_panels.plain(name), estimator.output_value(o), inputs, estimator.output_unit)
        for o, name in enumerate(estimator.output_names)
        if (inputs := tuple(_anatomy.feeders(_anatomy.weights(network), o, 0.0)[0].nonzero().flatten().tolist()))
    ]
    neurons = _anatomy.last_hidden(network)
    if not outputs:
        return
    page.heading("What is computed")
    page.figure(
        _panels.draw(outputs[:_MOST_PANELS], rows, names),
        "What the network says, against the columns that it depends on: a curve where there is one, a surface where"
        " there are two (dots are rows of the table), else the mean over rows for the three columns that matter most.",
    )
    if len(neurons) == 0:
        return
    strongest = sorted(neurons, key=lambda n: -sum(map(abs, n.effect.values())))[:_MOST_PANELS]
    panels = [
        _panels.Panel(_neuron_title(estimator, n), estimator.neuron_value(n.index), n.inputs, "activation")
        for n in sorted(strongest, key=lambda n: n.index)
    ]
    left_out = len(neurons) - len(panels)
    page.figure(
        _panels.draw(panels, rows, names),
        "What the neurons of the last hidden layer compute, in the same way, and with which weight it goes to the"
        " outputs." + (f" The {left_out} with the smallest weights are left out." if left_out else ""),
    )


def _neuron_title(estimator: "Estimator", neuron: _anatomy.Neuron) -> str:
    goes = [f"{weight:+.2f} to {_panels.plain(estimator.output_names[o])}" for o, weight in neuron.effect.items()]
    said = ", ".join(goes[:2]).replace("-", "\N{MINUS SIGN}")
    return f"neuron {neuron.index + 1}\n{said}{', …' if len(goes) > 2 else ''}"


def _say_scores(
    page: Page, estimator: "Estimator", result: dict[str, Any], x: np.ndarray, y: np.ndarray, drawn: bool
) -> None:
    page.heading("How good it is")
    page.text(
        f"On {len(y)} rows that no network has seen, beside networks of the same size that were trained on the same"
        " rows and chosen in the same way; the one without a penalty is kept as it was when its validation error was"
        " least."
    )
    measured = list(next(iter(result["tested"].values())))
    heads = ["", *(_score_name(estimator, name) for name in measured if name != "per target")]
    rows = [
        [_NAMES[ablation].removeprefix("an "), *(value for name, value in figures.items() if name != "per target")]
        for ablation, figures in result["tested"].items()
    ]
    simplest = "always the commonest class" if estimator.classifies else "always the mean"
    rows.append([simplest, result["simplest"], *[None] * (len(heads) - 2)])
    page.table(heads, rows)
    if estimator.classifies:
        _say_confusion(page, estimator, x, y)
        return
    per_target = result["tested"]["bimt"]["per target"]
    page.table(
        ("target", "R²", "root mean square error"),
        [(name, figures["r2"], figures["rmse"]) for name, figures in per_target.items()],
    )
    if drawn:
        truth, prediction = (values.reshape(len(y), -1) for values in (y, estimator.predict_rows(x)))
        most = slice(0, _MOST_PANELS)
        names = estimator.output_names[most]
        page.figure(
            _panels.predicted(truth[:, most], prediction[:, most], names), "Rows held out: predicted and measured."
        )


def _score_name(estimator: "Estimator", name: str) -> str:
    score = "accuracy" if estimator.classifies else "R²"
    return {
        "score": f"test {score}",
        "loss": "test loss",
        "wire": "length of connections",
        "networks": "networks tried",
    }.get(name, name)


def _say_confusion(page: Page, estimator: "Estimator", x: np.ndarray, y: np.ndarray) -> None:
    page.text("How often each class (rows) was taken for which (columns):")
    said, classes = estimator.predict_rows(x), estimator.classes_
    page.table(
        ("", *map(str, classes)), [(str(a), *(int(((y == a) & (said == b)).sum()) for b in classes)) for a in classes]
    )


def _say_choice(page: Page, estimator: "Estimator", result: dict[str, Any], drawn: bool) -> None:
    page.heading("How it was chosen")
    tolerance, validation = (result["settings"][name] for name in ("tolerance", "validation"))
    page.text(
        f"Each network was trained with one strength of the penalty, then pruned at {_THRESHOLDS} and trained on a"
        " little each time. Kept is the one with the least length of connections among those whose validation error is"
        f" at most {100 * tolerance:g} % above the least one, plus {tolerance / 10:g}. Validation rows:"
        f" {100 * validation:g} % of those learned from."
    )
    candidates = result["candidates"]
    wired = [c for c in candidates if c["connections"]]
    if drawn and len(wired) > 1 and any(c["chosen"] for c in wired):
        columns = ([c[name] for c in wired] for name in ("wire", "error", "strength"))
        kept = next(k for k, c in enumerate(wired) if c["chosen"])
        page.figure(_panels.trade_off(*columns, kept), "Every network that has connections, at every threshold.")
    names = ("strength", "threshold", "steps", "error", "wire", "connections", "neurons")
    heads = ("run", "strength", "pruned at", "steps", "validation error", "length", "connections", "hidden neurons", "")
    kept_or_not = {True: "kept", False: ""}
    page.table(heads, [(c["run"] + 1, *(c[name] for name in names), kept_or_not[c["chosen"]]) for c in candidates])


def _say_settings(page: Page, result: dict[str, Any]) -> None:
    page.heading("The model as a file")
    page.text(
        f"{MODEL} lies beside this page. bimt_fast.estimator.load('{MODEL}').predict(X) predicts from the columns"
        f" {_list(result['columns'])}, in this order; python -m bimt_fast predict {MODEL} TABLE finds them by name."
    )
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    page.text(f"{result['kind']}: {settings}. {versions}. {result['seconds']:.0f} s in all.")
