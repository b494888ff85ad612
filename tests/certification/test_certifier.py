import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import (
    DeepODELayer,
    Euler,
    LeakyTanh,
    PiecewiseODELayer,
    RungeKutta4,
    SmoothLeakyReLU,
    StableODELayer,
    ode_classifier,
)
from stable_node_tf.certification.certifier import (
    certified_accuracy,
    certified_radii,
    certifier,
)
from stable_node_tf.certification.rules import register_rule


def deep(**options):
    return DeepODELayer((30, 9), damping=0.7, **options)


def pieces(dtype, **options):
    layer = StableODELayer(dtype=dtype, **options)
    return PiecewiseODELayer(layer, 3)


def classifier(
    width=12,
    dtype="float32",
    blocks=1,
    seed=0,
    block=StableODELayer,
    **options,
):
    keras.utils.set_random_seed(seed)
    normal = keras.initializers.RandomNormal(stddev=0.5, seed=seed)
    image = keras.Input((4, 4, 1), name="image", dtype=dtype)
    x = keras.layers.Flatten(dtype=dtype)(image)
    x = keras.layers.Dense(width, bias_initializer=normal, dtype=dtype)(x)
    for _ in range(blocks):
        x = block(
            kernel_initializer=normal,
            bias_initializer=normal,
            dtype=dtype,
            **options,
        )(x)
    logits = keras.layers.Dense(3, bias_initializer=normal, dtype=dtype)(x)
    return keras.Model(image, logits)


def images(count, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, 4, 4, 1))


OPTIONS = [
    {"solver": Euler(4)},
    {"solver": Euler(4), "delta_bar": 0.3},
    {"solver": Euler(2), "delta_bar": 0.0, "discrete": True, "blocks": 2},
    {"solver": RungeKutta4(2)},
    {"solver": Euler(3), "activation": SmoothLeakyReLU(1.0)},
    {"solver": Euler(4), "block": deep, "delta_bar": 0.2},
    {"solver": Euler(2), "block": pieces, "delta_bar": 0.1},
]
EULER = [options for options in OPTIONS if isinstance(options["solver"], Euler)]


@pytest.fixture(scope="module", params=OPTIONS)
def model(request):
    return classifier(dtype="float64", **request.param)


def test_no_pair_of_inputs_violates_the_bound(model):
    bound = certifier(model).pair_lipschitz
    generator = np.random.default_rng(1)
    tightest = 0.0
    for scale in (1e-3, 0.1, 10.0):
        x = images(300)
        y = x + scale * generator.standard_normal(x.shape)
        change = (model(x) - model(y)).numpy()
        change = np.abs(change[:, :, None] - change[:, None, :])
        distance = np.linalg.norm((x - y).reshape(300, -1), axis=1)
        ratio = change / distance[:, None, None]
        assert np.all(ratio <= bound * (1 + 1e-9) + 1e-9)
        off = ~np.eye(3, dtype=bool)
        tightest = max(tightest, (ratio[:, off] / bound[off]).max())
    assert tightest > 0.05


def test_no_attack_reaches_into_the_certified_radius(model):
    """Gradient ascent on every margin, to the edge of the radius."""
    x = images(60)
    labels, radii = certified_radii(model, x)
    assert np.all(radii >= 0.0) and radii.max() > 0.0

    @tf.function(autograph=False)
    def margin_gradient(x, other):
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = model(x)
            margin = logits[:, other] - tf.gather(logits, labels, batch_dims=1)
        return tape.gradient(margin, x)

    for other in tf.range(3):
        attacked = tf.constant(x)
        for _ in range(20):
            gradient = margin_gradient(attacked, other).numpy()
            norm = np.linalg.norm(gradient.reshape(len(x), -1), axis=1)
            move = gradient / (norm + 1e-12)[:, None, None, None]
            offset = attacked.numpy() + 0.1 * radii[:, None, None, None] * move
            offset -= x
            length = np.linalg.norm(offset.reshape(len(x), -1), axis=1)
            shrink = np.minimum(1.0, radii / np.maximum(length, 1e-300))
            attacked = tf.constant(x + offset * shrink[:, None, None, None])
        found = model(attacked).numpy().argmax(1)
        np.testing.assert_array_equal(found[radii > 0], labels[radii > 0])


