"""Solvers against torchdiffeq, diffrax and TFP: time and error reached.

Integrates u' = σ(Au + b) on [0, 1] for a batch in float32, forwards, and
forwards and backwards (gradients with respect to u, A and b). Each library runs
in a process of its own, and the processes take turns, so that all of them meet
the same disturbances. The floor is the matrix products and activations of the
same number of stages and nothing else.

    pip install -r benchmarks/solvers_requirements.txt
    python benchmarks/solvers.py --output=benchmarks/solvers.json \
        --plot=docs/images/solvers.png
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags

_WIDTHS = flags.DEFINE_list("widths", ["64", "256"], "Dimensions d.")
_BATCHES = flags.DEFINE_list("batches", ["128", "512"], "Batch sizes.")
_LIBRARIES = flags.DEFINE_list(
    "libraries",
    ["ours", "ours_xla", "tfp", "tfp_xla", "diffrax", "torchdiffeq"],
    "What to compare.",
)
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Rounds of turns.")
_SERVING = flags.DEFINE_bool("serving", True, "Time exported models, too.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")
_PLOT = flags.DEFINE_string("plot", None, "Picture of error against time.")
_FROM = flags.DEFINE_list("merge", None, "JSON files to plot instead of a run.")
_WORKER = flags.DEFINE_string("worker", None, "Internal: be this library.")

ALPHA = 0.1
JOINT = -float(np.arctanh(np.sqrt(1 - ALPHA)))
TOLERANCES = (1e-3, 1e-6)


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


def tensorflow_cases(arrays, solver_of, jit_compile):
    """Name -> (forward, forward and backward), and the floors."""
    import tensorflow as tf

    from stable_node_tf import SmoothLeakyReLU
    from stable_node_tf.solvers import LayerField

    field = LayerField(SmoothLeakyReLU(ALPHA))
    u, kernel, bias = map(tf.constant, arrays)

    def case(solve):
        def gradients(u, kernel, bias):
            with tf.GradientTape() as tape:
                tape.watch((u, kernel, bias))
                total = tf.reduce_sum(solve(u, kernel, bias) ** 2)
            return tape.gradient(total, (u, kernel, bias))

        def compiled(f):
            f = tf.function(f, jit_compile=jit_compile, autograph=False)
            f = f.get_concrete_function(u, kernel, bias)
            return lambda: [
                x.numpy() for x in tf.nest.flatten(f(u, kernel, bias))
            ]

        return compiled(solve), compiled(gradients)

    def floor(stages):
        def chain(u, kernel, bias):
            for _ in range(stages):
                u = field(0.0, u, kernel, bias)
            return u

        return chain

    cases = {
        name: case(lambda u, A, b, s=solve: s(field, u, A, b))
        for name, solve in solver_of.items()
    }
    for stages in (20, 40):
        cases[f"floor, {stages} stages"] = case(floor(stages))
    return cases


def ours(arrays, jit_compile=False):
    from stable_node_tf import solvers

    grids = {
        "euler, 10 steps": solvers.Euler(10),
        "euler, 20 steps": solvers.Euler(20),
        "rk4, 2 steps": solvers.RungeKutta4(2),
        "rk4, 4 steps": solvers.RungeKutta4(4),
        "rk4, 10 steps": solvers.RungeKutta4(10),
        "rk4, 20 steps": solvers.RungeKutta4(20),
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

    cases = {name: solve_with(solver) for name, solver in grids.items()}
    for name in ("euler, 20 steps", "rk4, 10 steps"):
        cases[f"{name}, by tape"] = by_tape(grids[name])
    return tensorflow_cases(arrays, cases, jit_compile)


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


def diffrax(arrays):
    import diffrax
    import jax
    import jax.numpy as jnp

    u, kernel, bias = map(jnp.asarray, arrays)

    def activation(x):
        bent = jnp.tanh(jnp.maximum(x, JOINT))
        return jnp.maximum(x, bent - ALPHA * jax.nn.relu(JOINT - x))

    def field(t, u, weights):
        return activation(u @ weights[0].T + weights[1])

    def case(solve):
        forward = jax.jit(solve)
        gradients = jax.jit(
            jax.grad(lambda *a: jnp.sum(solve(*a) ** 2), argnums=(0, 1, 2))
        )
        arguments = (u, kernel, bias)
        return (
            lambda: [np.asarray(forward(*arguments))],
            lambda: [np.asarray(g) for g in gradients(*arguments)],
        )

    def solve_with(solver, **options):
        def solve(u, kernel, bias):
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

    def floor(stages):
        def chain(u, kernel, bias):
            for _ in range(stages):
                u = field(0.0, u, (kernel, bias))
            return u

        return chain

    cases = {}
    for steps in (10, 20):
        cases[f"euler, {steps} steps"] = case(
            solve_with(diffrax.Euler(), dt0=1 / steps, max_steps=steps + 1)
        )
    for rtol in TOLERANCES:
        controller = diffrax.PIDController(rtol=rtol, atol=rtol / 1000)
        options = {"dt0": None, "stepsize_controller": controller}
        cases[f"dopri5, rtol {rtol:.0e}"] = case(
            solve_with(diffrax.Dopri5(), **options)
        )
        cases[f"dopri5 backsolve, rtol {rtol:.0e}"] = case(
            solve_with(
                diffrax.Dopri5(), adjoint=diffrax.BacksolveAdjoint(), **options
            )
        )
    for stages in (20, 40):
        cases[f"floor, {stages} stages"] = case(floor(stages))
    return cases


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

    def case(integrator, **options):
        def forward():
            with torch.no_grad():
                return [integrator(field, u, span, **options)[1].numpy()]

        def both():
            end = integrator(field, u, span, **options)[1]
            total = (end**2).sum()
            gradients = torch.autograd.grad(total, (u, *field.parameters()))
            return [g.numpy() for g in gradients]

        return forward, both

    cases = {}
    for method in ("euler", "rk4"):
        for steps in (10, 20):
            cases[f"{method}, {steps} steps"] = case(
                odeint, method=method, options={"step_size": 1 / steps}
            )
    for rtol in TOLERANCES:
        options = {"method": "dopri5", "rtol": rtol, "atol": rtol / 1000}
        cases[f"dopri5, rtol {rtol:.0e}"] = case(odeint, **options)
        cases[f"dopri5 adjoint, rtol {rtol:.0e}"] = case(
            odeint_adjoint, **options
        )
    return cases


def serving(arrays):
    """Exported models of equal parameter counts, batch 1 and 256."""
    import keras

    from stable_node_tf import Euler, RungeKutta4, export, ode_classifier

    del arrays
    image = keras.Input((28, 28, 1), name="image")
    x = keras.layers.Flatten()(image)
    x = keras.layers.Dense(64)(x)
    x = keras.layers.Dense(64, activation="tanh")(x)
    models = {
        "Dense network": keras.Model(image, keras.layers.Dense(10)(x)),
        "Euler, 20 steps": ode_classifier(solver=Euler(20)),
        "RungeKutta4, 5 steps": ode_classifier(solver=RungeKutta4(5)),
    }
    assert len({model.count_params() for model in models.values()}) == 1
    cases = {}
    for name, model in models.items():
        with tempfile.TemporaryDirectory() as directory:
            export.export(model, directory)
            loaded = export.load(directory)
        for batch in (1, 256):
            images = np.random.default_rng(0).random(
                (batch, 28, 28, 1), np.float32
            )
            predict = lambda m=loaded, x=images: [m(x).numpy()]  # noqa: E731
            cases[f"{name}, batch {batch}"] = (predict, predict)
    return cases


BUILDERS = {
    "ours": ours,
    "ours_xla": lambda arrays: ours(arrays, jit_compile=True),
    "tfp": tfp,
    "tfp_xla": lambda arrays: tfp(arrays, jit_compile=True),
    "diffrax": diffrax,
    "torchdiffeq": torchdiffeq,
    "serving": serving,
}


def work(library):
    """Answers requests, one a line: a shape, or "time"."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print

    def answer(value):
        print(json.dumps(value), file=answers, flush=True)

    cases = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request == "time":
            seconds = {}
            for name, pair in cases.items():
                seconds[name] = []
                for function in pair:
                    start = time.perf_counter()
                    function()
                    seconds[name].append(time.perf_counter() - start)
            answer(seconds)
            continue
        width, batch = request
        cases = BUILDERS[library](data(width, batch))
        exact = reference(width, batch)
        errors = {}
        for name, pair in cases.items():
            for function in (*pair, *pair):
                function()
            end = pair[0]()[0]
            errors[name] = (
                float(np.abs(end - exact).max() / np.abs(exact).max())
                if end.shape == exact.shape and "floor" not in name
                else None
            )
        answer(errors)


