"""The best witness: maximizes the lower bound of δ from many starts."""

import tensorflow as tf

_ELITE = 16
_STEPS_PER_ROUND = 100

_MATRICES = tf.TensorSpec([None, None], tf.float64)
_VECTOR = tf.TensorSpec([None], tf.float64)
_COUNT = tf.TensorSpec([], tf.int32)


@tf.function(
    input_signature=[_MATRICES, _MATRICES, _VECTOR, _VECTOR, _COUNT, _COUNT],
    autograph=False,
)
def maximize_witness(matrix, starts, lower_slope, upper_slope, rounds, seed):
    """Maximizes f(x) = max_D xᵀ D A x over the unit sphere.

    Every start climbs by the generalized power method (Journée et al., 2010),
    x <- (∇f(x) / 2 + cx) / |∇f(x) / 2 + cx|, all of them in two matrix products
    a step. Later rounds restart from the best vectors so far, shaken by noise
    (iterated local search): single climbs reach the best value known in a few
    per cent of the starts at d = 64, the rounds together nearly always. The
    winner is polished by alternating D(x) and the top eigenvector of sym(DA).

    Args:
      matrix: A, float64, of shape (d, d).
      starts: of shape (k, d), no row zero.
      lower_slope: of shape (d,).
      upper_slope: of shape (d,).
      rounds: int32, number of rounds, at least 1.
      seed: int32, of the noise; the result is a function of the arguments.

    Returns:
      The best vector, of shape (d,) and norm 1, and its slopes D of shape (d,).
    """
    shape = tf.shape(starts)
    elite = tf.minimum(_ELITE, shape[0])
    noise_size = 0.7 / tf.sqrt(tf.cast(shape[1], matrix.dtype))
    shift = 0.25 * tf.linalg.norm(matrix, 2)

    def slopes_of(vectors, images):
        return tf.where(vectors * images > 0, upper_slope, lower_slope)

    def unit(vectors):
        return tf.math.l2_normalize(vectors, axis=-1, epsilon=0.0)

    def climb(vectors):
        images = tf.matmul(vectors, matrix, transpose_b=True)
        slopes = slopes_of(vectors, images)
        gradient = slopes * images + tf.matmul(slopes * vectors, matrix)
        moved = gradient / 2 + shift * vectors
        stuck = tf.reduce_all(moved == 0.0, axis=-1, keepdims=True)
        return unit(tf.where(stuck, vectors, moved))

    def values(vectors):
        images = tf.matmul(vectors, matrix, transpose_b=True)
        slopes = slopes_of(vectors, images)
        return tf.reduce_sum(slopes * vectors * images, -1)

    def one_round(index, vectors, best):
        _, vectors = tf.while_loop(
            lambda step, _: step < _STEPS_PER_ROUND,
            lambda step, x: (step + 1, climb(x)),
            (0, vectors),
        )
        pool = tf.concat([vectors, best], 0)
        best = tf.gather(pool, tf.math.top_k(values(pool), elite).indices)
        noise = tf.random.stateless_normal(
            shape, tf.stack([seed, index]), dtype=matrix.dtype
        )
        shaken = tf.tile(best, [shape[0] // elite + 1, 1])[: shape[0]]
        return index + 1, unit(shaken + noise_size * noise), best

    best = tf.while_loop(
        lambda index, *_: index < rounds,
        one_round,
        (0, unit(starts), unit(starts)[:elite]),
    )[2][0]

    def polish(vector, slopes, last, gain):
        del gain
        scaled = slopes[:, None] * matrix
        eigenvalues, eigenvectors = tf.linalg.eigh(
            (scaled + tf.transpose(scaled)) / 2
        )
        better = eigenvalues[-1] > last
        vector = tf.where(better, eigenvectors[:, -1], vector)
        slopes = slopes_of(vector, tf.linalg.matvec(matrix, vector))
        return vector, slopes, eigenvalues[-1], better

    slopes = slopes_of(best, tf.linalg.matvec(matrix, best))
    return tf.while_loop(
        lambda *state: state[-1],
        polish,
        (best, slopes, values(best[None])[0], True),
        maximum_iterations=20,
    )[:2]
