"""Rules for convolutions: the norm of the operator, in real arithmetic.

Libraries may compute them by Winograd's or Fourier's transforms, whose rounding
is not bounded here.
"""

from typing import Any

import keras

from stable_node_tf.certification.activations import activation_lipschitz
from stable_node_tf.certification.keras_layers.numbers import float64
from stable_node_tf.certification.rules import register_rule
from stable_node_tf.stability.convolution_norm import convolution_norm
from stable_node_tf.stability.lipschitz import network_lipschitz

layers = keras.layers


def _convolution(layer: Any) -> float:
    norm = convolution_norm(
        float64(layer.kernel), layer.strides, layer.dilation_rate, layer.groups
    )
    return network_lipschitz(norm, activation_lipschitz(layer))


def _transposed(layer: Any) -> float:
    """The norm is that of the convolution from its output to its input."""
    norm = convolution_norm(
        float64(layer.kernel), layer.strides, layer.dilation_rate
    )
    return network_lipschitz(norm, activation_lipschitz(layer))


def _depthwise(layer: Any) -> float:
    return network_lipschitz(
        _depthwise_norm(layer, float64(layer.kernel)),
        activation_lipschitz(layer),
    )


def _separable(layer: Any) -> float:
    depthwise = float64(layer.depthwise_kernel)
    pointwise = float64(layer.pointwise_kernel)
    return network_lipschitz(
        _depthwise_norm(layer, depthwise),
        convolution_norm(pointwise),
        activation_lipschitz(layer),
    )


def _depthwise_norm(layer: Any, kernel: Any) -> float:
    """Every channel by itself: as many groups as channels."""
    *sizes, channels, multiplier = kernel.shape
    return convolution_norm(
        kernel.reshape(*sizes, 1, channels * multiplier),
        layer.strides,
        layer.dilation_rate,
        channels,
    )


for _types, _lipschitz in (
    ((layers.Conv1D, layers.Conv2D, layers.Conv3D), _convolution),
    (
        (
            layers.Conv1DTranspose,
            layers.Conv2DTranspose,
            layers.Conv3DTranspose,
        ),
        _transposed,
    ),
    ((layers.DepthwiseConv1D, layers.DepthwiseConv2D), _depthwise),
    ((layers.SeparableConv1D, layers.SeparableConv2D), _separable),
):
    for _type in _types:
        register_rule(_type, lipschitz=_lipschitz)
