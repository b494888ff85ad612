"""Makes a trained model stable, or a stable one free again."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from stable_node_tf.checks import check_number
from stable_node_tf.constraints.spectral_norm import SpectralNormConstraint
from stable_node_tf.layers.ode_layer import ODELayer
from stable_node_tf.models.uncompiled_clone import uncompiled_clone
from stable_node_tf.stability.lipschitz import spectral_norm_bound


class ChangedLayer(NamedTuple):
    """What has become of one layer.

    Attributes:
      name: of the layer; of each piece, for a `PiecewiseODELayer`.
      distance: |Δ|_F, over all kernels of the layer.
      relative_distance: the same divided by the norm of the kernels before.
      delta_before: lower and upper bound of δ; None for a dense layer.
      delta_after: likewise.
      lipschitz_before: proven Lipschitz constant, 2-norm.
      lipschitz_after: likewise.
      holds_for: what those are bounds of.
    """

    name: str
    distance: float
    relative_distance: float
    delta_before: tuple[float, float] | None
    delta_after: tuple[float, float] | None
    lipschitz_before: float
    lipschitz_after: float
    holds_for: str


class StabilizationReport(NamedTuple):
    """What has become of all layers that were changed; printed, a table.

    Attributes:
      layers: one `ChangedLayer` for each.
    """

    layers: tuple[ChangedLayer, ...]

    def __str__(self) -> str:
        rows = [("layer", "δ before", "δ after", "|Δ|/|A|", "Lipschitz <=")]
        rows += [
            (
                layer.name,
                _bracket(layer.delta_before),
                _bracket(layer.delta_after),
                f"{layer.relative_distance:.2%}",
                f"{layer.lipschitz_before:.4g} -> {layer.lipschitz_after:.4g} "
                f"({layer.holds_for})",
            )
            for layer in self.layers
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows
        )


class Stabilized(NamedTuple):
    """A new model, and how it differs from the given one.

    Attributes:
      model: not compiled.
      report: a `StabilizationReport`.
    """

    model: keras.Model
    report: StabilizationReport


def stabilize(
    model: keras.Model,
    delta_bar: float | None,
    *,
    discrete: bool = False,
    max_norms: Mapping[str, float | None] | None = None,
) -> Stabilized:
    """Makes a model whose neural ODEs satisfy δ <= delta_bar, near a given one.

    The new model has the same layers by the same names, with the constraints
    that keep the bounds in further training. A of a `StableODELayer` becomes
    the nearest matrix that is certified, see `nearest_stable` (arXiv
    2501.10740 for the problem); with `discrete` that matrix is moved on until
    the step of Euler is certified too, and is not the nearest. The kernels of a
    `DeepODELayer` are scaled. A `PiecewiseODELayer` is changed piece by piece.
    What satisfies its bound already, and all other weights, stay as they are,
    bit for bit.

    With delta_bar=None the new model is free, and has the weights of the given
    one: the way to bring weights from a constrained model to a free one.

    The new model is not compiled, and the state of an optimizer is not brought
    over, nor are states of random generators. Other layers have not seen the
    new flow: some epochs of training help.

    Args:
      model: built, functional or sequential, also with such models as layers;
        with a `StableODELayer`, `DeepODELayer` or `PiecewiseODELayer`, also
        inside wrappers as `keras.layers.TimeDistributed`. It stays as it is.
      delta_bar: δ̄, see these layers, or None.
      discrete: see `StableODELayer`.
      max_norms: spectral norms that the kernels of dense layers must not
        exceed, by the names of the layers; None frees a layer. Those get a
        `SpectralNormConstraint`, and singular values are clipped.

    Returns:
      A `Stabilized`: the model and the report.

    Raises:
      TypeError: if `model` is no Keras model, or a number is none.
      ValueError: if `model` is not built, neither functional nor sequential, or
        without such a layer; if a layer refuses the bound; or if `max_norms`
        names a layer that is not dense.

    >>> model = keras.Sequential([keras.Input((4,))])
    >>> from stable_node_tf import StableODELayer
    >>> model.add(StableODELayer(kernel_initializer="identity", name="ode"))
    >>> stable, report = stabilize(model, delta_bar=0.0)
    >>> stable.get_layer("ode").assert_constraints()
    >>> round(report.layers[0].distance, 3)
    2.0
    """
    _check_model(model)
    changes: dict[str, Any] = {"delta_bar": delta_bar, "discrete": False}
    if delta_bar is not None:
        changes["delta_bar"] = check_number(delta_bar, "delta_bar")
        changes["discrete"] = bool(discrete)
        _check_discrete(model, changes["discrete"])
    constraints = {
        name: None if norm is None else SpectralNormConstraint(norm)
        for name, norm in (max_norms or {}).items()
    }
    _check_dense(model, constraints)

    def rebuild(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = _with_changes(layer.get_config(), changes)
        if isinstance(layer, ODELayer):
            config |= {k: v for k, v in changes.items() if k in config}
        if layer.name in constraints:
            config["kernel_constraint"] = constraints[layer.name]
        try:
            return type(layer).from_config(config)
        except TypeError as error:  # Keras makes one of what a layer says
            if not isinstance(error.__context__, ValueError):
                raise
            raise ValueError(
                f"Layer {layer.name!r} does not take these settings. "
                f"{error.__context__}"
            ) from error

    changed = uncompiled_clone(model, rebuild)
    if not changed.built:  # sequential, without an Input
        changed.build(model.input_shape)
    rows = []
    for old, new in zip(_all_layers(model), _all_layers(changed), strict=True):
        if isinstance(old, ODELayer):
            new._assign_nearest(old)
            new.assert_constraints()
            rows.append(_changed_ode(old, new))
            continue
        own: dict[str, Any] = {}
        old.save_own_variables(own)
        new.load_own_variables(own)
        if constraints.get(old.name) is not None:
            new.kernel.assign(new.kernel.constraint(new.kernel))
        if old.name in constraints:
            rows.append(_changed_dense(old, new))
    return Stabilized(changed, StabilizationReport(tuple(rows)))


def _all_layers(layer: Any) -> Iterator[Any]:
    """A layer and all inside, in the order in which they were added."""
    yield layer
    for inner in layer._flatten_layers(include_self=False, recursive=False):
        yield from _all_layers(inner)


def _with_changes(config: Any, changes: dict[str, Any]) -> Any:
    """A configuration, changed where it describes a neural ODE further in."""
    if isinstance(config, list | tuple):
        parts = [_with_changes(part, changes) for part in config]
        return parts if isinstance(config, list) else tuple(parts)
    if not isinstance(config, dict):
        return config
    config = {key: _with_changes(v, changes) for key, v in config.items()}
    name = config.get("registered_name")
    cls = isinstance(name, str) and keras.saving.get_registered_object(name)
    if isinstance(cls, type) and issubclass(cls, ODELayer):
        inner = config["config"]
        inner |= {k: v for k, v in changes.items() if k in inner}
    return config


def _changed_ode(old: Any, new: Any) -> ChangedLayer:
    before, after = old.lipschitz_bound(), new.lipschitz_bound()
    return ChangedLayer(
        new.name,
        *_distances(_kernels(old), _kernels(new)),
        old.delta_bounds(),
        new.delta_bounds(),
        before.value,
        after.value,
        after.holds_for,
    )


def _changed_dense(old: Any, new: Any) -> ChangedLayer:
    [before], [after] = _kernels(old), _kernels(new)
    return ChangedLayer(
        new.name,
        *_distances([before], [after]),
        None,
        None,
        spectral_norm_bound(before),
        spectral_norm_bound(after),
        "affine map",
    )


def _kernels(layer: Any) -> list[np.ndarray]:
    kernels = getattr(layer, "kernels", None) or [layer.kernel]
    return [
        keras.ops.convert_to_numpy(kernel).astype(np.float64)
        for kernel in kernels
    ]


def _distances(
    old: list[np.ndarray], new: list[np.ndarray]
) -> tuple[float, float]:
    squares = [np.sum((A - B) ** 2) for A, B in zip(old, new, strict=True)]
    distance = float(np.sqrt(sum(squares)))
    norm = float(np.sqrt(sum(np.sum(A**2) for A in old)))
    return distance, distance / norm if norm else 0.0


def _bracket(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"[{bounds[0]:z.4f}, {bounds[1]:z.4f}]"


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model. Received: model={model!r}"
        )
    if not type(model).call.__module__.startswith("keras."):
        raise ValueError(
            "`model` must be functional or sequential, so that it can be made "
            f"again. Received: model {model.name!r} of type "
            f"{type(model).__name__}, which has a `call` of its own"
        )
    if not model.built:
        raise ValueError(
            "`model` must have weights: call it, or its `build`, first. "
            f"Received: model {model.name!r}, not built"
        )
    if not any(isinstance(x, ODELayer) for x in model._flatten_layers()):
        raise ValueError(
            "`model` must have a neural ODE layer of this package. "
            f"Received: layers {[layer.name for layer in model.layers]}"
        )


def _check_discrete(model: keras.Model, discrete: bool) -> None:
    for layer in model._flatten_layers():
        if discrete and isinstance(layer, ODELayer):
            if "discrete" not in layer.get_config():
                raise ValueError(
                    "`discrete` bounds are those of a StableODELayer. Received:"
                    f" layer {layer.name!r} of type {type(layer).__name__}"
                )


def _check_dense(model: keras.Model, names: Any) -> None:
    dense = {
        layer.name
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Dense)
    }
    for name in names:
        if name not in dense:
            raise ValueError(
                f"`max_norms` must name dense layers, of {sorted(dense)}. "
                f"Received: {name!r}"
            )
