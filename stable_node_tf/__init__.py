"""Neural ODE classifiers for Keras that are provably stable.

>>> import keras
>>> model = keras.Sequential([keras.Input((4,)), StableODELayer(delta_bar=0.0)])
>>> model.output_shape
(None, 4)
"""

import os as _os

if _os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    raise ImportError(
        "stable_node_tf needs Keras on TensorFlow: KERAS_BACKEND must be unset "
        f"or 'tensorflow'. Received: {_os.environ['KERAS_BACKEND']!r}"
    )

from stable_node_tf.activations import (
    CustomActivation,
    LeakyTanh,
    SmoothLeakyReLU,
)
from stable_node_tf.callbacks import StabilityMonitor
from stable_node_tf.certification import certified_accuracy, certified_radii
from stable_node_tf.constraints import LogNormConstraint, SpectralNormConstraint
from stable_node_tf.initializers import SkewSymmetric
from stable_node_tf.layers import (
    DeepODELayer,
    PiecewiseODELayer,
    StabilityReport,
    StableODELayer,
)
from stable_node_tf.losses import MarginCrossentropy
from stable_node_tf.models import (
    ChangedLayer,
    StabilizationReport,
    Stabilized,
    certified_classifier,
    ode_classifier,
    stabilize,
)
from stable_node_tf.saved_model import load_classifier, save_classifier
from stable_node_tf.solvers import Euler, RungeKutta4
from stable_node_tf.stability.log_norm import (
    Witness,
    WorstCaseLogNorm,
    attained_log_norm,
    certified_log_norm,
    euler_log_norm,
    worst_case_log_norm,
)
from stable_node_tf.stability.product_log_norm import (
    ProductLogNorm,
    product_log_norm,
)
from stable_node_tf.stability.projection.nearest import (
    NearestStable,
    nearest_stable,
)
from stable_node_tf.stability.slope_interval import (
    SlopeInterval,
    largest_slope_interval,
)

__version__ = "0.1.0"

__all__ = [
    "ChangedLayer",
    "CustomActivation",
    "DeepODELayer",
    "Euler",
    "LeakyTanh",
    "LogNormConstraint",
    "MarginCrossentropy",
    "NearestStable",
    "PiecewiseODELayer",
    "ProductLogNorm",
    "RungeKutta4",
    "SkewSymmetric",
    "SlopeInterval",
    "SmoothLeakyReLU",
    "SpectralNormConstraint",
    "StabilityMonitor",
    "StabilityReport",
    "StabilizationReport",
    "Stabilized",
    "StableODELayer",
    "Witness",
    "WorstCaseLogNorm",
    "attained_log_norm",
    "certified_accuracy",
    "certified_classifier",
    "certified_log_norm",
    "certified_radii",
    "euler_log_norm",
    "largest_slope_interval",
    "load_classifier",
    "nearest_stable",
    "ode_classifier",
    "product_log_norm",
    "save_classifier",
    "stabilize",
    "worst_case_log_norm",
]
