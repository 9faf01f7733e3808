"""Every contender of every row of rows.py under pytest-benchmark, for its statistics, JSON and comparisons.

    .venv/bin/python -m pytest benchmarks -k "AdamW and bimt_fast" --benchmark-autosave
    .venv/bin/python -m pytest benchmarks -k "AdamW and bimt_fast" --benchmark-compare

Contenders run one after the other here; run.py lets them take turns, and its ratios are the ones to quote. A row
whose result is wrong fails, and no speed of it is shown. `make test` does not collect this file.
"""

import pytest
from rows import all_rows

CASES = [(row, name) for row in all_rows() for name in row.contenders()]


@pytest.fixture(scope="module")
def row(request):
    """A row that is prepared and right; what it holds is freed when the next row's turn comes."""
    kept = dict(vars(request.param))
    request.param.prepare()
    error = request.param.check()
    if not error <= request.param.tolerance:
        pytest.fail(f"relative error {error:.1e}, allowed {request.param.tolerance:.0e}")
    yield request.param, error
    vars(request.param).clear()
    vars(request.param).update(kept)


@pytest.mark.parametrize(("row", "name"), CASES, indirect=["row"], ids=[f"{row.name}: {name}" for row, name in CASES])
def test_speed(row, name, benchmark):
    row, error = row
    benchmark.group = row.name
    benchmark.extra_info["relative error of bimt_fast"] = error
    timing = {"iterations": row.repeats} if row.fresh is None else {"setup": row.fresh}
    benchmark.pedantic(row.contenders()[name], rounds=row.rounds, warmup_rounds=int(row.rounds > 2), **timing)
