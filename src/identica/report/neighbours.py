"""Whether neighbouring rows resemble each other, and what that does to held-out scores."""

import numpy as np

from identica.findings import Finding
from identica.series import autocorrelation_time
from identica.typing import FloatArray, IntArray

VISIBLE = 2.0
"""Autocorrelation time, in rows, above which rows that came without a sequence look like a time series."""

_FEWEST_ROWS = 100


def neighbours(
    sources: FloatArray,
    codes: IntArray | None,
    sequence: IntArray | None,
    names: list[str],
    held_out: bool,
) -> Finding | None:
    """Effective sample size of the slowest source, or None where there is nothing to say.

    Parameters
    ----------
    sources : array of shape (N, n)
        In the order of the table.
    codes : int array of shape (N,), optional
        Segments; their means and variances are taken out first, since the model knows them.
    sequence : int array of shape (N,), optional
        Time series of each row, if the fit was given them.
    names : list of str
        Of the sources.
    held_out : bool
        Whether rows were held out.
    """
    n_rows = len(sources)
    if n_rows < _FEWEST_ROWS:
        return None
    values = sources if codes is None else _standardised(sources, codes)
    times = autocorrelation_time(values, sequence)
    slowest = int(np.argmax(times))
    time = max(float(times[slowest]), 1.0)
    if sequence is None and time < VISIBLE:
        return None
    worth = n_rows / time
    known = "" if codes is None else " given u"
    if time < VISIBLE:
        return _finding(
            worth,
            "good",
            f"Neighbouring rows hardly resemble each other{known}: {n_rows:,} rows are worth about {worth:,.0f} "
            f"independent ones for {names[slowest]}, the slowest source.",
        )
    text = (
        f"Neighbouring rows resemble each other{known}: for {names[slowest]}, the slowest source, {n_rows:,} rows "
        f"are worth about {worth:,.0f} independent ones (one row in {time:.1f})."
    )
    if sequence is not None:
        if held_out:
            text += (
                " Whole blocks were held out, so that no row was scored whose neighbours were fitted, save at the "
                "ends of a block; the standard errors of held-out scores allow for what resemblance shows within "
                "the blocks."
            )
        return _finding(worth, "info", text)
    if held_out:
        text += (
            " Held-out rows were drawn one by one, so their neighbours were fitted: held-out scores may be too "
            f"good, and standard errors up to {np.sqrt(time):.1f} times as large as stated."
        )
    text += " If the rows are in the order of time, fit with sequence=… (--sequence, or --windows) to hold out blocks."
    return _finding(worth, "warning", text)


def _finding(worth: float, verdict: str, text: str) -> Finding:
    return Finding(
        "effective sample size",
        worth,
        "rows",
        verdict=verdict,  # type: ignore[arg-type]
        text=text,
        reference="N / (1 + 2 Σ autocorrelations), Geyer's initial monotone sequence (1992)",
    )


def _standardised(values: FloatArray, codes: IntArray) -> FloatArray:
    n_segments = int(codes.max()) + 1
    counts = np.maximum(np.bincount(codes, minlength=n_segments), 1)[:, None]

    def mean(table: FloatArray) -> FloatArray:
        return np.stack([np.bincount(codes, column, n_segments) for column in table.T], axis=1) / counts

    centred = values - mean(values)[codes]
    spread = np.sqrt(mean(centred**2))[codes]
    return centred / np.where(spread > 0, spread, 1.0)
