"""Recorded speech as sources, mixed by random invertible maps: real independent sources with known truth."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from identica.errors import DataError
from identica.random import named_rng
from identica.simulation import mixings
from identica.simulation.mixings import Elementwise, LayeredMixing, Mixing
from identica.typing import FloatArray, IntArray

FORMAT = (
    "an npz file with `sources`, integers (speakers, samples), one speaker per row, and `fs`, samples per second; "
    "`speakers`, their names, is optional"
)
SOURCE = "Free Spoken Digit Dataset, CC BY-SA 4.0, github.com/Jakobovski/free-spoken-digit-dataset"
WINDOW = 0.1
"""Length of the windows that serve as u, in seconds."""


@dataclass(frozen=True)
class Recordings:
    """Waveforms of several speakers, equally long.

    Attributes
    ----------
    waveforms : array (n, T) of int
        One speaker per row.
    rate : int
        Samples per second.
    names : tuple of str
        Speakers.
    """

    waveforms: IntArray
    rate: int
    names: tuple[str, ...]

    @property
    def digest(self) -> str:
        """What tells these waveforms from others, wherever the file lies: the start of their sha256."""
        values = np.ascontiguousarray(self.waveforms, dtype="<i8")
        return hashlib.sha256(values.tobytes()).hexdigest()[:16]

    @property
    def steps(self) -> IntArray:
        """Quantisation step (n,) of each speaker: the largest that divides all of its samples.

        A recording of 8 bits stored in 16 has 256.
        """
        return np.gcd.reduce(self.waveforms, axis=1)


@dataclass(frozen=True)
class MixedSpeech:
    """Mixed recordings with the truth; one row per sample, in the order of time.

    Attributes
    ----------
    X : array (N, n)
        Mixtures, noiseless.
    u : array (N,) of int
        Number of the time window of each row.
    S : array (N, n)
        The dithered waveforms, mean 0 and variance 1.
    mixing : callable
        Map from sources (..., n) to observations (..., n).
    """

    X: FloatArray
    u: IntArray
    S: FloatArray
    mixing: Mixing


def read_recordings(path: str | Path) -> Recordings:
    """Recordings from an npz file, or from the only npz file of a folder.

    Raises
    ------
    DataError
        There is no such file, or it does not hold waveforms in the expected form.
    """
    file = _find(Path(path))
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {key: content[key] for key in ("sources", "fs", "speakers") if key in content.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} cannot be read ({error}); expected {FORMAT}") from error
    missing = [key for key in ("sources", "fs") if key not in arrays]
    if missing:
        raise DataError(f"{file} has no {' and no '.join(map(repr, missing))}; expected {FORMAT}")
    return _checked(file, arrays)


def mix_speech(
    recordings: Recordings,
    *,
    seed: int,
    layers: int = 2,
    n_segments: int | None = None,
    n_per_segment: int | None = None,
) -> MixedSpeech:
    """Recordings behind ``layers`` random matrices with leaky ReLUs (slope 0.2) between them.

    The matrices follow the law of the released code of time-contrastive learning (unit columns, condition number
    in the best quarter). Each sample gets uniform noise of one quantisation step of its speaker first: digital
    silence is constant, so that its log-variance would be minus infinity, and a density of discrete values has
    no bound.

    Parameters
    ----------
    recordings : Recordings
        At least two speakers.
    seed : int
        Non-negative; of the mixing and of the dither, which have streams of their own.
    layers : int
        Number of matrices, at least 1.
    n_segments : int, optional
        Number of windows, taken from the start; as many as there are if omitted.
    n_per_segment : int, optional
        Samples per window; 0.1 seconds if omitted. A shorter rest at the end is left out.

    Raises
    ------
    DataError
        More windows than there are, or a size out of range.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> recordings = Recordings(rng.integers(-99, 99, (2, 1000)), 1000, ("a", "b"))
    >>> data = mix_speech(recordings, seed=0)
    >>> data.X.shape, int(data.u.max()) + 1
    ((1000, 2), 10)
    """
    per_window, windows = window_sizes(recordings, n_segments, n_per_segment)
    if layers < 1:
        raise DataError(f"expected layers >= 1, got {layers}")
    n = len(recordings.waveforms)
    waveforms = recordings.waveforms[:, : windows * per_window]
    dither = named_rng(seed, "dither").uniform(-0.5, 0.5, waveforms.shape) * recordings.steps[:, None]
    S = (waveforms + dither).T
    S = (S - S.mean(0)) / S.std(0)
    rng = named_rng(seed, "mixing")
    # As in the scenario tcl: x = A s with unit columns of A, hence the transposes.
    matrices = tuple(mixings.column_normalised_matrix(rng, n, n).T for _ in range(layers))
    mixing = LayeredMixing(matrices, Elementwise("leaky", 0.2))
    return MixedSpeech(mixing(S), np.repeat(np.arange(windows), per_window), S, mixing)


def window_sizes(
    recordings: Recordings, n_segments: int | None = None, n_per_segment: int | None = None
) -> tuple[int, int]:
    """Samples per window and number of windows, as `mix_speech` takes them.

    Raises
    ------
    DataError
        There are fewer windows than asked for, or a size is out of range.
    """
    per_window = round(WINDOW * recordings.rate) if n_per_segment is None else n_per_segment
    samples = recordings.waveforms.shape[1]
    if not 2 <= per_window <= samples // 2:
        raise DataError(f"expected 2 to {samples // 2} samples per window, got {per_window}")
    most = samples // per_window
    windows = most if n_segments is None else n_segments
    if not 2 <= windows <= most:
        raise DataError(f"expected 2 to {most} windows of {per_window} samples, got {windows}")
    return per_window, windows


def _find(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path} does not exist; expected {FORMAT}")
        return path
    files = sorted(path.glob("*.npz"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise DataError(f"the folder {path} should hold one npz file, found {found}; name the file itself")
    return files[0]


def _checked(file: Path, arrays: dict[str, Any]) -> Recordings:
    waveforms, rate = arrays["sources"], arrays["fs"]
    if waveforms.ndim != 2 or waveforms.dtype.kind != "i":
        raise DataError(
            f"`sources` of {file} is {waveforms.dtype} of shape {waveforms.shape}; expected integers "
            "(speakers, samples): 16-bit samples as recorded"
        )
    n, samples = waveforms.shape
    if not 2 <= n < samples:
        raise DataError(
            f"`sources` of {file} has shape {waveforms.shape}; expected at least two speakers, one per row, "
            "and more samples than speakers"
        )
    if rate.size != 1 or rate.dtype.kind not in "iu" or int(rate.reshape(-1)[0]) < 1:
        raise DataError(f"`fs` of {file} is {rate!r}; expected one positive integer, samples per second")
    silent = np.flatnonzero((waveforms == waveforms[:, :1]).all(1))
    if len(silent):
        raise DataError(
            f"row {silent[0] + 1} of `sources` of {file} is constant; expected speech in every row"
        )
    names = arrays.get("speakers")
    if names is None:
        names = np.array([f"speaker {place + 1}" for place in range(n)])
    if names.shape != (n,):
        raise DataError(f"`speakers` of {file} has shape {names.shape}; expected {n} names, one per row")
    return Recordings(waveforms.astype(np.int64), int(rate.reshape(-1)[0]), tuple(map(str, names)))
