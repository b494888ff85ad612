"""What all Keras layers with a certificate have in common."""

from typing import Any

import keras
import tensorflow as tf

from stable_node_tf.read_only_settings import ReadOnlySettings
from stable_node_tf.replaced_methods import replaced_methods

# What the answer of a layer is made of.
_COMPUTING = ("__call__", "call", "_solve", "_field", "_constants")


class CertifiedLayer(
    ReadOnlySettings,
    keras.layers.Layer,
    settings=("dtype", "dtype_policy", "delta_bar"),
):
    """A layer of real states, with settings that stay, and proven bounds.

    Settings, which are the constructor arguments, are read-only, in the layer
    and in the activation, the solver and the constraint that it holds. What
    the layer computes, what its constraint keeps, what it reports and what is
    saved all go by them, and functions that are traced already do not notice
    changes. So for another setting make another layer,

        config = layer.get_config()
        config["terminal_time"] = 2.0
        other = type(layer).from_config(config)

    and give it the weights with `set_weights` once it is built.
    `stable_node_tf.stabilize` does so for `delta_bar` and `discrete`, where the
    weights have to satisfy another bound, in all layers of a model.
    """

    def _title(self) -> str:
        return f"layer {self.name!r} of type {type(self).__name__}"

    def _instead(self) -> str:
        return (
            f"Make a new {type(self).__name__} from `get_config()` with the "
            "changed value and, where there are weights, give it those with "
            "`set_weights`. `stable_node_tf.stabilize` makes a new model with "
            "another `delta_bar` or `discrete` of one that has weights. "
            "Variables take values with `assign`."
        )

    def _check_computes(self, *parts: Any) -> None:
        """Refuses to prove bounds of what is computed in another way.

        Args:
          *parts: the activation and the solver, for instance.

        Raises:
          ValueError: naming the methods that were replaced in this instance or
            its parts, or that a subclass overrides beside the bound.
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
                    "`lipschitz_bound` as well. Received: layer "
                    f"{self.name!r} of type {type(self).__name__}"
                )

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Returns the symbolic output; refuses complex inputs as `call`."""
        _check_dtype(tf.as_dtype(inputs.dtype), f"inputs of {inputs.dtype}")
        return super().compute_output_spec(inputs)

    def set_weights(self, weights: Any) -> None:
        """Sets the values of all weights, in the order of `get_weights`.

        Raises:
          ValueError: if they are the weights of another kind of layer, of one
            without a `delta_bar` for instance, which has no certificate.
        """
        self._check_count(len(weights), len(self.weights))
        super().set_weights(weights)

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` has put into `store`.

        Raises:
          ValueError: as `set_weights`.
        """
        own = len(self._trainable_variables) + len(
            self._non_trainable_variables
        )
        if self.built:
            self._check_count(len(store.keys()), own)
        super().load_own_variables(store)

    def _check_count(self, received: int, expected: int) -> None:
        if received != expected:
            raise ValueError(
                f"Layer {self.name!r} of type {type(self).__name__} with "
                f"delta_bar={self.delta_bar} has {expected} weights. Received: "
                f"{received} weights. Layers with a `delta_bar` have a "
                "certificate among them and layers without have none: "
                "`stable_node_tf.stabilize(model, delta_bar)` makes a "
                "constrained model of a free one, and a free one of a "
                "constrained one with delta_bar=None"
            )


def check_real(inputs: Any, size: int | None = None) -> tf.Tensor:
    """Returns states as a tensor.

    Args:
      inputs: real, of shape (batch, d).
      size: d, if it is to be checked.

    Raises:
      ValueError: if they are complex for instance, or of another shape.

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
