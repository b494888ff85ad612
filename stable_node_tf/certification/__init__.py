"""What is proven about whole classifiers: radii and accuracy."""

from stable_node_tf.certification.activations import register_activation
from stable_node_tf.certification.box_certifier import BoxCertifier
from stable_node_tf.certification.certifier import (
    CertifiedCurve,
    Certifier,
    certified_accuracy,
    certified_radii,
    certifier,
)
from stable_node_tf.certification.rules import register_rule

__all__ = [
    "BoxCertifier",
    "CertifiedCurve",
    "Certifier",
    "certified_accuracy",
    "certified_radii",
    "certifier",
    "register_activation",
    "register_rule",
]
