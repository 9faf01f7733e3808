"""Modules that carry their wiring."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from . import geometry
from ._recurrence import states_of
from .ops import check_number
from .wiring import Wiring


class _CarriesWiring:
    """state_dict with the positions of all groups and the places of inputs and outputs."""

    wiring: Wiring

    def get_extra_state(self) -> dict[str, dict[str, Tensor]]:
        wiring = self.wiring
        return {
            "positions": {group: wiring.slots(group) for group in wiring.groups},
            "permutations": wiring.permutations(),
        }

    def set_extra_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        self.wiring.place(state["positions"])
        self.wiring.load_permutations(state["permutations"])


class BioLinear(_CarriesWiring, nn.Linear):
    """nn.Linear whose neurons have positions; its wiring of the groups "in" and "out" is in `.wiring`.

    Args:
        in_features, out_features, bias, device, dtype: as nn.Linear.
        in_pos: (in_features, dim) positions; a line when None.
        out_pos: (out_features, dim) positions; a line when None.
        metric, distance_scale, base_length, reduction: as Wiring.

    Raises:
        TypeError, ValueError: as Wiring.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        in_pos: Tensor | None = None,
        out_pos: Tensor | None = None,
        metric: str | Tensor = "l1",
        distance_scale: float = 1.0,
        base_length: float = 0.1,
        reduction: str = "sum",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.wiring = Wiring(
            self,
            positions={
                "in": geometry.line(in_features) if in_pos is None else in_pos,
                "out": geometry.line(out_features) if out_pos is None else out_pos,
            },
            axes={"weight": ("out", "in"), **({"bias": ("out",)} if bias else {})},
            metric=metric,
            distance_scale=distance_scale,
            base_length=base_length,
            reduction=reduction,
        )


class BioMLP(_CarriesWiring, nn.Module):
    """The fully connected network of BIMT: layers of neurons at positions, with its wiring in `.wiring`.

    Groups are named "in", "h1", "h2", ..., "out". `state_dict` includes where inputs and outputs sit.

    Args:
        shape: widths from input to output, at least two.
        folds: how often the group "in" stands side by side in the first layer: shape[0] entries are shape[0] / folds
            neurons. Two tokens that share their places, say.
        vocabulary: how many tokens the learned embedding holds, whose columns are the neurons of "in"; None: the
            network takes numbers. The embedding costs its |entries| times base_length.
        activation: makes the module between layers; nn.SiLU as in the published experiments.
        positions: by group name, slot positions (n, dim) where they are not a line.
        bias: whether layers have biases.
        frozen, metric, distance_scale, base_length, reduction: as Wiring.
        device, dtype: of the parameters.

    Raises:
        TypeError, ValueError: as Wiring; shape holds fewer than two widths, or one below 1; folds do not divide
            shape[0].

    Source: Liu, Gan, Tegmark 2023 (arXiv 2305.08746), section 3.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        folds: int = 1,
        vocabulary: int | None = None,
        activation: Callable[[], nn.Module] = nn.SiLU,
        positions: dict[str, Tensor] | None = None,
        bias: bool = True,
        frozen: Iterable[str] = (),
        metric: str | Tensor = "l1",
        distance_scale: float | dict = 1.0,
        base_length: float | dict = 0.1,
        reduction: str | dict = "sum",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(shape, (tuple, list)):
            raise TypeError(f"shape must be a tuple of integers, was {shape!r}")
        if not callable(activation) or isinstance(activation, nn.Module):
            raise TypeError("activation must make a module when called, as nn.SiLU does, was not such a function")
        shape = tuple(shape)
        if len(shape) < 2 or any(not isinstance(width, int) or width < 1 for width in shape):
            raise ValueError(f"shape must hold at least two positive integers, was {shape}")
        _check_count("folds", folds)
        if shape[0] % folds:
            raise ValueError(f"folds must divide shape[0], {shape[0]}, were {folds}")
        if vocabulary is not None:
            _check_count("vocabulary", vocabulary)
        names = ["in", *(f"h{k}" for k in range(1, len(shape) - 1)), "out"]
        positions = dict(positions or {})
        for unknown in set(positions) - set(names):
            raise ValueError(f"positions must be of groups {', '.join(names)}, had {unknown!r}")
        sizes = zip(names, (shape[0] // folds, *shape[1:]), strict=True)
        placed = {name: positions.get(name, geometry.line(size)) for name, size in sizes}
        pairs = pairwise(shape)
        self.layers = nn.ModuleList(nn.Linear(m, n, bias, device=device, dtype=dtype) for m, n in pairs)
        self.activation = activation()
        self.embedding = None
        axes = {}
        if vocabulary is not None:
            self.embedding = nn.Embedding(vocabulary, shape[0] // folds, device=device, dtype=dtype)
            axes["embedding.weight"] = (None, "in")
        first = "in" if folds == 1 else f"{folds}*in"
        for k, (below, above) in enumerate(pairwise([first, *names[1:]])):
            axes[f"layers.{k}.weight"] = (above, below)
            if bias:
                axes[f"layers.{k}.bias"] = (above,)
        self.wiring = Wiring(
            self,
            placed,
            axes,
            frozen=frozen,
            metric=metric,
            distance_scale=distance_scale,
            base_length=base_length,
            reduction=reduction,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., shape[0]) -> (..., shape[-1]), inputs and outputs in the caller's order, wherever they sit.

        With a vocabulary the input is int64 (..., folds).
        """
        if self.embedding is not None:
            x = self.embedding(x).flatten(-2)
        *hidden, last = self.layers  # a slice of them would be a new module at each call
        activation = self.activation
        for layer in hidden:
            x = activation(layer(x))
        return last(x)

    def hidden(self, x: Tensor) -> list[Tensor]:
        """What the neurons of each hidden layer say: (..., width) for each, from the input of forward."""
        if self.embedding is not None:
            x = self.embedding(x).flatten(-2)
        found = []
        for layer in list(self.layers)[:-1]:
            x = self.activation(layer(x))
            found.append(x)
        return found


