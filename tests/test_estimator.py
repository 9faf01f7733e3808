"""Fitting a table: structure, conventions of scikit-learn, files, the command line, bad tables, interruption."""

import csv
import json
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import bimt_fast as bf
from bimt_fast import _anatomy, _fitting, _table, estimator
from bimt_fast.__main__ import main
from bimt_fast.estimator import BIMTClassifier, BIMTRegressor
from bimt_fast.nn import BioMLP

pytestmark = pytest.mark.filterwarnings("ignore:the table should have at least")

NAMES = ["x1", "x2", "x3", "x4", "x5"]
SHORT = {"hidden": (8,), "seeds": 1, "steps": 100, "random_state": 0}


def formula(rows=300):
    """y = x1 x2 and z = sin(3 x3) + x4^2, with a column x5 that nothing depends on."""
    x = np.random.default_rng(0).uniform(-1, 1, (rows, 5))
    return x, np.column_stack([x[:, 0] * x[:, 1], np.sin(3 * x[:, 2]) + x[:, 3] ** 2])


def flowers(rows=90):
    """Three classes that two of three columns tell apart."""
    rng = np.random.default_rng(0)
    kind = np.arange(rows) % 3
    x = rng.normal(size=(rows, 3)) + 4 * np.column_stack([kind == 1, kind == 2, np.zeros(rows)])
    return x, np.array(["a", "b", "c"])[kind]


def write(path, columns):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))
    return str(path)


def table(path, **others):
    x, y = formula(80)
    return write(path, {**dict(zip(NAMES, x.T, strict=True)), "y": y[:, 0], "z": y[:, 1], **others})


@pytest.fixture(scope="module")
def fitted():
    x, y = formula()
    return bf.fit(x, y, names=NAMES, target_names=["y", "z"], **SHORT)


# Structure


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_structure_of_a_formula_is_found(seed):
    x, y = formula(1200)
    model = bf.fit(x[:1000], y[:1000], names=NAMES, target_names=["y", "z"], random_state=seed)
    print(f"\nformula, seed {seed}: {model.parts}, {_anatomy.counts(model.network_)[0]} connections")
    assert model.used_inputs == NAMES[:4]
    assert model.parts == [(["x1", "x2"], ["y"]), (["x3", "x4"], ["z"])]
    assert model.score(x[1000:], y[1000:]) > 0.99


@pytest.mark.slow
def test_the_page_says_what_was_found(tmp_path, capsys):
    x, y = formula(1000)
    path = write(tmp_path / "t.csv", {**dict(zip(NAMES, x.T, strict=True)), "y": y[:, 0], "z": y[:, 1]})
    fit = ["fit", path, "--targets", "y,z", "--seeds", "2", "--steps", "3000", "--out", str(tmp_path / "out")]
    assert main(fit) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    said = capsys.readouterr().out
    for sentence in ("Not used: x5.", "2 parts do not talk to each other: x1, x2 → y; x3, x4 → z."):
        assert sentence in page and sentence in said


def by_hand():
    """3-4-2: input 0 -> hidden 0 -> output 0, input 1 -> hidden 1 -> output 1; 2 is constant, 3 feeds nothing."""
    network = BioMLP((3, 4, 2), dtype=torch.float64)
    first, last = network.layers
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
        first.weight[0, 0], first.weight[1, 1], first.weight[3, 2] = 2, -1, 5
        first.bias[:] = torch.tensor([0.5, 0.5, 1.0, 1.0])
        last.weight[0, 0], last.weight[1, 1], last.weight[1, 2] = 1, 3, 0.7
    return network


