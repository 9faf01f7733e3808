"""Bad input to every public function: the right exception, the argument's name in it, and nothing changed."""

import copy

import inputs
import pytest
import torch
from torch import nn

import bimt_fast as bf

NAN, INF = float("nan"), float("inf")
W = inputs.matrix(4, 3)
OUT, IN = inputs.positions(4, 2, "random", "out"), inputs.positions(3, 2, "random", "in")
COST = inputs.matrix(5, 5)
FLOW = inputs.flow_matrix(5)


def changed(x, value):
    x = x.clone()
    x.view(-1)[1] = value
    return x


def connection(weight=W, out_pos=OUT, in_pos=IN, **settings):
    return bf.connection_cost(weight, out_pos, in_pos, **settings)


CONNECTION = {
    "weight-int": (dict(weight=W.long()), TypeError, "weight"),
    "weight-list": (dict(weight=W.tolist()), TypeError, "weight"),
    "weight-complex": (dict(weight=W.to(torch.complex128)), TypeError, "weight"),
    "weight-1-axis": (dict(weight=W[0]), ValueError, "weight"),
    "out_pos-int": (dict(out_pos=OUT.long()), TypeError, "out_pos"),
    "out_pos-list": (dict(out_pos=OUT.tolist()), TypeError, "out_pos"),
    "out_pos-1-axis": (dict(out_pos=OUT[:, 0]), ValueError, "out_pos"),
    "out_pos-count": (dict(out_pos=OUT[:3]), ValueError, "out_pos"),
    "out_pos-nan": (dict(out_pos=changed(OUT, NAN)), ValueError, "out_pos"),
    "out_pos-infinite": (dict(out_pos=changed(OUT, -INF)), ValueError, "out_pos"),
    "out_pos-meta": (dict(out_pos=OUT.to("meta")), ValueError, "out_pos"),
    "in_pos-int": (dict(in_pos=IN.long()), TypeError, "in_pos"),
    "in_pos-count": (dict(in_pos=OUT), ValueError, "in_pos"),
    "in_pos-dim": (dict(in_pos=IN[:, :1]), ValueError, "in_pos"),
    "in_pos-nan": (dict(in_pos=changed(IN, NAN)), ValueError, "in_pos"),
    "in_pos-infinite": (dict(in_pos=changed(IN, INF)), ValueError, "in_pos"),
    "in_pos-meta": (dict(in_pos=IN.to("meta")), ValueError, "in_pos"),
    "weight-meta": (dict(weight=W.to("meta")), ValueError, "out_pos"),
    "metric-unknown": (dict(metric="l7"), ValueError, "metric"),
    "metric-None": (dict(metric=None), (TypeError, RuntimeError), "metric"),
}


TABLE = inputs.table("table", torch.float64).contiguous()
OUTSIDE = torch.tensor([[0.0, 0.1], [0.6, 0.8], [0.2, 0.3], [0.0, 0.0]]).double()  # |x| = 1 is outside too
OUT_AT, IN_AT = torch.arange(4), torch.arange(3)
CONNECTION |= {
    "out_pos-edge-of-the-ball": (dict(out_pos=OUTSIDE, in_pos=IN / 2, metric="poincare"), ValueError, "out_pos"),
    "in_pos-outside-the-ball": (dict(out_pos=OUT / 2, in_pos=IN + 1, metric="poincare"), ValueError, "in_pos"),
    "table-oblong": (dict(out_pos=OUT_AT, in_pos=IN_AT, metric=TABLE[:5]), ValueError, "metric"),
    "table-1-axis": (dict(out_pos=OUT_AT, in_pos=IN_AT, metric=TABLE[0]), ValueError, "metric"),
    "table-int": (dict(out_pos=OUT_AT, in_pos=IN_AT, metric=TABLE.long()), TypeError, "metric"),
    "table-nan": (dict(out_pos=OUT_AT, in_pos=IN_AT, metric=changed(TABLE, NAN)), ValueError, "metric"),
    "table-meta": (
        dict(out_pos=OUT_AT, in_pos=IN_AT, metric=torch.zeros_like(TABLE), weight=W.to("meta")),
        ValueError,
        "table",
    ),
    "table-with-points": (dict(metric=TABLE), TypeError, "out_pos"),
    "table-int32-indices": (dict(out_pos=OUT_AT, in_pos=IN_AT.int(), metric=TABLE), TypeError, "in_pos"),
    "table-2-axes": (dict(out_pos=OUT_AT[:, None], in_pos=IN_AT, metric=TABLE), ValueError, "out_pos"),
    "table-index-count": (dict(out_pos=OUT_AT[:3], in_pos=IN_AT, metric=TABLE), ValueError, "out_pos"),
    "table-index-negative": (dict(out_pos=OUT_AT - 1, in_pos=IN_AT, metric=TABLE), ValueError, "out_pos"),
    "table-index-too-large": (dict(out_pos=OUT_AT, in_pos=IN_AT + 38, metric=TABLE), ValueError, "in_pos"),
    "trailing-axes-count": (dict(weight=W[:, :2, None].expand(4, 2, 5)), ValueError, "in_pos"),
}


