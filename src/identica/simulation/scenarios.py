"""Named scenarios: data whose sources, mixing and noise are known, as the published generators make them.

The published generators draw sources, scales and mixing from one global stream, so that a larger sample
also gets another mixing and curves over the sample size confound the two. Here each of them has its own
stream derived from ``seed``: the *laws* are reproduced exactly, the individual draws are not, and the
mixing of a seed is the same at every sample size.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from identica.errors import DataError
from identica.random import named_rng
from identica.simulation import mixings, sources, spikes, time_series
from identica.simulation.drawn import Drawn
from identica.simulation.mixings import Elementwise, LayeredMixing, Mixing
from identica.simulation.simulated import Simulation
from identica.simulation.sources import SegmentLaw

# Mixing, law of the sources, and whether the standard draws are standardised over the sample.
_Plan = tuple[Mixing, SegmentLaw, bool]
_Scenario = Callable[..., _Plan]


def _figure1(
    seed: int, *, n_components: int = 2, n_segments: int = 5, n_per_segment: int = 1000, layers: int = 3
) -> _Plan:
    """Figure 1 of the iVAE paper: two sources, five segments, the fewest that Theorem 1 allows."""
    law = sources.well_conditioned_segments(named_rng(seed, "scales"), n_segments, n_components)
    return _xtanh_chain(seed, n_components, layers, law), law, False


def _xtanh_chain(seed: int, n: int, layers: int, law: SegmentLaw) -> LayeredMixing:
    """Mild smooth mixing: sources scaled to 1.5, so that tanh bends clearly but seldom saturates."""
    rng = named_rng(seed, "mixing")
    matrices = tuple(mixings.column_normalised_matrix(rng, n, n) for _ in range(layers))
    return LayeredMixing(matrices, Elementwise("xtanh", 0.1), scale=law.pooled_scale / 1.5)


def _tcl(
    seed: int,
    *,
    n_components: int = 20,
    n_segments: int = 256,
    n_per_segment: int = 512,
    layers: int = 5,
    base: sources.Base = "laplace",
) -> _Plan:
    """Hyvarinen & Morioka (2016), released code: Laplace scales U(0, 1), leaky ReLU 0.2, deep."""
    law = sources.modulated_scales(
        named_rng(seed, "scales"), n_segments, n_components, low=0, high=1, base=base
    )
    rng = named_rng(seed, "mixing")
    # x = A s with unit columns of A; in row convention x = s A^T, hence the transposes.
    matrices = tuple(
        mixings.column_normalised_matrix(rng, n_components, n_components).T for _ in range(layers)
    )
    return LayeredMixing(matrices, Elementwise("leaky", 0.2)), law, False


def _orthogonal_chain(seed: int, n: int, layers: int) -> LayeredMixing:
    if layers < 2:
        raise DataError(f"expected layers >= 2, got {layers}; the mixing has layers - 1 rotations")
    rng = named_rng(seed, "mixing")
    matrices = tuple(mixings.orthogonal_matrix(rng, n) for _ in range(layers - 1))
    return LayeredMixing(matrices, Elementwise("leaky", 0.2), nonlinearity_first=True)


def _icebeem(
    seed: int,
    *,
    n_components: int = 5,
    n_segments: int = 20,
    n_per_segment: int = 2000,
    layers: int = 4,
    base: sources.Base = "gaussian",
) -> _Plan:
    """Khemakhem et al. (2020), ICE-BeeM, released "TCL" data: scales U(0.01, 3), nonlinearity first."""
    law = sources.modulated_scales(
        named_rng(seed, "scales"), n_segments, n_components, low=0.01, high=3, base=base
    )
    return _orthogonal_chain(seed, n_components, layers), law, True


def _imca(
    seed: int, *, n_components: int = 5, n_segments: int = 20, n_per_segment: int = 2000, layers: int = 4
) -> _Plan:
    """The same paper's "IMCA" data: sources dependent within segments, outside the iVAE theorem."""
    law = sources.dependent_sources(named_rng(seed, "scales"), n_segments, n_components)
    return _orthogonal_chain(seed, n_components, layers), law, False


def _modulated(
    seed: int, n_components: int, n_segments: int, uncentered: bool, base: sources.Base
) -> SegmentLaw:
    return sources.modulated_scales(
        named_rng(seed, "scales"),
        n_segments,
        n_components,
        low=0.5,
        high=3,
        mean_range=5 if uncentered else 0,
        base=base,
    )


