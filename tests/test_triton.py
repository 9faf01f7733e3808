"""What the Triton kernels take when compiled for GPUs that are not here, and what only these functions promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import inputs
import pytest
import torch
from conftest import usable

import bimt_fast as bf
from bimt_fast import ops
from bimt_fast.kernels import reference

GPU = Path(__file__).parent / "gpu"


@pytest.fixture
def interpreted():
    able, reason = usable("triton")
    if not able:
        pytest.skip(f"backend triton: {reason}")
    with bf.backend("triton"):
        yield


def compile_ahead(*arguments):
    pytest.importorskip("triton", reason="Triton is not installed: its kernels are not compiled")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(GPU / "aot.py"), "--short", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_kernels_compile_within_their_budgets():
    done = compile_ahead()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "adamw_step" in done.stdout


def test_defects_are_seen():
    done = compile_ahead(GPU / "defective_kernels.py")
    assert done.returncode == 1, done.stdout + done.stderr
    for expected in (
        "sm_90 defective_kernels.spilling .* bytes spilled",
        "sm_90 defective_kernels.hoarding .* bytes shared, a block has",
        "sm_90 defective_kernels.greedy .* registers, may take 1",
        "sm_90 defective_kernels.rejected .* UnsupportedLanguageConstruct",
        "defective_kernels.forgotten: in no case",
    ):
        assert any(re.search(expected, line) for line in done.stdout.splitlines()), f"{expected}\n{done.stdout}"


def steps_of_adamw(n):
    _, arguments = next(inputs.SAMPLES["adamw"](torch.float32, "l1", n))
    return inputs.fresh(arguments)


def test_steps_that_are_not_alike_are_read_on_the_cpu(interpreted):
    mine = steps_of_adamw(17)
    mine[4][0] = mine[4][0].double()
    theirs = inputs.fresh(mine)
    cost, expected = torch.ops.bimt_fast.adamw(*mine), reference.adamw(*theirs)
    for got, want in zip([cost, *inputs.tensors(mine)], [expected, *inputs.tensors(theirs)], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_described_once_a_step_waits_for_nothing(interpreted, monkeypatch):
    """What would bring a number from the device to the host fails from the second call on."""
    weights, grads, *settings = steps_of_adamw(17)
    theirs = inputs.fresh((weights, grads, *settings))
    memos: list[dict] = [{}, {}]

    def step():
        ops.adamw(weights, grads, *settings, memo=memos[0])
        outs, ins, metric = (part[:1] for part in (settings[3], settings[4], [settings[5]]))
        lists = (outs, ins, *metric, 0.3, [1.0], [1.0], [0.1], None)
        ops.add_grad(weights[:1], grads[:1], *lists, memo=memos[1])

    step()
    for name in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_: pytest.fail("waits for the device"))
    grads[:] = [g.clone(memory_format=torch.preserve_format) for g in grads]  # as after another backward pass
    step()
    monkeypatch.undo()
    for _ in range(2):
        reference.adamw(*theirs)
        reference.add_grad(
            theirs[0][:1], theirs[1][:1], theirs[5][:1], theirs[6][:1], "l1", 0.3, [1.0], [1.0], [0.1], None
        )
    for got, want in zip(inputs.tensors((weights, grads, settings[0])), inputs.tensors(theirs[:3]), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_total_cost_is_the_cost_that_add_grad_returns(interpreted):
    _, arguments = next(inputs.SAMPLES["add_grad"](torch.bfloat16, "poincare", 17))
    weights, _, out_pos, in_pos, metric, _, *settings = arguments
    got = ops.total_cost(weights, out_pos, in_pos, metric, *settings)
    assert isinstance(got, float) and got == inputs.call("add_grad", arguments)[0].item()


@pytest.mark.parametrize("layout", ("contiguous", "transposed"))
def test_positions_of_a_recurrent_weight_a_few_coordinates_at_a_time(layout, interpreted, monkeypatch):
    from bimt_fast.kernels import triton_penalty

    monkeypatch.setattr(triton_penalty, "_LITTLE_WORKSPACE", 1)
    weight = inputs.matrix(33, 33, layout, dtype=torch.float32)
    positions = inputs.positions(33, 8, "random", 0, torch.float32, "l2")
    arguments = (torch.tensor(2.0), weight, positions, positions, "l2", 0.7, 0.3, [True, True, True], None)
    results = torch.ops.bimt_fast.connection_cost_backward(*arguments)
    for got, want in zip(results, reference.connection_cost_backward(*arguments), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_nothing_is_written_beyond_results(interpreted, monkeypatch):
    """Whatever is allocated lies in front of memory that nobody may touch; gradients have some between their rows."""
    guarded = []

    def empty(*size, dtype=torch.float32, device=None):
        shape = torch.Size(size[0] if size and isinstance(size[0], (tuple, list, torch.Size)) else size)
        memory = torch.full((shape.numel() + 4096,), 7, dtype=dtype)
        guarded.append(memory[shape.numel() :])
        return memory[: shape.numel()].view(shape)

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch, "zeros", lambda *size, **options: empty(*size, **options).zero_())
    monkeypatch.setattr(torch, "empty_like", lambda x: empty(x.shape, dtype=x.dtype))
    from bimt_fast.kernels import triton

    weight = inputs.matrix(17, 33, dtype=torch.float32)
    out_pos, in_pos = (inputs.positions(n, 2, "random", n, torch.float32) for n in weight.shape)
    settings = (out_pos, in_pos, "l2", 0.7, 0.3)
    triton.connection_cost(weight, *settings)
    triton.connection_cost_backward(torch.tensor(2.0), weight, *settings, (True, True, True))
    memory = torch.full((4, 40, 80), 7.0)
    inside = torch.full((40, 80), False)
    inside[1:18, 3:69:2] = True
    state = [x[1:18, 3:69:2] for x in memory]
    lists = ([out_pos], [in_pos], "l2")
    triton.adamw(
        *([x] for x in state), [torch.zeros(())], *lists, [1.0], [0.7], [0.3], [0.1, 0.9, 0.99, 1e-8, 0.0, 1.0], False
    )
    triton.add_grad([weight], [state[1]], *lists, 0.5, [1.0], [0.7], [0.3])
    assert len(guarded) > 8 and all((x == 7).all() for x in guarded)
    assert (memory[:, ~inside] == 7).all() and (memory[[0, 2, 3]][:, inside] != 7).all()
    assert (memory[1, 1:18, 3:69:2][weight != 0] != 7).all()
