"""Small networks of every kind, with their axes as declared and, written apart from these, whose each entry is.

ARCHITECTURES[name] makes a Case in float64. `owners[tensor](*index)` gives the neurons of one entry by hand-written
index arithmetic: ((group, neuron), (group, neuron)) out first for a connection, one pair in a tuple for what travels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product

import inputs
import torch
from torch import Tensor, nn

import bimt_fast as bf

Neuron = tuple[str, int]


@dataclass
class Case:
    model: nn.Module
    x: tuple[Tensor, ...]
    sizes: dict[str, int]
    axes: dict[str, tuple[str | None, ...]]
    owners: dict[str, Callable[..., tuple[Neuron, ...]]]
    blocks: dict[str, int] = field(default_factory=dict)
    recurrent: tuple[str, ...] = ()
    boundary: tuple[str, ...] = ("in", "out")

    def __post_init__(self):
        self.model.double()
        for name, p in [*self.model.named_parameters(), *self.model.named_buffers()]:
            if p.is_floating_point():
                random = torch.randn(p.shape, generator=inputs.generator(name), dtype=torch.float64)
                p.data = random.abs() + 0.5 if "running_var" in name else 0.5 * random
        self.places = {g: inputs.positions(n, 2, "random", g) for g, n in self.sizes.items()}

    def wiring(self, **settings) -> bf.Wiring:
        settings = {"positions": self.places, "axes": self.axes, "blocks": self.blocks, **settings}
        return bf.Wiring(self.model, **settings)

    def output(self, training=False) -> Tensor:
        return self.model.train(training)(*self.x)

    def cost(self, scale=1.0, base=0.1, mean=(), free=(), bias=True, places=None) -> Tensor:
        """Entry by entry; scale and base are values or dicts by tensor name, mean and free names."""
        places = self.places if places is None else places
        start = dict(zip(self.sizes, torch.tensor([0, *self.sizes.values()]).cumsum(0).tolist(), strict=False))
        everywhere, total = torch.cat([places[g] for g in self.sizes]), torch.zeros((), dtype=torch.float64)
        for name, p in self.model.named_parameters():  # a tied one under its first name only
            if name not in self.owners or name in free or (p.dim() == 1 and not bias):
                continue
            lengths = torch.full(p.shape, float(base[name] if isinstance(base, dict) else base), dtype=torch.float64)
            entries = [self.owners[name](*index) for index in product(*map(range, p.shape))]
            if len(entries[0]) == 2:
                out, source = ([start[g] + k for g, k in end] for end in zip(*entries, strict=True))
                distance = (everywhere[out] - everywhere[source]).abs().sum(1).view(p.shape)
                lengths = lengths + (scale[name] if isinstance(scale, dict) else scale) * distance
            cost = (p.abs() * lengths).sum()
            total = total + (cost / p.numel() if name in mean else cost)
        return total

    def inner_permutations(self, seed=0) -> dict[str, Tensor]:
        """A random permutation of each inner group that keeps its blocks whole."""
        found = {}
        for group, n in self.sizes.items():
            if group not in self.boundary:
                count = self.blocks.get(group, 1)
                blocks = inputs.permutation(count, (group, seed)).tolist()
                within = [inputs.permutation(n // count, (group, seed, b)) + b * (n // count) for b in blocks]
                found[group] = torch.cat(within)
        return found


class Function(nn.Module):
    """A model from its modules and what forward does with them."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *x):
        return self.function(self, *x)


def randn(*shape):
    return torch.randn(shape, generator=inputs.generator("x", shape), dtype=torch.float64)


def tokens(*shape, count):
    return torch.randint(count, shape, generator=inputs.generator("tokens", shape))


def norm(name, group, kind="batch"):
    tensors = ["weight", "bias", "running_mean", "running_var"][: {"batch": 4, "layer": 2, "rms": 1}[kind]]
    return {f"{name}.{tensor}": (group,) for tensor in tensors}


