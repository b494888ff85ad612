"""What benchmarks/solvers.py times: each library's solvers by their names.

A builder takes u, A and b and returns, by the name of each method, a function
that solves and one that differentiates as well. Both end with the results as
NumPy arrays, so that a GPU is waited for. The libraries are imported by their
builders only, and `set_device` must be called before.

Methods of `LOOPED` are built once more under the name `looped`: as many calls
in a row within one compiled program, where the call of a function from Python
does not count. Forwards each solve begins at the end of the last one, made
smaller; both passes take steps of gradient descent on u, A and b.
"""

import numpy as np
from exported_models import serving

ALPHA = 0.1
JOINT = -float(np.arctanh(np.sqrt(1 - ALPHA)))
TOLERANCES = (1e-3, 1e-6)
STAGES = (20, 40)
LOOPED = ("euler, 10 steps", "euler, 20 steps", "rk4, 10 steps")
REPEATS = 20
SHRINKAGE = 0.3
RATES = (1e-3, 1e-6, 1e-6)


def looped(method):
    return f"{REPEATS} × {method}"


def set_device(library, device, tf32):
    """Chooses device and precision of matrix products, or refuses.

    Args:
      library: a key of `BUILDERS`.
      device: "cpu" or "gpu".
      tf32: whether a GPU may round the factors of products to TF32.
    """
    if library == "torchdiffeq":
        import torch

        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.set_default_device("cuda" if device == "gpu" else "cpu")
    elif library in ("diffrax", "jax"):
        import jax

        jax.config.update("jax_platforms", "cuda" if device == "gpu" else "cpu")
        jax.config.update(
            "jax_default_matmul_precision",
            "tensorfloat32" if tf32 else "float32",
        )
    else:
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(tf32)
        found = tf.config.list_physical_devices("GPU")
        if device == "cpu":
            tf.config.set_visible_devices([], "GPU")
        elif not found:
            raise RuntimeError("TensorFlow finds no GPU.")


def data(width, batch):
    rng = np.random.default_rng(0)
    arrays = (
        rng.standard_normal((batch, width)),
        rng.standard_normal((width, width)) / np.sqrt(width),
        rng.standard_normal(width) / 10,
    )
    return [array.astype(np.float32) for array in arrays]


def reference(width, batch):
    """Runge-Kutta 4 with 400 steps in float64."""
    u, kernel, bias = (a.astype(np.float64) for a in data(width, batch))

    def field(u):
        x = u @ kernel.T + bias
        bent = np.tanh(np.maximum(x, JOINT))
        return np.maximum(x, bent - ALPHA * np.maximum(JOINT - x, 0))

    h = 1 / 400
    for _ in range(400):
        k1 = field(u)
        k2 = field(u + h / 2 * k1)
        k3 = field(u + h / 2 * k2)
        u = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + field(u + h * k3))
    return u


def steps_of_loops(forward, gradients):
    """What a loop repeats, forwards and in both passes."""

    def go_on(u, kernel, bias):
        return SHRINKAGE * forward(u, kernel, bias), kernel, bias

    def descend(*values):
        steps = zip(values, RATES, gradients(*values), strict=True)
        return tuple(value - rate * slope for value, rate, slope in steps)

    return go_on, descend


def cases_and_loops(case, solver_of):
    """Name -> case of each solver, and of those of `LOOPED` in a loop."""
    return {name: case(solve) for name, solve in solver_of.items()} | {
        looped(name): case(solver_of[name], in_a_loop=True)
        for name in LOOPED
        if name in solver_of
    }