@pytest.mark.parametrize("arguments, error, name", CONNECTION.values(), ids=CONNECTION)
def test_connection_cost(arguments, error, name, backend):
    with pytest.raises(error, match=rf"\b{name}\b"):
        connection(**arguments)


@pytest.mark.parametrize("arguments, error, name", CONNECTION.values(), ids=CONNECTION)
def test_add_grad(arguments, error, name, backend):
    arguments = dict(weight=W, out_pos=OUT, in_pos=IN) | arguments
    weight = arguments.pop("weight")
    shape = getattr(weight, "shape", (4, 3))
    grad = inputs.matrix(4, 3, seed="grad") if len(shape) == 2 else torch.ones(shape, dtype=torch.float64)
    before = grad.clone()
    with pytest.raises(error, match=rf"\b{name}s?\b"):
        bf.add_grad_(weight, grad, **arguments)
    assert torch.equal(grad, before)


@pytest.mark.parametrize(
    "grad, error",
    [(W.float(), TypeError), (W.long(), TypeError), (W.T, ValueError), (W[0], ValueError), (W.to("meta"), ValueError)],
    ids=("dtype", "int", "shape", "1-axis", "meta"),
)
def test_add_grad_to_a_grad_that_does_not_fit(grad, error, backend):
    before = grad.clone()
    with pytest.raises(error, match=r"\bgrads?\b"):
        bf.add_grad_(W, grad, OUT, IN)
    assert grad.is_meta or torch.equal(grad, before)


def test_add_grad_checks_all_before_it_changes_any(backend):
    grads = [torch.zeros_like(W), torch.zeros_like(W)]
    with pytest.raises(ValueError, match="out_pos must be finite"):
        torch.ops.bimt_fast.add_grad(
            [W, W], grads, [OUT, changed(OUT, NAN)], [IN, IN], "l1", 1.0, [1.0] * 2, [1.0] * 2, [0.1] * 2
        )
    assert not grads[0].any() and not grads[1].any()
    with pytest.raises(ValueError, match="coefficients must have one entry for each"):
        torch.ops.bimt_fast.add_grad([W], grads[:1], [OUT], [IN], "l1", 1.0, [], [1.0], [0.1])
    with pytest.raises(ValueError, match="weights must hold at least one"):
        torch.ops.bimt_fast.add_grad([], [], [], [], "l1", 1.0, [], [], [])


