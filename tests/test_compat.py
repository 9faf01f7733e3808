"""The classes of the published notebooks against plain formulas, and their relocation against the loop over swaps."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bimt_fast import compat
from bimt_fast.compat import _layers, in_context, mnist, modular_addition, permutation_s4, symbolic_formulas, two_moons

# (namespace, l0, top_k, mean, weight_factor, in_fold), as experiments.md has them
NOTEBOOKS = {
    "symbolic_formulas": (symbolic_formulas, 0.1, 5, False, 1.0, 1),
    "two_moons": (two_moons, 0.2, 10, False, 1.0, 1),
    "modular_addition": (modular_addition, 0.5, 30, True, 2.0, 2),
    "permutation_s4": (permutation_s4, 0.5, 30, True, 2.0, 2),
    "in_context": (in_context, 0.5, 20, True, 2.0, 1),
    "mnist": (mnist, 0.5, 30, True, 2.0, 1),
}
every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def network(name, seed=0, embedding=True, widths=(8, 9, 7, 5)):
    """A small network of a notebook; the image network has square widths."""
    torch.manual_seed(seed)
    if name == "mnist":
        return mnist.BioMLP2D(shp=[16, 9, 9, 5])
    module = NOTEBOOKS[name][0]
    size = (6, widths[0] // NOTEBOOKS[name][5]) if embedding else None
    return module.BioMLP(shp=list(widths), token_embedding=embedding, embedding_size=size)


def transformer(seed=0, n_head=2, n_embed=6, n_layer=2):
    torch.manual_seed(seed)
    model = in_context.BioTransformer(
        in_dim=3, out_dim=4, n_head=n_head, n_embed=n_embed, n_layer=n_layer, block_size=5
    )
    for layer in model.get_linear_layers():  # LayerNorm modules that show where their entries go
        if isinstance(layer, nn.LayerNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return model


def shuffled(model, swaps=12, seed=1):
    """Inputs and outputs somewhere else than at first."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(swaps):
        for i in (0, len(model.groups()) - 1):
            j, k = torch.randint(model.groups()[i].size, (2,), generator=generator).tolist()
            model.swap(i, j, k)
    return model


# Construction


@every_notebook
def test_defaults(name):
    module, l0, top_k, _, _, in_fold = NOTEBOOKS[name]
    model = module.BioMLP2D() if name == "mnist" else module.BioMLP()
    assert (model.l0, model.top_k) == (l0, top_k)
    assert [layer.in_fold for layer in model.linears] == [in_fold, *[1] * (len(model.linears) - 1)]
    assert model.shp == ([784, 100, 100, 10] if name == "mnist" else [2, 2, 2])
    assert all(isinstance(layer.linear, nn.Linear) for layer in model.get_linear_layers())
    assert not hasattr(model, "embedding")


