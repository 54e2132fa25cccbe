"""What `identica reproduce` runs: the settings of each benchmark, and the fits of one data seed."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from identica.cli.output import UsageError
from identica.cli.runs import versions
from identica.errors import DataError, NonFiniteError
from identica.evaluation.protocol import (
    Scores,
    Transformed,
    null_scores,
    score_best_linear,
    score_estimate,
    score_u_only,
)
from identica.random import named_rng
from identica.training.progress import Progress
from identica.typing import FloatArray, IntArray

NAMES = ("icebeem", "imca", "iflow", "ivae", "tcl", "photographs", "speech", "curves")
OURS = "identica (FlowICA)"
LINEAR_METHODS = {"FastICA": "fastica", "joint diagonalisation": "joint-diagonalization"}
QUICK_BUDGET = {"max_iter": 200, "n_restarts": 2}
"""Training of ``--quick``; all else is as in the full run."""

_HELD_OUT = 0.2
_LAYERS: dict[str, tuple[int, ...]] = {"icebeem": (2, 4), "imca": (2, 4), "speech": (2, 3)}
_QUICK: dict[str, dict[str, int]] = {
    "icebeem": {"n_per_segment": 200},
    "imca": {"n_per_segment": 200},
    "iflow": {"n_per_segment": 100},
    "ivae": {"n_per_segment": 100},
    "tcl": {"n_components": 5, "n_segments": 64, "n_per_segment": 64, "layers": 2},
    "photographs": {"n_per_segment": 30},
    "speech": {"n_segments": 60},
}
_TRANSFORMED: dict[str, Transformed] = {"icebeem": "squares", "imca": "squares", "tcl": "magnitudes"}
# Pixels fitted in each block of 900: 80 000 in all, as in the demonstration.
_PHOTOGRAPHS = {"n_components": 2, "n_segments": 294, "n_per_segment": 272}


@dataclass(frozen=True)
class Case:
    """One setting of a benchmark.

    Attributes
    ----------
    title : str
        For people, and the key under which its runs are stored.
    scenario : str
        Name for `identica.simulate`, or ``"photographs"`` or ``"speech"``.
    options : dict
        All options of the scenario.
    transformed : {"squares", "magnitudes"} or None
        Transformation of the sources against which some published scores were taken.
    file : Path or None
        Where the sources come from, if they are recorded; no part of the settings, for files move.
    budget : dict
        Options of FlowICA that belong to this case.
    """

    title: str
    scenario: str
    options: dict[str, Any]
    transformed: Transformed | None = None
    file: Path | None = None
    budget: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sound:
    """What makes sound of the columns of `Data`: samples per second, and the speakers' names."""

    rate: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Data:
    """Observations (N, d), segments (N,), sources (N, n), row numbers to fit and score on, and the ceiling.

    ``sound`` is given where rows are the samples of recordings, in the order of time.
    """

    X: FloatArray
    u: IntArray
    S: FloatArray
    fit_rows: IntArray
    held_out: IntArray
    ceiling: float
    sound: Sound | None = None


