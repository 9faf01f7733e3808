"""A wiring in words: its groups, then its tensors."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ._declaration import Entry

if TYPE_CHECKING:
    from .wiring import Wiring


def describe(wiring: "Wiring") -> str:
    """Groups with size and kind, then tensors with axes and what they cost; columns stand under each other."""
    metric = f"a table of {len(wiring.metric)} places" if isinstance(wiring.metric, Tensor) else wiring.metric
    groups = [(group, str(len(wiring._slots[group])), ", ".join(_kinds(wiring, group))) for group in wiring.groups]
    tensors = [(e.name, " x ".join(text or "-" for text in e.texts), _price(wiring, e)) for e in wiring._entries]
    return "\n".join(
        (
            f"Wiring of {type(wiring.model).__name__}, metric {metric}",
            f"{len(groups)} groups (name, neurons, kind):",
            *_columns(groups),
            f"{len(tensors)} tensors (name, axes, cost):",
            *_columns(tensors),
        )
    )


def with_notes(wiring: "Wiring") -> str:
    if not wiring.notes:
        return describe(wiring)
    return "\n".join((describe(wiring), f"{len(wiring.notes)} notes:", *(f"  {note}" for note in wiring.notes)))


def _columns(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _kinds(wiring: "Wiring", group: str) -> Iterable[str]:
    ends = [[e.axes[end].groups for end in e.ends] for e in wiring._entries if e.is_connection]
    if group in wiring.inner_groups:
        yield "inner"
    elif any(group in source for _, source in ends):
        yield "input"
    else:
        yield "output" if any(group in out for out, _ in ends) else "without connections"
    if group in wiring.recurrent_groups:
        yield "recurrent"
    if group in wiring.frozen:
        yield "frozen"
    if group in wiring.blocks:
        count = wiring.blocks[group]
        yield f"{count} blocks of {len(wiring._slots[group]) // count}"
    if wiring._slots[group].requires_grad:
        yield "positions learned"


def _price(wiring: "Wiring", entry: Entry) -> str:
    first = next(e for e in wiring._entries if e.tensor is entry.tensor)
    if first is not entry:
        return f"the same tensor as {first.name}"
    if not isinstance(entry.tensor, nn.Parameter):
        return "nothing: a buffer"
    if entry not in wiring._charged:
        return "nothing"
    if not entry.tensor.requires_grad:
        return "nothing: not trained"
    base = f"base_length {wiring._base_length[entry.name]:g}"
    if not entry.is_connection:
        return f"{wiring._reduction[entry.name]}, {base}"
    return f"{wiring._reduction[entry.name]}, distance_scale {wiring._distance_scale[entry.name]:g}, {base}"
