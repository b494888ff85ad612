"""Rules for convolutions: the norm of the operator, in real arithmetic.

Libraries may compute them by Winograd's or Fourier's transforms, whose rounding
is not bounded here. On the CPU TensorFlow sums products, which is what boxes
count on: with a GPU at hand they hold in real arithmetic.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from stable_node_tf.certification import boxes
from stable_node_tf.certification.activations import (
    activation_box,
    activation_lipschitz,
)
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


def _box(apply: Callable[..., Any]) -> Any:
    """Of a layer that computes `apply(layer, images, kernel)` and a bias."""

    def box_rule(layer: Any, box: boxes.Box) -> boxes.Box:
        box = _convolved(layer, box, apply, layer.kernel, layer.bias)
        return activation_box(layer, box)

    return box_rule


def _separable_box(layer: Any, box: boxes.Box) -> boxes.Box:
    box = _convolved(layer, box, _apply_depthwise, layer.depthwise_kernel, None)
    box = _convolved(
        layer, box, _apply_pointwise, layer.pointwise_kernel, layer.bias
    )
    return activation_box(layer, box)


def _convolved(
    layer: Any, box: boxes.Box, apply: Any, kernel: Any, bias: Any
) -> boxes.Box:
    kernel = tf.cast(kernel, box.center.dtype)
    if bias is not None:
        bias = tf.cast(bias, box.center.dtype)
        if layer.data_format == "channels_first":
            bias = tf.reshape(bias, (-1, *[1] * layer.rank))
    if tf.config.get_visible_devices("GPU"):
        box = box._replace(unit=0.0)
    return boxes.affine(
        box,
        lambda x: apply(layer, x, kernel),
        lambda x: apply(layer, x, tf.abs(kernel)),
        bias,
        # Of all taps and channels: of outputs too, in whatever order they are.
        math.prod(kernel.shape[:-2]) * max(kernel.shape[-2:]),
    )


def _apply(layer: Any, x: Any, kernel: Any) -> Any:
    padding = layer.padding
    if padding == "causal":
        x = keras.ops.pad(x, layer._compute_causal_padding())
        padding = "valid"
    return keras.ops.conv(
        x,
        kernel,
        strides=list(layer.strides),
        padding=padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )


def _apply_transposed(layer: Any, x: Any, kernel: Any) -> Any:
    return keras.ops.conv_transpose(
        x,
        kernel,
        strides=list(layer.strides),
        padding=layer.padding,
        output_padding=layer.output_padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )


def _apply_depthwise(layer: Any, x: Any, kernel: Any) -> Any:
    return keras.ops.depthwise_conv(
        x,
        kernel,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )


def _apply_pointwise(layer: Any, x: Any, kernel: Any) -> Any:
    return keras.ops.conv(x, kernel, data_format=layer.data_format)


for _types, _lipschitz, _box_rule in (
    (
        (layers.Conv1D, layers.Conv2D, layers.Conv3D),
        _convolution,
        _box(_apply),
    ),
    (
        (
            layers.Conv1DTranspose,
            layers.Conv2DTranspose,
            layers.Conv3DTranspose,
        ),
        _transposed,
        _box(_apply_transposed),
    ),
    (
        (layers.DepthwiseConv1D, layers.DepthwiseConv2D),
        _depthwise,
        _box(_apply_depthwise),
    ),
    (
        (layers.SeparableConv1D, layers.SeparableConv2D),
        _separable,
        _separable_box,
    ),
):
    for _type in _types:
        register_rule(_type, lipschitz=_lipschitz, box=_box_rule)
