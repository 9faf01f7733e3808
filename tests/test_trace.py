"""Wirings inferred from models nobody annotated: random relocations must not change what a model computes."""

import copy
import dataclasses
import logging
import math

import inputs
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bimt_fast as bf
from bimt_fast import _trace


class GPT(nn.Module):
    """Two blocks of causal attention with a fused projection, learned positions, and the head tied to the embedding."""

    def __init__(self, n=16, heads=4):
        super().__init__()
        self.wte, self.wpe, self.heads = nn.Embedding(11, n), nn.Embedding(8, n), heads
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "ln1": nn.LayerNorm(n), "qkv": nn.Linear(n, 3 * n), "proj": nn.Linear(n, n),
                "ln2": nn.LayerNorm(n), "fc": nn.Linear(n, 24), "back": nn.Linear(24, n),
            }) for _ in range(2)
        )  # fmt: skip
        self.ln, self.head = nn.LayerNorm(n), nn.Linear(n, 11, bias=False)
        self.head.weight = self.wte.weight
        self.register_buffer("mask", torch.ones(8, 8, dtype=torch.bool).tril())

    def forward(self, tokens):
        b, t = tokens.shape
        x = self.wte(tokens) + self.wpe(torch.arange(t))
        for block in self.blocks:
            q, k, v = block["qkv"](block["ln1"](x)).split(x.shape[-1], dim=2)
            q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in (q, k, v))
            scores = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).masked_fill(~self.mask[:t, :t], -1e9)
            y = (scores.softmax(-1) @ v).transpose(1, 2).contiguous().view(b, t, -1)
            x = x + block["proj"](y)
            x = x + block["back"](F.gelu(block["fc"](block["ln2"](x))))
        return self.head(self.ln(x))


def rotate_half(x):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