PLACEMENT = {
    "slots-int": (dict(slots=OUT.long()), TypeError, "slots"),
    "slots-list": (dict(slots=OUT.tolist()), TypeError, "slots"),
    "slots-1-axis": (dict(slots=OUT[:, 0]), ValueError, "slots"),
    "slots-nan": (dict(slots=changed(OUT, NAN)), ValueError, "slots"),
    "slots-infinite": (dict(slots=changed(OUT, INF)), ValueError, "slots"),
    "slots-meta": (dict(slots=OUT.to("meta")), ValueError, "(slots|incoming weight)"),
    "slots-dim": (dict(slots=OUT[:, :1]), ValueError, "incoming positions"),
    "weight-shape": (dict(incoming=[(W.T, IN)]), ValueError, "incoming weight"),
    "weight-int": (dict(incoming=[(W.long(), IN)]), TypeError, "weight"),
    "weight-nan": (dict(incoming=[(changed(W, NAN), IN)]), ValueError, "weights?"),
    "weight-infinite": (dict(incoming=[(changed(W, INF), IN)]), ValueError, "weights?"),
    "weight-meta": (dict(incoming=[(W, IN), (W.to("meta"), IN)]), ValueError, "incoming weight"),
    "weights-differ": (dict(outgoing=[(W.T.float(), IN)]), TypeError, "outgoing weight"),
    "peers-count": (dict(incoming=[(W, OUT)]), ValueError, "incoming positions"),
    "peers-nan": (dict(incoming=[(W, changed(IN, NAN))]), ValueError, "(peers|positions)"),
    "peers-int": (dict(incoming=[(W, IN.long())]), TypeError, "positions"),
    "outgoing-shape": (dict(outgoing=[(W, IN)]), ValueError, "outgoing weight"),
    "outgoing-nan": (dict(outgoing=[(changed(W, NAN).T, IN)]), ValueError, "weights?"),
    "outgoing-peers-nan": (dict(outgoing=[(W.T, changed(IN, NAN))]), ValueError, "(peers|positions)"),
    "not-pairs": (dict(incoming=[W]), TypeError, "incoming"),
    "three-of-a-pair": (dict(outgoing=[(W.T, IN, 1.0)]), TypeError, "outgoing"),
    "metric": (dict(metric="l7"), ValueError, "metric"),
    "slots-outside-the-ball": (
        dict(slots=OUTSIDE, incoming=[(W, IN / 2)], metric="poincare"),
        ValueError,
        "slots",
    ),
    "peers-outside-the-ball": (dict(slots=OUT / 2, incoming=[(W, IN + 1)], metric="poincare"), ValueError, "peers"),
    "weight-nan-of-a-product": (dict(incoming=[(changed(W, NAN), IN)], metric="l2"), ValueError, "weights?"),
    "weight-infinite-sql2": (dict(outgoing=[(changed(W, INF).T, IN)], metric="sql2"), ValueError, "weights?"),
    "weight-nan-torus": (dict(incoming=[(changed(W, NAN), IN)], metric="torus-l1"), ValueError, "weights?"),
    "table-slots-float": (dict(metric=TABLE), TypeError, "slots"),
    "table-slot-negative": (dict(slots=OUT_AT - 1, incoming=[(W, IN_AT)], metric=TABLE), ValueError, "slots"),
    "table-peer-too-large": (dict(slots=OUT_AT, incoming=[(W, IN_AT + 38)], metric=TABLE), ValueError, "peers"),
}


@pytest.mark.parametrize("arguments, error, name", PLACEMENT.values(), ids=PLACEMENT)
def test_placement_cost(arguments, error, name, backend):
    settings = dict(slots=OUT, incoming=[(W, IN)]) | arguments
    with pytest.raises(error, match=rf"\b{name}\b"):
        bf.placement_cost(settings.pop("slots"), **settings)