def test_radius_of_a_linear_classifier_is_exact():
    """Distance to the nearest decision boundary, known in closed form."""
    image = keras.Input((5,), dtype="float64")
    model = keras.Model(image, keras.layers.Dense(4, dtype="float64")(image))
    x = np.random.default_rng(0).standard_normal((50, 5))
    W = model.layers[-1].kernel.numpy()
    logits = x @ W
    labels, radii = certified_radii(model, x)
    np.testing.assert_array_equal(labels, logits.argmax(1))
    for i, label in enumerate(labels):
        exact = min(
            (logits[i, label] - logits[i, j])
            / np.linalg.norm(W[:, label] - W[:, j])
            for j in range(4)
            if j != label
        )
        assert exact * (1 - 1e-9) - 1e-12 <= radii[i] <= exact


@pytest.mark.parametrize("options", EULER)
def test_float32_errors_stay_below_their_bound(options):
    model = classifier(width=40, **options)
    exact = classifier(width=40, dtype="float64", **options)
    exact.set_weights(model.get_weights())
    bounds = certifier(model)
    assert "float32" in bounds.holds_for
    for scale in (1.0, 1e4):
        x = (scale * images(500, seed=3)).astype(np.float32)
        wide = x.astype(np.float64)
        error = (model(x).numpy().astype(np.float64) - exact(wide)).numpy()
        error = np.abs(error[:, :, None] - error[:, None, :])
        norms = np.linalg.norm(wide.reshape(500, -1), axis=1)
        allowed = bounds.offset + bounds.slope * norms[:, None, None]
        assert np.all(error <= allowed)
        assert error.max() > 1e-5 * allowed.max()


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("activation", [LeakyTanh(0.1), SmoothLeakyReLU(0.02)])
def test_activations_are_as_accurate_as_assumed(activation, xla):
    """Error within 16 roundings of the argument; seen: at most 6."""
    generator = np.random.default_rng(0)
    x = np.concatenate(
        [
            generator.uniform(-12, 12, 500_000),
            np.exp(generator.uniform(-60, 8, 250_000)),
            -np.exp(generator.uniform(-60, 8, 250_000)),
        ]
    ).astype(np.float32)
    computed = tf.function(activation, jit_compile=xla)(tf.constant(x))
    exact = activation(tf.constant(x.astype(np.float64))).numpy()
    error = np.abs(computed.numpy().astype(np.float64) - exact)
    assert np.all(error <= 16 * 2.0**-24 * np.abs(x.astype(np.float64)))


def test_rounding_only_lowers_radii():
    model = classifier(width=40, delta_bar=0.0)
    exact = classifier(width=40, dtype="float64", delta_bar=0.0)
    exact.set_weights(model.get_weights())
    x = images(100)
    loss = certified_radii(exact, x)[1] - certified_radii(model, x)[1]
    assert np.all(loss >= 0.0) and 0.0 < loss.max() < 1e-3


def test_certified_accuracy():
    model = classifier(delta_bar=0.0)
    x = images(200)
    labels, radii = certified_radii(model, x, batch_size=64)
    wrong = labels.copy()
    wrong[:50] = (wrong[:50] + 1) % 3
    edge = float(np.median(radii))
    curve = certified_accuracy(model, x, wrong, [0.0, edge, 100.0])
    assert curve.clean_accuracy == 0.75
    assert curve.accuracies.tolist() == [
        np.mean((radii > 0) & (labels == wrong)),
        np.mean((radii > edge) & (labels == wrong)),
        0.0,
    ]
    with pytest.raises(ValueError, match="radii"):
        certified_accuracy(model, x, wrong, [-1.0])


