"""What composite axes, blocks, learned positions and followers promise besides cost and training."""

import copy
import itertools
import json
import logging
import pickle

import architectures
import inputs
import pytest
import torch
from architectures import ARCHITECTURES
from test_interruption import InterruptAt
from test_relocation import same
from torch import nn

import bimt_fast as bf
from bimt_fast import plot
from bimt_fast.compat import published


@pytest.fixture(params=ARCHITECTURES)
def case(request):
    return ARCHITECTURES[request.param]()


def test_round_trip_through_json(case):
    settings = dict(frozen=list(case.sizes)[:1], reduction={None: "sum", next(iter(case.axes)): "mean"})
    wiring = case.wiring(distance_scale=0.7, unpenalised=list(case.axes)[-1:], **settings)
    wiring.notes = ("of a note",)
    for group in set(case.boundary) - set(wiring.frozen):
        wiring.load_permutations({group: inputs.permutation(case.sizes[group], group)})
    state = json.loads(json.dumps(wiring.to_dict()))
    twin = copy.deepcopy(case.model)
    other = bf.Wiring.from_dict(twin, state)
    assert other.to_dict() == wiring.to_dict() and str(other) == str(wiring)
    assert torch.equal(other.cost(), wiring.cost())
    movable = [g for g in case.sizes if g not in (*case.recurrent, *wiring.frozen)]
    reports = [w.relocate("assignment", groups=movable) for w in (wiring, other)]
    assert reports[0].cost_after == reports[1].cost_after
    assert same(dict(case.model.state_dict()), dict(twin.state_dict()))
    with pytest.raises(ValueError, match="lacked \\['axes'\\]"):
        bf.Wiring.from_dict(twin, {key: value for key, value in state.items() if key != "axes"})


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
def test_round_trip_of_positions_and_tables(dtype):
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    model.places = nn.Parameter(torch.rand(4, 2, dtype=dtype))
    places = {"in": torch.rand(3, 2, dtype=dtype), "h": model.places, "out": nn.Parameter(torch.rand(2, 2))}
    axes = {"0.weight": ("h", "in"), "1.weight": ("out", "h")}
    other = bf.Wiring.from_dict(model, json.loads(json.dumps(bf.Wiring(model, places, axes).to_dict())))
    assert other._slots["h"] is model.places and isinstance(other._slots["out"], nn.Parameter)
    assert other.slots("in").dtype == dtype and all(torch.equal(other.slots(g), x.detach()) for g, x in places.items())
    table = {g: torch.arange(len(x)) for g, x in places.items()}
    wiring = bf.Wiring(model, table, axes, metric=torch.rand(5, 5, dtype=dtype))
    other = bf.Wiring.from_dict(model, json.loads(json.dumps(wiring.to_dict())))
    assert torch.equal(other.metric, wiring.metric) and torch.equal(other.cost(), wiring.cost())


def test_text():
    case = ARCHITECTURES["attention"]()
    wiring = case.wiring(frozen=["emb"], distance_scale=0.25)
    lines = [" ".join(line.split()) for line in str(wiring).splitlines()]
    assert lines[0] == "Wiring of Sequential, metric l1"
    for line in ("in 3 input", "emb 6 inner, frozen", "attn 6 inner, 2 blocks of 3", "out 2 output"):
        assert line in lines
    assert "1.self_attn.in_proj_weight 3*attn x emb sum, distance_scale 0.25, base_length 0.1" in lines
    assert "1.norm1.weight emb nothing" in lines
    assert wiring.report() == str(wiring)
    wiring.notes = ("this was left out",)
    assert wiring.report().endswith("this was left out")
    assert "h 4 inner, recurrent" in " ".join(str(ARCHITECTURES["gru"]().wiring()).split())
    assert "head.weight tokens x emb the same tensor as embedding.weight" in " ".join(
        str(ARCHITECTURES["tied"]().wiring()).split()
    )