ORDER = torch.arange(5)
SWAP = {
    "cost-int": (dict(cost=COST.long()), TypeError, "cost"),
    "cost-list": (dict(cost=COST.tolist()), (TypeError, RuntimeError), "cost"),
    "cost-oblong": (dict(cost=COST[:4]), ValueError, "cost"),
    "cost-1-axis": (dict(cost=COST[0]), ValueError, "cost"),
    "cost-0-axes": (dict(cost=COST[0, 0]), ValueError, "cost"),
    "cost-nan": (dict(cost=changed(COST, NAN)), ValueError, "cost"),
    "cost-infinite": (dict(cost=changed(COST, INF)), ValueError, "cost"),
    "assignment-float": (dict(assignment=ORDER.double()), TypeError, "assignment"),
    "assignment-int32": (dict(assignment=ORDER.int()), TypeError, "assignment"),
    "assignment-short": (dict(assignment=ORDER[:4]), ValueError, "assignment"),
    "assignment-twice": (dict(assignment=changed(ORDER, 0)), ValueError, "assignment"),
    "assignment-too-large": (dict(assignment=ORDER + 1), ValueError, "assignment"),
    "assignment-negative": (dict(assignment=ORDER - 1), ValueError, "assignment"),
    "assignment-meta": (dict(assignment=ORDER.to("meta")), ValueError, "assignment"),
    "flow-alone": (dict(flow=FLOW), ValueError, "distance was None"),
    "distance-alone": (dict(distance=FLOW), ValueError, "flow was None"),
    "flow-shape": (dict(flow=FLOW[:4], distance=FLOW), ValueError, "flow"),
    "flow-dtype": (dict(flow=FLOW.float(), distance=FLOW), TypeError, "flow"),
    "flow-nan": (dict(flow=changed(FLOW, NAN), distance=FLOW), ValueError, "flow"),
    "flow-meta": (dict(flow=FLOW.to("meta"), distance=FLOW), ValueError, "flow"),
    "distance-shape": (dict(flow=FLOW, distance=FLOW[:, :4]), ValueError, "distance"),
    "distance-infinite": (dict(flow=FLOW, distance=changed(FLOW, INF)), ValueError, "distance"),
}


@pytest.mark.parametrize("function", (bf.swap_deltas, bf.best_swaps))
@pytest.mark.parametrize("arguments, error, name", SWAP.values(), ids=SWAP)
def test_swaps(function, arguments, error, name, backend):
    settings = dict(cost=COST) | arguments
    with pytest.raises(error, match=rf"\b{name}\b"):
        function(settings.pop("cost"), **settings)


@pytest.mark.parametrize("value", (NAN, INF, -INF))
@pytest.mark.parametrize("n", (17, 97))
def test_nan_anywhere_is_seen(n, value, backend):
    """In the corners and the middle of a matrix that spans several tiles and vectors."""
    x, zeros, ones = inputs.positions(n, 1, "random"), torch.zeros(n, n).double(), torch.ones(n, n).double()
    for row, column in ((0, 0), (0, n - 1), (n // 2, n // 2), (n - 1, 0), (n - 1, n - 1)):
        bad, far = inputs.matrix(n, n), x.clone()
        bad[row, column] = far[row] = value
        calls = {
            "swap_deltas": lambda bad=bad: bf.swap_deltas(bad),
            "best_swaps": lambda bad=bad: bf.best_swaps(bad.T),
            "flow": lambda bad=bad: bf.best_swaps(zeros, flow=bad, distance=ones),
            "distance": lambda bad=bad: bf.swap_deltas(zeros, flow=ones, distance=bad),
            "incoming": lambda bad=bad: bf.placement_cost(x, incoming=[(bad, x)]),
            "outgoing": lambda bad=bad: bf.placement_cost(x, outgoing=[(bad, x)]),
            "peers": lambda far=far: bf.placement_cost(x, outgoing=[(ones, far)]),
            "positions": lambda far=far: bf.connection_cost(ones, x, far),
        }
        for name, call in calls.items():
            with pytest.raises(ValueError, match="must be finite"):
                call()
                pytest.fail(f"{name} at {row}, {column}")


def test_positions_of_other_float_dtypes_are_converted(backend):
    expected = bf.connection_cost(W.float(), OUT.half().float(), IN.bfloat16().float())
    assert torch.equal(bf.connection_cost(W.float(), OUT.half(), IN.bfloat16()), expected)
    assert bf.placement_cost(OUT.float(), incoming=[(W, IN.half())]).dtype == torch.float64


def test_table_belongs_to_its_metric(backend):
    with pytest.raises(ValueError, match="table must be given with metric 'table' and only then"):
        torch.ops.bimt_fast.connection_cost(W, OUT, IN, "l1", 1.0, 0.1, TABLE)
    with pytest.raises(ValueError, match="table must be given with metric 'table' and only then"):
        torch.ops.bimt_fast.connection_cost(W, OUT_AT, IN_AT, "table", 1.0, 0.1)


def test_meta_tensors_give_shapes():
    weight, out_pos, in_pos = (x.to("meta") for x in (W, OUT, IN))
    assert bf.connection_cost(weight, out_pos, in_pos).shape == ()
    cost = bf.placement_cost(out_pos, incoming=[(weight, in_pos)])
    assert cost.is_meta and cost.shape == (4, 4)
    assert [x.dtype for x in bf.best_swaps(cost)] == [torch.float64, torch.int64]


# Wiring


def layers():
    return nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 2)).double()


