"""Every constraint ends inside its set, whatever comes in."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import LogNormConstraint, SpectralNormConstraint
from stable_node_tf.constraints.product_log_norm import ProductLogNormConstraint
from stable_node_tf.stability.convolution_norm import convolution_norm
from stable_node_tf.stability.inf_log_norm import inf_euler_log_norm

MODES = ["graph", "xla", "functions_eager"]
DTYPES = ["float32", "float64"]
MODES_AND_DTYPES = [
    ("graph", "float64"),
    ("xla", "float32"),
    ("functions_eager", "float32"),
]
SIZE = 4
LOG_NORMS = [  # delta_bar, alpha, step
    (0.0, 0.1, 0.0),
    (0.1, 0.1, 0.0),
    (-1.0, 0.5, 0.0),
    (1e-3, 1e-5, 0.0),
    (2.0, 0.95, 0.0),
    (0.0, 1.0, 0.0),
    (-0.3, 1.0, 0.0),
    (0.0, 0.1, 0.25),
    (0.1, 0.9, 1.0),
    (-0.5, 1.0, 0.5),
]
INF_LOG_NORMS = [
    (0.0, 0.1, 0.0),
    (0.1, 1.0, 0.0),
    (-1.0, 0.5, 0.0),
    (1e-3, 1e-5, 0.0),
    (0.0, 0.1, 0.25),
    (0.7, 0.9, 1.0),
    (-0.5, 0.5, 0.5),
]


@pytest.fixture
def call(request):
    """Calls a function in one of the ways in which TensorFlow runs it."""
    if request.param == "functions_eager":
        tf.config.run_functions_eagerly(True)
        yield tf.function
        tf.config.run_functions_eagerly(False)
    else:
        jit = request.param == "xla"
        yield lambda function: tf.function(
            function, autograph=False, jit_compile=jit
        )


def kernels(dtype, shape=(SIZE, SIZE)):
    """What an optimizer, a user or a file may leave in a kernel."""
    generator = np.random.default_rng(0)
    info = np.finfo(dtype)
    normal = generator.standard_normal(shape)
    rows, columns = shape
    left = np.linalg.qr(generator.standard_normal((rows, rows)))[0]
    right = np.linalg.qr(generator.standard_normal((columns, columns)))[0]
    spread = np.zeros(shape)
    np.fill_diagonal(spread, np.geomspace(1e6, 1.0, min(shape)))
    exponents = generator.integers(-30, 30, (rows, 1))
    outlier = normal.copy()
    outlier[0, -1] = 1e20
    with np.errstate(under="ignore"):
        found = {
            "zero": 0.0 * normal,
            "ordinary": normal,
            "positive": np.eye(*shape),
            "negative": -3.0 * np.eye(*shape),
            "subnormal": np.full(shape, info.smallest_subnormal, dtype),
            "nearly_subnormal": 2 * float(info.tiny) * normal,
            "small": 1e-30 * normal,
            "large": 1e30 * normal,
            "largest": np.full(shape, info.max, dtype),
            "alternating": info.max * np.sign(normal).astype(dtype),
            "most_negative": (-info.max * np.eye(*shape)).astype(dtype),
            "outlier": outlier,
            "spread": left @ spread @ right,
            "mixed_rows": normal * 10.0**exponents,
            "nilpotent": 1e6 * np.eye(*shape, k=1),
        }
        return {name: A.astype(dtype) for name, A in found.items()}


def log_norm(matrix, alpha, step):
    """δ or δ_h, over all vertices, and what its rounding errors are below."""
    matrix = matrix.astype(np.float64)
    vertices = itertools.product([alpha, 1.0], repeat=len(matrix))
    scaled = np.array(list(vertices))[:, :, None] * matrix
    size = np.abs(matrix).max()
    if step == 0.0:
        unit = scaled / (size or 1.0)
        symmetric = (unit + unit.transpose(0, 2, 1)) / 2
        return size * np.linalg.eigvalsh(symmetric)[:, -1].max(), 1e-14 * size
    norm = np.linalg.norm(np.eye(len(matrix)) + step * scaled, 2, (-2, -1))
    error = 1e-14 * (1.0 + step * size) ** 2 / step
    return (norm.max() ** 2 - 1.0) / (2 * step), error


@pytest.mark.parametrize(
    "call, dtype, delta_bar, alpha, step",
    [
        *(("graph", "float64", *case) for case in LOG_NORMS),
        *(("graph", "float32", *case) for case in LOG_NORMS[1::2]),
        *(("xla", "float32", *case) for case in LOG_NORMS[::3]),
        ("xla", "float64", *LOG_NORMS[0]),
        ("xla", "float64", *LOG_NORMS[7]),
    ],
    indirect=["call"],
)
def test_log_norm(call, dtype, delta_bar, alpha, step):
    state = [tf.Variable(np.ones(SIZE)) for _ in range(2)]
    attached = LogNormConstraint(delta_bar, alpha, step)
    attached.attach(*state, tf.Variable(np.float64(0.0)))
    apply = call(attached)
    for carried in (1e-140, 1.0):
        for name, kernel in kernels(dtype).items():
            state[1].assign(np.full(SIZE, carried))
            result = apply(tf.constant(kernel)).numpy()
            case = (name, carried)
            assert result.dtype == dtype and np.isfinite(result).all(), case
            reached, error = log_norm(result, alpha, step)
            assert reached <= delta_bar + error, case
            for variable in state:
                assert np.isfinite(variable).all(), case
                assert np.all(variable.numpy() > 0.0), case


@pytest.mark.parametrize("call, dtype", MODES_AND_DTYPES, indirect=["call"])
@pytest.mark.parametrize("delta_bar, alpha, step", LOG_NORMS[::7])
def test_log_norm_without_state(call, dtype, delta_bar, alpha, step):
    apply = call(LogNormConstraint(delta_bar, alpha, step))
    eager = call is tf.function  # where a search takes a second
    for name, kernel in list(kernels(dtype).items())[:: 3 if eager else 1]:
        result = apply(tf.constant(kernel)).numpy()
        reached, error = log_norm(result, alpha, step)
        assert np.isfinite(result).all(), name
        assert reached <= delta_bar + error, name


@pytest.mark.parametrize("call, dtype", MODES_AND_DTYPES, indirect=["call"])
@pytest.mark.parametrize("delta_bar, alpha, step", INF_LOG_NORMS)
def test_inf_log_norm(call, dtype, delta_bar, alpha, step):
    constraint = LogNormConstraint(delta_bar, alpha, step, norm="inf")
    total = tf.Variable(np.float64(0.0))
    constraint.attach(None, None, total)
    apply = call(constraint)
    for name, kernel in kernels(dtype).items():
        result = apply(tf.constant(kernel)).numpy()
        assert result.dtype == dtype and np.isfinite(result).all(), name
        wide = result.astype(np.float64)
        _, reached = inf_euler_log_norm(wide, alpha, step)
        assert reached <= delta_bar, name  # no allowance: all is exact here
        if np.abs(result).max() <= np.finfo(dtype).max / (8 * SIZE):
            again = apply(tf.constant(result)).numpy()
            np.testing.assert_array_equal(again, result, err_msg=name)
    assert np.isfinite(total.numpy())


@pytest.mark.parametrize("delta_bar, alpha, step", INF_LOG_NORMS)
def test_inf_log_norm_is_the_projection(delta_bar, alpha, step):
    cvxpy = pytest.importorskip("cvxpy")
    matrix = kernels("float64", (5, 5))["ordinary"]
    apply = LogNormConstraint(delta_bar, alpha, step, norm="inf")
    found = apply(tf.constant(matrix)).numpy()
    B = cvxpy.Variable(matrix.shape)
    off = cvxpy.sum(cvxpy.multiply(1.0 - np.eye(5), cvxpy.abs(B)), axis=1)
    bounds = []
    for slope in (alpha, 1.0):
        if step == 0.0:
            bounds.append(slope * (cvxpy.diag(B) + off) <= delta_bar)
        else:
            scaled = cvxpy.abs(1.0 + step * slope * cvxpy.diag(B))
            bounds.append(scaled + step * slope * off <= 1 + step * delta_bar)
    problem = cvxpy.Problem(
        cvxpy.Minimize(cvxpy.sum_squares(B - matrix)), bounds
    )
    problem.solve("CLARABEL", tol_gap_abs=1e-13, tol_gap_rel=1e-13)
    np.testing.assert_allclose(found, B.value, atol=2e-6)
    narrow = apply(tf.constant(matrix, tf.float32)).numpy()
    np.testing.assert_allclose(narrow, found, atol=1e-5)


def test_inf_log_norm_moves_no_two_matrices_apart():
    generator = np.random.default_rng(0)
    for step in (0.0, 0.25):
        constraint = LogNormConstraint(0.1, 0.3, step, norm="inf")
        for scale in (0.1, 1.0, 100.0):
            pair = scale * generator.standard_normal((2, 30, 30))
            moved = [constraint(tf.constant(A)).numpy() for A in pair]
            before = np.linalg.norm(pair[0] - pair[1])
            assert np.linalg.norm(moved[0] - moved[1]) <= before * (1 + 1e-12)


def test_dtypes_without_room_are_named():
    constraint = LogNormConstraint(-1e39, 1.0, norm="inf")
    with pytest.raises(ValueError, match="float32 must have room"):
        constraint(tf.eye(2))
    assert constraint(tf.eye(2, dtype=tf.float64))[0, 0] <= -1e39


@pytest.mark.parametrize("call", MODES, indirect=True)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, max_norm", [((40, 3), 1e-20), ((2, 5), 1e30)])
def test_spectral_norm(call, dtype, shape, max_norm):
    apply = call(SpectralNormConstraint(max_norm))
    for name, kernel in kernels(dtype, shape).items():
        result = apply(tf.constant(kernel)).numpy().astype(np.float64)
        peak = np.abs(result).max() or 1.0
        norm = np.linalg.norm(result / peak, 2) * peak
        assert norm <= max_norm * (1 + 1e-14), name


@pytest.mark.parametrize("call", ["graph", "xla"], indirect=True)
@pytest.mark.parametrize(
    "dtype, ratio", [("float32", 1e6), ("float32", 1e30), ("float64", 1e30)]
)
def test_spectral_norm_of_spread_singular_values(call, dtype, ratio):
    generator = np.random.default_rng(0)
    left, _, right = np.linalg.svd(generator.standard_normal((128, 128)))
    matrix = (left * np.geomspace(ratio, 1, 128)) @ right
    result = call(SpectralNormConstraint(1.0))(tf.constant(matrix, dtype))
    assert np.linalg.norm(result.numpy().astype(np.float64), 2) <= 1 + 1e-15


@pytest.mark.parametrize("call", MODES, indirect=True)
@pytest.mark.parametrize(
    "dtype, shape, strides, max_norm",
    [
        ("float32", (3, 3, 2, 3), 1, 1e-20),
        ("float64", (4, 3, 2), 1, 1e30),
        ("float32", (3, 4, 1, 2), (2, 1), 1.0),
        ("float32", (2, 2, 2, 3, 1), 2, 1.0),
        ("float64", (2, 1, 3, 2, 2), 1, 0.1),
    ],
)
def test_spectral_norm_of_convolutions(call, dtype, shape, strides, max_norm):
    apply = call(SpectralNormConstraint(max_norm, strides))
    flat = (int(np.prod(shape[:-1])), shape[-1])
    eager = call is tf.function  # where what is far outside takes a second
    for name, kernel in list(kernels(dtype, flat).items())[
        :: 4 if eager else 1
    ]:
        result = apply(tf.constant(kernel.reshape(shape))).numpy()
        assert result.dtype == dtype and np.isfinite(result).all(), name
        bound = convolution_norm(result, strides)
        assert bound <= max_norm * (1 + 1e-9), name
        if max_norm == 1.0 and name in ("ordinary", "large", "spread"):
            assert bound >= 0.97, name
        if strides == 1:
            again = apply(tf.constant(result)).numpy()
            np.testing.assert_array_equal(again, result, err_msg=name)


@pytest.mark.parametrize("call", MODES, indirect=True)
@pytest.mark.parametrize(
    "dtype, bound, alpha", [("float32", 0.1, 0.1), ("float64", 3.0, 1.0)]
)
def test_product(call, dtype, bound, alpha):
    first = tf.Variable(tf.zeros((3, 2), dtype))
    multipliers = tf.Variable(np.ones(5))
    constraint = ProductLogNormConstraint(bound, alpha)
    constraint.attach([first], multipliers, tf.Variable(np.float64(0.0)))
    apply = call(constraint)
    seconds = kernels(dtype, (2, 3))
    for name, kernel in kernels(dtype, (3, 2)).items():
        first.assign(kernel)
        second = apply(tf.constant(seconds[name])).numpy().astype(np.float64)
        assert np.all(multipliers.numpy() > 0.0), name
        assert np.isfinite(multipliers).all(), name
        # The product, with every D_1 in between.
        for slopes in itertools.product([alpha, 1.0], repeat=3):
            product = second @ (np.array(slopes)[:, None] * first.numpy())
            reached, error = log_norm(product, alpha, 0.0)
            assert reached <= bound + error, name


@pytest.mark.parametrize(
    "call, dtype, number",
    [
        ("graph", "float64", np.inf),
        ("xla", "float32", np.nan),
        ("functions_eager", "float32", np.inf),
    ],
    indirect=["call"],
)
def test_what_is_not_finite_is_not_hidden_and_leaves_the_state(
    call, dtype, number
):
    kernel = np.eye(SIZE, dtype=dtype)
    kernel[1, 2] = number
    state = [tf.Variable(np.ones(SIZE)) for _ in range(2)]
    state.append(tf.Variable(np.float64(0.0)))
    product = [tf.Variable(np.ones(2 * SIZE)), tf.Variable(np.float64(0.0))]
    constraints = [
        LogNormConstraint(0.0, 0.5),
        LogNormConstraint(0.0, 1.0),
        LogNormConstraint(0.0, 0.5, norm="inf"),
        LogNormConstraint(0.0, 0.5, 0.1, norm="inf"),
        SpectralNormConstraint(1.0),
        lambda w: SpectralNormConstraint(1.0)(w[None, None]),
        ProductLogNormConstraint(1.0, 0.5),
    ]
    constraints[0].attach(*state)
    first = tf.Variable(tf.eye(SIZE, dtype=dtype))
    constraints[-1].attach([first], *product)
    for constraint in constraints:
        result = call(constraint)(tf.constant(kernel)).numpy()
        assert not np.isfinite(result).all()
    for variable in (*state, *product):
        assert np.isfinite(variable).all()
