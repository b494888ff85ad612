"""Makes a trained model stable, or a stable one free again."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from stable_node_tf.checks import check_number
from stable_node_tf.constraints.spectral_norm import SpectralNormConstraint
from stable_node_tf.layers.ode_layer import ODELayer
from stable_node_tf.layers.solver_bounds import NORMS
from stable_node_tf.model_graph.graph import title
from stable_node_tf.models.rebuilding import rebuilt_model
from stable_node_tf.stability.lipschitz import spectral_norm_bound


class ChangedLayer(NamedTuple):
    """How one layer was changed.

    Attributes:
      name: that of the layer, or of a piece of a `PiecewiseODELayer`.
      distance: |Δ|_F, over all kernels of the layer.
      relative_distance: the same divided by the norm of the kernels before.
      delta_before: lower and upper bound of δ; None for a dense layer.
      delta_after: likewise.
      lipschitz_before: proven Lipschitz constant.
      lipschitz_after: likewise.
      holds_for: what these are bounds of, and in which norm.
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
    """How all layers were changed; prints as a table.

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
    the nearest certified matrix, see `nearest_stable` (arXiv 2501.10740 for the
    problem); with `discrete` that matrix is moved on until the step of Euler is
    certified too, and is not the nearest. The kernels of a `DeepODELayer` are
    scaled. A `PiecewiseODELayer` is changed piece by piece. δ is that of the
    `norm` of each layer. What satisfies its bound already, and all other
    weights, stay as they are, bit for bit.

    With delta_bar=None the new model is free and has the weights of the given
    one: so weights come from a constrained model to a free one.

    The new model is not compiled, and states of optimizers and of random
    generators are not copied. Other layers have not seen the new flow: some
    epochs of training help.

    Args:
      model: built, functional or sequential, also with such models as layers;
        with a `StableODELayer`, `DeepODELayer` or `PiecewiseODELayer`, also
        inside wrappers such as `keras.layers.TimeDistributed`. It stays as it
        is.
      delta_bar: δ̄, see these layers, or None.
      discrete: see `StableODELayer`.
      max_norms: spectral norms that the kernels of dense layers must not
        exceed, by the names of the layers; None frees a layer. Those get a
        `SpectralNormConstraint`, and singular values are clipped.

    Raises:
      ValueError: if the model is not of that kind, a layer refuses the bound,
        or `max_norms` names a layer that is not dense.

    >>> model = keras.Sequential([keras.Input((4,))])
    >>> from stable_node_tf import StableODELayer
    >>> model.add(StableODELayer(kernel_initializer="identity", name="ode"))
    >>> stable, report = stabilize(model, delta_bar=0.0)
    >>> stable.get_layer("ode").assert_constraints()
    >>> round(report.layers[0].distance, 3)
    2.0
    """
    _check_model(model)
    changes: dict[str, Any] = {"delta_bar": None, "discrete": False}
    if delta_bar is not None:
        changes["delta_bar"] = check_number(delta_bar, "delta_bar")
        changes["discrete"] = bool(discrete)
    constraints = {
        name: None if norm is None else SpectralNormConstraint(norm)
        for name, norm in (max_norms or {}).items()
    }
    _check_layers(model, changes["discrete"], constraints)

    def constrain(config: dict[str, Any]) -> dict[str, Any]:
        return config | {k: v for k, v in changes.items() if k in config}

    def constrain_dense(layer: Any, config: dict[str, Any]) -> dict[str, Any]:
        if layer.name not in constraints:
            return config
        return config | {"kernel_constraint": constraints[layer.name]}

    changed = rebuilt_model(model, constrain, constrain_dense)
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


def _changed_ode(old: Any, new: Any) -> ChangedLayer:
    before, after = old.lipschitz_bound(), new.lipschitz_bound()
    return ChangedLayer(
        new.name,
        *_distances(old._kernel_values(), new._kernel_values()),
        old.delta_bounds(),
        new.delta_bounds(),
        before.value,
        after.value,
        f"{after.holds_for}, {NORMS[after.norm]}",
    )


def _changed_dense(old: Any, new: Any) -> ChangedLayer:
    before, after = (
        keras.ops.convert_to_numpy(layer.kernel).astype(np.float64)
        for layer in (old, new)
    )
    return ChangedLayer(
        new.name,
        *_distances([before], [after]),
        None,
        None,
        spectral_norm_bound(before),
        spectral_norm_bound(after),
        "affine map, 2-norm",
    )


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


def _check_layers(model: keras.Model, discrete: bool, norms: Any) -> None:
    layers = model._flatten_layers()
    for layer in layers:
        if discrete and isinstance(layer, ODELayer):
            if "discrete" not in layer.get_config():
                raise ValueError(
                    "`discrete` is for models all of whose neural ODEs are "
                    f"StableODELayers. Received: {title(layer)}"
                )
    dense = {x.name for x in layers if isinstance(x, keras.layers.Dense)}
    for name in norms:
        if name not in dense:
            raise ValueError(
                f"`max_norms` must name dense layers, of {sorted(dense)}. "
                f"Received: {name!r}"
            )