def test_layers_with_several_equations():
    """Pairs of inputs obey the product of the bounds."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6,), dtype="float64")
    deep = DeepODELayer((5,), delta_bar=0.2, solver=Euler(3), dtype="float64")
    pieces = PiecewiseODELayer(
        StableODELayer(solver=Euler(2), dtype="float64"), 2
    )
    x = pieces(deep(keras.layers.Dense(4, dtype="float64")(image)))
    model = keras.Model(image, keras.layers.Dense(3, dtype="float64")(x))
    bounds = certifier(model)
    assert bounds.holds_for == "2-norm, float64 arithmetic as computed"
    generator = np.random.default_rng(1)
    x = generator.standard_normal((500, 6))
    y = x + 1e-3 * generator.standard_normal(x.shape)
    change = (model(x) - model(y)).numpy()
    change = np.abs(change[:, 0] - change[:, 1])
    growth = (change / np.linalg.norm(x - y, axis=1)).max()
    assert growth <= bounds.pair_lipschitz[0, 1]


@pytest.mark.parametrize("layer", [StableODELayer, deep])
def test_other_solvers(layer):
    def chain(solver):
        return certifier(
            keras.Sequential(
                [keras.Input((6,)), layer(solver=solver), keras.layers.Dense(3)]
            )
        )

    assert chain("rk4").holds_for == "2-norm, real arithmetic"
    with pytest.raises(ValueError, match="exact flow"):
        chain("dormand_prince")


def test_says_what_it_cannot_certify():
    keras.utils.set_random_seed(0)
    image = keras.Input((4,))
    dense = keras.layers.Dense(3)
    hidden = keras.layers.Dense(4, activation="exponential", name="hidden")
    with pytest.raises(ValueError, match="'hidden'.*exponential.*register_act"):
        certifier(keras.Model(image, dense(hidden(image))))
    logits = keras.layers.Dense(3, activation="relu", name="logits")(image)
    with pytest.raises(ValueError, match="end with logits.*'logits'.*relu"):
        certifier(keras.Model(image, logits))
    ode = StableODELayer(solver="dormand_prince", name="adaptive")
    with pytest.raises(ValueError, match="'adaptive'"):
        certifier(keras.Model(image, keras.layers.Dense(3)(ode(image))))
    product = keras.layers.Multiply(name="product")([image, image])
    with pytest.raises(ValueError, match="'product'"):
        certifier(keras.Model(image, keras.layers.Dense(3)(product)))
    with pytest.raises(ValueError, match="end with a Dense"):
        certifier(keras.Model(image, StableODELayer()(image)))
    rows = keras.layers.Reshape((2, 2))(image)
    flat = keras.layers.Flatten()(keras.layers.Dense(3)(rows))
    with pytest.raises(ValueError, match="shape .None, 6."):
        certifier(keras.Model(image, flat))


class Cubed(keras.layers.Dense):
    def call(self, inputs):
        return super().call(inputs) ** 3


@keras.saving.register_keras_serializable(package="tests")
class Doubled(StableODELayer):
    def call(self, inputs):
        return 2 * super().call(inputs)


class Halved(keras.layers.Layer):
    def call(self, inputs):
        return inputs / 2.0


class HalvedAgain(Halved):
    pass


def test_layers_of_others_are_certified_by_their_rules():
    image = keras.Input((4,), dtype="float64")
    options = {"dtype": "float64"}
    ode = StableODELayer(solver=Euler(2), delta_bar=0.0, **options)
    logits = keras.layers.Dense(3, **options)

    def chain(layer):
        return keras.Model(image, logits(ode(layer(image))))

    with pytest.raises(ValueError, match="'mine' of type Halved.*register_r"):
        certifier(chain(Halved(name="mine", **options)))
    exact = certifier(chain(keras.layers.Flatten(**options)))
    register_rule(Halved, lipschitz=lambda layer: 0.5)
    found = certifier(chain(Halved(**options)))
    assert found.holds_for == "2-norm, real arithmetic"
    np.testing.assert_allclose(found.pair_lipschitz, exact.pair_lipschitz / 2)
    register_rule(
        Halved,
        lipschitz=lambda layer: 0.5,
        rounding=lambda layer, state, unit, shape: state._replace(
            size=0.5 * state.size, error=0.5 * state.error
        ),
    )
    found = certifier(chain(Halved(**options)))
    assert found.holds_for == "2-norm, float64 arithmetic as computed"
    np.testing.assert_allclose(found.slope, exact.slope / 2, rtol=0.1)
    with pytest.raises(ValueError, match="type HalvedAgain"):
        certifier(chain(HalvedAgain(**options)))
    tampered = Halved(**options)
    tampered.call = lambda inputs: 9.0 * inputs
    with pytest.raises(ValueError, match="type Halved, whose `call` was repl"):
        certifier(chain(tampered))
    register_rule(Halved, lipschitz=lambda layer: np.nan)
    with pytest.raises(ValueError, match="rule of layer .*number >= 0.*nan"):
        certifier(chain(Halved(**options)))
    for wrong in (Halved(), "Halved", dict):
        with pytest.raises(TypeError, match="`layer_type` must be a subclass"):
            register_rule(wrong, lipschitz=lambda layer: 1.0)


def test_tensors_that_lead_nowhere_do_not_matter():
    entry = keras.Input((4,))
    first = keras.layers.Dense(3)(entry)
    inner = keras.Model(entry, [first, keras.layers.Dense(3, "relu")(first)])
    image = keras.Input((4,))
    apart = keras.Model(image, inner(image)[0])
    alone = keras.Model(entry, first)
    np.testing.assert_allclose(
        certifier(apart).pair_lipschitz, certifier(alone).pair_lipschitz
    )


def test_refuses_what_only_looks_like_a_known_layer():
    image = keras.Input((4,))
    model = keras.Model(image, keras.layers.Dense(3, name="logits")(image))
    model.quantize("int8")
    with pytest.raises(ValueError, match="'logits'.*quantization"):
        certifier(model)
    hidden = Cubed(4, name="cubed")(image)
    with pytest.raises(ValueError, match="'cubed' of type Cubed"):
        certifier(keras.Model(image, keras.layers.Dense(3)(hidden)))
    doubled = PiecewiseODELayer(Doubled(), 2)(image)
    with pytest.raises(ValueError, match="_piece_0' of type Doubled"):
        certifier(keras.Model(image, keras.layers.Dense(3)(doubled)))


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


class OwnCall(keras.Model):
    def call(self, inputs, training=None):
        return 100 * super().call(inputs, training=training)


class OwnCallInARow(keras.Sequential):
    def call(self, inputs, training=None):
        return 100 * super().call(inputs, training=training)


def test_refuses_models_that_compute_something_else():
    image = keras.Input((4,))
    logits = keras.layers.Dense(3)(StableODELayer()(image))
    certifier(OwnStep(image, logits))
    in_a_row = OwnCallInARow([image, keras.layers.Dense(3)])
    for model in (OwnCall(image, logits), in_a_row):
        with pytest.raises(ValueError, match="OwnCall.* `call` of its own"):
            certifier(model)


def test_rounding_is_bounded_where_all_dtypes_are_the_same():
    image = keras.Input((4, 1))
    flat = keras.layers.Flatten(dtype="bfloat16")(image)
    model = keras.Model(image, keras.layers.Dense(3)(flat))
    assert certifier(model).holds_for == "2-norm, real arithmetic"
    wide = keras.Input((4,), dtype="float64")
    model = keras.Model(wide, keras.layers.Dense(3)(wide))
    assert certifier(model).holds_for == "2-norm, real arithmetic"


def test_a_sequential_model_is_certified_before_and_after_saving(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            StableODELayer(delta_bar=0.0),
            keras.layers.Dense(3),
        ]
    )
    bounds = certifier(model)
    model.save(tmp_path / "model.keras")
    again = certifier(keras.saving.load_model(tmp_path / "model.keras"))
    np.testing.assert_array_equal(again.pair_lipschitz, bounds.pair_lipschitz)
    np.testing.assert_array_equal(again.offset, bounds.offset)


def test_a_layer_used_twice_counts_twice():
    image = keras.Input((3,), dtype="float64")
    twice = keras.layers.Dense(3, dtype="float64")
    model = keras.Model(
        image, keras.layers.Dense(2, dtype="float64")(twice(twice(image)))
    )
    twice.kernel.assign(5.0 * np.eye(3))
    model.layers[-1].kernel.assign([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    found = certifier(model).pair_lipschitz[0, 1]
    assert 25 * np.sqrt(2) <= found < 25.0001 * np.sqrt(2)


def test_a_bias_of_every_position_rounds():
    """Sums of many rounded biases: off by more than one bias is."""
    count = 4096
    model = keras.Sequential(
        [
            keras.Input((count, 1)),
            keras.layers.Dense(1, bias_initializer="ones"),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    half = np.repeat([[1.0], [-1.0]], count // 2, axis=0)
    model.set_weights(
        [np.ones((1, 1)), np.ones(1), np.hstack([half, 0 * half]), np.zeros(2)]
    )
    levels = np.linspace(0.0, 1e-3, 300, dtype=np.float32)
    images = levels[:, None, None] * (half > 0)
    logits = model(images.astype(np.float32)).numpy().astype(np.float64)
    error = np.abs(logits[:, 0] - levels.astype(np.float64) * count / 2)
    bounds = certifier(model)
    norms = levels.astype(np.float64) * np.sqrt(count / 2)
    allowed = bounds.offset[0, 1] + bounds.slope[0, 1] * norms
    assert np.all(error <= allowed)
    alone = certifier(
        keras.Sequential([keras.Input((count, 1)), *model.layers[1:]])
    )
    assert bounds.offset[0, 1] > 0.9 * np.sqrt(count) * 1e-7
    assert error.max() > alone.offset[0, 1]


def test_labels_are_one_integer_for_each_image():
    model, x = classifier(), images(4)
    for wrong in (
        [0],
        [[0], [1], [2], [0]],
        np.eye(3)[[0, 1, 2, 0]],
        ["0"] * 4,
    ):
        with pytest.raises(ValueError, match="`labels` must be 4 integers"):
            certified_accuracy(model, x, wrong, [0.1])


@pytest.mark.parametrize("units", [1, 3])
def test_labels_are_classes_of_the_model(units):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units)])
    for labels in ([0, -1], [0, 3]):
        with pytest.raises(ValueError, match="`labels` must be in .0, "):
            certified_accuracy(model, np.ones((2, 4)), labels, [0.1])


@pytest.mark.parametrize("options", [{}, {"blocks": 2, "delta_bar": 0.0}])
def test_rounding_of_a_single_logit_is_bounded(options):
    """Classes of float32 are those of float64 inside the radius."""
    keras.utils.set_random_seed(0)
    models = []
    for dtype in ("float32", "float64"):
        inner = classifier(dtype=dtype, **options)
        models.append(
            keras.Model(
                inner.input,
                keras.layers.Dense(1, dtype=dtype, name="logit")(inner.output),
            )
        )
    model, exact = models
    exact.set_weights(model.get_weights())
    bounds = certifier(model)
    assert bounds.holds_for == "2-norm, float32 arithmetic as computed"
    assert bounds.pair_lipschitz.shape == (2, 2)
    x = images(200).astype(np.float32)
    error = np.abs(model(x).numpy() - exact(x.astype(np.float64)).numpy())
    norms = np.linalg.norm(x.reshape(200, -1).astype(np.float64), axis=1)
    allowed = bounds.offset[0, 1] + bounds.slope[0, 1] * norms
    assert np.all(error[:, 0] <= allowed)
    assert error.max() > 1e-5 * allowed.max()


def test_a_network_that_is_constant_has_infinite_radii():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, kernel_initializer="zeros")]
    )
    x = np.ones((2, 4))
    assert certified_radii(model, x)[1].tolist() == [0.0, 0.0]
    model.layers[-1].bias.assign([0.0, 2.0, 1.0])
    labels, radii = certified_radii(model, x)
    assert labels.tolist() == [1, 1] and np.all(np.isinf(radii))
    logits = tf.constant([[0.0, 2.0, 1.0]])
    assert np.isinf(certifier(model)(x[:1], logits).numpy()).all()


def test_debugging_modes_of_tensorflow_change_nothing():
    linear = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    constant = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    constant.set_weights([np.zeros((4, 3)), np.arange(3.0)])
    x = np.random.default_rng(0).normal(size=(5, 4))
    for model in (linear, constant):
        before = certified_radii(model, x)
        tf.debugging.enable_check_numerics()
        try:
            checked = certified_radii(model, x)
        finally:
            tf.debugging.disable_check_numerics()
        tf.config.run_functions_eagerly(True)
        try:
            eager = certified_radii(model, x)
        finally:
            tf.config.run_functions_eagerly(False)
        np.testing.assert_array_equal(checked, before)
        np.testing.assert_allclose(eager, before, rtol=1e-6)


def test_no_images():
    labels, radii = certified_radii(classifier(), images(0))
    assert labels.shape == radii.shape == (0,)


def test_classifier_of_the_package():
    model = ode_classifier(width=16, delta_bar=0.0, encoder_max_norm=1.0)
    assert np.all(certifier(model).pair_lipschitz < 10.0)


@pytest.mark.parametrize(
    "x, labels, options, message",
    [
        (images(0), [], {}, "images. must be at least one"),
        (np.full((1, 4, 4, 1), np.nan), [0], {}, "images. must be finite"),
        (images(1), [0], {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_what_would_give_no_figure_is_refused(x, labels, options, message):
    labels = np.array(labels, int)
    with pytest.raises(ValueError, match=message):
        certified_accuracy(classifier(), x, labels, [0.1], **options)
