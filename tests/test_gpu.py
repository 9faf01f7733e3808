"""Models on a GPU, or on the simulated one: training, relocation, and that a step waits for nothing."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import inputs
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import bimt_fast as bf
from bimt_fast import search

ROOT = Path(__file__).parents[1]
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique", "masked_select", "item")


class NoWaiting(TorchDispatchMode):
    """Raises where an op of torch would wait for a GPU: values that the host reads, shapes that depend on values."""

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        name = function.overloadpacket.__name__
        assert not any(name.startswith(wait) for wait in WAITS), f"{name} waits for the device"
        return function(*arguments, **(named or {}))


class Waits(TorchDispatchMode):
    """Counts torch's ops by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.counts[function.overloadpacket.__name__] += 1
        return function(*arguments, **(named or {}))


@pytest.fixture(params=("cuda", "triton"))
def gpu(request, monkeypatch):
    """The device of each GPU backend, which is forced: a real one, or a CPU that imitates it."""
    if not inputs.GPU and request.param == "cuda":
        request.getfixturevalue("simulated_gpu")
    if not inputs.GPU and request.param == "triton":
        pytest.importorskip("triton")
    with bf.backend(request.param):
        yield torch.device("cuda" if inputs.GPU else "cpu")


def model_on(device):
    model = inputs.mlp(5, 12, 3, dtype=torch.float32).to(device)
    x = torch.randn(16, 5, generator=inputs.generator("x")).to(device)
    return model, x


def trained(model, x, steps, **settings):
    optimizer = bf.optim.AdamW(model.wiring, lr=1e-2, lam=1e-2, **settings)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("proximal", (False, True))
def test_training_is_that_of_the_reference(gpu, proximal):
    model, x = model_on(gpu)
    theirs, their_x = model_on("cpu")
    trained(model, x, 3, proximal=proximal)
    with bf.backend("reference"):
        trained(theirs, their_x, 3, proximal=proximal)
    for mine, other in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.cpu(), other, rtol=1e-5, atol=1e-6)


def test_a_step_waits_for_nothing(gpu):
    model, x = model_on(gpu)
    optimizer = trained(model, x, 1)
    model(x).square().sum().backward()
    model.wiring.add_grad_(1e-3)  # positions are checked where they are first met
    try:
        if inputs.GPU:
            torch.cuda.set_sync_debug_mode("error")
        with NoWaiting():
            optimizer.step()
            cost = model.wiring.add_grad_(1e-3)
    finally:
        if inputs.GPU:
            torch.cuda.set_sync_debug_mode("default")
    assert optimizer.cost.device == cost.device == next(model.parameters()).device
    assert {state["step"].device for state in optimizer.state.values()} == {cost.device}
    assert {state["step"].item() for state in optimizer.state.values()} == {2.0}


def test_relocation_lowers_the_cost_as_on_the_cpu(gpu):
    """Those that the GPU searches, and those that copy their costs; what is left is the same function."""
    for strategy in ("greedy", "matching", "assignment", "auto", "tabu"):
        model, x = model_on(gpu)
        theirs, _ = model_on("cpu")
        before, cost = model(x), model.wiring.cost().item()
        report = model.wiring.relocate(strategy)
        with bf.backend("reference"):
            expected = theirs.wiring.relocate(strategy)
        assert report.swaps == expected.swaps > 0
        assert report.cost_after == pytest.approx(expected.cost_after, rel=1e-5) and report.cost_after < cost
        torch.testing.assert_close(model(x), before)


def test_best_swaps_of_a_recurrent_wiring_by_tabu(gpu):
    rnn = torch.nn.RNN(3, 9).to(gpu)
    axes = {"weight_ih_l0": ("h", "in"), "weight_hh_l0": ("h", "h"), "bias_ih_l0": ("h",), "bias_hh_l0": ("h",)}
    wiring = bf.Wiring(rnn, {"in": bf.geometry.line(3), "h": bf.geometry.line(9)}, axes)
    delta, partner = wiring.best_swaps("h")
    with bf.backend("reference"):
        expected = wiring.best_swaps("h")
    torch.testing.assert_close(delta, expected[0])
    assert torch.equal(partner, expected[1]) and (delta < 0).any()
    before = wiring.cost().item()
    assert wiring.relocate("tabu").cost_after < before