def wiring(model=None, **changes):
    settings = dict(
        positions={"in": IN, "h": OUT, "out": IN[:2]},
        axes={"0.weight": ("h", "in"), "0.bias": ("h",), "2.weight": ("out", "h"), "2.bias": ("out",)},
    )
    return bf.Wiring(layers() if model is None else model, **(settings | changes))


AXES = {"0.weight": ("h", "in"), "2.weight": ("out", "h")}
BIASES = AXES | {"0.bias": ("h",), "2.bias": ("out",)}
PLACES = {"in": IN, "h": OUT, "out": IN[:2]}
INDICES = {"in": IN_AT, "h": OUT_AT, "out": IN_AT[:2]}
DECLARATIONS = {
    "model": (dict(model=3), TypeError, "model"),
    "unknown-tensor": (dict(axes={"1.weight": ("h",)}), ValueError, "1.weight"),
    "unknown-module": (dict(axes={"7.weight": ("h",)}), ValueError, "7.weight"),
    "a-module": (dict(axes={"0": ("h",)}), ValueError, "axes"),
    "unknown-group": (dict(axes={"0.weight": ("h", "nowhere")}), ValueError, "nowhere"),
    "too-many-axes": (dict(axes={"0.bias": ("h", "in")}), ValueError, "0.bias"),
    "too-few-axes": (dict(axes={"0.weight": ("h",)}), ValueError, "0.weight"),
    "sizes-crossed": (dict(axes={"0.weight": ("in", "h")}), ValueError, "positions of 'in'"),
    "position-count": (dict(positions=PLACES | {"h": IN}), ValueError, "positions of 'h'"),
    "positions-1-axis": (dict(positions=PLACES | {"h": OUT[:, 0]}), ValueError, "positions of 'h'"),
    "positions-int": (dict(positions=PLACES | {"h": OUT.long()}), TypeError, "positions of 'h'"),
    "positions-list": (dict(positions=PLACES | {"h": OUT.tolist()}), TypeError, "positions of 'h'"),
    "positions-nan": (dict(positions=PLACES | {"h": changed(OUT, NAN)}), ValueError, "positions of 'h'"),
    "frozen": (dict(frozen=["nowhere"]), ValueError, "frozen"),
    "outside-the-ball": (dict(metric="poincare", positions=PLACES | {"in": IN + 1}), ValueError, "positions of 'in'"),
    "table-with-points": (dict(metric=TABLE), TypeError, "positions of 'in'"),
    "table-oblong": (dict(metric=TABLE[:3]), ValueError, "metric"),
    "table-index": (dict(metric=TABLE, positions=INDICES | {"h": OUT_AT + 37}), ValueError, "positions of 'h'"),
    "table-2-axes": (dict(metric=TABLE, positions=INDICES | {"h": OUT_AT[:, None]}), ValueError, "positions of 'h'"),
    "metric": (dict(metric="l7"), ValueError, "metric"),
    "scale-type": (dict(distance_scale="1"), TypeError, "distance_scale"),
    "scale-negative": (dict(distance_scale=-1), ValueError, "distance_scale"),
    "scale-nan": (dict(distance_scale=NAN), ValueError, "distance_scale"),
    "scale-infinite": (dict(distance_scale={None: INF}), ValueError, "distance_scale"),
    "scale-unknown-tensor": (dict(distance_scale={None: 1, "9.weight": 1}), ValueError, "9.weight"),
    "base-bool": (dict(base_length=True), TypeError, "base_length"),
    "base-incomplete": (dict(base_length={"0.weight": 1.0}), ValueError, "base_length"),
    "reduction": (dict(reduction="max"), ValueError, "reduction"),
    "reduction-by-name": (dict(reduction={None: "sum", "0.bias": "max"}), ValueError, "reduction"),
    "penalised": (dict(penalised=["9.weight"]), ValueError, "penalised"),
    "unpenalised": (dict(unpenalised=["9.weight"]), ValueError, "unpenalised"),
    "fold-length": (dict(axes=BIASES | {"0.weight": ("2*h", "in")}), ValueError, "0.weight.*2 \\* "),
    "sum-length": (dict(axes=BIASES | {"0.weight": ("h+out", "in")}), ValueError, "0.weight"),
    "no-factor": (dict(axes={"0.weight": ("0*h", "in")}), ValueError, "0.weight"),
    "two-names": (dict(axes={"0.weight": ("in*h", "in")}), ValueError, "0.weight"),
    "axis-type": (dict(axes={"0.weight": (3, "in")}), TypeError, "0.weight"),
    "shared-axis": (dict(axes=AXES | {"0.bias": (None,), "2.bias": ("out",)}), ValueError, "'0.weight' and '0.bias'"),
    "blocks-count": (dict(blocks={"h": len(OUT) - 1}), ValueError, "blocks of 'h'"),
    "blocks-type": (dict(blocks={"h": 2.0}), TypeError, "blocks of 'h'"),
    "blocks-group": (dict(blocks={"nowhere": 2}), ValueError, "blocks"),
    "blocks-list": (dict(blocks=["h"]), TypeError, "blocks"),
}  # fmt: skip