def _ivae(
    seed: int,
    *,
    n_components: int = 5,
    n_features: int | None = None,
    n_segments: int = 40,
    n_per_segment: int = 1000,
    layers: int = 3,
    uncentered: bool = False,
    activation: mixings.Activation = "xtanh",
    slope: float = 0.1,
    base: sources.Base = "gaussian",
) -> _Plan:
    """Official iVAE code: its loader uses ONE matrix in all layers (one further one if d differs from n)."""
    d = _features(n_features, n_components)
    rng = named_rng(seed, "mixing")
    first = mixings.column_normalised_matrix(rng, n_components, d)
    again = first if d == n_components else mixings.column_normalised_matrix(rng, d, d)
    mixing = LayeredMixing((first,) + (again,) * (layers - 1), Elementwise(activation, slope))
    return mixing, _modulated(seed, n_components, n_segments, uncentered, base), False


def _iflow(
    seed: int,
    *,
    n_components: int = 5,
    n_features: int | None = None,
    n_segments: int = 40,
    n_per_segment: int = 1000,
    layers: int = 3,
    uncentered: bool = True,
    activation: mixings.Activation = "xtanh",
    slope: float = 0.1,
    base: sources.Base = "gaussian",
) -> _Plan:
    """Li et al. (2020), iFlow: as iVAE with means U(-5, 5) and a new matrix in every layer."""
    d = _features(n_features, n_components)
    rng = named_rng(seed, "mixing")
    rows = [n_components] + [d] * (layers - 1)
    matrices = tuple(mixings.column_normalised_matrix(rng, row, d) for row in rows)
    law = _modulated(seed, n_components, n_segments, uncentered, base)
    return LayeredMixing(matrices, Elementwise(activation, slope)), law, False


def _linear(
    seed: int,
    *,
    n_components: int = 5,
    n_features: int | None = None,
    n_segments: int = 40,
    n_per_segment: int = 1000,
    uncentered: bool = False,
    base: sources.Base = "gaussian",
) -> _Plan:
    """The sources of the iVAE generator behind one matrix: any linear method that uses u must solve it."""
    rng = named_rng(seed, "mixing")
    matrix = mixings.column_normalised_matrix(rng, n_components, _features(n_features, n_components))
    law = _modulated(seed, n_components, n_segments, uncentered, base)
    return LayeredMixing((matrix,), Elementwise("xtanh", 0.1)), law, False


def _coupling(
    seed: int,
    *,
    n_components: int = 5,
    n_segments: int = 40,
    n_per_segment: int = 1000,
    layers: int = 3,
    uncentered: bool = False,
    base: sources.Base = "gaussian",
) -> _Plan:
    """Affine couplings and sinh-arcsinh units: smooth, and no chain of matrices and units inverts it."""
    law = _modulated(seed, n_components, n_segments, uncentered, base)
    return mixings.random_coupling(named_rng(seed, "mixing"), law.pooled_scale, layers), law, False


def _radial(
    seed: int,
    *,
    n_components: int = 5,
    n_features: int | None = None,
    n_segments: int = 40,
    n_per_segment: int = 1000,
    angle: float = 4.5,
    uncentered: bool = False,
    base: sources.Base = "gaussian",
) -> _Plan:
    """Spheres turned by an angle that grows with their radius, then one matrix."""
    law = _modulated(seed, n_components, n_segments, uncentered, base)
    d = _features(n_features, n_components)
    return mixings.random_radial(named_rng(seed, "mixing"), law.pooled_scale, d, angle), law, False


_SCENARIOS: dict[str, _Scenario] = {
    "figure1": _figure1,
    "tcl": _tcl,
    "icebeem": _icebeem,
    "imca": _imca,
    "ivae": _ivae,
    "iflow": _iflow,
    "linear": _linear,
    "coupling": _coupling,
    "radial": _radial,
}
# Scenarios that draw sources and u in their own way; only a law given u has a ceiling under Gaussian noise.
_DRAWN: dict[str, Callable[..., Drawn]] = {
    "pcl": time_series.pcl,
    "gcl": time_series.gcl,
    "hmm": time_series.hmm,
    "pi-vae": spikes.pi_vae,
}
_ALL: dict[str, Callable[..., Any]] = {**_SCENARIOS, **_DRAWN}
_NOISELESS = ("pcl", "gcl", "pi-vae")
# Smallest allowed value of each integer option.
_SMALLEST = {
    "n_rows": 2,
    "n_frequencies": 1,
    "n_components": 1,
    "n_features": 1,
    "n_segments": 1,
    "n_per_segment": 2,
    "layers": 1,
}
_NEEDS_TWO = ("figure1", "imca", "coupling", "radial")


def scenario_names() -> tuple[str, ...]:
    """Names that `simulate` accepts."""
    return tuple(_ALL)


def scenario_options(name: str) -> dict[str, Any]:
    """Options of a scenario with their defaults.

    Raises
    ------
    DataError
        There is no such scenario.
    """
    if name not in _ALL:
        raise DataError(f"unknown scenario {name!r}; choose one of {', '.join(_ALL)}")
    parameters = inspect.signature(_ALL[name]).parameters
    options = {key: p.default for key, p in parameters.items() if key != "seed"}
    return options if name in _NOISELESS else options | {"noise": 0.0}