def tensorflow_cases(arrays, solver_of, jit_compile):
    """Name -> (forward, forward and backward)."""
    import tensorflow as tf

    from stable_node_tf import SmoothLeakyReLU
    from stable_node_tf.solvers import LayerField

    field = LayerField(SmoothLeakyReLU(ALPHA))
    u, kernel, bias = map(tf.constant, arrays)

    def case(solve, in_a_loop=False):
        # Its arguments are tensors only: a default value that is none costs
        # a concrete function most of a millisecond in each call.
        def forward(u, kernel, bias):
            return solve(field, u, kernel, bias)

        def gradients(u, kernel, bias):
            with tf.GradientTape() as tape:
                tape.watch((u, kernel, bias))
                total = tf.reduce_sum(forward(u, kernel, bias) ** 2)
            return tape.gradient(total, (u, kernel, bias))

        def compiled(f):
            f = tf.function(f, jit_compile=jit_compile, autograph=False)
            f = f.get_concrete_function(u, kernel, bias)
            return lambda: [
                x.numpy() for x in tf.nest.flatten(f(u, kernel, bias))
            ]

        def repeated(step):
            return compiled(
                lambda *arguments: tf.while_loop(
                    lambda index, *_: index < REPEATS,
                    lambda index, *values: (index + 1, *step(*values)),
                    (0, *arguments),
                )[1:]
            )

        if in_a_loop:
            go_on, descend = steps_of_loops(forward, gradients)
            return repeated(go_on), repeated(descend)
        return compiled(forward), compiled(gradients)

    if jit_compile:
        return cases_and_loops(case, solver_of)
    return {name: case(solve) for name, solve in solver_of.items()}


def ours(arrays, jit_compile=False):
    from stable_node_tf import solvers

    grids = {
        "euler, 10 steps": solvers.Euler(10),
        "euler, 20 steps": solvers.Euler(20),
        "rk4, 2 steps": solvers.RungeKutta4(2),
        "rk4, 4 steps": solvers.RungeKutta4(4),
        "rk4, 10 steps": solvers.RungeKutta4(10),
        "rk4, 20 steps": solvers.RungeKutta4(20),
        "rk38, 10 steps": solvers.KuttaThreeEighths(10),
        "rk38, 20 steps": solvers.KuttaThreeEighths(20),
        "dopri5, 10 steps": solvers.DormandPrince5(10),
        "per sample, rtol 1e-03": solvers.PerSampleDormandPrince(1e-3, 1e-6),
        "per sample, rtol 1e-06": solvers.PerSampleDormandPrince(1e-6, 1e-9),
    }

    def solve_with(solver):
        return lambda field, u, kernel, bias: solvers.integrate(
            solver, field, u, 1.0, {"kernel": kernel, "bias": bias}
        )

    def by_tape(solver):
        """Hides from `integrate` that it could sweep back by hand."""
        solve = solve_with(solver)
        return lambda field, *arguments: solve(
            lambda t, u, kernel, bias: field(t, u, kernel, bias), *arguments
        )

    def floor(stages):
        def chain(field, u, kernel, bias):
            for _ in range(stages):
                u = field(0.0, u, kernel, bias)
            return u

        return chain

    cases = {name: solve_with(solver) for name, solver in grids.items()}
    cases |= {f"floor, {stages} stages": floor(stages) for stages in STAGES}
    cases["rk4, 10 steps, by tape"] = by_tape(grids["rk4, 10 steps"])
    return tensorflow_cases(arrays, cases, jit_compile) | {
        f"products, {stages} stages": tensorflow_products(
            arrays, stages, jit_compile
        )
        for stages in STAGES
    }


def tensorflow_products(arrays, stages, jit_compile):
    """The matrix products alone, those of the gradient in the second one."""
    import tensorflow as tf

    u, kernel, _ = map(tf.constant, arrays)

    def forward(u, kernel):
        for _ in range(stages):
            u = tf.matmul(u, kernel, transpose_b=True)
        return u

    def both(u, kernel):
        states, zetas = [u], []
        for _ in range(stages):
            states.append(tf.matmul(states[-1], kernel, transpose_b=True))
        zetas.append(states.pop())
        for _ in range(stages):
            zetas.append(tf.matmul(zetas[-1], kernel))
        return tf.add_n(
            [
                tf.matmul(zeta, y, transpose_a=True)
                for zeta, y in zip(zetas, reversed(states), strict=False)
            ]
        ), zetas[-1]

    def compiled(f):
        f = tf.function(f, jit_compile=jit_compile, autograph=False)
        f = f.get_concrete_function(u, kernel)
        return lambda: [x.numpy() for x in tf.nest.flatten(f(u, kernel))]

    return compiled(forward), compiled(both)