@pytest.mark.parametrize("changes, error, name", DECLARATIONS.values(), ids=DECLARATIONS)
def test_declaration(changes, error, name):
    with pytest.raises(error, match=name):
        wiring(**changes)


CALLS = {
    "slots": (lambda w: w.slots("nowhere"), ValueError, "group"),
    "permutation": (lambda w: w.permutation("nowhere"), ValueError, "group"),
    "neuron_positions": (lambda w: w.neuron_positions("nowhere"), ValueError, "group"),
    "cost-scale": (lambda w: w.cost(distance_scale=-1.0), ValueError, "distance_scale"),
    "add-grad-scale": (lambda w: w.add_grad_(1.0, distance_scale="1"), TypeError, "distance_scale"),
    "strategy": (lambda w: w.relocate("hope"), ValueError, "strategy"),
    "relocate-group": (lambda w: w.relocate(groups=["h", "nowhere"]), ValueError, "groups"),
    "relocate-frozen": (lambda w: w.relocate(groups=["h", "out"]), ValueError, "frozen"),
    "top-k-matching": (lambda w: w.relocate("matching", top_k=2), ValueError, "top_k"),
    "top-k-auto": (lambda w: w.relocate(top_k=2), ValueError, "top_k"),
    "top-k-negative": (lambda w: w.relocate("greedy", top_k=-1), ValueError, "top_k"),
    "top-k-float": (lambda w: w.relocate("greedy", top_k=1.5), ValueError, "top_k"),
    "optimizer": (lambda w: w.relocate("greedy", optimizer="adam"), TypeError, "optimizer"),
    "permute-group": (lambda w: w.permute_("nowhere", torch.arange(4)), ValueError, "group"),
    "permute-boundary": (lambda w: w.permute_("in", torch.arange(3)), ValueError, "group"),
    "permute-float": (lambda w: w.permute_("h", torch.rand(4)), TypeError, "permutation"),
    "permute-list": (lambda w: w.permute_("h", [1, 0, 2, 3]), TypeError, "permutation"),
    "permute-short": (lambda w: w.permute_("h", torch.arange(3)), ValueError, "permutation"),
    "permute-twice": (lambda w: w.permute_("h", torch.tensor([0, 1, 1, 3])), ValueError, "permutation"),
    "permute-outside": (lambda w: w.permute_("h", torch.tensor([0, 1, 2, 4])), ValueError, "permutation"),
    "permute-optimizer": (lambda w: w.permute_("h", torch.arange(4).flip(0), optimizer=3), TypeError, "optimizer"),
    "load-group": (lambda w: w.load_permutations({"h": torch.arange(4)}), ValueError, "permutations"),
    "load-one-bad": (
        lambda w: w.load_permutations({"in": torch.tensor([2, 1, 0]), "out": torch.tensor([1, 1])}),
        ValueError,
        "permutations",
    ),
    "load-float": (lambda w: w.load_permutations({"in": torch.rand(3)}), TypeError, "permutations"),
    "place-group": (lambda w: w.place("nowhere", IN), ValueError, "group"),
    "place-count": (lambda w: w.place("h", IN), ValueError, "positions of 'h'"),
    "place-nan": (lambda w: w.place("h", changed(OUT, NAN)), ValueError, "positions of 'h'"),
    "place-int": (lambda w: w.place("h", OUT.long()), TypeError, "positions of 'h'"),
    "place-nothing": (lambda w: w.place("h"), TypeError, "positions of 'h'"),
}


