"""What `identica reproduce speech` gives to listen to: mixtures, sources and what was recovered, as wav."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from identica.typing import FloatArray

if TYPE_CHECKING:
    from identica.cli.reproduce_runs import Case, Data

SOUND_NAME = "sound"
_PEAK = 0.9 * 32767


def sound_writer(out: Path, case: "Case") -> "Callable[[Data, FloatArray], None]":
    """A function for `run_seed` that writes to ``out/sound/`` what can be heard; nothing for silent benchmarks.

    Each file is 16 bit with its own loudness: its largest value is at nine tenths of full scale. Recovered
    components are ordered and signed like the sources they were matched with on the fitted rows.
    """

    def write(data: "Data", estimate: FloatArray) -> None:
        if data.sound is None:
            return
        from identica.evaluation.matching import match_components
        from identica.report.storage import storage_errors

        folder = out / SOUND_NAME / f"{case.options['layers']}-layers"
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        matched = match_components(data.S, estimate, fit_rows=data.fit_rows).apply(estimate)
        for place, name in enumerate(data.sound.names):
            label = f"{place + 1}-{_plain(name)}"
            _write(folder / f"mixture-{place + 1}.wav", data.sound.rate, data.X[:, place])
            _write(folder / f"source-{label}.wav", data.sound.rate, data.S[:, place])
            _write(folder / f"recovered-{label}.wav", data.sound.rate, matched[:, place])

    return write


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _write(path: Path, rate: int, values: FloatArray) -> None:
    from scipy.io import wavfile

    from identica.report.storage import write_with

    centred = values - values.mean()
    samples = np.round(centred * (_PEAK / np.abs(centred).max())).astype(np.int16)
    write_with(path, lambda temporary: wavfile.write(temporary, rate, samples))
