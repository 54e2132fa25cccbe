"""What a report shows: numbers and arrays, all computed before it is drawn."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from identica.errors import DataError
from identica.findings import Finding

SCHEMA = 1


@dataclass(frozen=True)
class ReportContents:
    """Everything a report says.

    Attributes
    ----------
    title : str
        Heading.
    facts : dict
        What was fitted and how: ``method, n_rows, columns, u, kind, n_segments, seed, seconds, …``.
    findings : tuple of Finding
        Measured statements, most important first.
    sources : pandas.DataFrame of shape (N, n)
        Recovered sources, unit variance, one column each.
    auxiliary : pandas.DataFrame of shape (N, m)
        Columns of u; no columns where there is no u.
    history : dict of arrays
        ``stage, step, restart, loss, held_out``; objective in nats per row, lower is better.
    restarts : list of dict
        ``seed, held_out, status`` of each start.
    scores : dict or None
        Held-out log-likelihood of the model and of linear ICA, nats per row, higher is better.
    loadings : array of shape (n, d)
        Correlation of each source with each column.
    excluded : list of dict
        Rows left out of the fit as gross spikes: ``row, place, column, value``.
    """

    title: str
    facts: dict[str, Any]
    findings: tuple[Finding, ...]
    sources: pd.DataFrame
    auxiliary: pd.DataFrame
    history: dict[str, np.ndarray]
    restarts: list[dict[str, Any]]
    scores: dict[str, Any] | None
    loadings: np.ndarray
    excluded: list[dict[str, Any]] = field(default_factory=list)

    def headlines(self) -> list[Finding]:
        """The findings that belong at the top."""
        return [finding for finding in self.findings if finding.name in HEADLINES]

    def told(self) -> list[Finding]:
        """The findings for whoever sees the terminal only: those at the top, and all that ask for caution."""
        return [f for f in self.findings if f.name in HEADLINES or f.verdict in ("warning", "bad")]

    def table(self) -> pd.DataFrame:
        """Sources followed by u, as in ``sources.csv``."""
        return pd.concat([self.sources, self.auxiliary], axis=1)

    def segments(self) -> tuple[np.ndarray, list[str]] | None:
        """Segment code of each row (N,) and segment names, or None unless u is discrete."""
        if self.facts.get("kind") != "discrete" or self.auxiliary.shape[1] == 0:
            return None
        from identica.auxiliary import AuxiliaryEncoder

        encoder = AuxiliaryEncoder.from_values(self.auxiliary)
        if encoder.kind != "discrete":
            return None
        names = encoder.segment_names()
        order = sorted(range(len(names)), key=lambda code: _natural(names[code]))
        rank = np.argsort(order)
        return rank[encoder.encode(self.auxiliary)], [names[code] for code in order]

    def used(self) -> np.ndarray:
        """Which rows were not left out as gross spikes, bool (N,)."""
        mask = np.ones(len(self.sources), dtype=bool)
        mask[[item["row"] for item in self.excluded]] = False
        return mask

    def segment_moments(self) -> list[dict[str, Any]]:
        """Rows, mean and standard deviation of every source in every segment."""
        segments = self.segments()
        if segments is None:
            return []
        codes, names = segments
        values = self.sources.to_numpy()[self.used()]
        codes = codes[self.used()]
        return [
            {
                "segment": name,
                "rows": int((codes == code).sum()),
                "mean": values[codes == code].mean(axis=0).tolist(),
                "sd": values[codes == code].std(axis=0).tolist(),
            }
            for code, name in enumerate(names)
        ]

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as ``report.json`` has them; arrays with a row per row of the data stay outside."""
        return {
            "schema": SCHEMA,
            "title": self.title,
            "facts": self.facts,
            "findings": [finding.to_dict() for finding in self.findings],
            "restarts": self.restarts,
            "held_out": self.scores,
            "loadings": {
                "sources": [str(name) for name in self.sources.columns],
                "columns": self.facts.get("columns", []),
                "correlation": self.loadings.tolist(),
            },
            "segments": self.segment_moments(),
            "auxiliary": [str(name) for name in self.auxiliary.columns],
            "excluded": self.excluded,
        }


HEADLINES = (
    "meaning of the latents",
    "convergence",
    "held-out log-likelihood",
    "gain over linear ICA",
    "agreement of restarts",
    "agreement of sources",
    "distinct values of u",
)


def read_contents(folder: str | Path) -> ReportContents:
    """Contents of a stored run, from ``report.json``, ``sources.csv`` and ``history.jsonl``.

    Raises
    ------
    DataError
        If one of the files is missing, damaged or of another format.
    """
    folder = Path(folder)
    try:
        stored = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        if stored["schema"] != SCHEMA:
            raise DataError(
                f"{folder / 'report.json'} has schema {stored['schema']}, this version reads {SCHEMA}"
            )
        names = stored["loadings"]["sources"]
        labels = {name: str for name in stored["auxiliary"] if stored["facts"].get("kind") == "discrete"}
        table = pd.read_csv(folder / "sources.csv", dtype=labels, keep_default_na=False)
        with open(folder / "history.jsonl", encoding="utf-8") as stream:
            history = _columns([json.loads(line) for line in stream])
        return ReportContents(
            title=stored["title"],
            facts=stored["facts"],
            findings=tuple(_finding(item) for item in stored["findings"]),
            sources=cast(pd.DataFrame, table[names].astype(np.float64)),
            auxiliary=cast(pd.DataFrame, table[stored["auxiliary"]]),
            history=history,
            restarts=stored["restarts"],
            scores=stored["held_out"],
            loadings=np.array(stored["loadings"]["correlation"], dtype=np.float64).reshape(len(names), -1),
            excluded=stored["excluded"],
        )
    except DataError:
        raise
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}; was the run finished?"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the stored report of {folder} is damaged: {error}; fit again with --overwrite"
        ) from error


def _natural(name: str) -> list[tuple[int, float, str]]:
    """Sorting key that puts "block 2" before "block 10"."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(parts)]


def _finding(item: Mapping[str, Any]) -> Finding:
    interval = item.get("interval")
    return Finding(**{**item, "interval": tuple(interval) if interval else None})


def _columns(records: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    keys = ("stage", "step", "restart", "loss", "held_out")
    numbers = {"loss", "held_out"}
    return {
        key: np.array(
            [np.nan if record[key] is None and key in numbers else record[key] for record in records]
        )
        for key in keys
    }