def test_what_is_on_no_path_goes_and_the_function_stays():
    network = by_hand()
    x = torch.randn(20, 3, dtype=torch.float64)
    before = network(x)
    _anatomy.tidy_(network, torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(network(x), before)
    assert _anatomy.counts(network) == (4, 2)  # not the connection from the third input, nor the constant neuron
    assert _anatomy.parts(network) == [_anatomy.Part((0,), (0,)), _anatomy.Part((1,), (1,))]
    assert [(n.index, n.inputs, n.effect) for n in _anatomy.last_hidden(network)] == [
        (0, (0,), {0: 1}),
        (1, (1,), {1: 3}),
    ]


def test_parts_that_share_an_input_are_one():
    network = by_hand()
    with torch.no_grad():
        network.layers[0].weight[1, 0] = 1
    _anatomy.tidy_(network, torch.zeros(3, dtype=torch.bool))
    assert _anatomy.parts(network) == [_anatomy.Part((0, 1), (0, 1))]
    _anatomy.tidy_(network, torch.tensor([True, False, False]))
    assert _anatomy.parts(network) == [_anatomy.Part((), (0,)), _anatomy.Part((1,), (1,))]


def test_retraining_keeps_zeros():
    x, y = (torch.as_tensor(values, dtype=torch.float32) for values in formula(64))
    loss = BIMTRegressor._row_loss
    rows = _fitting.Rows(x, y, x, y, loss, torch.zeros(5, dtype=torch.bool))
    found, interrupted = _fitting.search(
        rows, (5, 6, 2), ablation="bimt", steps=200, seeds=[0], tolerance=0.02, budget=None, say=lambda text: None
    )
    assert not interrupted and [c.threshold for c in found] == list(_fitting.THRESHOLDS)
    counts = [c.connections for c in found]
    assert counts == sorted(counts, reverse=True) and counts[-1] < 5 * 6 + 6 * 2
    for candidate in found:
        network = BioMLP((5, 6, 2))
        network.load_state_dict(candidate.state)
        assert _anatomy.counts(network)[0] == candidate.connections
        assert rows.error(network) == pytest.approx(candidate.error)


def test_merges_are_judged_by_the_same_rows_each_time():
    x, y = (torch.as_tensor(values, dtype=torch.float32) for values in formula(2 * _fitting._BATCH + 1))
    rows = _fitting.Rows(x, y, x, y, BIMTRegressor._row_loss, torch.zeros(5, dtype=torch.bool))
    network, loss = BioMLP((5, 6, 2)), _fitting._loss(rows)
    assert loss(network).item() != loss(network).item(), "batches are drawn"
    with torch.no_grad():
        expected = (network(_fitting._judged(x)) - _fitting._judged(y)).square().mean()
        assert loss(network) == loss(network) == pytest.approx(expected.item())
    assert _fitting._BATCH / 2 < len(_fitting._judged(x)) <= _fitting._BATCH


def test_merges_take_enough_steps_and_time():
    assert _fitting.recipe((5, 6, 2), 5000, 0).merge is not None
    assert _fitting.recipe((5, 6, 2), 1000, 0).merge is None
    assert _fitting.recipe((5, 6, 2), 5000, 0, merge=False).merge is None


def candidate(error, wire, strength=1.0):
    return _fitting.Candidate(0, strength, 0.1, 100, error, wire, 10, 5, {})


def test_the_rule_of_choice():
    best, short, worse = candidate(0.1, 9.0), candidate(0.103, 2.0), candidate(0.105, 1.0)
    assert _fitting.choose([best, short, worse], 0.02) is short  # 0.1 * 1.02 + 0.002 = 0.104
    assert _fitting.choose([best, short, worse], 0.0) is best


def test_strengths_go_where_the_kept_network_is():
    tried = [candidate(0.5, 9.0, 1.0), candidate(0.1, 1.0, 10.0), candidate(0.9, 1.0, 30.0)]
    assert [_fitting.next_strength(tried[:k], 0.02) for k in range(4)] == [1.0, 10.0, 30.0, 3.0]
    assert _fitting.next_strength([*tried, candidate(0.3, 1.0, 3.0)], 0.02) == 10.0


# Conventions


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [BIMTRegressor, BIMTClassifier])
def test_conventions_of_scikit_learn(kind, monkeypatch):
    monkeypatch.setattr(_fitting, "THRESHOLDS", (0.05,))
    checks = pytest.importorskip("sklearn.utils.estimator_checks", reason="scikit-learn is not installed")
    done = checks.check_estimator(kind(hidden=(16,), seeds=1, steps=120), on_skip=None)
    assert sum(check["status"] == "passed" for check in done) > 30


def test_in_a_search_and_a_pipeline():
    selection = pytest.importorskip("sklearn.model_selection", reason="scikit-learn is not installed")
    x, y = formula(60)
    search = selection.GridSearchCV(BIMTRegressor(**SHORT), {"tolerance": [0.0, 0.1]}, cv=2).fit(x, y)
    assert search.predict(x).shape == y.shape


