"""Several models under several attacks, on the same images."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from rich import progress

from stable_node_tf.attacks import Attack, AttackResult, Classifier, collect
from stable_node_tf.attacks.checks import check_epsilons, check_same_order
from stable_node_tf.attacks.norms import NORMS
from stable_node_tf.evaluation.accuracy import AccuracyCurve
from stable_node_tf.files import write_json

Budgets = float | Sequence[float]

_MASKED = 0.01  # share of zero gradients that `table` mentions


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """How several models withstand several attacks, from `compare`.

    Attributes:
        attacks: the attacks by their names.
        results: for each model, by its name, the result of each attack, by its
            name, without the attacked images.
    """

    attacks: Mapping[str, Attack]
    results: Mapping[str, Mapping[str, AttackResult]]

    @property
    def curves(self) -> dict[str, dict[str, AccuracyCurve]]:
        """Accuracy against budget: by model, then by attack."""
        return {
            model: {
                name: AccuracyCurve.of(result)
                for name, result in results.items()
            }
            for model, results in self.results.items()
        }

    def table(self) -> str:
        """Accuracies as text: a column per model, a row per attack and budget.

        Where more than one image in a hundred has a gradient of exactly zero,
        a row says so: the attack is then weaker than it should be, see
        `sanity_checks.few_zero_gradients`.
        """
        curves = list(self.curves.values())
        rows = [["", *self.results]]

        def add(label: str, shares: Sequence[float]) -> None:
            rows.append([label, *(f"{100 * share:.1f} %" for share in shares)])

        first = next(iter(self.attacks))
        add("no attack", [of[first].clean_accuracy for of in curves])
        for name, attack in self.attacks.items():
            symbol = NORMS[attack.norm].symbol
            for i, epsilon in enumerate(curves[0][name].epsilons):
                label = f"{name}, {symbol} {epsilon:g}"
                add(label, [of[name].accuracies[i] for of in curves])
            masked = [of[name].zero_gradient_share or 0.0 for of in curves]
            if max(masked) > _MASKED:
                add(f"{name}, zero gradients", masked)
        left, *others = (
            max(map(len, column)) for column in zip(*rows, strict=True)
        )
        return "\n".join(
            "  ".join(
                [label.ljust(left)]
                + [c.rjust(w) for c, w in zip(cells, others, strict=True)]
            )
            for label, *cells in rows
        )

    def plot(self, norm: str | None = None, axes: Any = None) -> Any:
        """Draws accuracy against budget, a color per model.

        Args:
            norm: "linf" or "l2", whose attacks are drawn; by default the norm
                of the first attack.
            axes: Matplotlib axes to draw in; new ones by default.

        Returns:
            The axes.

        Raises:
            ModuleNotFoundError: without Matplotlib.
            ValueError: if there is no attack in the norm.
        """
        try:
            from matplotlib import pyplot
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "Pictures need matplotlib: pip install stable_node_tf[plots]"
            ) from error
        norms = {name: attack.norm for name, attack in self.attacks.items()}
        norm = norm or next(iter(norms.values()))
        shown = [name for name in norms if norms[name] == norm]
        if not shown:
            raise ValueError(
                "norm must be that of an attack, out of "
                f"{sorted({*norms.values()})}. Received: norm={norm!r}"
            )
        if axes is None:
            axes = pyplot.subplots()[1]
        for number, (model, curves) in enumerate(self.curves.items()):
            lines = itertools.cycle(("-", "--", "-.", ":"))
            for name, line in zip(shown, lines, strict=False):
                curve = curves[name]
                budgets, shares = zip(
                    *sorted(
                        zip(
                            [0.0, *curve.epsilons],
                            [curve.clean_accuracy, *curve.accuracies],
                            strict=True,
                        )
                    ),
                    strict=True,
                )
                axes.plot(
                    budgets,
                    100 * np.array(shares),
                    color=f"C{number}",
                    linestyle=line,
                    label=f"{model}: {name}" if len(shown) > 1 else model,
                )
        axes.set(
            xlabel=f"{NORMS[norm].symbol} budget",
            ylabel=f"accuracy under {' or '.join(shown)}, %",
            ylim=(0, 101),
        )
        axes.legend()
        return axes

    def to_json(self, path: str | Path) -> None:
        """Writes accuracies and the attacks' settings, all or nothing."""
        write_json(
            {
                model: {
                    name: self.attacks[name].describe()
                    | {
                        field: value
                        for field, value in curve._asdict().items()
                        if value is not None
                    }
                    for name, curve in curves.items()
                }
                for model, curves in self.curves.items()
            },
            path,
        )


