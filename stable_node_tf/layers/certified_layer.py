"""What all Keras layers with a certificate have in common."""

from typing import Any

import keras
import tensorflow as tf

from stable_node_tf.model_graph.graph import title
from stable_node_tf.read_only_settings import ReadOnlySettings
from stable_node_tf.replaced_methods import replaced_methods

# What a layer computes with.
_COMPUTING = ("__call__", "call", "_solve", "_field", "_constants")


class CertifiedLayer(
    ReadOnlySettings,
    keras.layers.Layer,
    settings=("dtype", "dtype_policy", "delta_bar"),
):
    """A layer of real states, with settings that stay, and proven bounds.

    The constructor arguments are read-only, in the layer and in the activation,
    the solver and the constraint that it holds: what the layer computes, keeps,
    reports and saves depends on them, and functions that are already traced do
    not notice changes. For another setting make another layer,

        config = layer.get_config()
        config["terminal_time"] = 2.0
        other = type(layer).from_config(config)

    and give it the weights with `set_weights` once it is built.
    `stable_node_tf.stabilize` does so for `delta_bar` and `discrete` in all
    layers of a model, where weights must satisfy another bound.
    """

    def _title(self) -> str:
        return title(self)

    def _instead(self) -> str:
        return (
            f"Make a new {type(self).__name__} from `get_config()` with the "
            "changed value and, where there are weights, give it those with "
            "`set_weights`. `stable_node_tf.stabilize` makes a new model with "
            "another `delta_bar` or `discrete` of one that has weights. "
            "Variables take values with `assign`."
        )

    def _check_computes(self, *parts: Any) -> None:
        """Raises unless the layer and its parts compute what is proven.

        Methods may have been replaced in an instance, or be overridden by a
        subclass that does not override the bound.
        """
        for part in (self, *parts):
            names = replaced_methods(part)
            if names:
                raise ValueError(
                    f"Bounds of layer {self.name!r} are proven for what the "
                    f"class {type(part).__name__} computes. Received: an "
                    f"instance with a replaced {', '.join(names)}"
                )
        known: Any = next(
            cls
            for cls in type(self).__mro__
            if cls.__module__.startswith("stable_node_tf.")
        )
        cls: Any = type(self)
        if cls.lipschitz_bound is not known.lipschitz_bound:
            return
        for name in _COMPUTING:
            if getattr(cls, name, None) is not getattr(known, name, None):
                raise ValueError(
                    f"The bounds of {known.__name__} are proven for its own "
                    f"`{name}`; a class with another one must override "
                    f"`lipschitz_bound` as well. Received: {title(self)}"
                )

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input."""
        return input_shape

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Returns the symbolic output; refuses complex inputs as `call`."""
        _check_dtype(tf.as_dtype(inputs.dtype), f"inputs of {inputs.dtype}")
        return super().compute_output_spec(inputs)

    def set_weights(self, weights: Any) -> None:
        """As for every layer; names the way if only one has a `delta_bar`."""
        self._check_count(len(weights), len(self.weights))
        super().set_weights(weights)

    def load_own_variables(self, store: Any) -> None:
        """As for every layer; see `set_weights`."""
        own = self._trainable_variables + self._non_trainable_variables
        if self.built:
            self._check_count(len(store.keys()), len(own))
        super().load_own_variables(store)

    def _check_count(self, received: int, expected: int) -> None:
        if received != expected:
            raise ValueError(
                f"The {title(self)} with delta_bar={self.delta_bar} has "
                f"{expected} weights. Received: {received} weights. Only "
                "layers with a `delta_bar` have a certificate among them: "
                "`stable_node_tf.stabilize(model, delta_bar)` turns a free "
                "model into a constrained one, and back with delta_bar=None"
            )


def check_real(inputs: Any, size: int | None = None) -> tf.Tensor:
    """Returns states as a tensor, real and of shape (batch, size).

    >>> check_real([[1.0 + 2.0j]])
    Traceback (most recent call last):
    ...
    ValueError: `inputs` must be real, of shape (batch, d). Received: inputs ...
    """
    inputs = tf.convert_to_tensor(inputs)
    shape = inputs.shape
    received = f"inputs of {inputs.dtype.name} and shape {shape}"
    _check_dtype(inputs.dtype, received)
    if not shape.is_compatible_with([None, size]):
        raise ValueError(
            f"`inputs` must be real, of shape (batch, {size or 'd'}). "
            f"Received: {received}"
        )
    if not tf.executing_eagerly() and _was_complex(inputs):
        raise ValueError(
            "`inputs` must be real. Received: a model with complex inputs, of "
            "which Keras has dropped the imaginary part"
        )
    return inputs


def _check_dtype(dtype: tf.DType, received: str) -> None:
    if not (dtype.is_floating or dtype.is_integer):
        raise ValueError(
            f"`inputs` must be real, of shape (batch, d). Received: {received}"
        )


def _was_complex(tensor: tf.Tensor) -> bool:
    """Whether a complex argument of the graph was cast on the way here.

    Functional models cast what they are given before any layer sees it.
    """
    seen, waiting = set(), [tensor.op]
    while waiting:
        operation = waiting.pop()
        for source in operation.inputs:
            if operation.type == "Cast" and source.dtype.is_complex:
                if source.op.type == "Placeholder":
                    return True
            if source.op not in seen:
                seen.add(source.op)
                waiting.append(source.op)
    return False
