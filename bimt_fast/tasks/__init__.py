"""One file per experiment: data, preset with the published settings, and what structure to look for."""

from . import (
    brain,
    compositionality,
    in_context,
    independence,
    mnist,
    modular_addition,
    permutation_s4,
    products,
    sharing,
    two_moons,
)
from ._task import ACTIVE, Data, Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        products.TASK,
        independence.TASK,
        sharing.TASK,
        compositionality.TASK,
        two_moons.TASK,
        modular_addition.TASK,
        permutation_s4.TASK,
        in_context.TASK,
        mnist.TASK,
        mnist.WIDE,
        *brain.BRAINS.values(),
    )
}

_MORE = [name for task in TASKS.values() for name in task.more_presets]
PRESETS = tuple(dict.fromkeys(["published", "proximal", "reliable", *_MORE]))

__all__ = ["ACTIVE", "PRESETS", "TASKS", "Data", "Task"]