def mlp():
    model = nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)
    )
    axes = {"0.weight": ("h1", "in"), "0.bias": ("h1",), **norm("1", "h1"), "3.weight": ("h2", "h1")}
    axes |= {"3.bias": ("h2",), **norm("4", "h2"), "6.weight": ("out", "h2"), "6.bias": ("out",)}
    owners = {
        "0.weight": lambda o, i: (("h1", o), ("in", i)),
        "0.bias": lambda o: (("h1", o),),
        "3.weight": lambda o, i: (("h2", o), ("h1", i)),
        "3.bias": lambda o: (("h2", o),),
        "6.weight": lambda o, i: (("out", o), ("h2", i)),
        "6.bias": lambda o: (("out", o),),
    }
    return Case(model, (randn(7, 5),), {"in": 5, "h1": 6, "h2": 4, "out": 3}, axes, owners)


def conv2d():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Conv2d(4, 3, (3, 2)),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(18, 5),
        nn.Tanh(),
        nn.Linear(5, 2),
    )
    axes = {
        "0.weight": ("c1", "in", None, None),
        "0.bias": ("c1",),
        **norm("1", "c1"),
        "3.weight": ("c2", "c1", None, None),
        "3.bias": ("c2",),
        "6.weight": ("h", "c2*6"),
        "6.bias": ("h",),
        "8.weight": ("out", "h"),
        "8.bias": ("out",),
    }
    owners = {
        "0.weight": lambda o, i, _, __: (("c1", o), ("in", i)),
        "0.bias": lambda o: (("c1", o),),
        "3.weight": lambda o, i, _, __: (("c2", o), ("c1", i)),
        "3.bias": lambda o: (("c2", o),),
        "6.weight": lambda o, e: (("h", o), ("c2", e // 6)),
        "6.bias": lambda o: (("h", o),),
        "8.weight": lambda o, i: (("out", o), ("h", i)),
        "8.bias": lambda o: (("out", o),),
    }
    return Case(model, (randn(6, 2, 4, 4),), {"in": 2, "c1": 4, "c2": 3, "h": 5, "out": 2}, axes, owners)


def conv1d():
    model = nn.Sequential(nn.Conv1d(3, 5, 3, bias=False), nn.GroupNorm(1, 5), nn.Tanh(), nn.Conv1d(5, 2, 2))
    axes = {"0.weight": ("c", "in", None), "1.weight": ("c",), "1.bias": ("c",)}
    axes |= {"3.weight": ("out", "c", None), "3.bias": ("out",)}
    owners = {
        "0.weight": lambda o, i, _: (("c", o), ("in", i)),
        "3.weight": lambda o, i, _: (("out", o), ("c", i)),
        "3.bias": lambda o: (("out", o),),
    }
    return Case(model, (randn(4, 3, 6),), {"in": 3, "c": 5, "out": 2}, axes, owners)


def conv3d():
    model = nn.Sequential(nn.Conv3d(2, 4, (1, 2, 3)), nn.BatchNorm3d(4), nn.Tanh(), nn.Conv3d(4, 3, 2))
    axes = {"0.weight": ("c", "in", None, None, None), "0.bias": ("c",), **norm("1", "c")}
    axes |= {"3.weight": ("out", "c", None, None, None), "3.bias": ("out",)}
    owners = {
        "0.weight": lambda o, i, *_: (("c", o), ("in", i)),
        "0.bias": lambda o: (("c", o),),
        "3.weight": lambda o, i, *_: (("out", o), ("c", i)),
        "3.bias": lambda o: (("out", o),),
    }
    return Case(model, (randn(3, 2, 3, 4, 5),), {"in": 2, "c": 4, "out": 3}, axes, owners)


def depthwise():
    """One filter a channel, then two; groups are whole channels' own."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Tanh(),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.GroupNorm(4, 8),
        nn.Conv2d(8, 3, 1),
    )
    axes = {
        "0.weight": ("c", "in", None, None),
        "0.bias": ("c",),
        "1.weight": ("c", None, None, None),
        "1.bias": ("c",),
        "3.weight": ("c*2", None, None, None),
        "3.bias": ("c*2",),
        "4.weight": ("c*2",),
        "4.bias": ("c*2",),
        "5.weight": ("out", "c*2", None, None),
        "5.bias": ("out",),
    }
    owners = {
        "0.weight": lambda o, i, _, __: (("c", o), ("in", i)),
        "0.bias": lambda o: (("c", o),),
        "1.weight": lambda o, *_: (("c", o),),
        "1.bias": lambda o: (("c", o),),
        "3.weight": lambda o, *_: (("c", o // 2),),
        "3.bias": lambda o: (("c", o // 2),),
        "5.weight": lambda o, i, _, __: (("out", o), ("c", i // 2)),
        "5.bias": lambda o: (("out", o),),
    }
    return Case(model, (randn(3, 2, 4, 4),), {"in": 2, "c": 4, "out": 3}, axes, owners)


def autoencoder():
    """Transposed convolutions keep (in, out, ...), a grouped one (in, 1, ...) with the bias of its outputs."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 2, stride=2),
        nn.Tanh(),
        nn.ConvTranspose2d(4, 4, 2, groups=4),
        nn.ConvTranspose2d(4, 3, 2),
        nn.Tanh(),
        nn.ConvTranspose2d(3, 2, (1, 2)),
    )
    axes = {
        "0.weight": ("c", "in", None, None),
        "0.bias": ("c",),
        "2.weight": ("c", None, None, None),
        "2.bias": ("c",),
        "3.weight": ("c", "d", None, None),
        "3.bias": ("d",),
        "5.weight": ("d", "out", None, None),
        "5.bias": ("out",),
    }
    owners = {
        "0.weight": lambda o, i, _, __: (("c", o), ("in", i)),
        "0.bias": lambda o: (("c", o),),
        "2.weight": lambda o, *_: (("c", o),),
        "2.bias": lambda o: (("c", o),),
        "3.weight": lambda i, o, _, __: (("d", o), ("c", i)),
        "3.bias": lambda o: (("d", o),),
        "5.weight": lambda i, o, _, __: (("out", o), ("d", i)),
        "5.bias": lambda o: (("out", o),),
    }
    return Case(model, (randn(3, 2, 4, 4),), {"in": 2, "c": 4, "d": 3, "out": 2}, axes, owners)


def attention():
    """A transformer layer between two linear ones; heads of three neurons in the group "attn"."""
    layer = nn.TransformerEncoderLayer(6, 2, 5, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Linear(3, 6), layer, nn.Linear(6, 2))
    axes = {
        "0.weight": ("emb", "in"),
        "0.bias": ("emb",),
        "1.self_attn.in_proj_weight": ("3*attn", "emb"),
        "1.self_attn.in_proj_bias": ("3*attn",),
        "1.self_attn.out_proj.weight": ("emb", "attn"),
        "1.self_attn.out_proj.bias": ("emb",),
        "1.linear1.weight": ("ff", "emb"),
        "1.linear1.bias": ("ff",),
        "1.linear2.weight": ("emb", "ff"),
        "1.linear2.bias": ("emb",),
        **norm("1.norm1", "emb", "layer"),
        **norm("1.norm2", "emb", "layer"),
        "2.weight": ("out", "emb"),
        "2.bias": ("out",),
    }
    owners = {
        "0.weight": lambda o, i: (("emb", o), ("in", i)),
        "0.bias": lambda o: (("emb", o),),
        "1.self_attn.in_proj_weight": lambda e, i: (("attn", e % 6), ("emb", i)),
        "1.self_attn.in_proj_bias": lambda e: (("attn", e % 6),),
        "1.self_attn.out_proj.weight": lambda o, i: (("emb", o), ("attn", i)),
        "1.self_attn.out_proj.bias": lambda o: (("emb", o),),
        "1.linear1.weight": lambda o, i: (("ff", o), ("emb", i)),
        "1.linear1.bias": lambda o: (("ff", o),),
        "1.linear2.weight": lambda o, i: (("emb", o), ("ff", i)),
        "1.linear2.bias": lambda o: (("emb", o),),
        "2.weight": lambda o, i: (("out", o), ("emb", i)),
        "2.bias": lambda o: (("out", o),),
    }
    sizes = {"in": 3, "emb": 6, "attn": 6, "ff": 5, "out": 2}
    return Case(model, (randn(2, 4, 3),), sizes, axes, owners, blocks={"attn": 2})


def projected_attention():
    """Queries, keys and values of widths of their own, and learned biases of keys and values."""

    def forward(m, x, y, z):
        return m.head(m.attention(m.first(x), y, z, need_weights=False)[0])

    attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True, batch_first=True)
    model = Function(forward, first=nn.Linear(2, 4), attention=attention, head=nn.Linear(4, 2))
    axes = {
        "first.weight": ("emb", "in"),
        "first.bias": ("emb",),
        "attention.q_proj_weight": ("attn", "emb"),
        "attention.k_proj_weight": ("attn", "keys"),
        "attention.v_proj_weight": ("attn", "values"),
        "attention.in_proj_bias": ("3*attn",),
        "attention.bias_k": (None, None, "attn"),
        "attention.bias_v": (None, None, "attn"),
        "attention.out_proj.weight": ("mixed", "attn"),
        "attention.out_proj.bias": ("mixed",),
        "head.weight": ("out", "mixed"),
        "head.bias": ("out",),
    }
    owners = {
        "first.weight": lambda o, i: (("emb", o), ("in", i)),
        "first.bias": lambda o: (("emb", o),),
        "attention.q_proj_weight": lambda o, i: (("attn", o), ("emb", i)),
        "attention.k_proj_weight": lambda o, i: (("attn", o), ("keys", i)),
        "attention.v_proj_weight": lambda o, i: (("attn", o), ("values", i)),
        "attention.in_proj_bias": lambda e: (("attn", e % 4),),
        "attention.bias_k": lambda _, __, e: (("attn", e),),
        "attention.bias_v": lambda _, __, e: (("attn", e),),
        "attention.out_proj.weight": lambda o, i: (("mixed", o), ("attn", i)),
        "attention.out_proj.bias": lambda o: (("mixed", o),),
        "head.weight": lambda o, i: (("out", o), ("mixed", i)),
        "head.bias": lambda o: (("out", o),),
    }
    sizes = {"in": 2, "emb": 4, "keys": 3, "values": 5, "attn": 4, "mixed": 4, "out": 2}
    x = (randn(2, 3, 2), randn(2, 4, 3), randn(2, 4, 5))
    boundary = ("in", "keys", "values", "out")
    return Case(model, x, sizes, axes, owners, blocks={"attn": 2}, boundary=boundary)