def tfp(arrays, jit_compile=False):
    import tensorflow_probability as tfp

    def solve_with(rtol):
        def solve(field, u, kernel, bias):
            solver = tfp.math.ode.DormandPrince(rtol=rtol, atol=rtol / 1000)
            constants = {"kernel": kernel, "bias": bias}
            return solver.solve(
                field, 0.0, u, [1.0], constants=constants
            ).states[0]

        return solve

    return tensorflow_cases(
        arrays,
        {f"dopri5, rtol {rtol:.0e}": solve_with(rtol) for rtol in TOLERANCES},
        jit_compile,
    )


def jax_cases(arrays, solver_of):
    """Name -> (forward, forward and backward)."""
    import jax
    import jax.numpy as jnp

    arguments = tuple(map(jnp.asarray, arrays))

    def field(t, u, weights):
        kernel, bias = weights
        x = u @ kernel.T + bias
        bent = jnp.tanh(jnp.maximum(x, JOINT))
        return jnp.maximum(x, bent - ALPHA * jax.nn.relu(JOINT - x))

    def case(solve, in_a_loop=False):
        def forward(*arguments):
            return solve(field, *arguments)

        def total(*arguments):
            return jnp.sum(forward(*arguments) ** 2)

        gradients = jax.grad(total, argnums=(0, 1, 2))

        def compiled(f):
            f = jax.jit(f)
            return lambda: [
                np.asarray(x) for x in jax.tree.leaves(f(*arguments))
            ]

        def repeated(step):
            return compiled(
                lambda *arguments: jax.lax.fori_loop(
                    0, REPEATS, lambda _, values: step(*values), arguments
                )
            )

        if in_a_loop:
            go_on, descend = steps_of_loops(forward, gradients)
            return repeated(go_on), repeated(descend)
        return compiled(forward), compiled(gradients)

    return cases_and_loops(case, solver_of)


def diffrax(arrays):
    import diffrax
    import jax

    def solve_with(solver, **options):
        def solve(field, u, kernel, bias):
            return diffrax.diffeqsolve(
                diffrax.ODETerm(field),
                solver,
                0.0,
                1.0,
                y0=u,
                args=(kernel, bias),
                **options,
            ).ys[0]

        return solve

    def row_by_row(solve):
        """Steps of its own for each row, as `PerSampleDormandPrince`."""

        def solve_rows(field, u, kernel, bias):
            return jax.vmap(lambda row: solve(field, row, kernel, bias))(u)

        return solve_rows

    cases = {}
    for name, solver, steps in (
        ("euler", diffrax.Euler(), 10),
        ("euler", diffrax.Euler(), 20),
        ("dopri5", diffrax.Dopri5(), 10),
    ):
        options = {"dt0": 1 / steps, "max_steps": steps + 1}
        keep = diffrax.RecursiveCheckpointAdjoint(checkpoints=steps + 1)
        cases[f"{name}, {steps} steps"] = solve_with(solver, **options)
        cases[f"{name}, {steps} steps, all kept"] = solve_with(
            solver, adjoint=keep, **options
        )
    for rtol in TOLERANCES:
        controller = diffrax.PIDController(rtol=rtol, atol=rtol / 1000)
        for name, adjoint in (
            ("", diffrax.RecursiveCheckpointAdjoint()),
            (" backsolve", diffrax.BacksolveAdjoint()),
        ):
            cases[f"dopri5{name}, rtol {rtol:.0e}"] = solve_with(
                diffrax.Dopri5(),
                dt0=None,
                stepsize_controller=controller,
                adjoint=adjoint,
            )
        by_row = row_by_row(cases[f"dopri5, rtol {rtol:.0e}"])
        cases[f"dopri5 by row, rtol {rtol:.0e}"] = by_row
    return jax_cases(arrays, cases)