def test_copies_keep_all_but_followers(case):
    model = case.model
    model.function = None  # a lambda, which no pickle takes
    wiring = case.wiring()
    for other in (copy.deepcopy(wiring), pickle.loads(pickle.dumps(wiring))):
        assert other.model is not model and torch.equal(other.cost(), wiring.cost())
        group, permutation = next(iter(case.inner_permutations().items()))
        before = copy.deepcopy(dict(model.state_dict()))
        other.permute_(group, permutation)
        assert same(dict(model.state_dict()), before) and not same(dict(other.model.state_dict()), before)


def test_parts_and_length(case):
    wiring = case.wiring()
    lengths = dict.fromkeys(wiring.length().by_connection, 0.0)
    for part in wiring.parts():
        x, y = case.places[part.out], case.places[part.source]
        assert part.weight.shape == (len(x), len(y))
        lengths[part.entry.name] += (part.weight.abs() * (x[:, None] - y[None]).abs().sum(-1)).sum().item()
    assert wiring.length().by_connection == pytest.approx(lengths, rel=1e-12)
    connections = {name: case.cost(base=0.0, free=set(case.owners) - {name}).item() for name in lengths}
    assert lengths == pytest.approx(connections, rel=1e-12)


def test_prune_spares_the_largest_of_every_tensor(case):
    if case.x[0].dim() == 4:
        case.model.to(memory_format=torch.channels_last)
    wiring = case.wiring()
    tensors = {part.entry.name: part.entry.tensor for part in wiring.parts()}
    largest = {name: w.abs().max().item() for name, w in tensors.items()}
    median = torch.cat([w.detach().abs().flatten() for w in tensors.values()]).median().item()
    alive = {name: int((w.abs() > median).sum()) for name, w in tensors.items()}
    found = wiring.prune_(median)
    assert found.left == {name: max(count, 1) for name, count in alive.items()}
    found = wiring.prune_(1e9)
    assert set(found.spared) == set(tensors) and set(found.left.values()) == {1}
    assert {name: w.abs().max().item() for name, w in tensors.items()} == largest
    wiring.prune_(1e9)
    assert sum(int(w.count_nonzero()) for w in tensors.values()) == len(tensors)


def block_arrangements(blocks, m):
    for places in itertools.permutations(range(blocks)):
        for orders in itertools.product(itertools.permutations(range(m)), repeat=blocks):
            yield torch.tensor([place * m + w for place, order in zip(places, orders, strict=True) for w in order])


def test_assignment_of_blocks_is_the_best_of_all_arrangements():
    case = ARCHITECTURES["attention"]()
    wiring = case.wiring()
    best = min(
        case.cost(places={**case.places, "attn": case.places["attn"][seats]}).item()
        for seats in block_arrangements(2, 3)
    )
    others = [copy.deepcopy(wiring).relocate(s, groups=["attn"]).cost_after for s in ("greedy", "matching")]
    assert wiring.relocate("assignment", groups=["attn"]).cost_after == pytest.approx(best, rel=1e-12)
    assert min(others) >= best * (1 - 1e-12)


