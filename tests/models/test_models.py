import keras
import numpy as np
import pytest

from stable_node_tf import SkewSymmetric, ode_classifier

IMAGES = np.random.default_rng(0).uniform(size=(8, 28, 28, 1)).astype("f4")
BUDGETS = {"delta_bar": 0.0, "encoder_max_norm": 1.5, "readout_max_norm": 0.5}


def norm(layer):
    return np.linalg.norm(layer.kernel.numpy().astype(np.float64), 2)


def test_names_and_shapes():
    model = ode_classifier(width=8, name="small")
    assert model.name == "small"
    assert model.input.name == "image"
    assert model.input.shape == (None, 28, 28, 1)
    assert model.output_names == ["logits"]
    assert model.output.shape == (None, 10)
    assert [layer.name for layer in model.layers] == [
        "image",
        "flatten",
        "encoder",
        "ode",
        "logits",
    ]
    assert model(IMAGES).shape == (8, 10)


def test_other_shapes():
    model = ode_classifier(image_shape=(4, 3), num_classes=3, width=5)
    assert model(np.zeros((2, 4, 3), "float32")).shape == (2, 3)


def test_free_model_has_no_constraint():
    model = ode_classifier(width=8)
    assert all(w.constraint is None for w in model.trainable_weights)


def test_equal_seeds_draw_alike_and_others_do_not():
    first, same = (ode_classifier(width=8, seed=1) for _ in range(2))
    other = ode_classifier(width=8, seed=2)
    for mine, twin, theirs in zip(
        first.weights, same.weights, other.weights, strict=True
    ):
        np.testing.assert_array_equal(mine, twin)
        if mine.name == "kernel":
            assert np.abs(mine.numpy() - theirs.numpy()).max() > 1e-3


def test_bounds_move_only_the_weights_they_apply_to():
    free = ode_classifier(width=8, seed=1)
    bound = ode_classifier(width=8, seed=1, delta_bar=0.0)
    for name in ("encoder", "logits"):
        np.testing.assert_array_equal(
            free.get_layer(name).kernel, bound.get_layer(name).kernel
        )
    assert free.get_layer("ode").stability(starts=8).delta_lower > 0.1
    assert bound.get_layer("ode").stability(starts=8).delta_upper <= 0.0


def test_from_zeros_the_weights_of_black_pixels_stay_zero():
    model = ode_classifier(
        image_shape=(6,), width=8, encoder_initializer="zeros", **BUDGETS
    )
    images = np.random.default_rng(0).random((64, 6), np.float32)
    images[:, 2] = 0.0
    model.compile(
        keras.optimizers.Adam(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(images, np.arange(64) % 10, epochs=2, verbose=0)
    moved = np.any(model.get_layer("encoder").kernel.numpy(), axis=1)
    np.testing.assert_array_equal(moved, [1, 1, 0, 1, 1, 1])


def test_bounds_hold_from_the_start_and_through_training():
    model = ode_classifier(
        width=8, kernel_initializer=SkewSymmetric(3.0, seed=0), **BUDGETS
    )
    model.compile(
        keras.optimizers.Adam(0.05),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    for _ in range(3):
        model.get_layer("ode").assert_constraints()
        assert norm(model.get_layer("encoder")) <= 1.5
        assert norm(model.get_layer("logits")) <= 0.5
        model.fit(IMAGES, np.arange(8), verbose=0)


def test_file_round_trip(tmp_path):
    model = ode_classifier(width=8, activation="leaky_tanh", **BUDGETS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(IMAGES), loaded(IMAGES))
    for name in ("encoder", "logits"):
        constraint = loaded.get_layer(name).kernel_constraint
        assert constraint.get_config() == (
            model.get_layer(name).kernel_constraint.get_config()
        )
    loaded.get_layer("ode").assert_constraints()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"encoder_max_norm": 0.0}, "max_norm=0.0"),
        ({"readout_max_norm": -1.0}, "max_norm=-1.0"),
        ({"delta_bar": float("inf")}, "delta_bar=inf"),
        ({"activation": "relu"}, "activation='relu'"),
        ({"solver": "leapfrog"}, "solver='leapfrog'"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        ode_classifier(width=8, **arguments)
