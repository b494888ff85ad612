from types import SimpleNamespace

import keras
import numpy as np
import pytest

from stable_node_tf import (
    DeepODELayer,
    Euler,
    PiecewiseODELayer,
    SpectralNormConstraint,
    StableODELayer,
)
from stable_node_tf.callbacks import StabilityMonitor

X = np.random.default_rng(0).standard_normal((16, 4))


def model_of(*layers, optimizer="adam", jit_compile=False):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    return model


def fit(model, *callbacks, epochs=2):
    return model.fit(
        X, 3 * X, epochs=epochs, verbose=0, callbacks=[*callbacks]
    ).history


def flow(name="flow", delta_bar=0.0):
    return StableODELayer(delta_bar=delta_bar, solver=Euler(4), name=name)


def test_bounds_are_logged_for_later_callbacks(tmp_path):
    layer = flow()
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(model_of(layer), StabilityMonitor(), logger)
    report = layer.stability(starts=32)
    assert history["delta_upper"][-1] == report.delta_upper
    assert history["delta_lower"][-1] == report.delta_lower
    assert max(history["delta_upper"]) <= 0.0
    header = (tmp_path / "log.csv").read_text().splitlines()[0]
    assert header.startswith("epoch,delta_lower,delta_upper,loss,perturbation")


def test_all_pieces_of_all_layers_are_logged():
    layers = [PiecewiseODELayer(flow(), 2, name=name) for name in ("a", "b")]
    history = fit(model_of(*layers), StabilityMonitor(), epochs=1)
    for name in ("a_piece_0", "a_piece_1", "b_piece_0", "b_piece_1"):
        assert history[f"{name}/delta_upper"][-1] <= 0.0


def test_perturbation_is_the_mean_over_the_steps():
    layer = flow()
    model = model_of(layer)
    constraint, moves = layer.kernel.constraint, []

    class Recorded(keras.constraints.Constraint):
        def __call__(self, kernel):
            projected = constraint(kernel)
            moves.append(float(np.linalg.norm(projected - kernel)))
            return projected

    layer.kernel.constraint = Recorded()
    model.compile("adam", "mse", run_eagerly=True)
    model.optimizer.learning_rate = 0.1
    history = model.fit(
        *(X, 3 * X),
        batch_size=4,
        epochs=2,
        verbose=0,
        callbacks=[StabilityMonitor()],
    ).history["perturbation"]
    assert min(moves) > 0.0
    means = np.mean(np.reshape(moves, (2, 4)), axis=1)
    np.testing.assert_allclose(history, means, rtol=1e-5)


def test_several_layers_are_told_apart():
    history = fit(
        model_of(flow("one"), keras.Sequential([flow("two", None)])),
        StabilityMonitor(),
        epochs=1,
    )
    assert set(history) == {
        "loss",
        *("one/delta_lower", "one/delta_upper", "one/perturbation"),
        *("two/delta_lower", "two/delta_upper"),
    }


def test_model_without_the_layer_is_refused():
    model = model_of(keras.layers.Dense(4))
    with pytest.raises(ValueError, match=f"model '{model.name}' without one"):
        fit(model, StabilityMonitor())


class Spoil(keras.callbacks.Callback):
    """Leaves the certified set behind the constraint's back."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.get_layer("flow").kernel.assign(np.eye(4))


def test_violation_stops_training():
    with pytest.raises(ValueError, match="'flow' must satisfy"):
        fit(model_of(flow()), Spoil(), StabilityMonitor())


@pytest.mark.parametrize("frequency", [None, 3])
def test_average_of_the_weights_is_made_feasible(frequency):
    def trained(*callbacks):
        optimizer = keras.optimizers.Adam(
            0.1,
            use_ema=True,
            ema_momentum=0.8,
            ema_overwrite_frequency=frequency,
        )
        layer = flow()
        dense = keras.layers.Dense(
            4, kernel_constraint=SpectralNormConstraint(0.5)
        )
        model = model_of(layer, dense, optimizer=optimizer)
        fit(model, *callbacks, epochs=10)
        return layer, dense

    layer, dense = trained()
    with pytest.raises(ValueError, match="delta_bar=0.0"):
        layer.assert_constraints()
    before = layer.kernel.numpy()

    layer, dense = trained(StabilityMonitor())
    layer.assert_constraints()
    assert np.linalg.norm(dense.kernel.numpy().astype("f8"), 2) <= 0.5
    assert np.abs(layer.kernel.numpy() - before).max() > 1e-4


class Watch(keras.callbacks.Callback):
    """Asserts the constraints where `ModelCheckpoint` would save."""

    def on_epoch_end(self, epoch, logs=None):
        layer, dense = self.model.layers[:2]
        layer.assert_constraints()
        kernel = dense.kernel.numpy().astype("f8")
        assert np.linalg.norm(kernel, 2) <= 0.5


@pytest.mark.parametrize(("deep", "delta_bar"), [(False, 0.0), (True, 0.3)])
def test_averages_are_feasible_wherever_they_are_swapped_in(deep, delta_bar):
    def train(*callbacks):
        optimizer = keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.8)
        layer = flow(delta_bar=delta_bar)
        if deep:
            layer = DeepODELayer((5,), delta_bar=delta_bar, damping=1.0)
        budget = SpectralNormConstraint(0.5)
        dense = keras.layers.Dense(4, kernel_constraint=budget)
        model = model_of(layer, dense, optimizer=optimizer)
        fit(model, *callbacks, epochs=4)
        Watch.on_epoch_end(SimpleNamespace(model=model), 0)

    def swap():
        return keras.callbacks.SwapEMAWeights(swap_on_epoch=True)

    train(StabilityMonitor(), swap(), Watch())
    train(Watch(), StabilityMonitor(), swap())
    if not deep:  # Kernels that are scaled down have averages inside.
        with pytest.raises(ValueError, match="after `StabilityMonitor`"):
            train(swap(), StabilityMonitor())


def test_nan_is_named():
    class Poison(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.get_layer("flow").kernel.assign(np.full((4, 4), np.nan))

    with pytest.raises(ValueError, match="kernel of layer 'flow'.*16 NaN"):
        fit(model_of(flow()), Poison(), StabilityMonitor())


class Subclassed(keras.Model):
    """A model whose layers have no weights before the first batch."""

    def __init__(self, *layers):
        super().__init__()
        self.parts = layers

    def call(self, inputs):
        return self.parts[0](inputs)


class BuildsLayers(keras.Model):
    def build(self, input_shape):
        self.part = flow()
        self.part.build(input_shape)

    def call(self, inputs):
        return self.part(inputs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.Sequential([flow()]),
        lambda: Subclassed(flow()),
        lambda: Subclassed(flow(), flow("not called")),
        BuildsLayers,
    ],
    ids=["sequential", "subclassed", "layer not called", "builds layers"],
)
def test_models_that_the_first_batch_builds(make):
    model = make()
    model.compile("adam", "mse", jit_compile=False)
    history = fit(model, StabilityMonitor())
    assert set(history) == {
        *("loss", "delta_lower", "delta_upper", "perturbation")
    }
    assert len(history["perturbation"]) == 2
    assert max(history["delta_upper"]) <= 0.0


def test_model_without_the_layer_is_refused_once_built():
    model = keras.Sequential([keras.layers.Dense(4)])
    model.compile("adam", "mse", jit_compile=False)
    with pytest.raises(ValueError, match="without one"):
        fit(model, StabilityMonitor())
