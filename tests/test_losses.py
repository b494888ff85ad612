import keras
import numpy as np
import pytest

from stable_node_tf.losses import MarginCrossentropy


def test_is_a_smooth_maximum_of_the_negative_margins():
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((6, 4)).astype(np.float32)
    labels = generator.integers(4, size=6)
    margins = logits[np.arange(6), labels][:, None] - logits
    losses = keras.ops.convert_to_numpy(
        MarginCrossentropy(3.0, reduction=None)(labels, logits)
    )
    expected = np.log(np.exp(-3.0 * margins).sum(1)) / 3.0
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    hard = MarginCrossentropy(1e4, reduction=None)(labels, logits)
    np.testing.assert_allclose(hard, -margins.min(1), atol=1e-3)


def test_is_saved_and_loaded():
    loss = MarginCrossentropy(3.0)
    config = keras.losses.serialize(loss)
    assert keras.losses.deserialize(config).scale == 3.0


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan])
def test_refuses(scale):
    with pytest.raises(ValueError, match="scale"):
        MarginCrossentropy(scale)
