"""BIMT in other people's training loops: `hooks` for any torch optimizer, `lightning`, `huggingface`.

The last two import their library when they are imported, and not before.
"""

__all__ = ["hooks", "huggingface", "lightning"]
