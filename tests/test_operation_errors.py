import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf.operation_errors import reason


def error_of(function):
    with pytest.raises(tf.errors.OpError) as caught:
        function()
    return caught.value


def beyond():
    """A train step whose labels are too large, as Keras reports it."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(np.ones((4, 2)), np.full(4, 7), verbose=0)


@tf.function
def below_one(number):
    tf.debugging.assert_less(number, 1.0, "too large")


def assertion():
    below_one(tf.constant(2.0))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (beyond, "Received a label value of 7 which is outside the valid"),
        (assertion, "too large"),
        (lambda: tf.io.read_file("/nowhere"), "/nowhere; No such file"),
        (lambda: tf.zeros([2]) + tf.zeros([3]), "Incompatible shapes"),
    ],
)
def test_says_what_was_wrong(function, said):
    line = reason(error_of(function))
    assert line.startswith(said)
    assert "\n" not in line and "{{" not in line and "[Op" not in line


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "2 root error(s) found.\n  (0) INTERNAL: Worker died\n"
            "\t [[{{node x}}]]\n  (1) INTERNAL: Other\n0 derived errors",
            "Worker died",
        ),
        ("Collective ops is aborted by: x\n more", "Collective ops is"),
        ("", "InternalError"),
        ("\n\n", "InternalError"),
    ],
)
def test_messages_of_other_forms(message, said):
    line = reason(tf.errors.InternalError(None, None, message))
    assert line.startswith(said)
