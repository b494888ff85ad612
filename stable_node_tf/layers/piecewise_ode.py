"""PiecewiseODELayer: a vector field that is piecewise constant in time."""

import copy
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.checks import check_count
from stable_node_tf.deserialization import rebuilt
from stable_node_tf.layers.certified_layer import CertifiedLayer
from stable_node_tf.layers.ode_layer import (
    ODELayer,
    StabilityReport,
    check_times,
)
from stable_node_tf.layers.solver_bounds import LipschitzBound, counted
from stable_node_tf.solvers.step_statistics import (
    StepStatistics,
    total_statistics,
)
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

    The pieces are layers themselves, in the attribute `pieces`: constraints,
    gradients and `StabilityMonitor` treat them as any others. Their names are
    that of this layer with `_piece_0`, `_piece_1` and so on behind it.

    Args:
      layer: a layer of one equation on the whole of [0, T], not built; the
        pieces are made from its configuration. Its solver solves each piece:
        a fixed grid takes all of its steps in every one. An initializer with a
        seed draws the same weights for all of them.
      num_pieces: n, at least 1.
      **kwargs: of `keras.layers.Layer`; the dtype is that of `layer` if none
        is given.

    Raises:
      TypeError: if `layer` is none of this package, or `num_pieces` no integer.
      ValueError: if `num_pieces` is below 1, or `layer` has weights already.

    Settings are read-only afterwards, and so are those of the pieces.

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

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input."""
        return input_shape

    def trajectory(self, inputs, times) -> tf.Tensor:
        """Returns u at several times.

        Args:
          inputs: u(0), real, of shape (batch, d).
          times: numbers in [0, T], increasing, at least one.

        Returns:
          Tensor of shape (len(times), batch, d).

        Raises:
          TypeError: if a time is not a number.
          ValueError: if the times are not increasing, leave [0, T] or there is
            none, if `inputs` are not real or not (batch, d), or the layer has
            no weights yet.
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

    def solver_statistics(self, inputs) -> StepStatistics:
        """Says what the step control did for each row, over all pieces.

        Args:
          inputs: u(0), finite, of shape (batch, d).

        Returns:
          `solvers.StepStatistics`: sums over the pieces, `last_step` that of
          the last one.

        Raises:
          ValueError: if the solver is not `PerSampleDormandPrince`, or the
            layer has no weights yet.
          tf.errors.InvalidArgumentError: if `inputs` are not finite.
        """
        parts = []
        for piece in self.pieces:
            parts.append(piece.solver_statistics(inputs))
            inputs = piece(inputs)
        return total_statistics(parts)

    def stability(self, **kwargs) -> StabilityReport:
        """Bounds the mean of the δ(A_i) and says what follows from it.

        Args:
          **kwargs: of the `stability` of a piece.

        Raises:
          ValueError: if the layer has no weights yet, or an A_i is not finite.
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
          **kwargs: of the `delta_bounds` of a piece.
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
        )

    def _each(self, holds_for: str) -> str:
        return f"{counted(self.num_pieces, 'piece')}, each: {holds_for}"

    def assert_constraints(self) -> None:
        """Raises unless every piece is proven to satisfy its constraint.

        Raises:
          ValueError: naming the piece, see `StableODELayer`.
        """
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
