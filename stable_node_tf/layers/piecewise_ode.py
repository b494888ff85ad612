"""PiecewiseODELayer: a vector field that is piecewise constant in time."""

import copy
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.certification.rules import (
    after_layer,
    box_after,
    layer_lipschitz,
    register_rule,
)
from stable_node_tf.checks import check_count
from stable_node_tf.deserialization import rebuilt
from stable_node_tf.layers.certified_layer import CertifiedLayer
from stable_node_tf.layers.ode_layer import (
    ODELayer,
    StabilityReport,
    check_times,
)
from stable_node_tf.layers.solver_bounds import LipschitzBound, counted
from stable_node_tf.stability.lipschitz import network_lipschitz


@keras.saving.register_keras_serializable(package="stable_node_tf")
class PiecewiseODELayer(CertifiedLayer, settings=("pieces", "terminal_time")):
    """Maps u(0) to u(T) where A and b change at T/n, 2T/n, ..., (n-1)T/n.

    On each of the n pieces of [0, T] the equation is that of `layer`, with
    weights of its own: u' = σ(A_i u + b_i) for a `StableODELayer`. The flow is
    the composition of theirs, so its Lipschitz constant is at most
    exp(Σ δ(A_i) T/n), the exponent T times the mean of the δ(A_i) (the
    time-dependent case of Guglielmi, De Marinis, Savostianov, Tudisco, arXiv
    2402.13092). A `delta_bar` of the layer bounds every piece, and so the mean.

    The attribute `pieces` holds the pieces, layers like any others, named after
    this layer with `_piece_0`, `_piece_1` and so on appended.

    Args:
      layer: a layer of one equation on the whole of [0, T], not built; the
        pieces are made from its configuration. Its solver solves each piece:
        a fixed grid takes all of its steps in every one. An initializer with a
        seed draws the same weights for all of them.
      num_pieces: n, at least 1.
      **kwargs: those of `keras.layers.Layer`; the dtype is that of `layer` if
        none is given.

    All are read-only afterwards, and so are the settings of the pieces.

    >>> from stable_node_tf import StableODELayer
    >>> varying = PiecewiseODELayer(StableODELayer(delta_bar=0.0), num_pieces=3)
    >>> varying(np.ones((2, 4), "float32")).shape
    TensorShape([2, 4])
    >>> varying.stability().delta_upper <= 0.0, len(varying.pieces)
    (True, 3)
    """

    layer = None  # Only its configuration is kept.

    def __init__(self, layer, num_pieces: int = 2, **kwargs) -> None:
        if not isinstance(layer, ODELayer):
            raise TypeError(
                "`layer` must be a StableODELayer or a DeepODELayer. "
                f"Received: layer={layer!r}"
            )
        if layer.built:
            raise ValueError(
                "`layer` must not be built: its weights would not be used. "
                f"Received: layer={layer!r}"
            )
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(**kwargs)
        self.num_pieces = check_count(num_pieces, "num_pieces")
        self._description = keras.saving.serialize_keras_object(layer)
        self.terminal_time = layer.terminal_time
        config = {
            **layer.get_config(),
            "terminal_time": layer.terminal_time / self.num_pieces,
            "dtype": self.dtype_policy,
        }
        self.pieces = tuple(
            type(layer).from_config(
                {**config, "name": f"{self.name}_piece_{index}"}
            )
            for index in range(self.num_pieces)
        )
        self.supports_jit = self.pieces[0].supports_jit

    @property
    def delta_bar(self) -> float | None:
        """The bound that every piece is constrained to, or None."""
        return self.pieces[0].delta_bar

    def build(self, input_shape) -> None:
        """Creates the weights of all pieces."""
        for piece in self.pieces:
            piece.build(input_shape)

    def call(self, inputs):
        """Returns u(T) for u(0) = inputs, of the same shape (batch, d)."""
        for piece in self.pieces:
            inputs = piece(inputs)
        return inputs

    def trajectory(self, inputs, times) -> tf.Tensor:
        """Returns u at several times.

        Args:
          inputs: u(0), real, of shape (batch, d).
          times: numbers in [0, T], increasing, at least one.

        Returns:
          Tensor of shape (len(times), batch, d).
        """
        times = check_times(times)
        if sorted(times) != times or times[-1] > self.terminal_time:
            raise ValueError(
                f"`times` must be increasing in [0, {self.terminal_time}]. "
                f"Received: times={times}"
            )
        length = self.terminal_time / self.num_pieces
        start, done, states = self.pieces[0].trajectory(inputs, [0.0])[0], 0, []
        for time in times:
            index = min(int(time / length), self.num_pieces - 1)
            while done < index:
                start, done = self.pieces[done](start), done + 1
            rest = max(0.0, time - index * length)
            states.append(self.pieces[index].trajectory(start, [rest]))
        return tf.concat(states, axis=0)

    def stability(self, **kwargs) -> StabilityReport:
        """Bounds the mean of the δ(A_i) and says what follows from it.

        Args:
          **kwargs: passed to the `stability` of every piece.
        """
        self._check_computes()
        reports = [piece.stability(**kwargs) for piece in self.pieces]
        lower, upper = _means([report[:2] for report in reports])
        return StabilityReport(
            lower,
            upper,
            self.delta_bar,
            network_lipschitz(*(report.lipschitz_bound for report in reports)),
            self._each(reports[0].holds_for),
        )

    def delta_bounds(self, **kwargs) -> tuple[float, float]:
        """Bounds the mean of the δ(A_i) from below and above.

        Args:
          **kwargs: passed to the `delta_bounds` of every piece.
        """
        return _means([piece.delta_bounds(**kwargs) for piece in self.pieces])

    def lipschitz_bound(self) -> LipschitzBound:
        """Bounds the Lipschitz constant of the layer in real arithmetic."""
        self._check_computes()
        bounds = [piece.lipschitz_bound() for piece in self.pieces]
        steps = [bound.step for bound in bounds]
        return LipschitzBound(
            network_lipschitz(*(bound.value for bound in bounds)),
            self._each(bounds[0].holds_for),
            None if None in steps else max(steps),
            bounds[0].norm,
        )

    def _each(self, holds_for: str) -> str:
        return f"{counted(self.num_pieces, 'piece')}, each: {holds_for}"

    def assert_constraints(self) -> None:
        """Raises a ValueError that names the first piece outside its bound."""
        for piece in self.pieces:
            piece.assert_constraints()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        return {
            **super().get_config(),
            "layer": copy.deepcopy(self._description),
            "num_pieces": self.num_pieces,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PiecewiseODELayer":
        """Builds the layer that `get_config` described."""
        layer = config["layer"]
        if isinstance(layer, dict):
            layer = rebuilt("layer", layer)
        return cls(**{**config, "layer": layer})


def _means(brackets: list[tuple[float, float]]) -> tuple[float, float]:
    """Means of lower and of upper bounds, rounded outwards."""
    lowers, uppers = np.array(brackets, np.float64).T
    room = len(brackets) * np.finfo(np.float64).eps
    return (
        float(lowers.mean() - room * np.abs(lowers).max()),
        float(uppers.mean() + room * np.abs(uppers).max()),
    )


def _lipschitz(layer: PiecewiseODELayer) -> float:
    return network_lipschitz(*map(layer_lipschitz, layer.pieces))


def _after(
    layer: PiecewiseODELayer, state: Any, unit: float, shape: tuple[int, ...]
) -> Any:
    for piece in layer.pieces:
        state = after_layer(piece, [state], unit, [shape])
    return state


def _box(layer: PiecewiseODELayer, box: Any) -> Any:
    for piece in layer.pieces:
        box = box_after(piece, [box])
    return box


register_rule(
    PiecewiseODELayer, lipschitz=_lipschitz, rounding=_after, box=_box
)
