"""Rules for layers and operations of Keras, one family a file."""

from stable_node_tf.certification.keras_layers import (
    activation_layers,
    convolutions,
    dense,
    merging,
    moves,
    normalization,
    operations,
    pooling,
)

__all__ = [
    "activation_layers",
    "convolutions",
    "dense",
    "merging",
    "moves",
    "normalization",
    "operations",
    "pooling",
]
