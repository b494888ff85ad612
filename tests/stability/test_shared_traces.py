import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf.stability.shared_traces import call_traced


@pytest.fixture
def counted():
    """A function, and the shapes for which Python has run it."""
    shapes = []

    def double(x, by=2.0):
        shapes.append(x.shape)
        return x * by

    return double, shapes


def in_a_graph(function, x, jit_compile=False, **settings):
    @tf.function(autograph=False, jit_compile=jit_compile)
    def graph(x):
        return call_traced(function, x, **settings)

    return graph(x).numpy()


def test_is_traced_once_for_all_graphs(counted):
    function, shapes = counted
    for _ in range(3):
        np.testing.assert_array_equal(in_a_graph(function, tf.ones(2)), 2.0)
    assert len(shapes) == 1


@pytest.mark.parametrize(
    ("x", "options"),
    [
        (tf.ones(3), {}),
        (tf.ones(2, tf.float64), {}),
        (tf.ones(2), {"by": 3.0}),
        (tf.ones(2), {"jit_compile": True}),
    ],
)
def test_is_traced_again_for_what_differs(x, options, counted):
    function, shapes = counted
    in_a_graph(function, tf.ones(2))
    for _ in range(2):
        expected = options.get("by", 2.0)
        np.testing.assert_array_equal(
            in_a_graph(function, x, **options), expected
        )
    assert len(shapes) == 2


def test_is_not_traced_eagerly(counted):
    function, shapes = counted
    for size in (2, 3, 2):
        call_traced(function, tf.ones(size))
    assert len(shapes) == 3


def test_has_gradients(counted):
    @tf.function(autograph=False)
    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = call_traced(counted[0], x, by=5.0)
        return tape.gradient(y, x)

    assert slope(tf.constant(1.0)).numpy() == 5.0