class BioRNN(_CarriesWiring, nn.Module):
    """A continuous-time network of rectified units with a linear readout, with its wiring in `.wiring`.

    h[t] = (1 - alpha) h[t - 1] + alpha relu(W_in u[t] + W_hh h[t - 1] + b + noise), from h = 0; y[t] = W_out h[t] + c.
    Groups: "in", "h", "out"; relocation of "h" moves both axes of W_hh, the rows of W_in and the columns of W_out.
    W_hh starts as half the identity. In training mode noise is normal, of deviation noise * sqrt(2 / alpha), drawn
    from torch's global generator at each step; in eval mode there is none.

    Args:
        in_features, neurons, out_features: sizes of the groups.
        alpha: of (0, 1], the time step divided by the time constant.
        noise: see above, at least 0.
        positions: by group name, slot positions (n, dim) where they are not a line.
        frozen, metric, distance_scale, base_length, reduction: as Wiring.
        device, dtype: of the parameters.

    Attributes:
        only_heard: compute only neurons from which connections that are not zero lead to the output. Outputs are the
            same (noise is drawn for fewer), connections of the others get no gradient: for training in which those
            stay out. False at first.

    Raises:
        TypeError, ValueError: as Wiring; a size is no positive integer, alpha or noise is out of its range.

    Source: Yang et al. 2019 (Nature Neuroscience 22, 297); Liu, Khona, Fiete, Tegmark 2023 (arXiv 2310.07711).
    """

    def __init__(
        self,
        in_features: int,
        neurons: int,
        out_features: int,
        *,
        alpha: float = 1.0,
        noise: float = 0.0,
        positions: dict[str, Tensor] | None = None,
        frozen: Iterable[str] = (),
        metric: str | Tensor = "l1",
        distance_scale: float | dict = 1.0,
        base_length: float | dict = 0.1,
        reduction: str | dict = "sum",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = {"in": in_features, "h": neurons, "out": out_features}
        for name, count in zip(("in_features", "neurons", "out_features"), sizes.values(), strict=True):
            _check_count(name, count)
        self.only_heard = False
        self.alpha, self.noise = check_number("alpha", alpha, 0), check_number("noise", noise, 0)
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must be above 0 and at most 1, was {alpha}")
        positions = dict(positions or {})
        for unknown in set(positions) - set(sizes):
            raise ValueError(f"positions must be of groups {', '.join(sizes)}, had {unknown!r}")
        options = {"device": device, "dtype": dtype}
        self.input = nn.Linear(in_features, neurons, **options)
        self.recurrent = nn.Linear(neurons, neurons, bias=False, **options)
        self.readout = nn.Linear(neurons, out_features, **options)
        with torch.no_grad():
            self.recurrent.weight.copy_(0.5 * torch.eye(neurons))
        self.wiring = Wiring(
            self,
            {group: positions.get(group, geometry.line(size)) for group, size in sizes.items()},
            {
                **_linear_axes("input", "h", "in"),
                "recurrent.weight": ("h", "h"),
                **_linear_axes("readout", "out", "h"),
            },
            frozen=frozen,
            metric=metric,
            distance_scale=distance_scale,
            base_length=base_length,
            reduction=reduction,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(steps, batch, in_features) -> (steps, batch, out_features)."""
        if not self.only_heard:
            return self.readout(self.states(x))
        heard = self._heard()
        drive = nn.functional.linear(x, self.input.weight[heard], self.input.bias[heard])
        states = self._states_of(drive, self.recurrent.weight[heard][:, heard])
        return nn.functional.linear(states, self.readout.weight[:, heard], self.readout.bias)

    def states(self, x: Tensor) -> Tensor:
        """What the neurons say: (steps, batch, neurons), from the input of forward."""
        return self._states_of(self.input(x), self.recurrent.weight)  # the input of all steps as one product

    def _states_of(self, drive: Tensor, weight: Tensor) -> Tensor:
        if self.training and self.noise:
            drive.add_(torch.randn_like(drive).mul_(self.noise * (2 / self.alpha) ** 0.5))
        return states_of(drive, weight, self.alpha)

    @torch.no_grad()
    def silence_unheard_(self) -> None:
        """Zeroes the incoming connections and biases of neurons that the output does not hear; outputs stay."""
        silent = torch.ones(len(self.input.bias), dtype=torch.bool, device=self.input.bias.device)
        silent[self._heard()] = False
        for tensor in (self.input.weight, self.input.bias, self.recurrent.weight):
            tensor[silent] = 0

    @torch.no_grad()
    def _heard(self) -> Tensor:
        """(n,) int64: the neurons that the output hears, directly or through others."""
        sends = self.recurrent.weight != 0
        heard, before = (self.readout.weight != 0).any(0), None
        while before is None or heard.sum() > before:
            before = heard.sum()
            heard = heard | sends[heard].any(0)
        return heard.nonzero()[:, 0]


class BioTransformer(_CarriesWiring, nn.Module):
    """A causal transformer without normalisation, with its wiring in `.wiring`.

    Groups: "in" and "out"; "stream", the neurons of the residual stream, the same in every layer; for layer k from 1
    "attn{k}", the neurons of its heads (q, k and v are three folds of them) in one block a head, and "mlp{k}".

    Args:
        in_features, out_features: entries of a token, going in and coming out.
        width: neurons of the stream and of each layer's heads together.
        layers: number of layers.
        heads: in each layer; they divide width.
        expansion: neurons of a layer's MLP for one of the stream.
        activation: makes the MLP's module; GELU in its tanh form as in the published experiment.
        positions: by group name, slot positions (n, dim) where they are not a line.
        frozen, metric, distance_scale, base_length, reduction: as Wiring.
        device, dtype: of the parameters.

    Raises:
        TypeError, ValueError: as Wiring; a count is no positive integer, heads do not divide width.

    Source: Liu, Gan, Tegmark 2023 (arXiv 2305.08746), in-context learning.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        width: int = 32,
        layers: int = 2,
        heads: int = 1,
        expansion: int = 4,
        activation: Callable[[], nn.Module] = partial(nn.GELU, approximate="tanh"),  # noqa: B008
        positions: dict[str, Tensor] | None = None,
        frozen: Iterable[str] = (),
        metric: str | Tensor = "l1",
        distance_scale: float | dict = 1.0,
        base_length: float | dict = 0.1,
        reduction: str | dict = "sum",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        counts = {"in_features": in_features, "out_features": out_features, "width": width}
        for name, count in {**counts, "layers": layers, "heads": heads, "expansion": expansion}.items():
            _check_count(name, count)
        if width % heads:
            raise ValueError(f"heads must divide width, {width}, were {heads}")
        options = {"device": device, "dtype": dtype}
        self.embed = nn.Linear(in_features, width, **options)
        self.layers = nn.ModuleList(
            _TransformerLayer(width, heads, expansion * width, activation(), options) for _ in range(layers)
        )
        self.readout = nn.Linear(width, out_features, **options)
        sizes = {"in": in_features, "stream": width}
        axes = _linear_axes("embed", "stream", "in")
        for k in range(layers):
            attention, mlp = f"attn{k + 1}", f"mlp{k + 1}"
            sizes |= {attention: width, mlp: expansion * width}
            axes |= _linear_axes(f"layers.{k}.attend", f"3*{attention}", "stream")
            axes |= _linear_axes(f"layers.{k}.project", "stream", attention)
            axes |= _linear_axes(f"layers.{k}.expand", mlp, "stream")
            axes |= _linear_axes(f"layers.{k}.contract", "stream", mlp)
        sizes["out"] = out_features
        axes |= _linear_axes("readout", "out", "stream")
        positions = dict(positions or {})
        for unknown in set(positions) - set(sizes):
            raise ValueError(f"positions must be of groups {', '.join(sizes)}, had {unknown!r}")
        self.wiring = Wiring(
            self,
            {group: positions.get(group, geometry.line(size)) for group, size in sizes.items()},
            axes,
            frozen=frozen,
            blocks={f"attn{k + 1}": heads for k in range(layers)},
            metric=metric,
            distance_scale=distance_scale,
            base_length=base_length,
            reduction=reduction,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., tokens, in_features) -> (..., tokens, out_features); a token sees itself and those before it."""
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.readout(x)


class _TransformerLayer(nn.Module):
    """Attention, then an MLP, each added to the stream."""

    def __init__(self, width: int, heads: int, hidden: int, activation: nn.Module, options: dict) -> None:
        super().__init__()
        self.heads = heads
        self.attend = nn.Linear(width, 3 * width, **options)
        self.project = nn.Linear(width, width, **options)
        self.expand = nn.Linear(width, hidden, **options)
        self.contract = nn.Linear(hidden, width, **options)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in self.attend(x).chunk(3, dim=-1)
        )
        seen = nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.project(seen.transpose(-2, -3).flatten(-2))
        return x + self.contract(self.activation(self.expand(x)))


def _linear_axes(name: str, out: str, source: str) -> dict[str, tuple[str, ...]]:
    return {f"{name}.weight": (out, source), f"{name}.bias": (out,)}


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, was {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, was {value}")
