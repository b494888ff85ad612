"""Keras callback that watches the stability of every neural ODE layer."""

import keras

from stable_node_tf.ode_layer import ODELayer


class StabilityMonitor(keras.callbacks.Callback):
    """Bounds δ at the end of every epoch and insists on δ <= δ̄.

    When training ends with an optimiser that averages weights, `use_ema=True`,
    all constraints of the model are applied to the average: it satisfies none
    of them, because Keras averages the weights before it applies constraints.

    Adds `delta_lower` and `delta_upper` of every `StableODELayer` and
    `DeepODELayer` to the logs, the pieces of a `PiecewiseODELayer` included,
    and `perturbation` of those with a δ̄: |Δ|_F of an optimiser step, averaged
    over the epoch. The names have the layer's and a slash in front if there are
    several. Progress bar, `History`, `CSVLogger` and `TensorBoard`, placed
    after this callback, show them; callbacks that swap averaged weights in at
    the end of an epoch belong after it as well.

    Raises:
      ValueError: at the end of an epoch, if a layer violates its constraint;
        at the start of training, if the model has no such layer.
    """

    def on_train_begin(self, logs=None):
        """Looks for layers, unless the first batch is to build the model."""
        if self.model.built:
            self._layers()

    def on_epoch_begin(self, epoch, logs=None):
        """Notes how far the constraints have moved the kernels."""
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
        layers = [layer for layer in self._layers() if layer.built]
        for layer in layers:
            layer.assert_constraints()
            prefix = f"{layer.name}/" if len(layers) > 1 else ""
            lower, upper = layer.delta_bounds(starts=32)
            logs[f"{prefix}delta_lower"] = lower
            logs[f"{prefix}delta_upper"] = upper
            if layer.delta_bar is not None:
                moved = self._value(layer.total_perturbation)
                moved -= self._perturbations.get(id(layer), 0.0)
                logs[f"{prefix}perturbation"] = moved / steps

    def on_train_end(self, logs=None):
        """Applies the constraints to averaged weights."""
        optimizer = self.model.optimizer
        if getattr(optimizer, "inner_optimizer", optimizer).use_ema:
            for variable in self.model.trainable_variables:
                if variable.constraint is not None:
                    variable.assign(variable.constraint(variable))
        for layer in self._layers():
            if layer.built:
                layer.assert_constraints()

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

    @staticmethod
    def _value(variable):
        return keras.ops.convert_to_numpy(variable).item()
