"""The LSTM optimizer of Andrychowicz et al. 2016: one small recurrent network steps every element of every parameter.

    theta_{t+1} = theta_t + scale * head(h_t),    (h_t, c_t) = LSTM(preprocess(g_t), h_{t-1}, c_{t-1})

Each element has a hidden state of its own; all share the weights. The network's output is the step, signs included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from descend.learned.network import Network
from descend.learned.pairs import Params, State
from descend.learned.preprocessing import RANGES, Preprocessing, preprocess
from descend.restoring import seeded


class CoordinatewiseLSTM(Network):
    """A recurrent network that steps each element by itself.

    Args:
        hidden: units of a layer.
        layers: of the network.
        preprocessing: of gradients: the "paper"'s, the "repository"'s, or "none".
        reach: of the preprocessing, natural logarithms; by default 10 for the paper's, 5 for the repository's.
        scale: what the output is multiplied by. The authors' code has 0.01 for networks and 1 for quadratics; with 0.1
            training is faster here.
        seed: of the initial weights.

    Raises:
        ValueError: a size is below 1, a number not above 0, or the preprocessing unknown.

    Source: Andrychowicz et al. 2016, arXiv:1606.04474, section 2.1. The forget gates begin at 1, as in the authors'
    code.
    """

    kind = "lstm"
    is_elementwise = True

    def __init__(
        self,
        hidden: int = 20,
        layers: int = 2,
        *,
        preprocessing: Preprocessing = "paper",
        reach: float | None = None,
        scale: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if preprocessing not in (*RANGES, "none"):
            raise ValueError(f"preprocessing is {preprocessing!r}; give 'paper', 'repository' or 'none'")
        self.hidden, self.layers = hidden, layers
        self.preprocessing: Preprocessing = preprocessing
        self.reach = RANGES.get(preprocessing, 1.0) if reach is None else float(reach)
        self.scale = float(scale)
        for name, value in (("hidden", hidden), ("layers", layers)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; give a whole number from 1")
        for name, number in (("reach", self.reach), ("scale", self.scale)):
            if not 0 < number < float("inf"):
                raise ValueError(f"{name} is {number!r}; give a number above 0")
        inputs = 1 if preprocessing == "none" else 2
        with seeded(seed):
            self.cells = nn.ModuleList(nn.LSTMCell(inputs if layer == 0 else hidden, hidden) for layer in range(layers))
            self.head = nn.Linear(hidden, 1)
        with torch.no_grad():
            for cell in self._cells():
                cell.bias_hh.zero_()
                cell.bias_ih[hidden : 2 * hidden] = 1
            self.head.bias.zero_()

    def _cells(self) -> list[nn.LSTMCell]:
        return cast(list[nn.LSTMCell], list(self.cells))

    @property
    def settings(self) -> dict[str, Any]:
        """See `Network.settings`."""
        return {
            "hidden": self.hidden,
            "layers": self.layers,
            "preprocessing": self.preprocessing,
            "reach": self.reach,
            "scale": self.scale,
        }

    @property
    def bytes_per_element(self) -> int:
        """See `Network.bytes_per_element`: the gates of a layer, twice, and its states."""
        return 4 * (2 * 4 + 4) * self.hidden

    def first(self, param: Tensor) -> dict[str, Tensor]:
        """See `Network.first`: hidden and cell states of each element, 0."""
        shape = (*param.shape, self.layers, self.hidden)
        return {"hidden": param.new_zeros(shape), "cell": param.new_zeros(shape)}

    def init(self, params: Params) -> dict[str, dict[str, Tensor]]:
        """See `Pair.init`."""
        return {name: self.first(param) for name, param in params.items()}

    def update(
        self, params: Params, grads: Params, state: State
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """See `Pair.update`: the elements of all parameters are the rows of one batch."""
        names = [name for name in params if name in grads]
        if not names:
            return dict(params), {name: dict(entry) for name, entry in state.items()}
        sizes = [params[name].numel() for name in names]
        rows = torch.cat([grads[name].reshape(-1) for name in names])
        hidden, cell = (
            torch.cat([state[name][key].reshape(-1, self.layers, self.hidden) for name in names])
            for key in ("hidden", "cell")
        )
        change, hidden, cell = self.advance(rows, hidden, cell)
        new_params, new_state = dict(params), {name: dict(entry) for name, entry in state.items()}
        parts = zip(names, *(torch.split(one, sizes) for one in (change, hidden, cell)), strict=True)
        for name, step, its_hidden, its_cell in parts:
            like = state[name]["hidden"]
            new_params[name] = params[name] + step.view_as(params[name])
            new_state[name] = {"hidden": its_hidden.view_as(like), "cell": its_cell.view_as(like)}
        return new_params, new_state

    def advance(self, gradients: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return steps and new states of elements.

        Args:
            gradients: (elements,).
            hidden: states, (elements, layers, hidden).
            cell: likewise.
        """
        found = preprocess(gradients, self.preprocessing, self.reach)
        new_hidden, new_cell = [], []
        for layer, network in enumerate(self._cells()):
            found, inner = _cell(network, found, hidden[:, layer], cell[:, layer])
            new_hidden.append(found)
            new_cell.append(inner)
        steps = self.scale * _linear(found, self.head.weight, self.head.bias).squeeze(-1)
        return steps, torch.stack(new_hidden, 1), torch.stack(new_cell, 1)

    def step(self, param: Tensor, grad: Tensor, state: Mapping[str, Tensor], rate: float, elements: int) -> None:
        """See `Network.step`."""
        held = [state[key].view(-1, self.layers, self.hidden) for key in ("hidden", "cell")]
        values, rows = param.view(-1), grad.reshape(-1)
        for start in range(0, len(rows), elements):
            place = slice(start, start + elements)
            change, *new = self.advance(rows[place], *(one[place] for one in held))
            for one, value in zip(held, new, strict=True):
                one[place] = value
            values[place].add_(change, alpha=rate)


def _cell(cell: nn.LSTMCell, inputs: Tensor, hidden: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """What `cell` computes, by operations that vmap knows."""
    gates = _linear(inputs, cell.weight_ih, cell.bias_ih) + _linear(hidden, cell.weight_hh, cell.bias_hh)
    entrance, forgetting, value, way_out = gates.chunk(4, -1)
    inner = forgetting.sigmoid() * inner + entrance.sigmoid() * value.tanh()
    return way_out.sigmoid() * inner.tanh(), inner


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A layer in the type of its inputs, whatever that of its weights is."""
    return functional.linear(inputs, weight.to(inputs), bias.to(inputs))
