"""What ``identica reproduce curves`` runs: one size of a generator is moved at a time, all others stay."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from identica.cli.reproduce_runs import Case

GENERATOR = "icebeem"
_BASE = {"n_components": 5, "n_segments": 20, "n_per_segment": 1000, "layers": 4, "noise": 0.0}
_AXES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "rows per segment": ("n_per_segment", (100, 200, 500, 1000, 2000)),
    "segments": ("n_segments", (3, 5, 10, 20, 40)),
    "layers of the mixing": ("layers", (2, 3, 4, 5, 6)),
    "sources": ("n_components", (2, 5, 10, 20)),
    "noise, share of sd(x)": ("noise", (0.0, 0.01, 0.05, 0.1)),
    "restarts": ("n_restarts", (1, 2, 4, 8)),
}
_SEGMENTS_OF_MANY = 60
"""Segments of the points with more than five sources: 2n + 1 are the least that theory asks for."""

_QUICK = {"n_components": 3, "n_segments": 8, "n_per_segment": 100, "layers": 2}
_QUICK_AXES = {
    "rows per segment": ("n_per_segment", (50, 100)),
    "noise, share of sd(x)": ("noise", (0.0, 0.1)),
}


class Point(NamedTuple):
    """A point of a curve: what is moved, its value there, and the case that is run."""

    axis: str
    value: float
    case: Case


def curve_points(*, quick: bool) -> list[Point]:
    """All points of all curves; curves that cross share a case.

    Restarts are an option of FlowICA, all else is one of the generator.
    """
    from identica.simulation.scenarios import scenario_options

    base = scenario_options(GENERATOR) | (_BASE | _QUICK if quick else _BASE)
    points = []
    for axis, (name, values) in (_QUICK_AXES if quick else _AXES).items():
        for value in values:
            moved = {name: value} if name in base else {}
            budget = {} if moved or value == max(values) else {name: value}
            options = base | moved
            if options["n_components"] > _BASE["n_components"]:
                options["n_segments"] = _SEGMENTS_OF_MANY
            points.append(
                Point(axis, value, Case(_title(options, budget), GENERATOR, options, budget=budget))
            )
    return points


def _title(options: Mapping[str, Any], budget: Mapping[str, Any]) -> str:
    words = [
        f"{options['n_components']} sources",
        f"{options['n_segments']} segments of {options['n_per_segment']} rows",
        f"{options['layers']} layer{'s' if options['layers'] > 1 else ''}",
    ]
    if options["noise"]:
        words.append(f"noise {options['noise']:g}")
    return ", ".join([*words, *(f"{n} restart{'s' if n > 1 else ''}" for n in budget.values())])
