"""Keras callback that watches the stability of every neural ODE layer."""

import keras

from stable_node_tf.constraints.kernels import apply_constraints
from stable_node_tf.layers.ode_layer import ODELayer


class StabilityMonitor(keras.callbacks.Callback):
    """Bounds δ at the end of every epoch and insists on δ <= δ̄.

    Adds `delta_lower` and `delta_upper` of every `StableODELayer` and
    `DeepODELayer` to the logs, the pieces of a `PiecewiseODELayer` included,
    and `perturbation` of those with a δ̄: |Δ|_F of an optimizer step, averaged
    over the epoch. With several layers, the name of the layer and a slash come
    first. Progress bar, `History`, `CSVLogger` and `TensorBoard`, placed after
    this callback, show them.

    Keras averages weights (an optimizer with `use_ema=True`) before it applies
    constraints, so that averages satisfy none. This callback applies all
    constraints of the model to them at the end of every epoch and of training;
    what `keras.callbacks.SwapEMAWeights`, placed after it, swaps in is inside.

    Raises:
      ValueError: at the end of an epoch, if a layer violates its constraint or
        holds NaN, because averages were swapped in before this callback for
        example; at the start of training, if the model has no such layer.
    """

    def on_train_begin(self, logs=None):
        """Looks for layers, unless the first batch is to build the model."""
        if self.model.built:
            self._layers()

    def on_epoch_begin(self, epoch, logs=None):
        """Notes how far the constraints have moved the kernels."""
        if epoch and self._averages():
            # Callbacks that come later have left their averages in place.
            self._assert_constraints()
        self._first_step = self._value(self.model.optimizer.iterations)
        self._perturbations = {
            id(layer): self._value(layer.total_perturbation)
            for layer in (self._layers() if self.model.built else [])
            if layer.delta_bar is not None and layer.built
        }

    def on_epoch_end(self, epoch, logs=None):
        """Adds the bounds and the perturbations to `logs`."""
        logs = {} if logs is None else logs
        iterations = self._value(self.model.optimizer.iterations)
        steps = max(iterations - self._first_step, 1)
        self._assert_constraints()
        layers = [layer for layer in self._layers() if layer.built]
        for layer in layers:
            prefix = f"{layer.name}/" if len(layers) > 1 else ""
            lower, upper = layer.delta_bounds(starts=32)
            logs[f"{prefix}delta_lower"] = lower
            logs[f"{prefix}delta_upper"] = upper
            if layer.delta_bar is not None:
                moved = self._value(layer.total_perturbation)
                moved -= self._perturbations.get(id(layer), 0.0)
                logs[f"{prefix}perturbation"] = moved / steps
        self._constrain_averages()

    def on_train_end(self, logs=None):
        """Applies the constraints to averaged weights."""
        if self._averages():
            apply_constraints(self.model.trainable_variables)
        self._assert_constraints()

    def _layers(self):
        """The layers to watch; those without weights take no part so far."""
        layers = [
            layer
            for layer in self.model._flatten_layers()
            if isinstance(layer, ODELayer)
        ]
        if not layers:
            raise ValueError(
                "`StabilityMonitor` needs a model with a StableODELayer. "
                f"Received: model {self.model.name!r} without one"
            )
        return layers

    def _assert_constraints(self):
        for layer in self._layers():
            try:
                if layer.built:
                    layer.assert_constraints()
            except ValueError as error:
                if not self._averages():
                    raise
                raise ValueError(
                    f"{error} If a callback has swapped averaged weights in, "
                    "as `SwapEMAWeights` does at the end of an epoch, place "
                    "it after `StabilityMonitor`, which constrains them."
                ) from error

    def _averages(self):
        """Pairs of variables and their averages."""
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        return [
            pair
            for each in getattr(optimizer, "optimizers", [optimizer])
            if each.use_ema and each.built
            for pair in zip(
                each._trainable_variables,
                each._model_variables_moving_average,
                strict=True,
            )
        ]

    def _constrain_averages(self):
        pairs = self._averages()
        averages = {id(variable): average for variable, average in pairs}
        for variable, average in pairs:
            constraint = variable.constraint
            if hasattr(constraint, "constrain_average"):
                constraint.constrain_average(
                    average, lambda other: averages[id(other)]
                )
            elif constraint is not None:
                average.assign(constraint(average))

    @staticmethod
    def _value(variable):
        return keras.ops.convert_to_numpy(variable).item()