def jax(arrays):
    """No package: what JAX itself makes of the classical scheme."""

    def rk4(field, u, *weights):
        h = 0.1
        for _ in range(10):
            k1 = field(0.0, u, weights)
            k2 = field(0.0, u + h / 2 * k1, weights)
            k3 = field(0.0, u + h / 2 * k2, weights)
            k4 = field(0.0, u + h * k3, weights)
            u = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return u

    def floor(stages):
        def chain(field, u, *weights):
            for _ in range(stages):
                u = field(0.0, u, weights)
            return u

        return chain

    cases = {f"floor, {stages} stages": floor(stages) for stages in STAGES}
    return jax_cases(arrays, {"rk4, 10 steps": rk4, **cases})


def torchdiffeq(arrays):
    import torch
    from torchdiffeq import odeint, odeint_adjoint

    u, kernel, bias = (torch.tensor(a, requires_grad=True) for a in arrays)
    span = torch.tensor([0.0, 1.0])

    class Field(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = torch.nn.Parameter(kernel.detach())
            self.bias = torch.nn.Parameter(bias.detach())

        def forward(self, t, u):
            x = torch.nn.functional.linear(u, self.kernel, self.bias)
            bent = torch.tanh(torch.clamp(x, min=JOINT))
            line = ALPHA * torch.relu(JOINT - x)
            return torch.maximum(x, bent - line)

    field = Field()

    def case(solve):
        def forward():
            with torch.no_grad():
                return [solve().cpu().numpy()]

        def both():
            total = (solve() ** 2).sum()
            gradients = torch.autograd.grad(total, (u, *field.parameters()))
            return [g.cpu().numpy() for g in gradients]

        return forward, both

    def integrated(integrator, **options):
        return case(lambda: integrator(field, u, span, **options)[1])

    def floor(stages):
        def chain():
            value = u
            for _ in range(stages):
                value = field(0.0, value)
            return value

        return chain

    def products(stages):
        def forward():
            value = u
            for _ in range(stages):
                value = value @ kernel.T
            return value

        def both():
            states, total = [u], 0.0
            for _ in range(stages):
                states.append(states[-1] @ kernel.T)
            zeta = states.pop()
            for state in reversed(states):
                total, zeta = total + zeta.T @ state, zeta @ kernel
            return total, zeta

        @torch.no_grad()
        def run(function):
            return [x.cpu().numpy() for x in function()]

        return lambda: run(lambda: [forward()]), lambda: run(both)

    cases = {}
    # Its "rk4" is the 3/8 rule.
    for name, method in (("euler", "euler"), ("rk38", "rk4")):
        for steps in (10, 20):
            cases[f"{name}, {steps} steps"] = integrated(
                odeint, method=method, options={"step_size": 1 / steps}
            )
    for rtol in TOLERANCES:
        options = {"method": "dopri5", "rtol": rtol, "atol": rtol / 1000}
        cases[f"dopri5, rtol {rtol:.0e}"] = integrated(odeint, **options)
        cases[f"dopri5 adjoint, rtol {rtol:.0e}"] = integrated(
            odeint_adjoint, **options
        )
    for stages in STAGES:
        cases[f"floor, {stages} stages"] = case(floor(stages))
        cases[f"products, {stages} stages"] = products(stages)
    return cases


BUILDERS = {
    "ours": ours,
    "ours_xla": lambda arrays: ours(arrays, jit_compile=True),
    "tfp": tfp,
    "tfp_xla": lambda arrays: tfp(arrays, jit_compile=True),
    "diffrax": diffrax,
    "jax": jax,
    "torchdiffeq": torchdiffeq,
    "serving": serving,
}