def test_best_swaps_stay_within_blocks():
    case = ARCHITECTURES["attention"]()
    wiring, cost = case.wiring(), case.cost().item()
    delta, partner = wiring.best_swaps("attn")
    improving = []
    for r in range(6):
        deltas = {}
        for s in range(r // 3 * 3, r // 3 * 3 + 3):
            seats = torch.arange(6)
            seats[[r, s]] = seats[[s, r]]
            deltas[s] = case.cost(places={**case.places, "attn": case.places["attn"][seats]}).item() - cost
        assert delta[r].item() == pytest.approx(min(deltas.values()), abs=1e-12)
        assert deltas[partner[r].item()] == pytest.approx(min(deltas.values()), abs=1e-12)
        improving += [(change, r, s) for s, change in deltas.items() if r < s and change < -1e-12]
    assert len(improving) > 2
    for top_k in (0, 2, 100):
        delta, pairs = wiring.best_swaps("attn", top_k=top_k)
        expected = sorted(improving)[:top_k]
        assert [tuple(pair) for pair in pairs.tolist()] == [(r, s) for _, r, s in expected]
        assert delta.tolist() == pytest.approx([change for change, _, _ in expected], abs=1e-12)


@pytest.mark.parametrize("name", ("conv2d", "attention", "folds", "unet"))
def test_interrupted_anywhere(name):
    def trained():
        case = ARCHITECTURES[name]()
        optimizer = torch.optim.Adafactor(case.model.parameters())
        case.output(training=True).square().mean().backward()
        optimizer.step()
        return case, case.wiring(), optimizer

    def everything(case, wiring, optimizer):
        grads = {k: p.grad for k, p in case.model.named_parameters()}
        seats = {g: wiring.permutation(g) for g in wiring.groups}
        return copy.deepcopy([dict(case.model.state_dict()), grads, optimizer.state_dict(), seats])

    for n in range(3, 1000, 17):
        state = trained()
        before = everything(*state)
        try:
            with InterruptAt(n, bool(n % 2)):
                state[1].relocate("matching", optimizer=state[2])
        except KeyboardInterrupt:
            assert all(map(same, everything(*state), before)), n
        else:
            break
    assert n > 50 and not all(map(same, everything(*state), before))


def test_learned_positions():
    case = ARCHITECTURES["unet"]()
    places = {g: nn.Parameter(x.clone()) if g in ("a", "in") else x for g, x in case.places.items()}
    twin = copy.deepcopy((case, places))
    learned = [places["a"], places["in"]]
    wiring = case.wiring(positions=places)
    expected = torch.autograd.grad(case.cost(places=places), learned)
    for x, gradient in zip(torch.autograd.grad(wiring.cost(), learned), expected, strict=True):
        torch.testing.assert_close(x, gradient, rtol=1e-12, atol=1e-14)
    learned[0].grad = torch.ones_like(learned[0])
    wiring.add_grad_(0.5)
    torch.testing.assert_close(learned[0].grad, 1 + 0.5 * expected[0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(learned[1].grad, 0.5 * expected[1], rtol=1e-12, atol=1e-14)

    optimizers = [bf.optim.AdamW(wiring, [*case.model.parameters(), *learned], lr=1e-2, lam=0.1)]
    other = [*twin[0].model.parameters(), twin[1]["a"], twin[1]["in"]]
    optimizers.append(torch.optim.AdamW(other, lr=1e-2, weight_decay=0.0))
    for _ in range(4):
        for which, optimizer in zip((case, twin[0]), optimizers, strict=True):
            optimizer.zero_grad()
            loss = which.output(training=True).square().mean()
            (loss if which is case else loss + 0.1 * twin[0].cost(places=twin[1])).backward()
            optimizer.step()
    for x, y in zip([*case.model.parameters(), *learned], other, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10)
    assert wiring.cost().item() == pytest.approx(case.cost(places=places).item(), rel=1e-12)
    for x in learned:  # what was learned counts after learning has ended, and placing keeps the parameter
        x.requires_grad_(False)
    learned[0].data += 1
    assert wiring.cost().item() == pytest.approx(case.cost(places=places).item(), rel=1e-12)
    wiring.place("a", case.places["a"])
    assert torch.equal(learned[0], case.places["a"])
    with pytest.raises(ValueError, match="'a', a parameter, must keep their shape"):
        wiring.place("a", case.places["a"][:, :1])


@pytest.mark.parametrize("strategy", ("greedy", "matching", "assignment"))
def test_weights_of_several_dtypes(strategy):
    case = ARCHITECTURES["unet"]()
    dtypes = {"first": torch.bfloat16, "second": torch.float32, "norm": torch.float32}
    for name, dtype in dtypes.items():
        getattr(case.model, name).to(dtype)
    wiring = case.wiring()
    expected = case.cost().item()
    assert wiring.cost().item() == pytest.approx(expected, rel=1e-5)
    assert wiring.add_grad_(1.0).item() == pytest.approx(expected, rel=1e-5)
    for p in case.model.parameters():
        if p.dim() > 1:
            assert p.grad.dtype == p.dtype and p.grad.count_nonzero() > 0
    optimizer = bf.optim.AdamW(wiring, lam=0.1)
    optimizer.step()
    report = wiring.relocate(strategy)
    assert report.cost_after < report.cost_before
    assert report.cost_after == pytest.approx(wiring.cost().item(), rel=1e-5)


def test_what_follows_twice_moves_once():
    case = ARCHITECTURES["tied"]()
    wiring, ema = case.wiring(), copy.deepcopy(case.model)
    wiring.attach(ema)
    wiring.attach(ema)
    wiring.permute_("emb", inputs.permutation(4))
    assert same(dict(case.model.state_dict()), dict(ema.state_dict()))


def test_state_that_cannot_travel_is_refused():
    case = ARCHITECTURES["conv2d"]()
    wiring, optimizer = case.wiring(), torch.optim.SGD(case.model.parameters())
    optimizer.state[case.model[0].weight]["odd"] = torch.zeros(7)
    wiring.attach(optimizer)
    before = copy.deepcopy(dict(case.model.state_dict()))
    for call in (lambda: wiring.relocate("matching"), lambda: wiring.permute_("c1", torch.arange(4).flip(0))):
        with pytest.raises(ValueError, match=r"'odd' of '0\.weight' cannot follow"):
            call()
    assert same(dict(case.model.state_dict()), before)
    with pytest.raises(ValueError, match=r"lacked '0\.weight'"):
        wiring.attach(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="follower"):
        wiring.attach(3)


def changed(name, axes, **settings):
    case = ARCHITECTURES[name]()
    return case, dict(axes={**case.axes, **axes}, **settings)


GROUPED = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Conv1d(4, 4, 1, groups=2), nn.GroupNorm(2, 4), nn.Conv1d(4, 2, 1))
REFUSED = {
    "heads": (*changed("attention", {}, blocks={}), "in_proj_weight'.*groups of 3"),
    "halved-heads": (*changed("attention", {}, blocks={"attn": 6}), "groups of 3"),
    "gates-as-runs": (*changed("gru", {"gru.bias_ih_l0": ("h*3",)}), "'gru.weight_ih_l0' and 'gru.bias_ih_l0'"),
    "columns-left": (*changed("gru", {"gru.weight_hh_l0": ("3*h", None)}), "'gru.weight_ih_l0' and 'gru.weight_hh_l0'"),
    "values-elsewhere": (
        *changed("attention", {"1.self_attn.out_proj.weight": ("emb", "emb")}),
        "in_proj_weight' and '1.self_attn.out_proj.weight'",
    ),
    "norm": (*changed("mlp", {"1.running_var": (None,)}), "'1.weight' and '1.running_var'"),
    "input-first": (*changed("input_first", {"0.weight": ("in", None)}), "'0.weight' and '0.bias'"),
    "transposed-bias": (*changed("autoencoder", {"3.bias": ("out+out",)}), "3.bias"),
    "tied": (*changed("tied", {"head.weight": (None, "emb")}), "'embedding.weight' has .*'head.weight' has"),
    "grouped-inputs": (*changed("depthwise", {"1.weight": ("c", "c", None, None)}), "1.weight"),
    "half-channels": (*changed("depthwise", {"4.weight": ("c+c",), "4.bias": ("c+c",)}), "groups of 2"),
    "three-axes": (*changed("conv1d", {"0.weight": ("c", "in", "in")}), "at most two axes"),
}


@pytest.mark.parametrize("case, settings, sentence", REFUSED.values(), ids=REFUSED)
def test_declarations_that_would_tear_something_apart(case, settings, sentence):
    before = copy.deepcopy(dict(case.model.state_dict()))
    with pytest.raises(ValueError, match=sentence):
        case.wiring(**settings)
    assert same(dict(case.model.state_dict()), before)


def test_grouped_convolutions_and_norms_want_whole_groups():
    places = {"in": torch.rand(3, 1), "c": torch.rand(4, 1), "g": torch.rand(2, 1), "out": torch.rand(2, 1)}
    axes = {"0.weight": ("{}", "in", None), "0.bias": ("{}",), "1.weight": ("{}", None, None), "1.bias": ("{}",)}
    axes |= {"2.weight": ("{}",), "2.bias": ("{}",), "3.weight": ("out", "{}", None), "3.bias": ("out",)}

    def wiring(text, group, **settings):
        used = {g: places[g] for g in ("in", group, "out")}
        return bf.Wiring(
            GROUPED, used, {k: tuple(a and a.format(text) for a in v) for k, v in axes.items()}, **settings
        )

    for blocks in ({}, {"c": 2}):
        with pytest.raises(ValueError, match=r"axis 0 of '1\.weight', 'c', falls into groups of 2"):
            wiring("c", "c", blocks=blocks)
    x = torch.rand(2, 3, 5)
    output = GROUPED(x)
    wiring("g*2", "g").permute_("g", torch.tensor([1, 0]))
    torch.testing.assert_close(GROUPED(x), output)


def test_masks_travel_and_do_not_count():
    case = ARCHITECTURES["mlp"]()
    case.model[3].register_buffer("mask", torch.rand(4, 6) < 0.5)
    wiring = case.wiring(axes={**case.axes, "3.mask": ("h2", "h1")})
    mask = case.model[3].mask.clone()
    assert wiring.cost().item() == pytest.approx(case.cost().item(), rel=1e-12)
    assert "3.mask" not in wiring.length().by_connection and "3.mask" not in wiring.prune_(0.1).left
    order = inputs.permutation(6)
    wiring.permute_("h1", order)
    assert torch.equal(case.model[3].mask, mask[:, order])


def test_sparse_gradients_are_refused():
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 2, bias=False))
    axes = {"0.weight": (None, "emb"), "1.weight": ("out", "emb")}
    wiring = bf.Wiring(model, {"emb": bf.geometry.line(3), "out": bf.geometry.line(2)}, axes)
    model(torch.tensor([1, 2])).sum().backward()
    for call in (lambda: wiring.add_grad_(1.0), bf.optim.AdamW(wiring).step):
        with pytest.raises(TypeError, match="dense"):
            call()
    model.append(nn.Linear(2, 3, bias=False))
    axes = {"0.weight": (None, "emb"), "2.weight": ("emb", "out"), "1.weight": ("out", "emb")}
    wiring = bf.Wiring(model, {"emb": bf.geometry.line(3), "out": bf.geometry.line(2)}, axes)
    before = copy.deepcopy(dict(model.state_dict()))
    for call in (lambda: wiring.relocate("matching"), lambda: wiring.permute_("emb", torch.arange(3).flip(0))):
        with pytest.raises(TypeError, match=r"gradient of '0\.weight' must be dense"):
            call()
    assert same(dict(model.state_dict()), before)


def test_figure(case):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'bimt_fast[plot]'")
    wiring = case.wiring()
    try:
        ax = plot.network(wiring, threshold=0.2)
    except ValueError as error:  # residual streams feed each other in a circle
        assert "circle" in str(error)
        ax = plot.network(wiring, threshold=0.2, groups=list(case.sizes))
    drawn = {c.get_gid(): len(c.get_segments()) for c in ax.collections if hasattr(c, "get_segments")}
    assert drawn == {part.label: int((part.weight.abs() > 0.2).sum()) for part in wiring.parts()}
    for part in wiring.parts():
        colours = next(c for c in ax.collections if c.get_gid() == part.label).get_colors()[:, :3]
        assert part.signed or (colours == plot.UNSIGNED).all()


def test_the_published_loop_knows_plain_wirings_only(case):
    with pytest.raises(ValueError, match="wiring must"):
        published.cost(case.wiring())


def test_no_warning_where_bimt_fast_optimizes(caplog):
    case = architectures.conv2d()
    wiring = case.wiring()
    optimizer = bf.optim.AdamW(wiring)
    with caplog.at_level(logging.WARNING, logger="bimt_fast"):
        wiring.relocate("matching")
    assert not caplog.records and optimizer.wiring is wiring
