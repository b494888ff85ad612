"""The best witness: maximizes the lower bound of δ from many starts."""

import tensorflow as tf

_ELITE = 16
_STEPS_PER_ROUND = 100

_MATRICES = tf.TensorSpec([None, None], tf.float64)
_SCALAR = tf.TensorSpec([], tf.float64)
_COUNT = tf.TensorSpec([], tf.int32)


@tf.function(
    input_signature=[_MATRICES, _MATRICES, _SCALAR, _COUNT, _COUNT],
    autograph=False,
)
def maximize_witness(matrix, starts, alpha, rounds, seed):
    """Maximizes f(x) = max_D xᵀ D A x over the unit sphere.

    Every start climbs by the generalized power method (Journée et al., 2010),
    x <- (∇f(x) / 2 + cx) / |∇f(x) / 2 + cx|, all of them in two matrix products
    a step. Later rounds restart from the best vectors so far, shaken by noise
    (iterated local search): single climbs reach the best value known in a few
    per cent of the starts at d = 64, the rounds together nearly always. The
    winner is polished by alternating D(x) and the top eigenvector of sym(DA).

    `starts` is of shape (k, d), no row zero; `seed` seeds the noise, and equal
    arguments give equal results. Returns the best vector, of norm 1.
    """
    alpha, one = tf.cast(alpha, matrix.dtype), tf.ones([], matrix.dtype)
    shape = tf.shape(starts)
    elite = tf.minimum(_ELITE, shape[0])
    noise_size = 0.7 / tf.sqrt(tf.cast(shape[1], matrix.dtype))
    shift = 0.25 * tf.linalg.norm(matrix, 2)

    def worst_case(vectors):
        """Ax and the diagonal of D(x), for each row x."""
        images = tf.matmul(vectors, matrix, transpose_b=True)
        return images, tf.where(vectors * images > 0, one, alpha)

    def unit(vectors):
        return tf.math.l2_normalize(vectors, axis=-1, epsilon=0.0)

    def climb(vectors):
        images, slopes = worst_case(vectors)
        gradient = slopes * images + tf.matmul(slopes * vectors, matrix)
        moved = gradient / 2 + shift * vectors
        stuck = tf.reduce_all(moved == 0.0, axis=-1, keepdims=True)
        return unit(tf.where(stuck, vectors, moved))

    def values(vectors):
        images, slopes = worst_case(vectors)
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

    def polish(vector, last, gain):
        del gain
        scaled = tf.transpose(worst_case(vector)[1]) * matrix
        eigenvalues, eigenvectors = tf.linalg.eigh(
            (scaled + tf.transpose(scaled)) / 2
        )
        better = eigenvalues[-1] > last
        vector = tf.where(better, eigenvectors[None, :, -1], vector)
        return vector, eigenvalues[-1], better

    best = tf.while_loop(
        lambda index, *_: index < rounds,
        one_round,
        (0, unit(starts), unit(starts)[:elite]),
    )[2][:1]
    return tf.while_loop(
        lambda *state: state[-1],
        polish,
        (best, values(best)[0], True),
        maximum_iterations=20,
    )[0][0]