class Llama(nn.Module):
    """RMSNorm, rotary positions, grouped-query attention and a gated MLP, as HuggingFace writes them."""

    def __init__(self, n=16, heads=4, key_heads=2, size=6):
        super().__init__()
        self.embed, self.shape = nn.Embedding(11, n), (heads, key_heads, size)
        self.norm1, self.norm2, self.norm = nn.RMSNorm(n), nn.RMSNorm(n), nn.RMSNorm(n)
        self.q, self.k, self.v = (nn.Linear(n, h * size, bias=False) for h in (heads, key_heads, key_heads))
        self.o = nn.Linear(heads * size, n, bias=False)
        self.gate, self.up, self.down = nn.Linear(n, 20), nn.Linear(n, 20), nn.Linear(20, n)
        self.head = nn.Linear(n, 11)
        self.register_buffer("frequency", 1.0 / 100 ** (torch.arange(0, size, 2) / size), persistent=False)

    def forward(self, tokens):
        x = self.embed(tokens)
        b, t, _ = x.shape
        heads, key_heads, size = self.shape
        with torch.no_grad():
            angle = torch.arange(t)[:, None] * self.frequency
            cos, sin = (f(torch.cat((angle, angle), -1)).to(x.dtype) for f in (torch.cos, torch.sin))
        y = self.norm1(x)
        q = self.q(y).view(b, t, heads, size).transpose(1, 2)
        k = self.k(y).view(b, t, key_heads, size).transpose(1, 2)
        v = self.v(y).view(b, t, key_heads, size).transpose(1, 2)
        q, k = (z * cos + rotate_half(z) * sin for z in (q, k))
        k, v = (
            z[:, :, None].expand(b, key_heads, heads // key_heads, t, size).reshape(b, heads, t, size) for z in (k, v)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, heads * size))
        y = self.norm2(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(self.norm(x))


class ResNet(nn.Module):
    """A stem, a basic block, and a block that halves the picture and widens the stream."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.stem, self.n0 = nn.Conv2d(3, 6, 3, padding=1, bias=False), norm(6)
        self.c1, self.n1 = nn.Conv2d(6, 6, 3, padding=1, bias=False), norm(6)
        self.c2, self.n2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), norm(6)
        self.c3, self.n3 = nn.Conv2d(6, 10, 3, stride=2, padding=1, bias=False), norm(10)
        self.c4, self.n4 = nn.Conv2d(10, 10, 3, padding=1, bias=False), norm(10)
        self.down = nn.Sequential(nn.Conv2d(6, 10, 1, stride=2, bias=False), norm(10))
        self.relu, self.pool, self.fc = nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Linear(10, 4)

    def forward(self, x):
        x = self.relu(self.n0(self.stem(x)))
        y = self.n2(self.c2(self.relu(self.n1(self.c1(x)))))
        y += x
        x = self.relu(y)
        y = self.n4(self.c4(self.relu(self.n3(self.c3(x)))))
        x = self.relu(y + self.down(x))
        return self.fc(torch.flatten(self.pool(x), 1))


class Recurrent(nn.Module):
    def __init__(self, core, width):
        super().__init__()
        self.embed, self.core, self.head = nn.Embedding(9, 5), core, nn.Linear(width, 3)

    def forward(self, tokens):
        y, state = self.core(self.embed(tokens))
        state = state[0] if isinstance(state, tuple) else state
        return self.head(y.mean(1)), state[-1].sum(-1)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.up, self.join = nn.ConvTranspose2d(6, 5, 2, stride=2), nn.Conv2d(9, 7, 3, padding=1)
        self.norm, self.out = nn.BatchNorm2d(7), nn.Conv2d(7, 1, 1)

    def forward(self, x):
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool2d(a, 2)))
        return self.out(F.relu(self.norm(self.join(torch.cat([self.up(b), a], dim=1)))))


class Mixer(nn.Module):
    def __init__(self, n=10, patches=9):
        super().__init__()
        self.patch = nn.Conv2d(3, n, 4, stride=4)
        self.norm1, self.norm2, self.norm = nn.LayerNorm(n), nn.LayerNorm(n), nn.LayerNorm(n)
        self.tokens = nn.Sequential(nn.Linear(patches, 7), nn.GELU(), nn.Linear(7, patches))
        self.channels = nn.Sequential(nn.Linear(n, 12), nn.GELU(), nn.Linear(12, n))
        self.head = nn.Linear(n, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(self.norm(x).mean(1))


class Encoder(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 3, 20, dropout=0.0, **settings)
        self.embed, self.encoder = nn.Linear(5, 12), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(1))


class ViT(nn.Module):
    """Patches, a class token, learned positions, fused qkv as timm writes it, scaled branches."""

    def __init__(self, n=12, heads=3):
        super().__init__()
        self.cls, self.pos, self.heads = nn.Parameter(torch.zeros(1, 1, n)), nn.Parameter(torch.zeros(1, 10, n)), heads
        self.patch, self.norm = nn.Conv2d(3, n, 4, stride=4), nn.LayerNorm(n)
        self.qkv, self.proj, self.scale = nn.Linear(n, 3 * n), nn.Linear(n, n), nn.Parameter(torch.ones(n))
        self.head = nn.Linear(n, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.pos
        b, t, n = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, n)
        return self.head((x + self.scale * self.proj(y))[:, 0])


class Conv1D(nn.Module):
    """The linear layer of HuggingFace's GPT-2: its weight has the inputs first."""

    def __init__(self, out, size):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(size, out)), nn.Parameter(torch.empty(out))

    def forward(self, x):
        y = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return y.view(*x.shape[:-1], -1)


class Gated(nn.Module):
    """Squeeze and excitation, grouped channels, and flattened maps side by side."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3, groups=2)
        self.squeeze, self.excite, self.head = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Linear(14 * 4, 3)

    def forward(self, x):
        x = self.a(x).relu()
        x = x * self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        y = F.adaptive_max_pool2d(self.b(x), 2)
        return self.head(torch.cat([F.adaptive_avg_pool2d(x, 2).flatten(1), y.flatten(1)], dim=1))


class Loop(nn.Module):
    """A gated cell by hand, its outputs written into a tensor of zeros."""

    def __init__(self):
        super().__init__()
        self.i, self.r, self.cell, self.head = nn.Linear(5, 24), nn.Linear(6, 24), nn.GRUCell(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = c = x.new_zeros(len(x), 6)
        state, outputs = x.new_zeros(len(x), 4), x.new_zeros(len(x), 3, 4)
        for t in range(3):
            i, f, g, o = (self.i(x[:, t]) + self.r(h)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            state = self.cell(h, state)
            outputs[:, t] = state
        return self.head(outputs.sum(1))


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(5 * 9, 12), nn.ReLU(), nn.Linear(12, 10),
    )  # fmt: skip


def separable():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 6, 1),
        nn.Conv2d(6, 12, 3, groups=6), nn.Hardswish(), nn.Conv2d(12, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(5, 3),
    )  # fmt: skip


def mlp():
    return nn.Sequential(nn.Linear(6, 9), nn.SiLU(), nn.Dropout(0.0), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 1))


def normalised():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 9), nn.BatchNorm1d(9), nn.PReLU(9), nn.Linear(9, 5))


def autoencoder():
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3), nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 8))


def picture(channels=3, size=12):
    return torch.randn(2, channels, size, size, dtype=torch.float64)


def rows(n):
    return torch.randn(4, n, dtype=torch.float64)


def tokens(count=9):
    return torch.randint(0, count, (2, 6))


TRAINED = ("mlp-batchnorm", "resnet", "encoder", "lstm")

# name: (model, inputs, axes that must be found)
MODELS = {
    "mlp": (mlp, lambda: rows(6), {"0.weight": ("layer0", "in"), "5.weight": ("out", "layer3"), "5.bias": ("out",)}),
    "mlp-batchnorm": (normalised, lambda: rows(6), {"2.running_var": ("layer1",), "3.weight": ("layer1",)}),
    "lenet": (
        lenet, lambda: picture(1, 16), {"0.weight": ("layer0", "in", None, None), "7.weight": ("layer7", "layer3*9")},
    ),
    "resnet": (ResNet, picture, {"c2.weight": ("stem", "c1", None, None), "down.0.weight": ("c4", "stem", None, None)}),
    "resnet-groupnorm": (
        lambda: ResNet(lambda n: nn.GroupNorm(2, n)), picture, {"c3.weight": ("c3", "stem", None, None)},
    ),
    "separable": (separable, picture, {"3.weight": ("layer0", None, None, None)}),
    "gpt": (GPT, tokens, {"wte.weight": ("out", "wte"), "blocks.1.qkv.weight": ("3*blocks.1.qkv", "wte")}),
    "llama": (
        Llama, tokens, {"q.weight": ("q*12", "embed"), "v.weight": ("q*6", "embed"), "up.weight": ("gate", "embed")},
    ),
    "encoder": (
        lambda: Encoder(batch_first=True, norm_first=True),
        lambda: torch.randn(2, 6, 5, dtype=torch.float64),
        {"encoder.layers.0.self_attn.in_proj_weight": ("3*encoder.layers.0.self_attn", "embed")},
    ),
    "lstm": (
        lambda: Recurrent(nn.LSTM(5, 6, num_layers=2, batch_first=True, bidirectional=True), 12), tokens,
        {"core.weight_hh_l0": ("4*core.l0", "core.l0"), "core.weight_ih_l1": ("4*core.l1", "core.l0+core.l0_reverse")},
    ),
    "gru": (lambda: Recurrent(nn.GRU(5, 6, batch_first=True), 6), tokens, {"core.bias_hh_l0": ("3*core.l0",)}),
    "rnn": (lambda: Recurrent(nn.RNN(5, 6, num_layers=2, batch_first=True), 6), tokens, {}),
    "unet": (UNet, lambda: picture(1), {"join.weight": ("join", "up+down1", None, None)}),
    "autoencoder": (autoencoder, lambda: rows(8), {"3.weight": ("layer3", "layer2")}),
    "vit": (ViT, picture, {"qkv.weight": ("3*qkv", "patch"), "cls": (None, None, "patch")}),
    "conv1d": (
        lambda: nn.Sequential(nn.Linear(6, 8), Conv1D(9, 8), nn.ReLU(), Conv1D(5, 9)), lambda: rows(6),
        {"1.weight": ("layer0", "layer1")},
    ),
    "gated": (Gated, picture, {"b.weight": ("a*3", None, None, None), "head.weight": ("out", "a*16+a*12")}),
    "loop": (
        Loop, lambda: torch.randn(2, 3, 5, dtype=torch.float64),
        {"r.weight": ("4*i", "i"), "cell.weight_hh": ("3*cell", "cell")},
    ),
    "mixer": (Mixer, picture, {"tokens.0.weight": ("tokens.0", "tokens.2")}),
}  # fmt: skip


def shuffled(size, blocks, generator):
    within = size // blocks
    order = torch.randperm(blocks, generator=generator)
    return torch.cat([block * within + torch.randperm(within, generator=generator) for block in order])


def made(make, name):
    torch.manual_seed(0)
    model = make().double()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=inputs.generator(name + key), dtype=torch.float64) / 2)
            if "running_var" in key:
                tensor.abs_().add_(0.5)
    return model


def relocated_at_random(wiring, seed):
    """Permutes every inner group that is not frozen; returns which."""
    generator = inputs.generator(seed)
    moving = [group for group in wiring.inner_groups if group not in wiring.frozen]
    for group in moving:
        state = {key: tensor.clone() for key, tensor in wiring.model.state_dict().items()}
        wiring.permute_(group, shuffled(len(wiring.slots(group)), wiring.blocks.get(group, 1), generator))
        changed = any(not torch.equal(state[key], tensor) for key, tensor in wiring.model.state_dict().items())
        assert changed or len(wiring.slots(group)) < 4, group
    return moving


@pytest.mark.parametrize("name, training", [*((name, False) for name in MODELS), *((name, True) for name in TRAINED)])
def test_relocations_do_not_change_the_output(name, training):
    make, example, expected = MODELS[name]
    model = made(make, name).train(training)
    torch.manual_seed(1)
    x = example()
    wiring = bf.trace(model, x)
    for tensor, axes in expected.items():
        assert wiring.axes[tensor] == axes
    before = copy.deepcopy(model)(x)
    assert relocated_at_random(wiring, name)
    wiring.relocate()
    torch.testing.assert_close(model(x), before, rtol=1e-9, atol=1e-9)


class Staying(nn.Module):
    """Two layers, with something between them that tells neurons apart."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second, self.between = nn.Linear(6, 12), nn.Linear(12, 12), between
        self.last = nn.LazyLinear(2)
        self.register_buffer("slopes", torch.linspace(0, 1, 12), persistent=False)

    def forward(self, x):
        return self.last(self.between(self, self.first(x).tanh(), self.second).tanh())


def staying(case):
    model = Staying(STAYING[case][0]).double()
    model(rows(6))  # LazyLinear finds its width
    return made(lambda: model, case)


def heads(x):
    return x.unflatten(-1, (3, 4))


STAYING = {  # what is between the layers; the groups that must stay; words of the note that says why
    "constant": (lambda m, x, f: f(x * torch.linspace(0, 1, 12).to(x)), {"first"}, "constant made by aten.lin"),
    "buffer": (lambda m, x, f: f(x * m.slopes), {"first"}, "constant tensor of the model, 'slopes'"),
    "sorted": (lambda m, x, f: f(x.sort(-1).values), {"first", "second.2"}, "aten.sort depends on its order"),
    "flipped": (lambda m, x, f: f(x) + x.flip(-1), {"first", "second"}, "aten.flip depends on its order"),
    "noise": (lambda m, x, f: f(x + 0 * torch.randn_like(x)), {"first"}, "aten.randn_like"),
    "window": (lambda m, x, f: f(x.unfold(-1, 12, 1)[..., 0, :]), {"first", "second.2"}, "aten.unfold"),
    "sum of heads": (lambda m, x, f: heads(f(x)).sum(-2), {"last"}, "the 3 blocks around it trade places whole"),
    "two shapes": (
        lambda m, x, f: torch.cat([heads(f(x)).sum(-1), f(x).unflatten(-1, (4, 3)).sum(-1)], -1),
        {"second", "last"}, "do not fit together in aten.unflatten",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STAYING)
def test_what_is_not_proven_stays(case):
    _, groups, why = STAYING[case]
    model, x = staying(case), rows(6)
    wiring = bf.trace(model, x)
    assert set(wiring.frozen) == {"in", "out", *groups}
    assert any(why in note for note in wiring.notes), wiring.notes
    before = model(x)
    relocated_at_random(wiring, case)
    torch.testing.assert_close(model(x), before, rtol=1e-9, atol=1e-9)


def test_within_a_rotated_head_nothing_moves():
    wiring = bf.trace(made(Llama, "llama"), tokens())
    assert any("runs of 6" in note and "'frequency'" in note for note in wiring.notes)
    assert any(note == "out (11) stays: it is the model's output." for note in wiring.notes)


def test_blocks_are_heads():
    assert bf.trace(made(GPT, "gpt"), tokens()).blocks == {"blocks.0.qkv": 4, "blocks.1.qkv": 4}
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6), nn.Conv2d(6, 2, 1)).double()
    assert bf.trace(model, picture()).blocks == {"layer0": 2}


def test_cost_is_that_of_a_declared_wiring():
    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    names = {"0.weight": ("h", "in"), "0.bias": ("h",), "2.weight": ("out", "h"), "2.bias": ("out",)}
    declared = bf.Wiring(model, {g: bf.geometry.line(n) for g, n in (("in", 4), ("h", 7), ("out", 3))}, names)
    assert bf.trace(model, rows(4)).cost().item() == pytest.approx(declared.cost().item(), rel=1e-12)


def test_the_model_is_left_alone():
    model = made(ResNet, "resnet").train()
    model.n1.eval()
    modes = [module.training for module in model.modules()]
    held = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    x, random = picture(), torch.get_rng_state()
    bf.trace(model, x, verify=True)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is held[name][0] and torch.equal(tensor, held[name][1]) and tensor.grad is None


def test_verify_finds_axes_that_are_wrong(monkeypatch):
    model, x = staying("constant"), rows(6)
    found = _trace.infer(model, x)
    bf.trace(model, x, verify=True)
    monkeypatch.setattr(_trace, "infer", lambda *_: dataclasses.replace(found, frozen=("in", "out")))
    with pytest.raises(RuntimeError, match="its output changed by"):
        bf.trace(model, x, verify=True)


class Branching(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


class Calling(nn.Module):
    """A function of the named layers and of x."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, x)


UNUSUAL = {  # what is computed of 6 inputs, its layers, and some of the axes expected
    "overlapping slices": (
        lambda m, x: m.b(m.a(x)[:, :5] + m.a(x)[:, 3:]), {"a": nn.Linear(6, 8), "b": nn.Linear(5, 4)},
        {"a.weight": ("a+a.2+a+a.2+a", "in"), "b.weight": ("out", "a+a.2+a")},
    ),
    "overlapping parts": (
        lambda m, x: m.b(torch.cat([m.a(x), m.c(x)], 1) + torch.cat([m.e(x), m.d(x)], 1)),
        {"a": nn.Linear(6, 3), "c": nn.Linear(6, 5), "e": nn.Linear(6, 4), "d": nn.Linear(6, 4), "b": nn.Linear(8, 4)},
        {"b.weight": ("out", "a+c+c.2")},
    ),
    "single entry beside others": (
        lambda m, x: m.b(torch.cat([x.mean(1, keepdim=True), m.a(x)], 1)), {"a": nn.Linear(6, 8), "b": nn.Linear(9, 4)},
        {"b.weight": ("out", "b+a")},
    ),
    "unused bias": (
        lambda m, x: m.b(F.linear(x, m.a.weight).relu()), {"a": nn.Linear(6, 8), "b": nn.Linear(8, 4)},
        {"a.weight": ("a", "in"), "a.bias": ("a",)},
    ),
    "unused weight": (
        lambda m, x: m.b(m.c(x) + m.a.bias), {"a": nn.Linear(6, 8), "b": nn.Linear(8, 4), "c": nn.Linear(6, 8)},
        {"a.weight": ("c", None), "a.bias": ("c",)},
    ),
    "unused statistics": (
        lambda m, x: m.b(m.a(x) * m.n.weight), {"a": nn.Linear(6, 8), "n": nn.BatchNorm1d(8), "b": nn.Linear(8, 4)},
        {"n.weight": ("a",), "n.running_var": ("a",)},
    ),
    "tied decoder": (
        lambda m, x: m.b(F.linear(F.linear(m.c(x), m.a.weight).relu(), m.a.weight.T)),
        {"a": nn.Linear(5, 8), "b": nn.Linear(5, 4), "c": nn.Linear(6, 5)},
        {"a.weight": ("a", "c"), "a.bias": ("a",)},
    ),
    "symmetric weight": (
        lambda m, x: m.b(m.c(x) @ (m.a.weight + m.a.weight.T)),
        {"a": nn.Linear(5, 5), "b": nn.Linear(5, 4), "c": nn.Linear(6, 5)},
        {"a.weight": ("c", "c"), "a.bias": ("c",)},
    ),
    "squared weight": (
        lambda m, x: m.b(m.c(x) @ (m.a.weight @ m.a.weight)),
        {"a": nn.Linear(5, 5), "b": nn.Linear(5, 4), "c": nn.Linear(6, 5)},
        {"a.weight": ("c", "c")},
    ),
    "squared by its transpose": (
        lambda m, x: m.b(m.c(x) @ (m.a.weight.T @ m.a.weight)),
        {"a": nn.Linear(5, 8), "b": nn.Linear(5, 4), "c": nn.Linear(6, 5)},
        {"a.weight": ("a", "c")},
    ),
    "one weight of an LSTM": (
        lambda m, x: m.b(F.linear(x, m.a.weight_ih_l0)), {"a": nn.LSTM(6, 3), "b": nn.Linear(12, 4)},
        {"a.weight_hh_l0": ("4*a.l0", "a.l0"), "b.weight": ("out", "4*a.l0")},
    ),
    "one weight of attention": (
        lambda m, x: m.b(F.linear(x, m.a.in_proj_weight)), {"a": nn.MultiheadAttention(6, 2), "b": nn.Linear(18, 4)},
        {"a.in_proj_bias": ("3*a",), "a.out_proj.weight": (None, "a")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSUAL)
def test_tensors_used_otherwise_than_by_their_module(case):
    function, layers, expected = UNUSUAL[case]
    model, x = made(lambda: Calling(function, **copy.deepcopy(layers)), case).eval(), rows(6)
    wiring = bf.trace(model, x, verify=True)
    for tensor, axes in expected.items():
        assert wiring.axes[tensor] == axes
    before = model(x)
    assert relocated_at_random(wiring, case)
    torch.testing.assert_close(model(x), before, rtol=1e-9, atol=1e-9)


def test_a_failed_export_prints_nothing(capfd):
    level = logging.root.manager.disable
    with pytest.raises(ValueError, match="one that torch"):
        bf.trace(Branching(4, 4).double(), rows(4))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert logging.root.manager.disable == level


def test_errors():
    for arguments, message in (
        (("model", rows(4)), "model must be a torch.nn.Module, was str"),
        ((nn.Linear(4, 4), [rows(4)]), "example_inputs must be a tensor or a tuple, was list"),
    ):
        with pytest.raises(TypeError, match=message):
            bf.trace(*arguments)
    for model, message in (
        (Branching(4, 4).double(), "model must be one that torch.export can export, which failed: "),
        (nn.Linear(5, 4).double(), "model must be one that torch.export can export, which failed: "),
        (nn.ReLU(), "model must have weights that lead from neurons to neurons, had none"),
    ):
        with pytest.raises(ValueError, match=message):
            bf.trace(model, rows(4))
