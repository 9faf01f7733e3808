"""What README shows must run."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "network.png").stat().st_size > 1000
    costs = [float(x) for line in capsys.readouterr().out.splitlines() for x in re.findall(r"\d+\.\d+", line)]
    assert len(costs) == 20 and costs[-1] < costs[0]