def cases_of(
    name: str,
    *,
    quick: bool,
    layers: list[int] | None,
    segments: int | None,
    rows: int | None,
    data: Path | None = None,
) -> list[Case]:
    """The settings that ``name`` stands for, the published ones unless sizes are given.

    Raises
    ------
    UsageError
        There is no such benchmark, or it has no such size, or it needs a file and ``data`` names none.
    DataError
        The file is not there, or is none of recordings.
    """
    if name not in NAMES:
        raise UsageError(f"there is no benchmark {name!r}; choose one of {', '.join(NAMES)}")
    if data is not None and name != "speech":
        raise UsageError(f"{name} needs no --data: its data are simulated or built in")
    sizes = {"n_segments": segments, "n_per_segment": rows}
    given = {key: value for key, value in sizes.items() if value is not None}
    if name == "curves":
        from identica.cli.reproduce_curves import curve_points

        if layers or given:
            raise UsageError(
                "curves move every size themselves; --layers, --segments and --rows have no meaning"
            )
        return list({point.case.title: point.case for point in curve_points(quick=quick)}.values())
    if name == "photographs":
        if layers or segments:
            raise UsageError("photographs have a fixed mixing and fixed blocks; only --rows can be chosen")
        options = _PHOTOGRAPHS | (_QUICK[name] if quick else {}) | given
        if not 2 <= options["n_per_segment"] < 900:
            raise UsageError(f"--rows {rows}: expected 2 to 899 of the 900 pixels of each block")
        return [Case(name, name, options)]
    if name == "speech":
        return _speech_cases(quick, given, layers, data)
    from identica.simulation.scenarios import scenario_options

    options = scenario_options(name) | (_QUICK[name] if quick else {}) | given
    depths = layers or _LAYERS.get(name) or (options["layers"],)
    return [
        Case(f"{name}, {depth} layers", name, {**options, "layers": depth}, _TRANSFORMED.get(name))
        for depth in dict.fromkeys(depths)
    ]


def _speech_cases(
    quick: bool, given: Mapping[str, int], layers: list[int] | None, data: Path | None
) -> list[Case]:
    from identica.simulation.speech import FORMAT, SOURCE, read_recordings, window_sizes

    if data is None:
        raise UsageError(
            "speech needs recordings, which identica does not bring along: --data FILE.npz, or a folder that holds "
            f"one. Expected: {FORMAT}. The benchmark is stated for six speakers at 8000 samples per second, each "
            f"with the digits put one after the other. Source: {SOURCE}"
        )
    recordings = read_recordings(data)
    rows, segments = window_sizes(recordings, given.get("n_segments"), given.get("n_per_segment"))
    if quick and "n_segments" not in given:
        segments = min(segments, _QUICK["speech"]["n_segments"])
    options = {
        "n_components": len(recordings.waveforms),
        "n_segments": segments,
        "n_per_segment": rows,
        "data": recordings.digest,
    }
    depths = dict.fromkeys(layers or _LAYERS["speech"])
    if min(depths) < 1:
        raise UsageError(f"--layers {min(depths)}: expected at least 1")
    return [Case(f"speech, {n} layers", "speech", {**options, "layers": n}, file=data) for n in depths]


def draw(case: Case, seed: int) -> Data:
    """The data of one seed.

    Raises
    ------
    DataError
        A size is out of range.
    """
    if case.scenario == "photographs":
        return _draw_photographs(case, seed)
    if case.scenario == "speech":
        return _draw_speech(case, seed)
    from identica.simulation import simulate

    simulation = simulate(case.scenario, seed=seed, **case.options)
    fit_rows, held_out = simulation.split(_HELD_OUT, seed)
    ceiling = simulation.ceiling().value
    return Data(simulation.X, simulation.u, simulation.S, fit_rows, held_out, ceiling)


def _draw_photographs(case: Case, seed: int) -> Data:
    from identica.simulation.photographs import photographs

    pictures = photographs(seed=seed)
    rng = named_rng(seed, "split")
    rows_per_block = case.options["n_per_segment"]
    blocks = [np.flatnonzero(pictures.u == block) for block in range(int(pictures.u.max()) + 1)]
    chosen = [rng.permutation(rows)[:rows_per_block] for rows in blocks]
    fit_rows = np.sort(np.concatenate(chosen))
    held_out = np.setdiff1d(np.arange(len(pictures.X)), fit_rows)
    # Noiseless and invertible: the sources are a function of x.
    return Data(pictures.X, pictures.u, pictures.S, fit_rows, held_out, 1.0)


