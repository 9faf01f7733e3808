"""One file per experiment: data, preset with the published settings, and what structure to look for."""

from . import products
from ._task import ACTIVE, Data, Task

TASKS: dict[str, Task] = {task.name: task for task in (products.TASK,)}

__all__ = ["ACTIVE", "TASKS", "Data", "Task"]
