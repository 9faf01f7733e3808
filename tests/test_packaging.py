"""What an installation that is not editable would hold."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_installed():
    text = re.search(r"^packages = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), flags=re.M)[1]
    there = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("bimt_fast/**/__init__.py")
    }
    assert set(re.findall(r'"([\w.]+)"', text)) == there
