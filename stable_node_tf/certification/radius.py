"""The certified radius: no perturbation below it changes the class."""

import numpy as np
import tensorflow as tf

from stable_node_tf.stability.rounding import relative_rounding


def pair_distances(readout: np.ndarray) -> np.ndarray:
    """|W_i - W_j|₂ for all classes: Lipschitz constants of logit_i - logit_j.

    At most √2 |W|₂, and less where two classes share directions.

    They are upper bounds, float64, of shape (K, K), for a read-out (d, K).

    >>> pair_distances(np.eye(2)).round(3).tolist()
    [[0.0, 1.414], [1.414, 0.0]]
    """
    readout = np.asarray(readout, np.float64)
    apart = readout[:, :, None] - readout[:, None, :]
    scale = float(np.abs(apart).max(initial=0.0)) or 1.0
    norms = scale * np.linalg.norm(apart / scale, axis=0)
    return norms * (1 + relative_rounding(2 * len(readout) + 10))


# What `certified_radius` answers where no perturbation changes the class: not
# infinity, which `tf.debugging.enable_check_numerics` would take for a mistake.
UNLIMITED = float(np.finfo(np.float64).max)


def certified_radius(logits, pair_lipschitz, norms, offset, slope):
    """The ℓ2 radius within which the class cannot change, for each image.

    With L_ij a Lipschitz constant of logit_i - logit_j in real arithmetic, and
    |computed - real| <= e_ij + f_ij |x|₂ for that difference, an input x' at
    distance ρ keeps the class i of x in the computed network if, for all j,

        logit_i - logit_j > L_ij ρ + 2 (e_ij + f_ij |x|₂) + f_ij ρ,

    the errors at x and at x' included. (Tsuzuku, Sato, Sugiyama, NeurIPS 2018,
    for the principle.)

    Returns:
      The radii, float64, of shape (n,); 0 where nothing is proven, `UNLIMITED`
      where no perturbation at all changes the class.

    >>> L, none = pair_distances(np.eye(2)), np.zeros((2, 2))
    >>> certified_radius([[2.0, 0.0]], L, [1.0], none, none).numpy().round(3)
    array([1.414])
    """
    logits, norms = tf.cast(logits, tf.float64), tf.cast(norms, tf.float64)
    label = tf.argmax(logits, axis=-1)
    own = tf.reduce_max(logits, axis=-1, keepdims=True)
    tables = [np.asarray(t) for t in (offset, slope, pair_lipschitz)]
    finite = np.isfinite(tables).all(axis=0)
    bounded = tf.gather(tf.constant(finite), label)
    offset, slope, pair_lipschitz = (
        tf.gather(tf.constant(np.where(finite, table, 0.0)), label)
        for table in tables
    )
    # Rounding errors of these few operations in float64 are covered twice over.
    margin = own - logits - 2 * (offset + slope * norms[:, None])
    margin -= 1e-14 * (tf.abs(own) + tf.abs(logits))
    margin = tf.where(bounded & (margin > 0.0), margin, 0.0)
    lipschitz = (pair_lipschitz + slope) * (1 + 1e-14)
    grows = lipschitz > 0.0
    radii = margin / tf.where(grows, lipschitz, 1.0)
    other = tf.range(logits.shape[-1], dtype=label.dtype) != label[:, None]
    # Equal rows of the read-out differ by the same number everywhere.
    vacuous = ~grows & (margin > 0.0)
    radii = tf.where(other & ~vacuous, radii, UNLIMITED)
    return tf.reduce_min(radii, axis=-1)


def unlimited_to_infinity(radii: tf.Tensor) -> tf.Tensor:
    """Puts infinity for `UNLIMITED`."""
    return tf.where(radii == UNLIMITED, 2.0 * radii, radii)