def test_without_scikit_learn_which_importing_the_package_leaves_alone():
    code = """
import sys
import numpy as np, bimt_fast as bf
assert "sklearn" not in sys.modules and "estimator" not in vars(bf)
sys.modules["sklearn"] = None
x = np.random.default_rng(0).normal(size=(60, 2))
model = bf.fit(x, x[:, 0] * 2, hidden=(8,), seeds=1, steps=200, random_state=0)
again = bf.BIMTRegressor().set_params(**model.get_params())
assert model.predict(x).shape == (60,) and model.score(x, x[:, 0] * 2) > 0.5
assert repr(again) == "BIMTRegressor(hidden=(8,), random_state=0, seeds=1, steps=200)", repr(again)
kinds = bf.fit(x, np.where(x[:, 1] > 0, "up", "down"), classify=True, hidden=(8,), seeds=1, steps=200, random_state=0)
assert kinds.score(x, np.where(x[:, 1] > 0, "up", "down")) > 0.8
gap = x.tolist()
gap[3][1] = float("nan")
bad_calls = lambda: model.predict(x[:, :1]), lambda: model.predict(x[0]), lambda: model.predict(gap)
for bad in (*bad_calls, lambda: model.fit(x, x[:5, 0]), lambda: bf.BIMTRegressor().predict(x)):
    try:
        bad()
    except ValueError:
        continue
    raise SystemExit("a bad call was not refused")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr


def test_targets_one_or_many(fitted):
    x, y = formula()
    assert fitted.predict(x).shape == (300, 2) and fitted.predict(x).dtype == np.float64
    one = BIMTRegressor(**SHORT).fit(x, y[:, 0])
    assert one.predict(x).shape == (300,) and one.predict(x[:1]).shape == (1,)
    assert BIMTRegressor(**SHORT).fit(x, y[:, :1]).predict(x).shape == (300, 1)


def test_rows_are_predicted_each_for_itself(fitted):
    x, _ = formula()
    order = np.random.RandomState(0).permutation(len(x))
    np.testing.assert_allclose(fitted.predict(x)[order], fitted.predict(x[order]), rtol=1e-12)
    np.testing.assert_allclose(fitted.predict(x[:1]), fitted.predict(x)[:1], rtol=1e-12)
    np.testing.assert_allclose(fitted.predict(x.astype(np.float32)), fitted.predict(x), rtol=1e-4, atol=1e-4)


def test_random_state():
    x, y = formula(60)

    def predict(random_state):
        return BIMTRegressor(**(SHORT | {"random_state": random_state})).fit(x, y).predict(x)

    before = torch.get_rng_state()
    np.testing.assert_array_equal(predict(3), predict(3))
    np.testing.assert_array_equal(predict(3), predict(np.random.RandomState(3)))
    assert (predict(3) != predict(4)).any()
    stream = np.random.RandomState(3)
    assert (predict(stream) != predict(stream)).any()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("labels", [["no", "yes"], [2, 7], [False, True], ["a", "b", "c"]])
def test_classes_come_back_as_they_were(labels, tmp_path):
    x, kinds = flowers()
    y = np.array(labels)[np.searchsorted(["a", "b", "c"], kinds) % len(labels)]
    model = BIMTClassifier(**SHORT).fit(x, y)
    said, p = model.predict(x), model.predict_proba(x)
    assert said.dtype == y.dtype and list(model.classes_) == sorted(labels) and p.shape == (90, len(labels))
    np.testing.assert_allclose(p.sum(1), 1)
    assert (model.classes_[p.argmax(1)] == said).all()
    model.save(tmp_path / "model.pt")
    again = estimator.load(tmp_path / "model.pt")
    assert again.predict(x).dtype == y.dtype and (again.predict(x) == said).all()


def test_saved_and_loaded(fitted, tmp_path):
    x, _ = formula()
    fitted.save(tmp_path / "model.pt")
    again = estimator.load(tmp_path / "model.pt")
    np.testing.assert_array_equal(again.predict(x), fitted.predict(x))
    assert again.get_params() == fitted.get_params() and again.candidates_ == fitted.candidates_
    assert (again.input_names_, again.used_inputs, again.parts) == (NAMES, fitted.used_inputs, fitted.parts)
    assert torch.equal(again.network_.wiring.permutation("in"), fitted.network_.wiring.permutation("in"))
    (tmp_path / "broken.pt").write_bytes(b"no model")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    for name in ("broken.pt", "other.pt"):
        with pytest.raises(ValueError, match=r"must be a model that fit saved"):
            estimator.load(tmp_path / name)


def test_parameters_of_numpy_are_saved(fitted, tmp_path):
    model = BIMTRegressor(**(SHORT | {"steps": np.int64(7), "random_state": np.int64(1), "tolerance": np.float64(0.1)}))
    model.take(fitted)
    model.save(tmp_path / "model.pt")
    assert estimator.load(tmp_path / "model.pt").get_params() == model.get_params()


def test_no_score_where_nothing_varies(fitted):
    x, y = formula(20)
    y[:, 0] = 0.1
    figures = fitted.measure(x, y)
    assert figures["per target"]["y"]["r2"] is None and figures["score"] == figures["per target"]["z"]["r2"] is not None
    assert fitted.measure(x[:1], y[:1])["score"] is None


def test_dataframes_name_columns():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    x, y = formula(60)
    frame, targets = pandas.DataFrame(x, columns=NAMES), pandas.DataFrame(y, columns=["y", "z"])
    model = BIMTRegressor(**SHORT).fit(frame, targets)
    assert list(model.feature_names_in_) == NAMES and model.target_names_ == ["y", "z"]
    np.testing.assert_allclose(model.predict(frame), model.predict_rows(x), rtol=1e-9)
    frame.loc[3, "x2"] = np.nan
    with pytest.raises(
        ValueError, match=r"column 'x2' must hold no missing values \(NaN\), had 1 of 60 rows, row 4 first"
    ):
        model.predict(frame)


# Bad tables and parameters


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("hidden", (), r"hidden must be a tuple or list of positive integers, was \(\)"),
        ("hidden", (4, 0), r"hidden must be a tuple or list of positive integers, was \(4, 0\)"),
        ("seeds", 0, r"seeds must be a positive integer, was 0"),
        ("steps", 1.5, r"steps must be a positive integer, was 1.5"),
        ("budget", -1, r"budget must be a number of seconds above 0, or None, was -1"),
        ("tolerance", -0.1, r"tolerance must be a number of at least 0, was -0.1"),
        ("validation", 1, r"validation must be a share between 0 and 1, was 1"),
        ("ablation", "l2", r"ablation must be one of none, l1, .*, was 'l2'"),
        ("random_state", -1, r"random_state must be an integer from 0 to 2\*\*32 - 1, .*, was -1"),
    ],
)
def test_bad_parameters(name, value, said):
    x, y = formula(30)
    with pytest.raises(ValueError, match=said):
        BIMTRegressor(**(SHORT | {name: value})).fit(x, y)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["1", "", "3"], r"column 'a' must hold no missing values \(NaN\), had 20 of 60 rows, row 2 first"),
        (["1", "inf", "3"], r"column 'a' must be finite, had infinity in 20 of 60 rows, row 2 first"),
        (["1", "red", "3"], r"column 'a' must hold numbers, held text such as 'red'"),
    ],
)
def test_bad_columns(cells, said, tmp_path, capsys):
    path = write(tmp_path / "t.csv", {"a": cells * 20, "b": range(60), "y": range(60)})
    out = ["--out", str(tmp_path / "out")]
    assert main(["fit", path, "--targets", "y", "--inputs", "a,b", *out]) == 1
    assert re.fullmatch(f"error: {said}\n", capsys.readouterr().err)
    assert main(["fit", path, "--targets", "a", "--inputs", "b", *out]) == 1
    assert re.fullmatch(f"error: {said.replace('column', 'target')}\n", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("header", "arguments", "said"),
    [
        ("a,b,a", ["--targets", "b"], "names of columns must be distinct, 'a' stood 2 times"),
        ("a,,b", ["--targets", "b"], "column 2 must have a name, had none"),
        ("a,b,c", ["--targets", "q"], "targets must be columns of the table (a, b, c), named 'q'"),
        ("a,b,c", ["--targets", "b", "--inputs", "d"], "inputs must be columns of the table (a, b, c), named 'd'"),
        ("a,b,c", ["--targets", "b", "--inputs", "a,b"], "inputs must not hold a target, held 'b'"),
        ("a,b,c", ["--targets", "b,b"], "targets must name each column once, named 'b' twice"),
        ("a,b,c", ["--targets", "a,b,c"], "the table must have a column of numbers beside the targets, had none"),
        ("a,b,c", ["--targets", "a,b", "--classify"], "targets must be one column of classes, were 2"),
    ],
)
def test_bad_names(header, arguments, said, tmp_path, capsys):
    (tmp_path / "t.csv").write_text(header + "\n" + "1,2,3\n4,5,6\n" * 10)
    assert main(["fit", str(tmp_path / "t.csv"), *arguments, "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"target_names": ["p", "q"]}, "target_names must be one for each of 1 columns, were 2"),
        ({"target_names": "yield"}, "target_names must be a list of strings, was 'yield'"),
        ({"names": [1, 2, 3, 4, 5]}, r"names must be a list of strings, was \[1, 2, 3, 4, 5\]"),
        ({"names": ["a"]}, "names must be one for each of 5 columns, were 1"),
        ({"names": ["a", "b", "c", "d", "a"]}, "names of columns must be distinct, 'a' stood 2 times"),
    ],
)
def test_bad_names_of_arrays(names, said):
    x, y = formula(30)
    with pytest.raises(ValueError, match=said):
        bf.fit(x.tolist(), y[:, 0], **SHORT, **names)


@pytest.mark.filterwarnings("ignore:The number of unique classes")
@pytest.mark.parametrize(
    ("y", "classify", "said"),
    [
        (np.arange(29), False, "inconsistent numbers of samples"),
        (np.full(30, 5.0), False, "target 'y' must vary, was 5 in all of 30 rows"),
        (["cat"] * 30, True, "y must hold at least two classes, held one class: 'cat'"),
        (np.linspace(0, 1, 30), True, "(?i)continuous"),
        (list(map(str, range(30))), True, "classes must have at least 3 rows each, the commonest had 1"),
    ],
)
def test_bad_targets_leave_no_folder(y, classify, said, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    x, _ = formula(30)
    with pytest.raises(ValueError, match=said):
        bf.fit(x, y, classify=classify, out=tmp_path / "out", **SHORT)
    assert not (tmp_path / "out").exists()


def test_what_is_odd_is_warned_of():
    x, y = formula(40)
    odd = np.column_stack([x, np.full(40, 3.0), 2 * y[:, 0] + 1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = bf.fit(odd, y[:, 0], names=[*NAMES, "unit", "copy"], target_names=["y"], **SHORT)
    assert [str(w.message) for w in caught if w.category is UserWarning] == [
        "the table should have at least 50 rows to tell a rule from chance, had 40",
        "column 'unit' should vary to be of use, was 3 in every row",
        "column 'copy' should not be the target 'y' itself, was a straight line of it",
    ]
    assert "unit" not in model.used_inputs
    changed = odd.copy()
    changed[:, 5] = 1e6
    np.testing.assert_array_equal(model.predict(changed), model.predict(odd))


def test_text_columns_are_left_out_unless_asked_for():
    columns = {"a": np.arange(3.0), "city": np.array(["Oslo", "Rome", None], dtype=object), "y": np.arange(3.0)}
    with pytest.warns(
        UserWarning, match=r"column 'city' is left out: an input must hold numbers, held text such as 'Oslo'"
    ):
        assert _table.choose(columns, ["y"], None) == ["a"]


# Files and the command line


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_reading(delimiter, end, tmp_path):
    lines = ["number,text with, flag,gap,id", "1,a b,true,1.5,1_0", "", "-2e3,NA,FALSE,,2", "3, c,True,4,3"]
    path = tmp_path / "t.csv"
    path.write_bytes((end.join(lines).replace(",", delimiter) + end).encode("utf-8-sig"))
    columns = _table.read(path, text=["flag"])
    assert list(columns) == ["number", "text with", "flag", "gap", "id"]
    np.testing.assert_array_equal(columns["number"], [1, -2000, 3])
    np.testing.assert_array_equal(columns["gap"], [1.5, np.nan, 4])
    assert columns["text with"].tolist() == ["a b", None, "c"] and columns["id"].tolist() == ["1_0", "2", "3"]
    assert columns["flag"].tolist() == ["true", "FALSE", "True"]
    assert _table.read(path)["flag"].tolist() == [1, 0, 1]


def test_quoted_names(tmp_path):
    (tmp_path / "t.csv").write_text('"Fuel, l/100km";"two\nlines"\n1;2\n')
    assert list(_table.read(tmp_path / "t.csv")) == ["Fuel, l/100km", "two\nlines"]


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["2", "10", "-3"], [2, 10, -3]),
        (["007", "7"], ["007", "7"]),
        (["True", "False"], ["True", "False"]),
        ([1.0, 0.0], [1, 0]),
        (["0.5", "1"], [0.5, 1.0]),
    ],
)
def test_class_labels_are_what_was_written(cells, labels):
    assert _table.classes_of("y", np.array(cells, dtype=object)).tolist() == labels


def test_a_label_that_may_mean_nothing_is_warned_of():
    with pytest.warns(UserWarning, match="target 'y' should be empty where it is missing: 'NA' was taken for a class"):
        assert _table.classes_of("y", np.array(["NA", "b"], dtype=object)).tolist() == ["NA", "b"]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_parquet(library, tmp_path, monkeypatch):
    frames = pytest.importorskip(library, reason=f"{library} is not installed")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    installed = _table._installed
    monkeypatch.setattr(_table, "_installed", lambda name: installed(name) if name == library else None)
    frame = frames.DataFrame({"whole": [1, 2], "text": ["a", None], "flag": [True, False]})
    (frame.to_parquet if library == "pandas" else frame.write_parquet)(tmp_path / "t.parquet")
    columns = _table.read(tmp_path / "t.parquet")
    assert {name: column.tolist() for name, column in columns.items()} == {
        "whole": [1.0, 2.0],
        "text": ["a", None],
        "flag": [1.0, 0.0],
    }


def test_files_that_hold_no_table(tmp_path, monkeypatch):
    monkeypatch.setattr(_table, "_installed", lambda name: None)
    for content, said in (
        (b"", "must begin with the names of its columns, began with an empty line"),
        (b"a,b\n", "held none"),
        (b"a,b\n\n1\n", "line 3 of .* must have 2 cells, one a name, had 1"),
        (b"a,b\n1,\xff\n", "must be UTF-8, byte 7 was not"),
        (b'a,b\n1,"2\n', "line 2 of .* must be CSV: unexpected end of data"),
    ):
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(ValueError, match=said):
            _table.read(tmp_path / "t.csv")
    with pytest.raises(ImportError, match="Parquet files need pandas or polars"):
        _table.read(tmp_path / "t.parquet")


def test_fit_and_predict_from_the_command_line(tmp_path, capsys):
    path, out = table(tmp_path / "t.csv", name=["row"] * 80), tmp_path / "out"
    fit = ["fit", path, "--targets", "y,z", "--steps", "100", "--seeds", "1", "--hidden", "6,4", "--out", str(out)]
    assert main(fit) == 0
    said = capsys.readouterr()
    assert "warning: column 'name' is left out" in said.err and "On 16 rows held out: R²" in said.out
    result = json.loads((out / "result.json").read_text())
    assert result["columns"] == NAMES and result["rows"] == {"learned from": 64, "tested on": 16}
    assert list(result["tested"]) == ["bimt", "l1", "none"] and result["tested"]["none"]["connections"] == 62
    page = (out / "report.html").read_text()
    assert (out / "network.svg").stat().st_size > 1000
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "x1, x2" in page
    shuffled = write(tmp_path / "again.csv", {name: _table.read(path)[name][:3] for name in reversed(NAMES)})
    assert main(["predict", str(out / "model.pt"), shuffled]) == 0
    lines = capsys.readouterr().out.splitlines()
    x = np.column_stack([_table.read(path)[name][:3] for name in NAMES])
    expected = estimator.load(out / "model.pt").predict_rows(x)
    assert lines[0] == "y,z"
    np.testing.assert_allclose([list(map(float, line.split(","))) for line in lines[1:]], expected, rtol=1e-12)


def test_classes_from_the_command_line(tmp_path):
    x, kinds = flowers()
    path = write(tmp_path / "t.csv", {"l": x[:, 0], "w": x[:, 1], "h$": x[:, 2], "kind": kinds})
    out = tmp_path / "out"
    fit = ["fit", path, "--targets", "kind", "--classify", "--steps", "100", "--seeds", "1", "--out", str(out)]
    assert main([*fit, "--hidden", "6"]) == 0
    assert main(["predict", str(out / "model.pt"), path, "--out", str(tmp_path / "said.csv")]) == 0
    said = _table.read(tmp_path / "said.csv")
    assert list(said) == ["kind", "p(a)", "p(b)", "p(c)"] and (said["kind"] == kinds).mean() > 0.8


def test_a_page_of_too_few_rows_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    x, y = formula(5)
    with pytest.warns(UserWarning) as told:
        bf.fit(x, y, out=tmp_path, **(SHORT | {"steps": 5}))
    page, said = (tmp_path / "report.html").read_text(), [str(warning.message) for warning in told]
    assert "need matplotlib" in page and "<img" not in page and "Rows held out: 1, too few to score" in page
    assert [text for text in said if "50 rows" in text] == [
        "the table should have at least 50 rows to tell a rule from chance, had 5"
    ]
    assert json.loads((tmp_path / "result.json").read_text())["tested"]["bimt"]["score"] is None


# Time and interruption


@pytest.mark.filterwarnings("ignore:the time budget should suffice")
def test_the_budget_is_kept_to():
    x, y = formula(100)
    model = BIMTRegressor((8,), seeds=3, steps=10**7, budget=1.5, random_state=0).fit(x, y)
    assert 1 <= len({c["run"] for c in model.candidates_}) <= 3
    assert model.candidates_[0]["steps"] < 10**5


def test_a_budget_too_short_for_one_network_keeps_what_there_is(monkeypatch):
    monkeypatch.setattr(_fitting, "_affordable", lambda *arguments: (10**7, True))
    x, y = formula(60)
    with pytest.warns(UserWarning, match="the time budget should suffice to train one network, did not"):
        model = BIMTRegressor((8,), seeds=3, budget=0.3, random_state=0).fit(x, y)
    assert len(model.candidates_) == 1 and np.isfinite(model.predict(x)).all()


def interrupt_after(monkeypatch, networks):
    train_one, done = _fitting._train_one, []

    def interrupted(*arguments, **named):
        if len(done) == networks:
            raise KeyboardInterrupt
        done.append(1)
        return train_one(*arguments, **named)

    monkeypatch.setattr(_fitting, "_train_one", interrupted)


def test_interrupted_after_a_network(monkeypatch):
    interrupt_after(monkeypatch, 1)
    x, y = formula(60)
    with pytest.warns(UserWarning, match="interrupted: the best network so far was kept, of 1 of 3 runs"):
        model = BIMTRegressor(**(SHORT | {"seeds": 3})).fit(x, y)
    assert model.interrupted_ and model.predict(x).shape == y.shape


def test_interrupted_before_the_first_network(fitted, monkeypatch):
    interrupt_after(monkeypatch, 0)
    x, y = formula(60)
    before, threads, state = dict(vars(fitted)), torch.get_num_threads(), torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        fitted.fit(x[:, :3], y[:, 0])
    assert vars(fitted) == before and fitted.predict(x).shape == y.shape
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


def test_an_early_interruption_leaves_no_folder(tmp_path, monkeypatch):
    interrupt_after(monkeypatch, 0)
    x, y = formula(60)
    with pytest.raises(KeyboardInterrupt):
        bf.fit(x, y, out=tmp_path / "out", **SHORT)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_report_leaves_the_baselines_out(tmp_path, monkeypatch):
    interrupt_after(monkeypatch, 1)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    x, y = formula(60)
    with pytest.warns(UserWarning, match="interrupted: no network was trained with an L1 penalty"):
        bf.fit(x, y, out=tmp_path, **SHORT)
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["tested"]) == ["bimt"] and "L1 penalty" in result["warnings"][-1]