@pytest.mark.parametrize("metric", ("l1", "l2"))
def test_search_without_the_matrix(gpu, metric):
    (_, arguments), *_ = [
        s for s in inputs.placement_cost(torch.float32, metric, 33) if "1in1out" in s[0] or "2in" in s[0]
    ]
    moved = inputs.fresh(arguments, device=gpu.type)
    delta, partner = torch.ops.bimt_fast.placement_swaps(*moved[:-1], None, moved[-1])
    with bf.backend("reference"):
        expected, partners = torch.ops.bimt_fast.placement_swaps(*arguments[:-1], None, arguments[-1])
    torch.testing.assert_close(delta.cpu(), expected, rtol=1e-4, atol=1e-4)
    assert (delta < 0).any() and (partner.cpu() == partners).float().mean() > 0.9


def test_a_round_of_matching_waits_once(gpu):
    """For its deltas and partners together; the check of the costs comes before."""
    cost = inputs.matrix(40, 40, dtype=torch.float32).to(gpu)
    with Waits() as waits:
        _, swaps = search.matching(cost, torch.arange(40, device=gpu))
    rounds = waits.counts["stack"]  # one for each transfer
    assert swaps and rounds > 2
    assert sum(waits.counts[name] for name in WAITS) <= 4


def test_optimizer_state_loads_from_torch(gpu):
    model, x = model_on(gpu)
    torchs = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
    model(x).square().sum().backward()
    torchs.step()
    mine = bf.optim.AdamW(model.wiring, lr=1e-2, lam=0.0)
    mine.load_state_dict(torchs.state_dict())
    mine.step()
    steps = [state["step"] for state in mine.state.values()]
    assert {step.item() for step in steps} == {2.0} and {step.device.type for step in steps} == {gpu.type}


def test_mixed_devices_are_refused():
    weight, positions = torch.ones(3, 2), torch.zeros(2, 1, device="meta")
    with pytest.raises(ValueError, match="in_pos must be on the device of weight, cpu, was on meta"):
        bf.connection_cost(weight, torch.zeros(3, 1), positions)


def test_kernels_keep_within_their_registers():
    """As far as bimt_fast._cuda is built here."""
    if not list((ROOT / "bimt_fast").glob("_cuda*.so")):
        pytest.skip("bimt_fast._cuda is not built here")
    pytest.importorskip("triton", reason="cuobjdump comes with Triton")
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu_check.py", "--short"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]


def test_the_bench_program_runs(tmp_path):
    command = [sys.executable, "benchmarks/gpu_bench.py", "--device", "cpu", "--n", "33", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    assert "error" in (tmp_path / "gpu.md").read_text() and "seconds" in (tmp_path / "gpu.json").read_text()


def test_offsets_beyond_two_to_the_31(gpu):
    """Rows that lie 4 GiB apart in memory of which only their pages are ever touched."""
    far = torch.empty(2**31 + 64, dtype=torch.bfloat16, device=gpu).as_strided((2, 33), (2**31, 1))
    grad = torch.empty(2**31 + 64, dtype=torch.bfloat16, device=gpu).as_strided((2, 33), (2**31, 1))
    near, out_pos, in_pos = inputs.matrix(2, 33, dtype=torch.bfloat16).to(gpu), torch.rand(2, 1), torch.rand(33, 1)
    far.copy_(near)
    grad.zero_()
    cost = bf.add_grad_(far, grad, out_pos.to(gpu), in_pos.to(gpu))
    expected = torch.zeros_like(near)
    assert torch.equal(cost, bf.add_grad_(near, expected, out_pos.to(gpu), in_pos.to(gpu)))
    assert torch.equal(grad, expected) and expected.any()


@pytest.mark.skipif(not inputs.GPU, reason="CUDA graphs need a GPU")
def test_a_graph_captures_a_training_step():
    with bf.backend("cuda"):
        model, x = model_on("cuda")
        plain, _ = model_on("cuda")
        optimizer = trained(model, x, 3)
        trained(plain, x, 8)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            optimizer.zero_grad(set_to_none=True)
            model(x).square().sum().backward()
            optimizer.step()
        for _ in range(5):
            graph.replay()
    for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other)
