"""Measures the GPU kernels on a real GPU: first that they are right, then how fast. `make gpu-bench`.

Every row runs our backends and PyTorch's own way in turn, on the same tensors, and takes medians; its result is held
against the reference in float64 first, and a wrong one prints no speed. Bandwidth and the rate of a float32 matrix
product are measured in the same run: a row says what part of the floor that they set it reached. Writes gpu.json and
gpu.md.

    python benchmarks/gpu_bench.py [--n 4096] [--out runs/gpu]
    python benchmarks/gpu_bench.py --device cpu --n 64     only tries the program: it measures nothing of a GPU
"""

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import torch
from gpu_work import WORK
from torch import Tensor

import bimt_fast as bf
from bimt_fast import backends, ops

ROUNDS = 20
TOLERANCE = 1e-5  # of the largest entry, in float32


@dataclass
class Row:
    """One comparison: ours by backend, peers by name, each a function that does the work once."""

    name: str
    ours: Callable[[], object]
    truth: Callable[[], Tensor]  # in float64
    result: Callable[[], Tensor]
    peers: dict[str, Callable[[], object]]
    bytes: float
    flops: float


def main(arguments: list[str] | None = None) -> int:
    """Returns how many contenders were wrong; 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--n", type=int, default=4096, help="neurons, and peers")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for gpu.json and gpu.md")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("gpu-bench: torch sees no GPU", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False  # peers get the precision that ours has
    report = {"machine": _machine(device), "limits": _limits(device, options.n), "rows": []}
    wrong = 0
    for row in rows(options.n, device):
        found = _measured(row, device, report["limits"])
        wrong += sum(not contender["right"] for contender in found["contenders"] if "right" in contender)
        report["rows"].append(found)
        print("\n".join(_lines(found)))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(report, indent=2) + "\n")
    (options.out / "gpu.md").write_text(_markdown(report))
    print(f"written: {options.out / 'gpu.json'}, {options.out / 'gpu.md'}")
    return wrong


def rows(n: int, device: torch.device) -> Iterator[Row]:
    """The work of the table of speeds, made on the device."""
    random = torch.Generator().manual_seed(0)
    w, v = (torch.randn(n, n, generator=random).to(device) for _ in range(2))
    x, y, z = (torch.rand(n, 2, generator=random).to(device) for _ in range(3))
    yield _penalty(w, x, y)
    yield _adamw(w, x, y)
    yield _swaps(w, v, x, y, z)
    yield _matrix_free(w, v, x, y, z)


def _penalty(w: Tensor, x: Tensor, y: Tensor) -> Row:
    n, grad, memo = len(w), torch.zeros_like(w), {}
    settings = ("l1", 1e-3, [1.0], [1.0], [0.1])

    def ours():
        return ops.add_grad([w], [grad], [x], [y], *settings, None, memo=memo)

    def eager():
        leaf = w.detach().requires_grad_()
        length = 0.1 + (x[:, None] - y[None]).abs().sum(-1)
        (1e-3 * (leaf.abs() * length).sum()).backward()

    def result():
        fresh = torch.zeros_like(w)
        ops.add_grad([w], [fresh], [x], [y], *settings, None)
        return fresh

    def truth():
        return 1e-3 * w.double().sign() * (0.1 + (x.double()[:, None] - y.double()[None]).abs().sum(-1))

    work = _work("penalty_kernel", n)
    return Row(f"cost and gradient, {n} x {n}, 2-D l1", ours, truth, result, {"eager PyTorch": eager}, *work)


def _adamw(w: Tensor, x: Tensor, y: Tensor) -> Row:
    n, layer = len(w), torch.nn.Linear(len(w), len(w), bias=False, device=w.device)
    layer.weight.data.copy_(w)
    layer.weight.grad = torch.randn_like(w)
    wiring = bf.Wiring(layer, {"in": y.cpu(), "out": x.cpu()}, {"weight": ("out", "in")})
    mine = bf.optim.AdamW(wiring, lr=1e-3, lam=1e-3)
    other = torch.nn.Parameter(w.clone())
    other.grad = layer.weight.grad.clone()
    theirs = torch.optim.AdamW([other], lr=1e-3, weight_decay=0, fused=True)

    def result():
        plain = torch.nn.Linear(n, n, bias=False, device=w.device)
        plain.weight.data.copy_(w)
        plain.weight.grad = layer.weight.grad.clone()
        positions = {"in": y.cpu(), "out": x.cpu()}
        bf.optim.AdamW(bf.Wiring(plain, positions, {"weight": ("out", "in")}), lr=1e-2, lam=1e-3).step()
        return plain.weight.detach()

    def truth():
        length = 0.1 + (x.double()[:, None] - y.double()[None]).abs().sum(-1)
        leaf = torch.nn.Parameter(w.double())
        leaf.grad = layer.weight.grad.double() + 1e-3 * w.double().sign() * length
        torch.optim.AdamW([leaf], lr=1e-2, weight_decay=0).step()
        return leaf.detach()

    peers = {"torch.optim.AdamW(fused=True), no penalty": theirs.step}
    return Row(f"AdamW step with penalty, {n} x {n}", mine.step, truth, result, peers, *_work("adamw_kernel", n))


def _swaps(w: Tensor, v: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Row:
    n = len(w)

    def ours():
        return bf.best_swaps(bf.placement_cost(x, incoming=[(w, y)], outgoing=[(v, z)]))

    def products():
        return w.abs() @ torch.cdist(x, y, p=1).T + v.abs().T @ torch.cdist(z, x, p=1)

    def truth():
        with bf.backend("reference"):
            wide = [t.double() for t in (w, v, x, y, z)]
            cost = bf.placement_cost(wide[2], incoming=[(wide[0], wide[3])], outgoing=[(wide[1], wide[4])])
            return bf.best_swaps(cost)[0]

    peers = {"the two matrix products alone": products}
    work = (4.0 * 4 * n * n, 2 * 30.0 * n * n)
    return Row(f"every swap and best partner, {n} neurons, 2-D l1", ours, truth, lambda: ours()[0], peers, *work)


def _matrix_free(w: Tensor, v: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Row:
    row = _swaps(w, v, x, y, z)
    arguments = (x, [w, v], [y, z], 1, "l1", [1.0, 1.0], None)

    def ours():
        return torch.ops.bimt_fast.placement_swaps(*arguments)

    row.name, row.ours, row.result = row.name + ", no n x n matrix", ours, lambda: ours()[0]
    return row


def _work(kernel: str, n: int) -> tuple[float, float]:
    sizes = {"n": n, "m": n, "dim": 2, "b": 4}
    return eval(WORK[kernel].bytes, {}, sizes), eval(WORK[kernel].flops, {}, sizes)


def _measured(row: Row, device: torch.device, limits: dict[str, float]) -> dict:
    """All contenders, interleaved; a wrong one has no time."""
    truth = row.truth()
    contenders, functions = [], {}
    for name in backends.PREFERENCE.get(device.type, ("reference",)):
        able, reason = backends.load(name).can_run(device)
        contender = {"name": f"bimt_fast, {name}"}
        contenders.append(contender)
        if not able:
            contender["left out"] = reason
            continue
        with bf.backend(name):
            error = (row.result().double() - truth).abs().max().item() / truth.abs().max().item()
        contender |= {"error": error, "right": error <= TOLERANCE}
        if contender["right"]:
            functions[contender["name"]] = _forced(name, row.ours)
    for name, function in row.peers.items():
        contenders.append({"name": name})
        functions[name] = function
    times = _interleaved(functions, device)
    floor = max(row.bytes / limits["bytes a second"], row.flops / limits["flops a second"])
    for contender in contenders:
        if seconds := times.get(contender["name"]):
            low, _, high = quantiles(seconds, n=4)
            contender |= {"seconds": median(seconds), "spread": (high - low) / 2}
            if "error" in contender:
                contender["of the floor"] = floor / median(seconds)
    return {"name": row.name, "floor": floor, "contenders": contenders}


def _forced(name: str, function: Callable[[], object]) -> Callable[[], object]:
    def run():
        with bf.backend(name):
            return function()

    return run


def _interleaved(functions: dict[str, Callable[[], object]], device: torch.device) -> dict[str, list[float]]:
    times = {name: [] for name in functions}
    for round_ in range(ROUNDS + 3):
        for name, function in functions.items():
            seconds = _seconds(function, device)
            if round_ >= 3:
                times[name].append(seconds)
    return times


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = perf_counter()
        function()
        return perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _limits(device: torch.device, n: int) -> dict[str, float]:
    """What this chip reached at its best, in this run."""
    size = 1 << (26 if device.type == "cuda" else 16)
    a, b, c = (torch.ones(size, device=device) for _ in range(3))
    x = torch.ones(n, n, device=device)
    moved = {
        "copy": (2, lambda: c.copy_(a)),
        "add": (3, lambda: torch.add(a, b, out=c)),
        "scale": (2, lambda: c.mul_(1)),
    }
    times = _interleaved({name: run for name, (_, run) in moved.items()} | {"product": lambda: x @ x}, device)
    return {
        "bytes a second": max(4 * size * arrays / median(times[name]) for name, (arrays, _) in moved.items()),
        "flops a second": 2 * n**3 / median(times["product"]),
    }


def _machine(device: torch.device) -> dict[str, str]:
    found = {"torch": torch.__version__, "python": platform.python_version(), "bimt_fast": bf.__version__}
    if device.type == "cuda":
        chip = torch.cuda.get_device_properties(device)
        found |= {"chip": chip.name, "memory": f"{chip.total_memory / 2**30:.0f} GiB", "cuda": str(torch.version.cuda)}
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.partition("\n")[0]
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        pass
    return found | {"device": str(device)}


def _lines(row: dict) -> list[str]:
    lines = [f"\n{row['name']}: floor {1e3 * row['floor']:.3f} ms"]
    first = next((c["seconds"] for c in row["contenders"] if "seconds" in c), None)
    for contender in row["contenders"]:
        name = f"  {contender['name']:<44}"
        if "left out" in contender:
            lines.append(f"{name} left out: {contender['left out']}")
        elif not contender.get("right", True):
            lines.append(f"{name} WRONG: off by {contender['error']:.1e}; no speed is shown")
        else:
            part = f", {100 * contender['of the floor']:.0f} % of the floor" if "of the floor" in contender else ""
            error = f", error {contender['error']:.0e}" if "error" in contender else ""
            seconds = contender["seconds"]
            lines.append(
                f"{name} {1e3 * seconds:9.3f} ms ±{1e3 * contender['spread']:.3f}, {seconds / first:.2f}x{part}{error}"
            )
    return lines


def _markdown(report: dict) -> str:
    machine, limits = report["machine"], report["limits"]
    lines = ["# GPU kernels, measured", "", ", ".join(f"{key} {value}" for key, value in machine.items()), ""]
    lines.append(
        f"{limits['bytes a second'] / 1e9:.0f} GB/s, {limits['flops a second'] / 1e12:.2f} TFLOP/s (float32 product)"
    )
    for row in report["rows"]:
        lines += ["", "```", *[line.strip("\n") for line in _lines(row)], "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
