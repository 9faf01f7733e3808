"""What a training run looked like on the way: a file of frames, from which an animation is drawn."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ._drawing import strongest
from .wiring import RelocationReport, Wiring

_EDGES = 5000  # of each connection in a frame


class Recorder:
    """Adds frames to a file: where every neuron sits, and the strongest weights of each connection.

    A frame takes 4 bytes a neuron and 8 bytes a weight, of at most 5000 weights of each connection, however wide it is.
    `bimt_fast.train.train` takes a recorder. In a loop of your own call `start(wiring)` before the first step,
    `follow(report)` with what each relocation returns, and `add(step, loss, cost, lam)` for a frame.

    Args:
        path: of the file; replaced when a run starts.
        every: steps between frames.

    Raises:
        ValueError: every is below 1.
    """

    def __init__(self, path: str | os.PathLike, every: int) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, was {every}")
        self.path, self.every = Path(path), every
        self._slots: dict[str, Tensor] = {}

    def start(self, wiring: Wiring, step: int = 0, slots: Mapping[str, Tensor] | None = None) -> None:
        """Begins a run, or goes on with one: what the file holds of that step and later ones is left out.

        Args:
            wiring: of the model.
            step: the first that is going to be recorded.
            slots: the `slots` of this run when it was interrupted.
        """
        self._wiring = wiring
        self._dtype = _frame_dtype(wiring)
        self._slots = dict(slots or {g: torch.arange(len(wiring.slots(g))) for g in wiring.inner_groups})
        kept = read_frames(self.path) if step and self.path.exists() else np.empty(0, self._dtype)
        kept = np.array(kept[kept["step"] < step]) if kept.dtype == self._dtype else np.empty(0, self._dtype)
        fields = [[name, kind.base.str, list(kind.shape)] for name, (kind, _) in self._dtype.fields.items()]
        new = self.path.with_name(self.path.name + ".new")
        new.write_bytes(json.dumps(fields).encode() + b"\n" + kept.tobytes())
        os.replace(new, self.path)

    @property
    def slots(self) -> dict[str, Tensor]:
        """By inner group, where each neuron sits now; neurons are counted by the slots they began in."""
        return self._slots

    @slots.setter
    def slots(self, slots: Mapping[str, Tensor]) -> None:
        self._slots = dict(slots)

    def follow(self, report: RelocationReport) -> None:
        """Notes who moved in a relocation."""
        for group, before in self._slots.items():
            if group in report.moved:
                self._slots[group] = report.moved[group][before]

    def add(self, step: int, loss: float, cost: float, lam: float) -> None:
        """Appends the frame of a step."""
        frame = np.zeros((), self._dtype)
        frame["step"], frame["loss"], frame["cost"], frame["lam"] = step, loss, cost, lam
        for group in self._wiring.groups:
            slots = self._slots[group] if group in self._slots else self._wiring.permutation(group)
            frame[f"slots {group}"] = slots.cpu().numpy()
        for part in self._wiring.parts():
            index, _, _ = strongest(part.weight, 0.0, _EDGES, part.label)
            frame[f"edges {part.label}"][: len(index)] = index.numpy()
            weights = part.weight.flatten()[index.to(part.weight.device)]
            frame[f"weights {part.label}"][: len(index)] = weights.float().cpu().numpy()
        with open(self.path, "ab") as file:
            file.write(frame.tobytes())


def read_frames(path: str | os.PathLike) -> np.ndarray:
    """The frames of a file, in a structured array that is read as it is looked at.

    Fields: step, loss, cost, lam; "slots GROUP" (n,); "edges LABEL" (k,), flat indices into the connection's matrix,
    and "weights LABEL" (k,), ascending in |w|, those of weight 0 behind them to be passed over. A half-written last
    frame is left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no frames.
    """
    with open(path, "rb") as file:
        head = file.readline()
    try:
        dtype = np.dtype([(name, kind, tuple(shape)) for name, kind, shape in json.loads(head)])
    except (ValueError, TypeError):
        raise ValueError(f"{os.fspath(path)} must hold frames of a training run, held none") from None
    count = (os.path.getsize(path) - len(head)) // dtype.itemsize
    if not count:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r", offset=len(head), shape=(count,))


def _frame_dtype(wiring: Wiring) -> np.dtype:
    fields = [("step", "<i8"), ("loss", "<f8"), ("cost", "<f8"), ("lam", "<f8")]
    fields += [(f"slots {group}", "<i4", (len(wiring.slots(group)),)) for group in wiring.groups]
    for part in wiring.parts():
        count = min(part.weight.numel(), _EDGES)
        fields += [(f"edges {part.label}", "<i4", (count,)), (f"weights {part.label}", "<f4", (count,))]
    return np.dtype(fields)