def tied():
    """Embedding and head are one tensor; four layers and two norms on one residual stream."""

    def forward(m, t):
        x = m.embedding(t)
        x = x + m.down1(m.up1(m.norm1(x)).tanh())
        x = x + m.down2(m.up2(m.norm2(x)).tanh())
        return m.head(x)

    model = Function(
        forward,
        embedding=nn.Embedding(7, 4),
        norm1=nn.LayerNorm(4),
        up1=nn.Linear(4, 5),
        down1=nn.Linear(5, 4),
        norm2=nn.RMSNorm(4),
        up2=nn.Linear(4, 3, bias=False),
        down2=nn.Linear(3, 4, bias=False),
        head=nn.Linear(4, 7, bias=False),
    )
    model.head.weight = model.embedding.weight
    axes = {
        "embedding.weight": ("tokens", "emb"),
        **norm("norm1", "emb", "layer"),
        "up1.weight": ("ff1", "emb"),
        "up1.bias": ("ff1",),
        "down1.weight": ("emb", "ff1"),
        "down1.bias": ("emb",),
        **norm("norm2", "emb", "rms"),
        "up2.weight": ("ff2", "emb"),
        "down2.weight": ("emb", "ff2"),
        "head.weight": ("tokens", "emb"),
    }
    owners = {
        "embedding.weight": lambda o, i: (("tokens", o), ("emb", i)),
        "up1.weight": lambda o, i: (("ff1", o), ("emb", i)),
        "up1.bias": lambda o: (("ff1", o),),
        "down1.weight": lambda o, i: (("emb", o), ("ff1", i)),
        "down1.bias": lambda o: (("emb", o),),
        "up2.weight": lambda o, i: (("ff2", o), ("emb", i)),
        "down2.weight": lambda o, i: (("emb", o), ("ff2", i)),
    }
    sizes = {"tokens": 7, "emb": 4, "ff1": 5, "ff2": 3}
    return Case(model, (tokens(5, 2, count=7),), sizes, axes, owners, boundary=("tokens",))