def state(model, w):
    parts = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
    return [x.clone() for x in (*parts, *map(w.slots, w.groups), *map(w.permutation, w.groups))]


@pytest.mark.parametrize("call, error, name", CALLS.values(), ids=CALLS)
def test_wiring_methods(call, error, name):
    model = layers()
    w = wiring(model, frozen=["out"])
    w.add_grad_(1.0)
    before = state(model, w)
    with pytest.raises(error, match=name):
        call(w)
    assert all(torch.equal(a, b) for a, b in zip(before, state(model, w), strict=True))


@pytest.mark.parametrize("strategy", ("greedy", "matching", "assignment", "auto"))
@pytest.mark.parametrize("value", (NAN, INF))
def test_relocate_refuses_weights_that_are_not_finite(strategy, value, backend):
    model = layers()
    model[2].weight.data[1, 1] = value
    w = wiring(model)
    w.add_grad_(1.0)
    before = copy.deepcopy([p.detach() for p in model.parameters()]), w.permutation("in")
    with pytest.raises(ValueError, match=r"weight.* must be finite"):
        w.relocate(strategy)
    for p, old in zip(model.parameters(), before[0], strict=True):
        assert torch.equal(p.nan_to_num(), old.nan_to_num())
    assert torch.equal(w.permutation("in"), before[1])


def test_add_grad_with_a_gradient_that_does_not_fit():
    model = layers()
    w = wiring(model)
    w.add_grad_(1.0)
    model[2].weight.grad = torch.zeros(2, 4, dtype=torch.float64).to_sparse()
    before = model[0].weight.grad.clone()
    with pytest.raises((TypeError, ValueError), match="grad"):
        w.add_grad_(1.0)
    assert torch.equal(model[0].weight.grad, before)


@pytest.mark.parametrize(
    "call, error, name",
    [
        (lambda: bf.nn.BioMLP((3,)), ValueError, "shape"),
        (lambda: bf.nn.BioMLP((3, 0, 2)), ValueError, "shape"),
        (lambda: bf.nn.BioMLP((3, 2.0)), ValueError, "shape"),
        (lambda: bf.nn.BioMLP((3, 2), positions={"h1": IN}), ValueError, "positions"),
        (lambda: bf.nn.BioMLP((3, 2), positions={"in": OUT}), ValueError, "positions of 'in'"),
        (lambda: bf.nn.BioMLP((3, 2), metric="l7"), ValueError, "metric"),
        (lambda: bf.nn.BioMLP((3, 2), frozen=["h1"]), ValueError, "frozen"),
        (lambda: bf.nn.BioLinear(3, 2, in_pos=OUT), ValueError, "positions of 'in'"),
        (lambda: bf.nn.BioLinear(3, 2, reduction="max"), ValueError, "reduction"),
    ],
)
def test_modules(call, error, name):
    with pytest.raises(error, match=name):
        call()
