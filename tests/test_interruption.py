"""A relocation that is interrupted leaves everything as it was: model, gradients, optimizer, permutations."""

import sys

import pytest
import torch
from test_relocation import everything, network, same, train
from torch.utils._python_dispatch import TorchDispatchMode

import bimt_fast.wiring

CALLS = {
    "relocate": lambda wiring, optimizer: wiring.relocate("matching", optimizer=optimizer),
    "permute_": lambda wiring, optimizer: wiring.permute_("h1", torch.arange(8).flip(0), optimizer=optimizer),
}
FILES = (bimt_fast.wiring.__file__, bimt_fast._relocation.__file__)
MOVING = ("_move", "permute", "_reordered", "companions")  # the functions that change tensors


class InterruptAt(TorchDispatchMode):
    """Raises KeyboardInterrupt just before or just after the n-th operation on tensors."""

    def __init__(self, n: int, after: bool) -> None:
        super().__init__()
        self.left, self.after = n, after

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.left -= 1
        if self.left == -1 and not self.after:
            raise KeyboardInterrupt
        result = function(*args, **(kwargs or {}))
        if self.left == -1 and self.after:
            raise KeyboardInterrupt
        return result


def trained():
    model = network(4, 8, 3)
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 2)
    return model, optimizer


@pytest.mark.parametrize("after", (False, True), ids=("before", "after"))
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_at_every_operation(call, after):
    n = interrupted = 0
    while True:
        model, optimizer = trained()
        before = everything(model, optimizer)
        try:
            with InterruptAt(n, after):
                call(model.wiring, optimizer)
        except KeyboardInterrupt:
            assert same(everything(model, optimizer), before), f"operation {n}"
            interrupted += 1
        else:
            break
        n += 1
    assert interrupted >= 20  # six parameters, each with its gradient and two moments, are copied in turn
    assert not same(everything(model, optimizer), before)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_at_every_line_of_the_move(call):
    """Where a real interrupt arrives: between any two lines. Only after the last tensor may all of it stay moved."""
    model, optimizer = trained()
    call(model.wiring, optimizer)
    done = everything(model, optimizer)
    n = undone = 0
    while True:
        model, optimizer = trained()
        before = everything(model, optimizer)
        left, line = n, None

        def trace(frame, event, _):
            nonlocal left, line
            code = frame.f_code
            if code.co_filename not in FILES or code.co_name not in MOVING:
                return None
            if event == "line":
                left -= 1
                if left == -1:
                    line = frame.f_lineno
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            call(model.wiring, optimizer)
        except KeyboardInterrupt:
            sys.settrace(None)
            after = everything(model, optimizer)
            undone += same(after, before)
            assert same(after, before) or same(after, done), f"inconsistent after an interrupt at line {line}"
        else:
            break
        finally:
            sys.settrace(None)
        n += 1
    assert undone >= 20


def test_after_a_failure_it_can_be_repeated():
    model, optimizer = trained()
    with pytest.raises(KeyboardInterrupt), InterruptAt(60, True):
        model.wiring.relocate("matching", optimizer=optimizer)
    twin, other = trained()
    twin.wiring.relocate("matching", optimizer=other)
    model.wiring.relocate("matching", optimizer=optimizer)
    assert same(everything(model, optimizer), everything(twin, other))