@every_notebook
def test_shapes_of_what_a_script_reads(name, double):
    model = network(name)
    fold, mean = NOTEBOOKS[name][5], NOTEBOOKS[name][3]
    assert (model.in_dim, model.out_dim, model.depth) == (model.shp[0], model.shp[-1], 3)
    assert model.in_perm.tolist() == list(range(model.shp[0] // fold))
    assert model.out_perm.tolist() == list(range(model.shp[-1]))
    for layer, (m, n) in zip(model.linears, itertools.pairwise(model.shp), strict=True):
        assert layer.linear.weight.shape == (n, m) and layer.linear.weight.dtype == torch.float64
        dim = (2,) if name == "mnist" else ()
        assert layer.in_coordinates.shape == (m, *dim) and layer.out_coordinates.shape == (n, *dim)
        assert layer.in_coordinates.dtype == layer.out_coordinates.dtype == torch.float32
    if name != "mnist":
        assert model.embedding.shape == (6, 8 // fold) and isinstance(model.embedding, nn.Parameter)
    assert model(torch.rand(4, model.in_dim)).shape == (4, model.out_dim)
    assert mean == (model.get_cc().item() < 5)


def test_widths_from_in_dim_out_dim_w_and_depth():
    assert two_moons.BioMLP(2, 3, 20, 4).shp == [2, 20, 20, 20, 3]
    assert two_moons.BioMLP(in_dim=5, out_dim=4, w=3, depth=1).shp == [5, 4]


def test_coordinates():
    line = torch.tensor([1 / 6, 0.5, 5 / 6])
    layer = modular_addition.BioLinear(6, 3, in_fold=2)
    torch.testing.assert_close(layer.in_coordinates, line.repeat(2), rtol=0, atol=6e-8)
    torch.testing.assert_close(layer.out_coordinates, line, rtol=0, atol=6e-8)
    layer = mnist.BioLinear2D(4, 10, out_ring=True)
    assert layer.in_coordinates.tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    angles = [2 * math.pi * (k + 0.5) / 10 for k in range(10)]
    ring = torch.tensor([[0.5 + 0.25 * math.cos(a), 0.5 + 0.25 * math.sin(a)] for a in angles])
    torch.testing.assert_close(layer.out_coordinates, ring, rtol=0, atol=1e-7)


@every_notebook
def test_initial_weights_are_those_of_linear_layers_in_order(name):
    model = network(name, seed=3)
    torch.manual_seed(3)
    expected = [nn.Linear(m, n) for m, n in itertools.pairwise(model.shp)]
    for layer, plain in zip(model.linears, expected, strict=True):
        assert torch.equal(layer.linear.weight, plain.weight) and torch.equal(layer.linear.bias, plain.bias)
    if name != "mnist":
        assert torch.equal(model.embedding, torch.normal(0.0, 1.0, size=model.embedding.shape))


def test_initial_weights_of_a_transformer():
    torch.manual_seed(3)
    model = in_context.BioTransformer(n_embed=6, n_layer=2)
    torch.manual_seed(3)
    block = [(6, 18), (6, 6), (6, 24), (24, 6)]
    expected = [nn.Linear(m, n) for m, n in [(2, 6), *block, *block, (6, 2)]]
    for layer, plain in zip(model.linears, expected, strict=True):
        assert torch.equal(layer.linear.weight, plain.weight) and torch.equal(layer.linear.bias, plain.bias)
    defaults = in_context.BioTransformer()
    assert (defaults.n_head, defaults.n_embed, defaults.n_layer, defaults.block_size) == (2, 20, 2, 19)
    assert (defaults.l0, defaults.top_k) == (0.5, 20)


# Forward


@every_notebook
def test_forward_reads_and_writes_where_neurons_stand(name, double):
    model = shuffled(network(name))
    fold = NOTEBOOKS[name][5]
    assert model.out_perm.tolist() != list(range(5)) and (name == "mnist") == model.in_perm.equal(torch.arange(16))
    x = torch.rand(4, model.in_dim)
    columns = torch.cat([model.in_perm + f * (model.in_dim // fold) for f in range(fold)])
    y = x[:, columns]
    activation = (lambda h: F.gelu(h, approximate="tanh")) if name == "in_context" else F.silu
    for layer in model.linears[:-1]:
        y = activation(y @ layer.linear.weight.T + layer.linear.bias)
    y = y @ model.linears[-1].linear.weight.T + model.linears[-1].linear.bias
    expected = torch.empty(4, model.out_dim)
    for place, output in enumerate(model.out_perm.tolist()):
        expected[:, output] = y[:, place]
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model(x[None].expand(2, -1, -1))[1], expected)


def test_forward_of_a_transformer(double):
    model = shuffled(transformer())
    x = torch.rand(2, 5, 3)
    h = model.linear_in(x[..., model.in_perm])
    for block in model.blocks:
        q, k, v = block.attn.c_attn(h).split(6, dim=-1)
        heads = []
        for a in (slice(0, 3), slice(3, 6)):
            scores = q[..., a] @ k[..., a].transpose(1, 2) / math.sqrt(3)
            scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
            heads.append(scores.softmax(-1) @ v[..., a])
        h = h + block.attn.c_proj(torch.cat(heads, -1))
        h = h + block.mlp["c_proj"](F.gelu(block.mlp["c_fc"](h), approximate="tanh"))
    expected = model.linear_out(h)[..., model.out_perm.argsort()]
    torch.testing.assert_close(model(x), expected)


# Cost


def lines(n, fold=1):
    return ((torch.arange(n // fold, dtype=torch.float64) + 0.5) / (n // fold)).float().double().repeat(fold)[:, None]


def sheet(n):
    side = math.isqrt(n)
    return torch.cartesian_prod(lines(side)[:, 0], lines(side)[:, 0]).flip(1)


def plain_cost(name, model, weight_factor, bias_penalize=True, no_penalize_last=False):
    _, l0, _, mean, _, fold = NOTEBOOKS[name]
    reduce = torch.mean if mean else torch.sum
    total = 0
    for k, layer in enumerate(model.linears):
        w, b = layer.linear.weight, layer.linear.bias
        if name == "mnist":
            ring = layer.out_coordinates.double()  # test_coordinates
            x, y = sheet(w.shape[0]) if k < 2 else ring, sheet(w.shape[1])
        else:
            x, y = lines(w.shape[0]), lines(w.shape[1], 1 if k else fold)
        distance = (x[:, None] - y[None]).abs().sum(-1)
        factor = 0 if no_penalize_last and k == len(model.linears) - 1 else weight_factor
        total = total + reduce(w.abs() * (factor * distance + l0))
        if bias_penalize:
            total = total + reduce(b.abs() * l0)
    return total + reduce(model.embedding.abs() * l0) if hasattr(model, "embedding") else total


@every_notebook
@pytest.mark.parametrize("settings", [{}, {"bias_penalize": False}, {"no_penalize_last": True}, {"weight_factor": 0.3}])
def test_connection_cost_and_its_gradient(name, settings, double):
    model = network(name)
    expected = plain_cost(name, model, **{"weight_factor": NOTEBOOKS[name][4], **settings})
    got = model.get_cc(**settings)
    assert got.shape == () and got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    parameters = [p for p in model.parameters() if settings.get("bias_penalize", True) or p.dim() == 2]
    truth = torch.autograd.grad(expected, parameters)
    for p, q, g in zip(parameters, torch.autograd.grad(got, parameters), truth, strict=True):
        torch.testing.assert_close(q, g, rtol=1e-12, atol=0, msg=lambda m, p=p: f"{tuple(p.shape)}: {m}")


def test_cost_in_float32_and_with_another_l0():
    model = network("two_moons")
    model.l0 = 0.7
    truth = copy.deepcopy(model).double().get_cc()
    assert model.get_cc().dtype == torch.float32
    assert model.get_cc().item() == pytest.approx(truth.item(), rel=1e-6)
    assert truth.item() > 2 * network("two_moons").get_cc().item()


def test_cost_with_parameters_that_are_not_trained(double):
    model = network("modular_addition")
    expected = torch.autograd.grad(model.get_cc(), list(model.parameters()))
    model.linears[1].linear.weight.requires_grad_(False)
    (3 * model.get_cc()).backward()
    for p, g in zip(model.parameters(), expected, strict=True):
        assert (p.grad is None) == (p is model.linears[1].linear.weight)
        assert p.grad is None or torch.equal(p.grad, 3 * g)
    with torch.no_grad():
        assert model.get_cc().item() == pytest.approx(plain_cost("modular_addition", model, 2.0).item(), rel=1e-12)


def test_gradients_of_weights_that_have_moved_since_are_refused():
    model = network("two_moons")
    cost = model.get_cc()
    model.swap(1, 0, 2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        cost.backward()


def test_cost_of_a_transformer(double):
    model = transformer()

    def expected(weight_factor=2.0, bias=True, last=2.0):
        total = 0
        for layer in model.linears:
            w, b = layer.linear.weight, layer.linear.bias
            d = (lines(w.shape[0], layer.out_fold) - lines(w.shape[1])[:, 0]).abs()
            factor = last if layer is model.linears[-1] else weight_factor
            total += (w.abs() * (factor * d + 0.5)).mean() + bias * 0.5 * b.abs().mean()
        return total

    norms = [layer for layer in model.get_linear_layers() if isinstance(layer, nn.LayerNorm)]
    assert len(norms) == 5 and [layer.out_fold for layer in model.linears] == [1, 3, 1, 1, 1, 3, 1, 1, 1, 1]
    torch.testing.assert_close(model.get_cc(), expected(), rtol=1e-12, atol=0)
    torch.testing.assert_close(model.get_cc(0.5, False, True), expected(0.5, False, 0.0), rtol=1e-12, atol=0)
    of_norms = sum(0.5 * p.abs().mean() for norm in norms for p in norm.parameters())
    torch.testing.assert_close(model.get_cc(ln_penalize=True), expected() + of_norms, rtol=1e-12, atol=0)


# Swaps


def test_swaps_of_single_tensors():
    model = network("two_moons")
    weight = torch.arange(12.0).view(3, 4)
    w, b = nn.Parameter(weight.clone()), nn.Parameter(torch.arange(3.0))
    model.swap_weight(w, 0, 2)
    assert w.tolist() == weight[[2, 1, 0]].tolist()
    model.swap_weight(w, 0, 2, swap_type="out")
    model.swap_weight(w, 1, 3, swap_type="in")
    assert w.tolist() == weight[:, [0, 3, 2, 1]].tolist()
    model.swap_bias(b, torch.tensor(0), 1)
    assert b.tolist() == [1, 0, 2]


def exchange(x, axis, j, k, folds=1):
    """Entries j and k of every fold of an axis trade places, in place."""
    x = x.movedim(axis, 0)
    size = len(x) // folds
    for f in range(folds):
        a, b = x[f * size + j].clone(), x[f * size + k].clone()
        x[f * size + j], x[f * size + k] = b, a


@torch.no_grad()
def plain_swap(model, i, j, k):
    """What swap must do to a fully connected network."""
    linears = [layer.linear for layer in model.linears]
    if i == 0 and isinstance(model, mnist.BioMLP2D):
        return
    if i == 0:
        exchange(model.in_perm, 0, j, k)
    else:
        exchange(linears[i - 1].weight, 0, j, k)
        exchange(linears[i - 1].bias, 0, j, k)
    if i == len(linears):
        exchange(model.out_perm, 0, j, k)
    else:
        exchange(linears[i].weight, 1, j, k, model.linears[i].in_fold)


@every_notebook
def test_swap_moves_the_neurons_and_nothing_else(name):
    model = network(name)
    x = torch.rand(4, model.in_dim)
    before, plain = model(x), copy.deepcopy(model)
    for i in range(4):
        plain_swap(plain, i, 1, 3)
        model.swap(i, torch.tensor(1), 3)
        for (key, a), b in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
            assert torch.equal(a, b), f"{key}, layer {i}"
    torch.testing.assert_close(model(x), before)


@every_notebook
def test_most_important_neurons(name, double):
    model = network(name)
    weights = [layer.linear.weight.abs() for layer in model.linears]
    fold = NOTEBOOKS[name][5]
    for i in range(4):
        score = torch.zeros(model.shp[i] // (1 if i else fold))
        if i > 0:
            score += weights[i - 1].sum(1)
        if i < 3:
            score += weights[i].sum(0).view(1 if i else fold, -1).sum(0)
        ids = model.get_top_id(i, 4)
        if name == "mnist":
            ids, scores = ids
            torch.testing.assert_close(scores, score)
        assert ids.tolist() == sorted(range(len(score)), key=lambda j: -score[j].item())[:4]


# Relocation, against the loop that swaps, computes the cost of the whole network, and swaps back


@torch.no_grad()
def best_place(model, swap, j, places):
    """Where the loop leaves what is in place j: the first of the cheapest places."""
    costs = []
    for k in places:
        swap(j, k)
        costs.append(model.get_cc().item())
        swap(j, k)
    return places[costs.index(min(costs))]


def loop_over_slot(model, i, j):
    places = range(model.shp[i] // (model.linears[0].in_fold if i == 0 else 1))
    plain_swap(model, i, j, best_place(model, lambda a, b: plain_swap(model, i, a, b), j, places))


def loop_over_swaps(model, i, top_k):
    ids = model.get_top_id(i, top_k)
    for j in (ids[0] if isinstance(ids, tuple) else ids).tolist():
        loop_over_slot(model, i, j)


def assert_same(model, plain):
    for (key, a), b in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


@every_notebook
@pytest.mark.parametrize("top_k", [0, 1, 4, 100])
def test_relocation_is_the_loop_over_swaps(name, top_k, double):
    for seed in range(1 if top_k == 100 else 3):
        model = shuffled(network(name, seed))
        plain, x, before = copy.deepcopy(model), torch.rand(4, model.in_dim), model.get_cc().item()
        y = model(x)
        model.top_k = top_k
        swaps = model.relocate()
        for i in range(4):
            loop_over_swaps(plain, i, top_k)
        assert_same(model, plain)
        torch.testing.assert_close(model(x), y)
        assert (swaps > 0) == (top_k > 0) and (model.get_cc().item() < before) == (top_k > 0)


@every_notebook
def test_relocation_of_one_layer_and_of_one_neuron(name, double):
    model = network(name, 7)
    plain = copy.deepcopy(model)
    for i in range(4):
        model.top_k = 3
        model.relocate_i(i)
        loop_over_swaps(plain, i, 3)
        assert_same(model, plain)
        ids = model.get_top_id(i)
        for j in (ids[0] if name == "mnist" else ids)[:2]:  # tensors, as scripts hand them on
            model.relocate_ij(i, j)
            loop_over_slot(plain, i, int(j))
            assert_same(model, plain)


def test_relocation_in_float32_lowers_the_cost():
    torch.manual_seed(0)
    model = mnist.BioMLP2D()
    x = torch.rand(3, 784)
    y, before, pixels = model(x), model.get_cc().item(), model.linears[0].linear.weight.sum(0)
    assert model.relocate() > 30
    assert model.get_cc().item() < before
    torch.testing.assert_close(model(x), y, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.linears[0].linear.weight.sum(0), pixels)  # columns stay
    assert model.in_perm.equal(torch.arange(784))
    assert model.relocate_i(0) == model.relocate_ij(0, 5) == 0


# The transformer


@torch.no_grad()
def plain_transformer_swap(model, i, j, k):
    """Slots j and k of a group of a transformer: inputs, stream, attention and hidden neurons of blocks, outputs."""
    last = 2 * model.n_layer + 2
    if i in (0, last):
        exchange(model.in_perm if i == 0 else model.out_perm, 0, j, k)
        for p in (model.linear_in.linear.weight,) if i == 0 else model.linear_out.linear.parameters():
            exchange(p, 1 if i == 0 else 0, j, k)
    elif i == 1:
        reading = [model.linear_out, *(x for b in model.blocks for x in (b.attn.c_attn, b.mlp["c_fc"]))]
        adding = [model.linear_in, *(x for b in model.blocks for x in (b.attn.c_proj, b.mlp["c_proj"]))]
        norms = [model.ln_f, *(x for b in model.blocks for x in (b.ln_1, b.ln_2))]
        for layer in reading:
            exchange(layer.linear.weight, 1, j, k)
        for p in (p for layer in (*adding, *norms) for p in layer.parameters()):
            exchange(p, 0, j, k)
    else:
        block = model.blocks[(i - 2) // 2]
        below, above = (block.mlp["c_fc"], block.mlp["c_proj"]) if i % 2 else (block.attn.c_attn, block.attn.c_proj)
        for p in below.parameters():
            exchange(p, 0, j, k, below.out_fold)
        exchange(above.linear.weight, 1, j, k)


def plain_head_swap(model, i, j, k):
    size = model.groups()[i].size // model.groups()[i].heads
    for w in range(size) if j != k else ():
        plain_transformer_swap(model, i, j * size + w, k * size + w)


def plain_ranks(model, i, top_k):
    """Heads and slots that are visited: importance as the mean over folds of each side's sums."""
    group = model.groups()[i]
    score = torch.zeros(group.size)
    for layer in group.incoming:
        score += layer.linear.weight.abs().sum(1).view(layer.out_fold, -1).mean(0)
    for layer in group.outgoing:
        score += layer.linear.weight.abs().sum(0)
    by_head = score.view(group.heads, -1)
    heads = by_head.sum(1).argsort(descending=True)[:top_k].tolist()
    return heads, [h * by_head.shape[1] + w for h in heads for w in by_head[h].argsort(descending=True).tolist()]


def transformer_loop(model, top_k):
    for i in reversed(range(2 * model.n_layer + 3)):
        heads, slots = plain_ranks(model, i, top_k)
        count, n = model.groups()[i].heads, model.groups()[i].size
        for j in heads:
            best = best_place(model, lambda a, b, i=i: plain_head_swap(model, i, a, b), j, range(count))
            plain_head_swap(model, i, j, best)
        size = n // count
        for j in slots:
            own_head = range(j // size * size, (j // size + 1) * size)
            best = best_place(model, lambda a, b, i=i: plain_transformer_swap(model, i, a, b), j, own_head)
            plain_transformer_swap(model, i, j, best)


@pytest.mark.parametrize(
    "n_head, n_embed, n_layer, top_k", [(1, 4, 1, 20), (3, 6, 1, 20), (3, 6, 1, 2), (2, 4, 2, 20), (2, 4, 2, 0)]
)
def test_relocation_of_a_transformer_is_the_loop_over_swaps(n_head, n_embed, n_layer, top_k, double):
    model = shuffled(transformer(top_k, n_head, n_embed, n_layer))
    plain, x = copy.deepcopy(model), torch.rand(2, 5, 3)
    y = model(x)
    model.top_k = top_k
    for i in range(len(model.groups())):
        assert model.get_top_id(i, 2).tolist() == plain_ranks(model, i, 2)[1]
    swaps = model.relocate()
    transformer_loop(plain, top_k)
    assert_same(model, plain)
    assert (swaps > 0) == (top_k > 0)
    torch.testing.assert_close(model(x), y)


def test_every_move_in_a_transformer_leaves_its_function(double):
    model = transformer(n_head=3)
    x = torch.rand(2, 5, 3)
    y = model(x)
    for i, group in enumerate(model.groups()):
        plain = copy.deepcopy(model)
        model.swap(i, 0, 1)
        plain_transformer_swap(plain, i, 0, 1)
        assert_same(model, plain)
        model.relocate_ij(i, 1)
        if group.heads > 1:
            model.swap_head(i, 0, 2)
            model.relocate_head(i, 1)
        model.relocate_i(i)
        torch.testing.assert_close(model(x), y, msg=lambda m, i=i: f"group {i}: {m}")
    assert [g.heads for g in model.groups()] == [1, 1, 3, 1, 3, 1, 1]


# Moments


def trained(model, optimizer, x, target, steps, **settings):
    for _ in range(steps):
        optimizer.zero_grad()
        (F.mse_loss(model(x), target) + 1e-2 * model.get_cc(**settings)).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["symbolic_formulas", "modular_addition", "mnist", "transformer"])
def test_moments_follow_an_attached_optimizer_only(kind, double):
    model = transformer() if kind == "transformer" else network(kind, embedding=False)
    x = torch.rand(3, 5, 3) if kind == "transformer" else torch.rand(20, model.in_dim)
    target = torch.rand(model(x).shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    trained(model, optimizer, x, target, 3)
    still, apart, follows = copy.deepcopy([model, optimizer]), copy.deepcopy([model, optimizer]), [model, optimizer]
    model.attach(optimizer)
    for network_, _ in (apart, follows):
        assert network_.relocate() > 0
    for network_, optimizer_ in (still, apart, follows):
        trained(network_, optimizer_, x, target, 2, weight_factor=0.0)  # a cost that no swap changes
    outputs = [network_(x) for network_, _ in (still, apart, follows)]
    torch.testing.assert_close(outputs[2], outputs[0])
    assert (outputs[1] - outputs[0]).abs().max() > 1e-4


def test_attached_settings_judge_swaps(double):
    model = network("mnist")
    optimizer = torch.optim.AdamW(model.parameters())
    other = copy.deepcopy(model)
    model.attach(optimizer, no_penalize_last=True)
    before = model.get_cc(no_penalize_last=True).item()
    assert model.relocate() > 0
    assert model.get_cc(no_penalize_last=True).item() < before
    assert model.out_perm.equal(torch.arange(5))  # nothing to gain where the last layer costs no length
    other.relocate()
    assert not other.out_perm.equal(torch.arange(5))
    model.attach(optimizer, weight_factor=0.0)
    assert model.relocate() == 0


def test_an_interrupted_move_is_undone(double, monkeypatch):
    model = network("symbolic_formulas")
    optimizer = torch.optim.AdamW(model.parameters())
    trained(model, optimizer, torch.rand(9, 8), torch.rand(9, 5), 2)
    model.attach(optimizer)
    state, moments = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    permute, calls = _layers.Mover.permute, itertools.count()

    def interrupted(self, tensor, by_axis):
        permute(self, tensor, by_axis)
        if next(calls) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(_layers.Mover, "permute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.swap(1, 0, 3)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    for k, of_parameter in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, moments["state"][k][key]) for key, value in of_parameter.items())


# Cuts


def test_thresholding_intervening_and_revert(double):
    model = network("symbolic_formulas")
    weights = [layer.linear.weight for layer in model.linears]
    saved = copy.deepcopy(model.state_dict())
    small = sum(int((w.abs() <= 0.1).sum()) for w in weights)
    assert model.thresholding(0.1) == small > 0
    for w, key in zip(weights, ("linears.0", "linears.1", "linears.2"), strict=True):
        old = saved[f"{key}.linear.weight"]
        assert torch.equal(w, torch.where(old.abs() > 0.1, old, 0))
        assert w.requires_grad
    model.intervening(1, (2, 3), 4.0)
    model.intervening(2, 1, -1.5, ptype="bias")
    model.intervening(0, (slice(None), 0), 0.0)
    assert weights[1][2, 3] == 4 and model.linears[2].linear.bias[1] == -1.5 and not weights[0][:, 0].any()
    model.revert()
    for key, value in model.state_dict().items():
        assert torch.equal(value, saved[key]), key
    assert model.linears[0].linear.weight is weights[0]  # an optimizer still knows it


def test_revert_takes_back_no_training(double):
    model = network("two_moons", embedding=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.thresholding(0.1)
    trained(model, optimizer, torch.rand(4, 8), torch.rand(4, 5), 1)
    state = copy.deepcopy(model.state_dict())
    model.intervening(0, (0, 0), 9.0)
    model.revert()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_checkpoint_on_disk(tmp_path):
    model, path = network("modular_addition"), tmp_path / "network.pt"
    x = torch.rand(2, 8)
    y = model(x)
    model.thresholding(0.2, checkpoint=path)
    assert not torch.allclose(model(x), y)
    other = network("modular_addition", seed=5)
    other.revert(path)
    assert torch.equal(other(x), y)


def test_networks_load_copy_and_pickle():
    model = shuffled(network("permutation_s4"))
    model.attach(torch.optim.AdamW(model.parameters()))
    x = torch.rand(2, 8)
    state = model.state_dict()
    assert "linears.0.in_coordinates" not in state
    state["in_perm"], state["out_perm"] = state["in_perm"].float(), state["out_perm"].float()  # as others keep them
    loaded = network("permutation_s4", seed=5)
    loaded.load_state_dict(state)
    for other in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        assert torch.equal(other.get_cc(), model.get_cc())
        assert other.in_perm.dtype == torch.int64


# Pictures


@pytest.mark.parametrize("name", [*NOTEBOOKS, "transformer"])
def test_plot_without_a_display(name, tmp_path):
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    model = shuffled(transformer() if name == "transformer" else network(name))
    ax = model.plot()
    assert ax.figure is pyplot.gcf()
    texts = sorted(text.get_text() for text in ax.texts)
    assert texts == sorted(str(k) for k in (*model.in_perm.tolist(), *model.out_perm.tolist()))
    neurons = {c.get_gid() for c in ax.collections}
    assert {"in", "out"} <= neurons and ("stream4" in neurons) == (name == "transformer")
    other = pyplot.figure().add_subplot()
    assert model.plot(ax=other, threshold=0.2, path=tmp_path / "x.svg") is other
    assert (tmp_path / "x.svg").stat().st_size > 1000
    pyplot.close("all")


# Ten steps of each notebook


def tokens(model, n):
    a, b = torch.randint(len(model.embedding), (2, n))
    return lambda: torch.cat([model.embedding[a], model.embedding[b]], dim=1)


SCRIPTS = {
    "symbolic_formulas": (lambda: symbolic_formulas.BioMLP(in_dim=4, out_dim=2, w=20, depth=3), torch.float32),
    "two_moons": (lambda: two_moons.BioMLP(shp=[2, 20, 20, 2]), torch.float32),
    "modular_addition": (
        lambda: modular_addition.BioMLP(shp=[64, 50, 50, 59], token_embedding=True, embedding_size=(59, 32)),
        torch.float64,
    ),
    "permutation_s4": (
        lambda: permutation_s4.BioMLP(shp=[64, 50, 50, 24], token_embedding=True, embedding_size=(24, 32)),
        torch.float64,
    ),
    "in_context": (lambda: in_context.BioTransformer(2, 2, n_embed=32, n_head=1, n_layer=2), torch.float64),
    "mnist": (lambda: mnist.BioMLP2D(shp=[784, 100, 100, 10]), torch.float32),
}


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("name", SCRIPTS)
def test_ten_steps_of_a_notebook(name, corrected, double):
    make, dtype = SCRIPTS[name]
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    model = make()
    x = torch.rand(16, 3, 2) if name == "in_context" else torch.rand(100, model.in_dim)
    look_up = tokens(model, 100) if model.token_embedding else lambda: x
    labels = torch.randint(model.out_dim, (100,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    if corrected:
        model.attach(optimizer, no_penalize_last=True)
    losses = []
    for step in range(10):
        optimizer.zero_grad()
        prediction = model(look_up())
        if name == "in_context":
            loss = F.mse_loss(prediction[:, ::2, 0], x[:, ::2, 1])
        else:
            loss = F.cross_entropy(prediction, labels)
        loss = loss + 1e-2 * model.get_cc(bias_penalize=step > 5, no_penalize_last=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 4 == 3:
            with torch.no_grad():
                before, cost = model(look_up()), model.get_cc(no_penalize_last=corrected).item()
                assert model.relocate() > 0
                torch.testing.assert_close(model(look_up()), before, rtol=1e-4, atol=1e-5)
                assert model.get_cc(no_penalize_last=corrected).item() < cost
    assert losses[5] < losses[0] and all(map(math.isfinite, losses))
    for p in model.parameters():
        assert p.dtype == dtype and (p.grad is None or p.grad.isfinite().all())


# Errors


WRONG = {
    "BioLinear-float": (lambda: two_moons.BioLinear(2.0, 3), TypeError, "in_dim"),
    "BioLinear-fold": (lambda: two_moons.BioLinear(7, 3, in_fold=2), ValueError, "in_fold"),
    "BioLinear-head": (lambda: in_context.BioLinear(4, 6, out_fold=3, out_head=4), ValueError, "out_head"),
    "BioLinear-zero": (lambda: two_moons.BioLinear(3, 0), ValueError, "out_dim"),
    "BioLinear2D-oblong": (lambda: mnist.BioLinear2D(12, 4), ValueError, "in_dim"),
    "BioLinear2D-out": (lambda: mnist.BioLinear2D(9, 10), ValueError, "out_dim"),
    "BioMLP-shp": (lambda: two_moons.BioMLP(shp=4), TypeError, "shp"),
    "BioMLP-short": (lambda: two_moons.BioMLP(shp=[4]), ValueError, "shp"),
    "BioMLP-width": (lambda: two_moons.BioMLP(shp=[4, 0, 2]), ValueError, "shp"),
    "BioMLP-depth": (lambda: two_moons.BioMLP(depth=0), ValueError, "depth"),
    "BioMLP-folds": (lambda: permutation_s4.BioMLP(shp=[5, 3, 2]), ValueError, "in_fold"),
    "BioMLP-embedding": (lambda: two_moons.BioMLP(token_embedding=True), ValueError, "embedding_size"),
    "BioMLP-embedding-size": (
        lambda: two_moons.BioMLP(token_embedding=True, embedding_size=3),
        TypeError,
        "embedding_size",
    ),
    "BioTransformer-heads": (lambda: in_context.BioTransformer(n_head=3), ValueError, "n_head"),
    "BioTransformer-layers": (lambda: in_context.BioTransformer(n_layer=0), ValueError, "n_layer"),
    "BioTransformer-long": (lambda: transformer()(torch.rand(1, 6, 3)), ValueError, "x"),
    "get_cc-text": (lambda: network("two_moons").get_cc("2"), TypeError, "weight_factor"),
    "get_cc-nan": (lambda: network("mnist").get_cc(float("nan")), ValueError, "weight_factor"),
    "swap-layer": (lambda: network("two_moons").swap(4, 0, 1), ValueError, "i"),
    "swap-slot": (lambda: network("two_moons").swap(1, 0, 9), ValueError, "k"),
    "swap-float": (lambda: network("two_moons").swap(1, 0.0, 1), TypeError, "j"),
    "swap-folds": (lambda: network("modular_addition").swap(0, 0, 4), ValueError, "k"),
    "swap-heads": (lambda: transformer().swap(2, 0, 3), ValueError, "j and k"),
    "swap_head": (lambda: transformer().swap_head(3, 0, 1), ValueError, "k"),
    "swap_weight": (lambda: network("mnist").swap_weight(torch.ones(2, 2), 0, 1, "up"), ValueError, "swap_type"),
    "get_top_id-negative": (lambda: network("mnist").get_top_id(1, -1), ValueError, "top_k"),
    "get_top_id-layer": (lambda: network("two_moons").get_top_id(-1), ValueError, "i"),
    "relocate_ij": (lambda: network("two_moons").relocate_ij(0, 8), ValueError, "j"),
    "relocate_head": (lambda: transformer().relocate_head(2, 2), ValueError, "j"),
    "attach-type": (lambda: network("mnist").attach("Adam"), TypeError, "optimizer"),
    "attach-stranger": (
        lambda: network("mnist").attach(torch.optim.SGD([torch.ones(1)], lr=1)),
        ValueError,
        "optimizer",
    ),
    "thresholding": (lambda: network("mnist").thresholding(-0.1), ValueError, "threshold"),
    "intervening-layer": (lambda: network("mnist").intervening(3, 0, 0.0), ValueError, "i"),
    "intervening-place": (lambda: network("mnist").intervening(0, (9, 0), 0.0), ValueError, "pos"),
    "intervening-kind": (lambda: network("mnist").intervening(0, 0, 0.0, "gain"), ValueError, "ptype"),
    "intervening-value": (lambda: network("mnist").intervening(0, 0, "0"), TypeError, "value"),
    "revert": (lambda: network("mnist").revert(), ValueError, "checkpoint"),
}


@pytest.mark.parametrize("call, error, argument", WRONG.values(), ids=WRONG)
def test_what_is_refused(call, error, argument):
    with pytest.raises(error, match=rf"\b{argument}\b"):
        call()


def test_unknown_settings_are_refused():
    model = network("mnist")
    with pytest.raises(TypeError, match="settings"):
        model.attach(torch.optim.AdamW(model.parameters()), bias_penalize=False)


def test_nothing_moves_where_a_weight_is_not_finite():
    model = network("symbolic_formulas")
    model.linears[2].linear.weight.data[1, 1] = float("nan")
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="parameters must be finite"):
        model.relocate()
    with pytest.raises(ValueError, match="finite"):
        model.relocate_i(3)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0, equal_nan=True)


def test_namespaces_are_there():
    assert all(getattr(compat, name) is NOTEBOOKS[name][0] for name in NOTEBOOKS)