def _draw_speech(case: Case, seed: int) -> Data:
    from identica.simulation.speech import mix_speech, read_recordings
    from identica.simulation.splitting import hold_out_rows

    assert case.file is not None
    recordings = read_recordings(case.file)
    if recordings.digest != case.options["data"]:
        raise DataError(f"{case.file} has changed since this command began; start it again")
    sizes = {key: case.options[key] for key in ("layers", "n_segments", "n_per_segment")}
    mixed = mix_speech(recordings, seed=seed, **sizes)
    fit_rows, held_out = hold_out_rows(mixed.u, _HELD_OUT, seed)
    # Noiseless and invertible: the sources are a function of x.
    sound = Sound(recordings.rate, recordings.names)
    return Data(mixed.X, mixed.u, mixed.S, fit_rows, held_out, 1.0, sound)


def run_seed(
    case: Case,
    seed: int,
    budget: dict[str, Any],
    callback: Callable[[Progress], bool | None],
    keep: Callable[[Data, FloatArray], None] | None = None,
) -> dict[str, Any]:
    """Fit and score everything on the data of one seed; ``keep`` gets the data and FlowICA's sources.

    Returns
    -------
    dict
        JSON-ready: ``case, seed, n_fitted, n_held_out, methods`` (each with ``scores``, and ``seconds`` and
        ``status`` where something was fitted), ``null, ceiling, peak_memory_mib, machine``.

    Raises
    ------
    DataError
        A size is out of range, or too few rows for a method.
    """
    import identica

    data = draw(case, seed)
    n = data.S.shape[1]
    flow = identica.FlowICA(n, random_state=seed, callbacks=[callback], **(budget | case.budget))
    methods = {OURS: _fit_and_score(flow, data, case, keep)}
    for label, method in LINEAR_METHODS.items():
        # Nothing is chosen by held-out rows here, so the linear methods get them too.
        linear = identica.LinearICA(n, method=method, validation_fraction=0.0, random_state=seed)
        methods[label] = _fit_and_score(linear, data, case)
    methods["best linear map"] = {"scores": score_best_linear(data.X, data.S, data.u, data.fit_rows)}
    methods["u only"] = {"scores": score_u_only(data.S, data.u, data.fit_rows)}
    return {
        "case": case.title,
        "seed": seed,
        "n_fitted": len(data.fit_rows),
        "n_held_out": len(data.held_out),
        "methods": methods,
        "null": null_scores(data.S, data.u, data.fit_rows),
        "ceiling": data.ceiling,
        "peak_memory_mib": peak_memory(),
        "machine": machine(),
    }


def _fit_and_score(
    estimator: Any, data: Data, case: Case, keep: Callable[[Data, FloatArray], None] | None = None
) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        estimator.fit(data.X[data.fit_rows], u=data.u[data.fit_rows])
    except NonFiniteError as error:
        # A failed fit counts what independent noise would score, and is counted.
        seconds = time.perf_counter() - started
        return {"scores": _chance(data, case), "seconds": seconds, "status": "failed", "error": str(error)}
    estimate = estimator.transform(data.X)
    if keep is not None:
        keep(data, estimate)
    scores = score_estimate(data.S, estimate, data.u, data.fit_rows, transformed=case.transformed)
    return {"scores": scores, "seconds": estimator.fit_seconds_, "status": estimator.status_.name.lower()}


def _chance(data: Data, case: Case) -> Scores:
    from identica.evaluation.baselines import chance

    n = data.S.shape[1]
    value = {
        "in_sample": chance(n, len(data.fit_rows)).mean,
        "held_out": chance(n, len(data.held_out)).mean,
    }
    keys = ["pearson", "spearman", "pearson_within", "spearman_within"]
    if case.transformed is not None:
        keys.append(f"pearson_{case.transformed}")
    return {key: dict(value) for key in keys}


def peak_memory() -> float | None:
    """Largest resident memory of this process so far, MiB; None where the system does not tell (Windows)."""
    import sys

    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere


def machine() -> dict[str, Any]:
    """Versions, the device that trains, and the processor cores that this process may use."""
    import os
    import platform

    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": jax.default_backend(),
        "cores": cores,
    }
