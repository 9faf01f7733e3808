"""Layouts: where the points are, in which order, of which dtype."""

import math

import pytest
import torch

import bimt_fast as bf
from bimt_fast import geometry

LAYOUTS = {
    "line": lambda **options: geometry.line(5, **options),
    "grid": lambda **options: geometry.grid((2, 3), **options),
    "ring": lambda **options: geometry.ring(5, **options),
}


def test_line():
    torch.testing.assert_close(geometry.line(4), torch.tensor([[0.125], [0.375], [0.625], [0.875]]))
    assert geometry.line(0).shape == (0, 1)


def test_grid_is_row_major_with_x_first():
    points = geometry.grid((2, 4))
    assert points.shape == (8, 2)
    for r in range(2):
        for c in range(4):
            assert points[r * 4 + c].tolist() == [(c + 0.5) / 4, (r + 0.5) / 2]


def test_grid_of_any_number_of_axes():
    assert torch.equal(geometry.grid((7,)), geometry.line(7))
    points = geometry.grid((2, 4, 8))
    assert points.shape == (64, 3)
    for a in range(2):
        for b in range(4):
            for c in range(8):  # column 0 runs along the last axis
                assert points[(a * 4 + b) * 8 + c].tolist() == [(c + 0.5) / 8, (b + 0.5) / 4, (a + 0.5) / 2]
    assert geometry.grid((3, 0)).shape == (0, 2)


def test_ring():
    quarter = geometry.ring(4, radius=2.0, center=(1.0, -1.0), dtype=torch.float64)
    expected = [[3.0, -1.0], [1.0, 1.0], [-1.0, -1.0], [1.0, -3.0]]  # from +x, counter-clockwise
    torch.testing.assert_close(quarter, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    default = geometry.ring(6)
    torch.testing.assert_close((default - 0.5).norm(dim=1), torch.full((6,), 0.25))
    turned = geometry.ring(6, offset=0.5, dtype=torch.float64)[0] - 0.5
    assert math.atan2(turned[1], turned[0]) == pytest.approx(math.pi / 6)
    torch.testing.assert_close(geometry.ring(6, offset=1.0)[:-1], default[1:])
    assert geometry.ring(0).shape == (0, 2)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_dtype_and_device(layout, monkeypatch):
    assert layout().dtype == torch.get_default_dtype() and layout().device.type == "cpu"
    for dtype in (torch.float64, torch.float32, torch.float16):
        assert layout(dtype=dtype).dtype == dtype
    assert layout(device="meta").device.type == "meta"
    torch.set_default_dtype(torch.float64)
    try:
        assert layout().dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    with pytest.raises(TypeError, match="dtype must be a floating-point dtype"):
        layout(dtype=torch.int64)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: geometry.line(-1), ValueError, "n must be at least 0"),
        (lambda: geometry.line(2.0), TypeError, "n must be an integer"),
        (lambda: geometry.line(True), TypeError, "n must be an integer"),
        (lambda: geometry.grid(()), ValueError, "shape must name at least one axis"),
        (lambda: geometry.grid((3, -1)), ValueError, "shape must be at least 0"),
        (lambda: geometry.grid((3, 1.5)), TypeError, "shape must be an integer"),
        (lambda: geometry.ring(-1), ValueError, "n must be at least 0"),
        (lambda: geometry.ring("3"), TypeError, "n must be an integer"),
        (lambda: geometry.metric_row("l7"), ValueError, "metric must be one of l1"),
        (lambda: geometry.metric_row(None), TypeError, "metric must be a string"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("metric", geometry.METRICS)
def test_metrics(metric):
    x, y = bf.geometry.ring(7, dtype=torch.float64), 0.7 * bf.geometry.grid((3, 4), dtype=torch.float64)
    d = geometry.distances(x, y, metric)
    assert d.shape == (7, 12) and (d >= 0).all()
    assert torch.equal(geometry.distances(y, x, metric), d.T)
    assert torch.equal(geometry.distances(x, x, metric).diagonal(), torch.zeros(7, dtype=torch.float64))
    # The gradient for the first argument, against autograd; 0 where the points coincide.
    variable = x.clone().requires_grad_()
    row = geometry.metric_row(metric)
    upstream = torch.arange(84.0, dtype=torch.float64).reshape(7, 12)
    (expected,) = torch.autograd.grad(row.distance(variable, y), variable, upstream)
    torch.testing.assert_close((row.gradient(x, y) * upstream[:, :, None]).sum(1), expected)
    assert not row.gradient(x, x).diagonal().any()


def test_metric_codes_differ():
    codes = [row.code for row in geometry.METRICS.values()]
    assert len(set(codes)) == len(codes)