def compare(
    models: Mapping[str, Classifier],
    images: Any,
    labels: Any = None,
    *,
    attacks: Sequence[Attack] | Mapping[str, Attack],
    epsilons: Budgets | Mapping[str, Budgets],
    bounds: Sequence[float] = (0.0, 1.0),
    batch_size: int = 500,
    verbose: bool = True,
) -> Comparison:
    """Attacks several models alike.

    Args:
        models: models by the names that tables give them; each maps images to
            logits, see `stable_node_tf.attacks.Attack`, as for images, labels,
            bounds and batch size.
        images: array (n, ...) of floats within the bounds, or a data set that
            comes in the same order each time.
        labels: integer array (n,); omitted with a data set.
        attacks: attacks, which are called by their titles, or a dictionary
            that gives them names.
        epsilons: one budget or several for all attacks; or a dictionary with
            those of the attacks in the norms "linf" and "l2".
        bounds: the smallest and the largest value of a pixel.
        batch_size: images per batch.
        verbose: whether to show progress, a bar for each model and attack.

    Returns:
        A `Comparison`, with a table, a plot and a JSON file.

    Raises:
        TypeError, ValueError: as `Attack.batches`; if there is no model or no
            attack, two attacks have one title, or a norm has no budgets.

    Example:
        >>> from stable_node_tf.attacks import FGSM
        >>> weights = tf.constant([[-1.0, 1.0]])  # one pixel, two classes
        >>> comparison = compare(
        ...     {"at 0.5": lambda x: (x - 0.5) @ weights,
        ...      "at 0.3": lambda x: (x - 0.3) @ weights},
        ...     [[0.6], [0.9]], [1, 1],
        ...     attacks=[FGSM()], epsilons=[0.2, 0.5], verbose=False,
        ... )
        >>> print(comparison.table())
                       at 0.5   at 0.3
        no attack     100.0 %  100.0 %
        FGSM, ℓ∞ 0.2   50.0 %  100.0 %
        FGSM, ℓ∞ 0.5    0.0 %   50.0 %
    """
    named = _named(attacks)
    if not isinstance(models, Mapping) or not models:
        raise ValueError(
            "models must be a dictionary from names to models. "
            f"Received: models={models!r}"
        )
    by_norm = isinstance(epsilons, Mapping)
    budgets = {
        name: check_epsilons(
            epsilons.get(attack.norm, epsilons)  # type: ignore
            if by_norm
            else epsilons
        ).tolist()
        for name, attack in named.items()
    }
    streamed = isinstance(images, tf.data.Dataset)
    order: np.ndarray | None = None
    results: dict[str, dict[str, AttackResult]] = {}
    for model_name, model in models.items():
        results[model_name] = {}
        for name, attack in named.items():
            batches = progress.track(
                attack.batches(
                    model,
                    images,
                    labels,
                    budgets[name],
                    bounds=bounds,
                    batch_size=batch_size,
                ),
                f"{model_name}: {name}" if len(models) > 1 else name,
                None if streamed else -(-len(images) // batch_size),
                disable=not verbose,
            )
            result = collect(batch.without_images() for batch in batches)
            order = result.labels if order is None else order
            check_same_order(result.labels, order)
            results[model_name][name] = result
    return Comparison(named, results)


def _named(
    attacks: Sequence[Attack] | Mapping[str, Attack],
) -> dict[str, Attack]:
    """The attacks by their names."""
    pairs = (
        list(attacks.items())
        if isinstance(attacks, Mapping)
        else [(attack.title, attack) for attack in attacks]
    )
    named = dict(pairs)
    if not named or len(named) < len(pairs):
        raise ValueError(
            "attacks must be at least one, of different titles, or a "
            "dictionary that gives them names. "
            f"Received: {[name for name, _ in pairs]}"
        )
    return named
