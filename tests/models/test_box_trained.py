import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import DeepODELayer, certified_accuracy
from stable_node_tf.models import BoxTrained, certified_classifier

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def data(count=64):
    """Two classes: the upper or the lower half is brighter."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, count)
    images = generator.uniform(0.0, 0.7, (count, 8, 8, 1))
    for image, label in zip(images, labels, strict=True):
        image[4 * label : 4 * label + 4] += 0.3
    return images.astype(np.float32), labels


def test_training_on_boxes_makes_boxes_certifiable():
    model = certified_classifier(
        image_shape=(8, 8, 1), num_classes=2, width=8, blocks=1, norm="inf"
    )
    shares = []
    for trainee in (model, BoxTrained(model, epsilon=0.1, ramp_steps=1)):
        trainee.compile(keras.optimizers.Adam(0.01), LOSS, jit_compile=False)
        trainee.fit(*data(), epochs=20, batch_size=64, verbose=0)
        curve = certified_accuracy(model, *data(), [0.1], norm="inf")
        shares.append(curve.accuracies[0])
    assert curve.clean_accuracy > 0.9
    assert shares[1] > shares[0] + 0.2
    ode = model.get_layer("ode_0")
    ode.assert_constraints()
    assert ode.stability().delta_upper <= 0.0


def test_the_loss_is_that_of_the_worst_logits():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, use_bias=False)]
    )
    weights = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    model.set_weights([weights])
    trainee = BoxTrained(
        model, 0.2, ramp_steps=4, clean_share=0.25, bounds=None
    )
    trainee.compile(keras.optimizers.SGD(0.1), LOSS)
    trainee.optimizer.build(trainee.trainable_variables)
    x, y = np.ones((2, 3), "float32"), np.array([1, 3])
    logits = x @ weights
    apart = np.abs(weights[:, :, None] - weights[:, None, :]).sum(0)
    for step, ramp in ((0, 0.0), (2, 0.5), (9, 1.0)):
        trainee.optimizer.iterations.assign(step)
        found = trainee.compute_loss(x, y, tf.constant(logits))
        worst = logits + ramp * 0.2 * apart[y]
        share = 0.75 * ramp
        expected = (1 - share) * LOSS(y, logits) + share * LOSS(y, worst)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    evaluated = trainee.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(evaluated, LOSS(y, logits), rtol=1e-5)


def test_what_cannot_be_trained_on_boxes_is_refused():
    image = keras.Input((4,))
    deep = DeepODELayer((3,), name="deep")(image)
    with pytest.raises(ValueError, match="'deep'"):
        BoxTrained(keras.Model(image, keras.layers.Dense(2)(deep)), 0.1, 10)
    single = keras.Model(image, keras.layers.Dense(1)(image))
    with pytest.raises(ValueError, match="two logits"):
        BoxTrained(single, 0.1, 10)
    with pytest.raises(ValueError, match="`epsilon`"):
        BoxTrained(keras.Model(image, keras.layers.Dense(2)(image)), 0.0, 10)
