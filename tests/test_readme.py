"""What README shows must run."""

import re
from pathlib import Path

import torch
from torch import nn

import bimt_fast as bf

README = Path(__file__).parent.parent / "README.md"


def examples():
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(examples()[0], "README.md", "exec"), {})
    assert (tmp_path / "network.png").stat().st_size > 1000
    costs = [float(x) for line in capsys.readouterr().out.splitlines() for x in re.findall(r"\d+\.\d+", line)]
    assert len(costs) == 20 and costs[-1] < costs[0]


def test_the_axes_fit_the_modules_they_name():
    named: dict = {}
    exec(compile(examples()[1], "README.md", "exec"), named)
    model = nn.ModuleDict({"rnn": nn.GRU(3, 8), "conv": nn.Conv2d(4, 6, 3), "fc": nn.Linear(6 * 49, 5)})
    sizes = {"in": 3, "h": 8, "c1": 4, "c2": 6, "h1": 5}
    wiring = bf.Wiring(model, {group: bf.geometry.line(n) for group, n in sizes.items()}, named["axes"])
    for group in wiring.inner_groups:
        wiring.permute_(group, torch.randperm(sizes[group]))
    assert set(wiring.inner_groups) == {"h", "c2"}


def test_a_traced_wiring_says_what_it_found():
    model = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 2))
    wiring = bf.trace(model, torch.zeros(1, 4))
    assert "0.weight" in wiring.report()
    (hidden,) = [group for group in wiring.groups if group not in wiring.frozen]
    wiring.place(
        {hidden: bf.geometry.grid((2, 3)), **{g: bf.geometry.grid((1, len(wiring.slots(g)))) for g in wiring.frozen}}
    )
    assert wiring.relocate().cost_after <= wiring.cost().item() + 1e-6


def test_a_table_is_fitted(capsys):
    exec(
        compile(examples()[2].replace("random_state=0", "random_state=0, seeds=1, steps=100"), "README.md", "exec"), {}
    )
    assert "'x1'" in capsys.readouterr().out