class Worker:
    """A library in a process of its own."""

    def __init__(self, library):
        self.library = library
        self.process = subprocess.Popen(
            [sys.executable, __file__, f"--worker={library}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def ask(self, request):
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"The process of {self.library} has died.")
        return json.loads(line)

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def compare(width, batch, libraries):
    """Rows of one shape; times in milliseconds, medians and the shortest."""
    workers = [Worker(library) for library in libraries]
    errors = [worker.ask((width, batch)) for worker in workers]
    rounds = [
        [worker.ask("time") for worker in workers] for _ in range(_ROUNDS.value)
    ]
    for worker in workers:
        worker.stop()
    rows = []
    for index, worker in enumerate(workers):
        for name, error in errors[index].items():
            pairs = [turn[index][name] for turn in rounds]
            forward, both = 1e3 * np.median(pairs, axis=0)
            best = 1e3 * np.min(pairs, axis=0)
            rows.append(
                {
                    "d": width,
                    "batch": batch,
                    "library": worker.library,
                    "method": name,
                    "error": error,
                    "forward_ms": forward,
                    "forward_backward_ms": both,
                    "best_forward_ms": best[0],
                    "best_forward_backward_ms": best[1],
                }
            )
            shown = "        " if error is None else f"{error:8.1e}"
            print(
                f"{width:4} {batch:4} {worker.library:12} {name:32} {shown} "
                f"{forward:8.2f} {both:8.2f} "
                f"(best {best[0]:.2f} {best[1]:.2f})",
                flush=True,
            )
    return rows


def plot(rows, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shapes = sorted({(row["d"], row["batch"]) for row in rows if row["d"]})
    figure, axes = plt.subplots(
        2, len(shapes), figsize=(3.4 * len(shapes), 6), squeeze=False
    )
    for column, shape in enumerate(shapes):
        for line, key in enumerate(("forward_ms", "forward_backward_ms")):
            axis = axes[line][column]
            for library in dict.fromkeys(row["library"] for row in rows):
                points = [
                    (row["error"], row[key])
                    for row in rows
                    if (row["d"], row["batch"]) == shape
                    and row["library"] == library
                    and row["error"] is not None
                ]
                if points:
                    axis.loglog(*zip(*points, strict=True), "o", label=library)
            axis.set_title(
                f"d = {shape[0]}, batch {shape[1]}, {key.split('_ms')[0]}",
                fontsize=8,
            )
            axis.set_xlabel("largest error", fontsize=8)
            axis.set_ylabel("ms", fontsize=8)
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(argv):
    del argv
    if _WORKER.value:
        work(_WORKER.value)
        return
    if _FROM.value:
        results = [json.loads(Path(path).read_text()) for path in _FROM.value]
        rows = [row for result in results for row in result["rows"]]
    else:
        rows = []
        for width in map(int, _WIDTHS.value):
            for batch in map(int, _BATCHES.value):
                rows += compare(width, batch, _LIBRARIES.value)
        if _SERVING.value:
            rows += compare(0, 1, ["serving"])
    if _OUTPUT.value:
        names = "tensorflow", "tensorflow-probability", "torch", "jax"
        names += "diffrax", "torchdiffeq"
        versions = {}
        for name in names:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                versions[name] = None
        results = {
            "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
            "python": platform.python_version(),
            "versions": versions,
            "rows": rows,
        }
        Path(_OUTPUT.value).write_text(json.dumps(results, indent=1) + "\n")
    if _PLOT.value:
        plot(rows, _PLOT.value)


if __name__ == "__main__":
    app.run(main)
