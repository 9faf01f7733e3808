"""Wirings inferred from models nobody annotated: random relocations must not change what a model computes."""

import copy
import math

import inputs
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bimt_fast as bf


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


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", (False, True), ids=("eval", "train"))
def test_relocations_do_not_change_the_output(name, training):
    make, example, expected = MODELS[name]
    model = made(make, name).train(training)
    torch.manual_seed(1)
    x = example()
    wiring = bf.trace(model, x)
    for tensor, axes in expected.items():
        assert wiring.axes[tensor] == axes
    before = copy.deepcopy(model)(x)
    generator = inputs.generator(name)
    moving = [group for group in wiring.inner_groups if group not in wiring.frozen]
    assert moving, "nothing moves"
    for group in moving:
        state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        wiring.permute_(group, shuffled(len(wiring.slots(group)), wiring.blocks.get(group, 1), generator))
        assert any(not torch.equal(state[key], tensor) for key, tensor in model.state_dict().items()), group
    torch.testing.assert_close(model(x), before, rtol=1e-9, atol=1e-9)
