"""What the build said of a native module that is not there (setup.py writes it beside the package's modules)."""

import json
from pathlib import Path


def why_missing(name: str, import_error: str) -> str:
    """One sentence: what the build said of bimt_fast.<name>, or else what the import said."""
    module = f"bimt_fast.{name}"
    try:
        note = json.loads((Path(__file__).parent.parent / "_build.json").read_text())[module]
    except (OSError, ValueError, KeyError):
        return f"{module} was never built here: {import_error}"
    if note["built"]:
        return f"{module} was built ({note['note']}) but cannot be imported: {import_error}"
    return f"{module} was not built: {note['note']}"
