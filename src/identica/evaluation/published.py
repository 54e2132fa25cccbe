"""Published scores of nonlinear ICA on synthetic data, each with its source and the way it was scored.

Numbers that could only be recalled or quoted at second hand are left out, so a benchmark may have no
published score at all. MCC is the mean correlation coefficient over optimally matched components.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Mark = Literal["T", "F", "R"]

MARKS: dict[Mark, str] = {
    "T": "printed in a table, log, notebook or README",
    "F": "digitised from a published figure, ± 0.004",
    "R": "recomputed for identica by running the generator and the method stated",
}
"""What the mark of a number says about where it comes from."""

CAVEATS: dict[str, str] = {
    "icebeem": "Published: one data set (data seed 1), mean of 10 initialisations, scored in sample. Here: "
    "several data sets, one fit each, scored held out.",
    "imca": "Published: one data set (data seed 1), mean of 10 initialisations, scored in sample. Here: "
    "several data sets, one fit each, scored held out. Sources depend on each other given u, which the model "
    "of FlowICA excludes.",
    "iflow": "Published: 100 data sets, fitted and scored on the same 40 000 rows. A prediction that sees only "
    "u scores higher than every published method; read the columns within u.",
    "ivae": "No score of the released code on this generator is published in a form that could be verified, so "
    "only recomputed linear rows stand beside.",
    "tcl": "The released code comes without scores, so only recomputed linear rows stand beside.",
    "photographs": "Nobody has published a score: the data are identica's own. What a nonlinear mixture leaves "
    "open of a source is a monotone curve, so Spearman's correlation is the one to read.",
    "speech": "Nobody has published a score: recordings of the Free Spoken Digit Dataset behind identica's own "
    "mixings. Neighbouring samples of speech are alike, so rows held out within windows are easier to predict than "
    "new speech, while the model takes all rows as independent given the window.",
    "curves": "One size is moved at a time, all others stay: the generator of icebeem with 5 sources, 20 segments of "
    "1000 rows and 4 layers. More than 5 sources have 60 segments.",
}
"""How the published numbers of a benchmark and those measured here differ."""

_ICEBEEM = (
    "Khemakhem, Monti, Kingma, Hyvärinen (2020), ICE-BeeM, NeurIPS 33, simulation figure; "
    "code: github.com/ilkhem/icebeem"
)
_REPLICATION = (
    "reproducibility study of iFlow, ReScience C 2021, doi:10.5281/zenodo.4839595; "
    "code: github.com/HiddeLekanne/Reproducibility-Challenge-iFlow"
)
_IFLOW = "Li, Hooi, Lee (2020), Identifying through flows for recovering latent representations, ICLR"
_RECOMPUTED = (
    "recomputed; FastICA: scikit-learn, logcosh; joint diagonalisation: Pham (2001) on covariances within "
    "segments; best linear map: least squares on the true sources; u only: E[s|u]"
)


@dataclass(frozen=True)
class PublishedScore:
    """One score, with what is needed to judge it.

    Attributes
    ----------
    benchmark : str
        Name for `identica reproduce`.
    method : str
        What was scored.
    value : float
        Mean score, in [0, 1].
    setting : mapping
        Options of `identica.simulate` under which it was measured.
    mark : {"T", "F", "R"}
        Where the number comes from; see `MARKS`.
    scoring : str
        How it was scored.
    source : str
        Citation.
    score : str
        Which score: ``"pearson"``, ``"spearman"``, ``"pearson_within"`` (centred by u), or
        ``"pearson_squares"`` and ``"pearson_magnitudes"``, against s² and \\|s\\| instead of s.
    sd : float or None
        Standard deviation over data sets.
    """

    benchmark: str
    method: str
    value: float
    setting: Mapping[str, Any] = field(hash=False)
    mark: Mark
    scoring: str
    source: str
    score: str = "pearson"
    sd: float | None = None

    def applies_to(self, options: Mapping[str, Any]) -> bool:
        """Whether the score was measured under ``options``."""
        return all(options.get(key) == value for key, value in self.setting.items())

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)


def published_scores(benchmark: str, options: Mapping[str, Any]) -> tuple[list[PublishedScore], bool]:
    """Scores to print beside a run under ``options``, and whether they were measured under these options.

    If nothing was published for these sizes, the scores of the largest published sample behind as many
    layers are given instead: for orientation, not for comparison.

    Examples
    --------
    >>> from identica.simulation.scenarios import scenario_options
    >>> scores, same_setting = published_scores("iflow", scenario_options("iflow"))
    >>> scores[0].method, scores[0].value, scores[0].mark, same_setting
    ('iFlow', 0.718, 'T', True)
    """
    own = [score for score in SCORES if score.benchmark == benchmark]
    same = [score for score in own if score.applies_to(options)]
    if same:
        return same, True
    alike = [score for score in own if score.setting["layers"] == options.get("layers")]
    largest = max((score.setting["n_per_segment"] for score in alike), default=0)
    return [score for score in alike if score.setting["n_per_segment"] == largest], False


# ICE-BeeM ---------------------------------------------------------------------------------------------

_ICEBEEM_ROWS = (100, 200, 500, 1000, 2000)
_ICEBEEM_SCORING = {
    "ICE-BeeM": "in sample, best of 4 training stages, after FastICA",
    "iVAE": "in sample, best of posterior sample, mean, and FastICA of the mean",
    "TCL": "in sample, against s², after FastICA",
}
# Benchmark, layers: one curve over the rows per segment for each method.
_ICEBEEM_CURVES: dict[tuple[str, int], dict[str, tuple[float, ...]]] = {
    ("icebeem", 2): {
        "ICE-BeeM": (0.849, 0.887, 0.911, 0.930, 0.939),
        "iVAE": (0.895, 0.902, 0.904, 0.913, 0.918),
        "TCL": (0.809, 0.864, 0.883, 0.888, 0.901),
    },
    ("icebeem", 4): {
        "ICE-BeeM": (0.662, 0.722, 0.778, 0.789, 0.807),
        "iVAE": (0.555, 0.594, 0.661, 0.676, 0.737),
        "TCL": (0.592, 0.718, 0.812, 0.815, 0.833),
    },
    ("imca", 2): {
        "ICE-BeeM": (0.731, 0.773, 0.783, 0.793, 0.797),
        "iVAE": (0.756, 0.779, 0.791, 0.801, 0.802),
        "TCL": (0.660, 0.663, 0.666, 0.676, 0.681),
    },
    ("imca", 4): {
        "ICE-BeeM": (0.604, 0.612, 0.633, 0.698, 0.712),
        "iVAE": (0.500, 0.579, 0.585, 0.600, 0.650),
        "TCL": (0.584, 0.592, 0.616, 0.636, 0.681),
    },
}


def _icebeem_setting(layers: int, rows: int) -> dict[str, int]:
    return {"n_components": 5, "n_segments": 20, "n_per_segment": rows, "layers": layers}


def _icebeem_scores() -> Iterator[PublishedScore]:
    for (benchmark, layers), curves in _ICEBEEM_CURVES.items():
        for place, rows in enumerate(_ICEBEEM_ROWS):
            setting = _icebeem_setting(layers, rows)
            for method, curve in curves.items():
                score = "pearson_squares" if method == "TCL" else "pearson"
                yield PublishedScore(
                    benchmark, method, curve[place], setting, "F", _ICEBEEM_SCORING[method], _ICEBEEM, score
                )


# Linear and trivial rows, recomputed ------------------------------------------------------------------

_JD = "joint diagonalisation"
_LINEAR = "best linear map"
_TWENTY = "in sample, mean of 20 data sets"
_SEED_1 = "in sample, the published data set (data seed 1)"

# Benchmark, layers, rows per segment, method, score, mean, standard deviation.
_ORTHOGONAL_ROWS: tuple[tuple[str, int, int, str, str, float, float | None], ...] = (
    ("icebeem", 2, 2000, "FastICA", "pearson", 0.896, 0.022),
    ("icebeem", 2, 2000, "FastICA", "spearman", 0.99, None),
    ("icebeem", 2, 2000, "FastICA", "pearson_squares", 0.743, None),
    ("icebeem", 2, 2000, _JD, "pearson", 0.902, 0.003),
    ("icebeem", 2, 2000, _JD, "spearman", 1.0, None),
    ("icebeem", 2, 2000, _JD, "pearson_squares", 0.748, None),
    ("icebeem", 2, 2000, _LINEAR, "pearson", 0.902, None),
    ("icebeem", 4, 2000, "FastICA", "pearson", 0.736, 0.075),
    ("icebeem", 4, 2000, "FastICA", "pearson_squares", 0.573, None),
    ("icebeem", 4, 2000, _JD, "pearson", 0.820, 0.022),
    ("icebeem", 4, 2000, _JD, "spearman", 0.844, None),
    ("icebeem", 4, 2000, _JD, "pearson_squares", 0.668, None),
    ("icebeem", 4, 2000, _LINEAR, "pearson", 0.831, None),
    ("icebeem", 2, 100, "FastICA", "pearson", 0.901, None),
    ("icebeem", 2, 500, "FastICA", "pearson", 0.902, None),
    ("icebeem", 4, 100, "FastICA", "pearson", 0.724, None),
    ("icebeem", 4, 500, "FastICA", "pearson", 0.704, None),
    ("icebeem", 2, 100, _JD, "pearson", 0.902, None),
    ("icebeem", 2, 500, _JD, "pearson", 0.902, None),
    ("icebeem", 4, 100, _JD, "pearson", 0.814, None),
    ("icebeem", 4, 500, _JD, "pearson", 0.819, None),
    ("icebeem", 4, 100, _LINEAR, "pearson", 0.831, None),
    ("icebeem", 4, 500, _LINEAR, "pearson", 0.833, None),
    ("imca", 2, 2000, "FastICA", "pearson", 0.887, 0.023),
    ("imca", 2, 2000, "FastICA", "pearson_squares", 0.734, None),
    ("imca", 2, 2000, _JD, "pearson", 0.897, 0.021),
    ("imca", 2, 2000, _JD, "pearson_squares", 0.744, None),
    ("imca", 2, 2000, _LINEAR, "pearson", 0.911, None),
    ("imca", 4, 2000, "FastICA", "pearson", 0.704, 0.063),
    ("imca", 4, 2000, "FastICA", "pearson_squares", 0.530, None),
    ("imca", 4, 2000, _JD, "pearson", 0.802, 0.040),
    ("imca", 4, 2000, _JD, "pearson_squares", 0.634, None),
    ("imca", 4, 2000, _LINEAR, "pearson", 0.841, None),
)
# The very data sets on which the published curves behind four layers were drawn.
_SEED_1_ROWS: dict[tuple[str, str], tuple[float, ...]] = {
    ("icebeem", "FastICA"): (0.63, 0.81, 0.75, 0.78, 0.67),
    ("icebeem", _JD): (0.75, 0.84, 0.85, 0.84, 0.83),
    ("imca", _JD): (0.63, 0.70, 0.76, 0.72, 0.69),
}


def _orthogonal_rows() -> Iterator[PublishedScore]:
    for benchmark, layers, rows, method, score, value, sd in _ORTHOGONAL_ROWS:
        setting = _icebeem_setting(layers, rows)
        yield PublishedScore(benchmark, method, value, setting, "R", _TWENTY, _RECOMPUTED, score, sd)
    for (benchmark, method), values in _SEED_1_ROWS.items():
        for rows, value in zip(_ICEBEEM_ROWS, values, strict=True):
            setting = _icebeem_setting(4, rows)
            yield PublishedScore(benchmark, method, value, setting, "R", _SEED_1, _RECOMPUTED)


# iFlow, iVAE, TCL -------------------------------------------------------------------------------------

_FIVE = {"n_components": 5, "n_segments": 40, "n_per_segment": 1000, "layers": 3}
_IFLOW_SETTING = {**_FIVE, "uncentered": True}
_IVAE_SETTING = {**_FIVE, "uncentered": False}
_HUNDRED = "in sample, 100 data sets"


def _iflow(method: str, value: float, sd: float | None, source: str = _REPLICATION) -> PublishedScore:
    return PublishedScore("iflow", method, value, _IFLOW_SETTING, "T", _HUNDRED, source, "pearson", sd)


def _iflow_row(method: str, value: float, sd: float | None, score: str = "pearson") -> PublishedScore:
    return PublishedScore("iflow", method, value, _IFLOW_SETTING, "R", _HUNDRED, _RECOMPUTED, score, sd)


def _ivae_row(method: str, value: float, sd: float | None) -> PublishedScore:
    return PublishedScore("ivae", method, value, _IVAE_SETTING, "R", _TWENTY, _RECOMPUTED, "pearson", sd)


# Method, score, and the values behind 1, 2, 3 and 5 layers.
_TCL_ROWS: tuple[tuple[str, str, tuple[float, ...]], ...] = (
    ("FastICA", "pearson", (1.0, 0.672, 0.378, 0.288)),
    (_JD, "pearson", (1.0, 0.762, 0.577, 0.357)),
    (_LINEAR, "pearson", (1.0, 0.821, 0.710, 0.560)),
    ("FastICA", "pearson_magnitudes", (1.0, 0.578, 0.241, 0.185)),
    (_JD, "pearson_magnitudes", (1.0, 0.697, 0.490, 0.261)),
)


def _tcl_rows() -> Iterator[PublishedScore]:
    for method, score, values in _TCL_ROWS:
        for layers, value in zip((1, 2, 3, 5), values, strict=True):
            setting = {"n_components": 20, "n_segments": 256, "n_per_segment": 512, "layers": layers}
            scoring = "in sample, mean of 5 data sets"
            yield PublishedScore("tcl", method, value, setting, "R", scoring, _RECOMPUTED, score)


SCORES: tuple[PublishedScore, ...] = (
    *_icebeem_scores(),
    *_orthogonal_rows(),
    _iflow("iFlow", 0.718, 0.067),
    _iflow("iFlow, residual variant", 0.474, None),
    _iflow("iFlow, LayerNorm variant", 0.461, None),
    _iflow("iVAE, prior mean 0", 0.483, 0.059),
    _iflow("iVAE, prior mean 0", 0.496, None, _IFLOW),
    _iflow("iVAE, trainable prior mean", 0.556, 0.061),
    _iflow_row("raw x", 0.574, 0.048),
    _iflow_row("FastICA", 0.585, 0.048),
    _iflow_row(_JD, 0.621, 0.057),
    _iflow_row(_LINEAR, 0.827, 0.029),
    _iflow_row("u only", 0.833, 0.010),
    _iflow_row("FastICA", 0.470, None, "pearson_within"),
    _iflow_row(_JD, 0.504, None, "pearson_within"),
    _ivae_row("raw x", 0.57, None),
    _ivae_row("FastICA", 0.578, 0.056),
    _ivae_row(_JD, 0.805, 0.059),
    _ivae_row(_LINEAR, 0.834, None),
    *_tcl_rows(),
)
"""All scores."""