def embeddings():
    """Two tokens' embeddings side by side, as in modular addition."""
    model = Function(
        lambda m, t: m.second(m.first(m.embedding(t).flatten(1)).tanh()),
        embedding=nn.Embedding(6, 4),
        first=nn.Linear(8, 5),
        second=nn.Linear(5, 3),
    )
    axes = {"embedding.weight": (None, "emb"), "first.weight": ("h", "2*emb"), "first.bias": ("h",)}
    axes |= {"second.weight": ("out", "h"), "second.bias": ("out",)}
    owners = {
        "embedding.weight": lambda _, e: (("emb", e),),
        "first.weight": lambda o, e: (("h", o), ("emb", e % 4)),
        "first.bias": lambda o: (("h", o),),
        "second.weight": lambda o, i: (("out", o), ("h", i)),
        "second.bias": lambda o: (("out", o),),
    }
    sizes = {"emb": 4, "h": 5, "out": 3}
    return Case(model, (tokens(8, 2, count=6),), sizes, axes, owners, boundary=("emb", "out"))


def folds():
    """One layer's outputs for two inputs side by side, both flattened: folds of runs."""

    def forward(m, x, y):
        both = [m.first(z).tanh().flatten(1) for z in (x, y)]
        return m.second(torch.cat(both, 1))

    model = Function(forward, first=nn.Conv1d(2, 5, 2), second=nn.Linear(30, 4))
    axes = {"first.weight": ("c", "in", None), "first.bias": ("c",), "second.weight": ("out", "2*c*3")}
    axes["second.bias"] = ("out",)
    owners = {
        "first.weight": lambda o, i, _: (("c", o), ("in", i)),
        "first.bias": lambda o: (("c", o),),
        "second.weight": lambda o, e: (("out", o), ("c", e % 15 // 3)),
        "second.bias": lambda o: (("out", o),),
    }
    return Case(model, (randn(4, 2, 4), randn(6, 2, 4)[:4]), {"in": 2, "c": 5, "out": 4}, axes, owners)


def unet():
    """Skip connections concatenate what comes up with what was there."""

    def forward(m, x):
        a = m.first(x).tanh()
        b = m.second(a).tanh()
        return m.last(m.norm(torch.cat([m.up(b), a], 1)).tanh())

    model = Function(
        forward,
        first=nn.Conv2d(2, 3, 3, padding=1),
        second=nn.Conv2d(3, 5, 2, stride=2),
        up=nn.ConvTranspose2d(5, 4, 2, stride=2),
        norm=nn.BatchNorm2d(7),
        last=nn.Conv2d(7, 2, 1),
    )
    axes = {
        "first.weight": ("a", "in", None, None),
        "first.bias": ("a",),
        "second.weight": ("b", "a", None, None),
        "second.bias": ("b",),
        "up.weight": ("b", "u", None, None),
        "up.bias": ("u",),
        **norm("norm", "u+a"),
        "last.weight": ("out", "u+a", None, None),
        "last.bias": ("out",),
    }
    owners = {
        "first.weight": lambda o, i, _, __: (("a", o), ("in", i)),
        "first.bias": lambda o: (("a", o),),
        "second.weight": lambda o, i, _, __: (("b", o), ("a", i)),
        "second.bias": lambda o: (("b", o),),
        "up.weight": lambda i, o, _, __: (("u", o), ("b", i)),
        "up.bias": lambda o: (("u", o),),
        "last.weight": lambda o, e, _, __: (("out", o), ("u", e) if e < 4 else ("a", e - 4)),
        "last.bias": lambda o: (("out", o),),
    }
    return Case(model, (randn(3, 2, 4, 4),), {"in": 2, "a": 3, "b": 5, "u": 4, "out": 2}, axes, owners)


class Conv1D(nn.Module):
    """A linear layer whose weight is (in, out), as HuggingFace's GPT-2 has them under this name."""

    def __init__(self, n_out, n_in):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(n_in, n_out)), nn.Parameter(torch.empty(n_out))

    def forward(self, x):
        return x @ self.weight + self.bias


def input_first():
    model = nn.Sequential(Conv1D(5, 4), nn.GELU(), Conv1D(3, 5))
    axes = {"0.weight": ("in", "h"), "0.bias": ("h",), "2.weight": ("h", "out"), "2.bias": ("out",)}
    owners = {
        "0.weight": lambda i, o: (("h", o), ("in", i)),
        "0.bias": lambda o: (("h", o),),
        "2.weight": lambda i, o: (("out", o), ("h", i)),
        "2.bias": lambda o: (("out", o),),
    }
    return Case(model, (randn(6, 4),), {"in": 4, "h": 5, "out": 3}, axes, owners)


def gru():
    model = Function(lambda m, x: m.head(m.gru(x)[0]), gru=nn.GRU(5, 4, batch_first=True), head=nn.Linear(4, 3))
    axes = {
        "gru.weight_ih_l0": ("3*h", "in"),
        "gru.weight_hh_l0": ("3*h", "h"),
        "gru.bias_ih_l0": ("3*h",),
        "gru.bias_hh_l0": ("3*h",),
        "head.weight": ("out", "h"),
        "head.bias": ("out",),
    }
    owners = {
        "gru.weight_ih_l0": lambda e, i: (("h", e % 4), ("in", i)),
        "gru.weight_hh_l0": lambda e, i: (("h", e % 4), ("h", i)),
        "gru.bias_ih_l0": lambda e: (("h", e % 4),),
        "gru.bias_hh_l0": lambda e: (("h", e % 4),),
        "head.weight": lambda o, i: (("out", o), ("h", i)),
        "head.bias": lambda o: (("out", o),),
    }
    return Case(model, (randn(3, 4, 5),), {"in": 5, "h": 4, "out": 3}, axes, owners, recurrent=("h",))


def lstm():
    """Two layers in both directions: the second sees both directions of the first side by side."""
    model = Function(
        lambda m, x: m.head(m.lstm(x)[0]),
        lstm=nn.LSTM(2, 3, num_layers=2, bidirectional=True, batch_first=True),
        head=nn.Linear(6, 2),
    )
    axes = {"head.weight": ("out", "f1+r1"), "head.bias": ("out",)}
    owners = {
        "head.weight": lambda o, e: (("out", o), ("f1", e) if e < 3 else ("r1", e - 3)),
        "head.bias": lambda o: (("out", o),),
    }
    for layer in (0, 1):
        for group, suffix in ((f"f{layer}", f"l{layer}"), (f"r{layer}", f"l{layer}_reverse")):
            axes |= {
                f"lstm.weight_ih_{suffix}": (f"4*{group}", "f0+r0" if layer else "in"),
                f"lstm.weight_hh_{suffix}": (f"4*{group}", group),
                f"lstm.bias_ih_{suffix}": (f"4*{group}",),
                f"lstm.bias_hh_{suffix}": (f"4*{group}",),
            }
            below = (lambda i: ("f0", i) if i < 3 else ("r0", i - 3)) if layer else (lambda i: ("in", i))
            owners |= {
                f"lstm.weight_ih_{suffix}": lambda e, i, g=group, below=below: ((g, e % 3), below(i)),
                f"lstm.weight_hh_{suffix}": lambda e, i, g=group: ((g, e % 3), (g, i)),
                f"lstm.bias_ih_{suffix}": lambda e, g=group: ((g, e % 3),),
                f"lstm.bias_hh_{suffix}": lambda e, g=group: ((g, e % 3),),
            }
    sizes = {"in": 2, "f0": 3, "r0": 3, "f1": 3, "r1": 3, "out": 2}
    return Case(model, (randn(2, 4, 2),), sizes, axes, owners, recurrent=("f0", "r0", "f1", "r1"))


MAKERS = (
    mlp, conv2d, conv1d, conv3d, depthwise, autoencoder, attention, projected_attention, tied, embeddings, folds, unet,
    input_first, gru, lstm,
)  # fmt: skip
ARCHITECTURES = {make.__name__: make for make in MAKERS}