def simulate(name: str, *, seed: int, **sizes: Any) -> Simulation:
    """Data of a named scenario, with the truth behind them.

    Parameters
    ----------
    name : str
        ========== =====================================================================================
        figure1    Figure 1 of the iVAE paper: n = 2, 5 segments with means and scales, mild smooth mixing
        tcl        Hyvarinen & Morioka (2016): 20 Laplace sources, 256 segments, leaky ReLU, 5 layers
        icebeem    ICE-BeeM's "TCL" data: 5 sources, 20 segments, rotations, ``layers - 1`` nonlinearities
        imca       ICE-BeeM's IMCA data: as above with sources dependent within segments
        ivae       official iVAE code: 40 segments, one matrix repeated in all layers
        iflow      iFlow: as ivae with moving means and a new matrix per layer
        linear     the sources of ivae behind one matrix
        coupling   the sources of ivae behind affine couplings and sinh-arcsinh units (our own)
        radial     the sources of ivae behind a norm-dependent twist and a matrix (our own)
        pcl        Hyvarinen & Morioka (2017): stationary Laplace AR(1), mixed as in tcl; u: windows of time
        gcl        Morioka et al. (2021), IIA: x_t = f(x_{t-1}, s_t), innovations modulated; u: windows
        hmm        Halva & Hyvarinen (2020): Gaussian sources of 11 persistent states; u: the true states
        pi-vae     Zhou & Wei (2020): two sources on a curve, u its angle; 100 Poisson counts
        ========== =====================================================================================
    seed : int
        Non-negative seed; sources, scales, mixing and noise have streams of their own.
    **sizes
        ``n_components, n_features, n_segments, n_per_segment, n_rows, layers, uncentered, activation, slope, base``
        as far as the scenario has them (`scenario_options` lists them with their published defaults), and
        ``noise``: standard deviation of added Gaussian noise as a fraction of that of each noiseless channel.

    Returns
    -------
    Simulation

    Raises
    ------
    DataError
        An unknown name or option, or a size out of range; the message lists what is possible.

    Examples
    --------
    >>> data = simulate("icebeem", seed=0, layers=2, n_per_segment=100)
    >>> data.X.shape, data.S.shape, len(set(data.u.tolist()))
    ((2000, 5), (2000, 5), 20)
    """
    options = scenario_options(name)
    unknown = sorted(set(sizes) - set(options))
    if unknown:
        raise DataError(
            f"scenario {name!r} has no option {', '.join(map(repr, unknown))}; "
            f"its options are {', '.join(f'{key}={value!r}' for key, value in options.items())}"
        )
    options |= sizes
    seed = _integer("seed", seed, 0)
    for key, smallest in _SMALLEST.items():
        if options.get(key) is not None:
            least = 2 if key == "n_components" and name in _NEEDS_TWO else smallest
            options[key] = _integer(key, options[key], least)
    noise = float(options.get("noise", 0.0))
    if not 0 <= noise < np.inf:
        raise DataError(f"expected noise >= 0, got {noise}; 0.1 adds a tenth of the spread of each channel")

    arguments = {key: value for key, value in options.items() if key != "noise"}
    drawn = _DRAWN[name](seed, **arguments) if name in _DRAWN else _independent(name, seed, arguments)
    X = drawn.mixing(drawn.S)
    if drawn.counts:
        X = named_rng(seed, "counts").poisson(X).astype(np.float64)
    noise_std = noise * X.std(0)
    if noise > 0:
        X = X + noise_std * named_rng(seed, "noise").standard_normal(X.shape)
    S, u, mixing, law = drawn.S, drawn.u, drawn.mixing, drawn.law
    return Simulation(X, u, S, name, seed, options, noise_std, mixing, law, drawn.counts)


def _independent(name: str, seed: int, options: dict[str, Any]) -> Drawn:
    """Rows independent given their segment, segment by segment."""
    mixing, law, standardise = _SCENARIOS[name](seed, **options)
    u = np.repeat(np.arange(options["n_segments"]), options["n_per_segment"])
    S = law.sample(u, named_rng(seed, "sources"), standardise=standardise)
    return Drawn(S, u, mixing, law)


def _features(n_features: int | None, n_components: int) -> int:
    if n_features is None:
        return n_components
    if n_features < n_components:
        raise DataError(
            f"expected n_features >= n_components, got {n_features} < {n_components}; "
            "fewer observed columns than sources cannot be unmixed"
        )
    return n_features


def _integer(name: str, value: Any, smallest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < smallest:
        raise DataError(f"expected {name} to be an integer >= {smallest}, got {value!r}")
    return int(value)
