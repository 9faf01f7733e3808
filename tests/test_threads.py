"""The same bits whatever the number of threads, in forked processes and from several Python threads."""

import multiprocessing
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import inputs
import pytest
import torch

import bimt_fast as bf

N, M = 400, 500  # enough work for several blocks per thread


def large(op: str, dtype: torch.dtype = torch.float32, metric: str = "l1") -> tuple:
    slots = inputs.positions(N, 2, "random", 1, dtype, metric)
    peers = inputs.positions(M, 2, "random", 2, dtype, metric)
    table = inputs.table(metric, dtype)
    weight, back = inputs.matrix(N, M, dtype=dtype), inputs.matrix(M, N, dtype=dtype)
    cost, flow, distance = (inputs.matrix(N, N, seed=k, dtype=inputs.compute(dtype)) for k in range(3))
    moved, bias = inputs.permutation(N), inputs.matrix(1, 100_000, dtype=dtype)[0]
    one, none = torch.tensor(1.3, dtype=inputs.compute(dtype)), torch.zeros(100_000, 1, dtype=inputs.compute(dtype))
    placement = (slots, [weight, back], [peers, peers], 1, metric, [0.7, 1.0], table)
    swap = (cost, moved, flow.abs(), distance.abs())
    grads = [torch.ones_like(x) for x in (weight, back, bias)]
    add_grad = ([weight, back, bias], grads, [slots, peers, none], [peers, slots, none], metric, 0.3, [1.0] * 3)
    moments = [torch.zeros_like(x) for x in grads]
    return {
        "adamw": (
            [weight, back, bias],
            grads,
            moments,
            [x + 1 for x in moments],
            [torch.zeros(()) for _ in grads],
            *add_grad[2:5],
            [1.0] * 3,
            [0.5] * 3,
            [0.1] * 3,
            [1e-2, 0.9, 0.99, 1e-8, 0.1, 0.3],
            False,
            table,
        ),
        "connection_cost": (weight, slots, peers, metric, 0.7, 0.3, table),
        "connection_cost_backward": (one, weight, slots, peers, metric, 0.7, 0.3, [True] * 3, table),
        "add_grad": (*add_grad, [0.5] * 3, [0.1] * 3, table),
        "placement_cost": placement,
        "placement_cost_backward": (cost, *placement),
        "swap_deltas": swap,
        "swap_deltas_backward": (cost, *swap),
        "best_swaps": swap,
        "placement_swaps": (*placement[:-1], 1000, table),
        "permute_": next(inputs.permute_(dtype, metric, 97))[1],
        "label_nulls": inputs.labelled(N, 5, 2, permutations=1000),
        "quadratic_walks": next(inputs.quadratic_walks(dtype, metric, 97))[1],
    }[op]


def bits(results) -> list[bytes]:
    return [x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for x in results]


@pytest.fixture
def threads():
    """Restores the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("op", sorted(inputs.SAMPLES))
def test_number_of_threads_changes_no_bit(op, cpu_backend, threads):
    cases = [(dtype, "l1") for dtype in inputs.DTYPES]
    if op not in inputs.METRIC_FREE:
        cases += [(torch.bfloat16, "l2"), (torch.float16, "sql2"), (torch.float64, "poincare")]
        cases += [(torch.float32, metric) for metric in ("torus-l1", "linf")]
        cases += [(torch.float32, "table")] if op != "connection_cost_backward" else []
    for dtype, metric in cases:
        arguments = large(op, dtype, metric)
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(bits(inputs.call(op, arguments)))
        assert results[0] == results[1] == results[2], (dtype, metric)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_gives_the_same_bits(cpu_backend, threads):
    """Where OpenMP is dead, and torch's own parallel ops hang."""
    torch.set_num_threads(2)
    work = {op: large(op) for op in inputs.SAMPLES}
    work |= {f"{op} l2": large(op, metric="l2") for op in ("placement_cost", "placement_cost_backward")}
    expected = {op: bits(inputs.call(op.split()[0], arguments)) for op, arguments in work.items()}
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def child():
        for op, arguments in work.items():
            sender.send(op)
            result = getattr(torch.ops.bimt_fast, op.split()[0])(*arguments)
            results = [result] if isinstance(result, torch.Tensor) else list(result or ())
            if not results:
                results = [arguments[k] for k in inputs.CHANGED[op]]
            # Compared here with NumPy: torch.equal of large tensors may want its threads.
            same = [x.numpy().tobytes("C") for x in results] == expected[op][: len(results)]
            sender.send(same)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own on forking with threads
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
    sender.close()
    try:
        for op in work:
            for step in ("starting", "running"):
                assert receiver.poll(60), f"{op} hangs when {step}"
                message = receiver.recv()
            assert message is True, f"{op} differs"
    finally:
        process.kill()
        process.join()


def test_several_python_threads_at_once(cpu_backend):
    def run(job):
        with bf.backend("cpu"):  # a new thread has no forced backend
            return bits(inputs.call(*job))

    work = 3 * [(op, large(op)) for op in sorted(inputs.SAMPLES)]
    expected = [run(job) for job in work]
    with ThreadPoolExecutor(4) as pool:
        for (op, _), got, want in zip(work, pool.map(run, work), expected, strict=True):
            assert got == want, op
