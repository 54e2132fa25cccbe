"""The report: its numbers, its words, and how browsers take it."""

import hashlib
import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from identica.errors import DataError, Status, StorageError
from identica.report import starts, statements
from identica.report.contents import ReportContents, read_contents
from identica.report.figures import Drawing, segment_colours
from identica.report.storage import replacing, sha256_of, write_text
from identica.report.write import report_page, write_report

N, SEGMENTS = 1200, 12


def make_contents(**changes) -> ReportContents:
    rng = np.random.default_rng(0)
    u = np.arange(N) // (N // SEGMENTS)
    sources = pd.DataFrame(
        rng.normal(size=(N, 2)) * rng.uniform(0.3, 2, (SEGMENTS, 2))[u], columns=["a0", "a1"]
    )
    steps = np.arange(0, 500, 100)
    history = {
        "stage": np.repeat(["2 layers", "polish"], 10),
        "step": np.tile(np.repeat(steps, 2), 2),
        "restart": np.tile([0, 1], 10),
        "loss": np.where(np.tile(np.repeat(steps, 2), 2) == 0, np.nan, 3.0),
        "held_out": np.linspace(5, 3, 20),
    }
    scores = {
        "unit": "nats per row",
        "kind": "exact",
        "n_rows": 120,
        "model": {"name": "FlowICA", "mean": -2.125, "standard_error": 0.0625},
        "linear": {"name": "linear ICA (joint-diagonalization)", "mean": -2.5, "standard_error": 0.07},
        "difference": {"mean": 0.375, "standard_error": 0.03},
    }
    restarts = [
        {"seed": 0, "held_out": 3.001, "status": "converged"},
        {"seed": 1, "held_out": 3.0, "status": "converged"},
        {"seed": 2, "held_out": None, "status": "non_finite"},
    ]
    contents = ReportContents(
        title="FlowICA: 2 sources of 3 columns",
        facts={
            "table": "<b>&.csv",
            "method": "FlowICA",
            "parameters": {"prior": "gaussian", "max_iter": None},
            "n_components": 2,
            "n_rows": N,
            "columns": ["x1", "x2", "x3"],
            "u": ["block"],
            "kind": "discrete",
            "n_segments": SEGMENTS,
            "rows_fitted": 1079,
            "rows_held_out": 120,
            "rows_excluded": 1,
            "seed": 7,
            "steps": 900,
            "seconds": 65.4,
        },
        findings=(
            statements.convergence(Status.CONVERGED, 900),
            *statements.held_out(scores, "FlowICA"),
            starts.restarts(restarts, 2),
            statements.distinct_values(SEGMENTS, 2, 2),
        ),
        sources=sources,
        auxiliary=pd.DataFrame({"block": [f"block {k}" for k in u]}),
        history=history,
        restarts=restarts,
        scores=scores,
        loadings=np.array([[0.9, -0.5, 0.0], [0.1, 0.2, -0.99]]),
        excluded=[{"row": 5, "place": "line 7", "column": "x2", "value": 1e6, "robust_sd": 812.0}],
    )
    return replace(contents, **changes)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    contents = make_contents()
    write_report(folder, contents)
    contents.table().to_csv(folder / "sources.csv", index=False)
    lines = [
        json.dumps({k: (None if v != v else v) for k, v in zip(contents.history, row, strict=True)})
        for row in zip(*(v.tolist() for v in contents.history.values()), strict=True)
    ]
    (folder / "history.jsonl").write_text("\n".join(lines))
    return folder, contents


def test_json_has_the_numbers_of_the_page(written):
    folder, contents = written
    stored = json.loads((folder / "report.json").read_text())
    page = (folder / "report.html").read_text()
    assert stored["held_out"]["difference"] == {"mean": 0.375, "standard_error": 0.03}
    assert stored["loadings"]["correlation"][1][2] == -0.99
    for text in ("−2.125", "0.375", "−0.99", "line 7", "12", "3.0010"):
        assert text in page
    for finding in contents.findings:
        assert html.escape(finding.text, quote=False) in html.unescape(page).replace(
            "\xa0", " "
        ) or finding.text in html.unescape(page)
    rows = [segment["rows"] for segment in stored["segments"]]
    assert sum(rows) == N - 1  # the row that was left out does not count
    assert [segment["segment"] for segment in stored["segments"]][:3] == ["block 0", "block 1", "block 2"]
    block = contents.sources[(contents.auxiliary["block"] == "block 3").to_numpy()]
    assert stored["segments"][3]["mean"] == pytest.approx(block.mean().tolist())
    assert stored["segments"][3]["sd"] == pytest.approx(block.std(ddof=0).tolist())


def test_page_is_self_contained_and_escaped(written):
    page = (written[0] / "report.html").read_text()
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in page
    assert "url(http" not in page
    assert "<script" not in page
    assert "<b>&.csv" not in page
    assert "&lt;b&gt;&amp;.csv" in page


def test_figures_follow_the_page_and_do_not_change_between_writes():
    page = report_page(make_contents())
    assert page == report_page(make_contents())
    assert "currentColor" in page
    assert "var(--rule)" in page
    assert not re.search(r"#0[14]0[25]0[36]", page)
    ids = re.findall(r'<(?:svg|g|path|clipPath|image)[^>]* id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    drawing = Drawing('a "label" <here>')
    drawing.ax.plot([0, 1], [0, 1])
    assert 'aria-label="a &quot;label&quot; &lt;here>"' in drawing.svg()
    assert dict(matplotlib.rcParams) == before
    assert len({str(c) for c in segment_colours(40)}) == 40


def test_stored_runs_give_the_same_page(written):
    folder, contents = written
    assert report_page(read_contents(folder)) == report_page(contents)


def test_damaged_runs_say_so(written, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(written[0], folder)
    (folder / "history.jsonl").unlink()
    with pytest.raises(DataError, match=r"history\.jsonl cannot be read"):
        read_contents(folder)
    (folder / "report.json").write_text('{"schema": 99}')
    with pytest.raises(DataError, match="schema 99"):
        read_contents(folder)
    (folder / "report.json").write_text('{"schema": 1')
    with pytest.raises(DataError, match="damaged"):
        read_contents(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": None},
        {
            "restarts": [],
            "history": {k: np.zeros(0) for k in ("stage", "step", "restart", "loss", "held_out")},
        },
        {
            "auxiliary": pd.DataFrame(index=range(N)),
            "facts": {**make_contents().facts, "kind": "none", "u": []},
        },
        {
            "auxiliary": pd.DataFrame({"time": np.linspace(0, 1, N)}),
            "facts": {**make_contents().facts, "kind": "continuous", "n_segments": 0},
        },
        {"excluded": [], "facts": {**make_contents().facts, "method": "VAE"}},
        {"sources": make_contents().sources * 0},
    ],
)
def test_pages_with_parts_missing(changes):
    page = report_page(make_contents(**changes))
    assert "What can and cannot be concluded" in page
    assert (
        "nan"
        not in re.sub(r"<svg.*?</svg>|data:[^\"]*", "", page, flags=re.DOTALL).split("</style>")[1].lower()
    )


def test_never_says_identified():
    for method in ("FlowICA", "VAE", "LinearICA"):
        page = report_page(make_contents(facts={**make_contents().facts, "method": method}))
        assert not re.search(
            r"\bidentified\b|\bproven\b", re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
        )
    assert "rotation of them explains the rows equally" in report_page(
        make_contents(facts={**make_contents().facts, "method": "VAE"})
    )


@pytest.mark.parametrize(
    ("gain", "error", "verdict"),
    [(0.3, 0.1, "good"), (0.1, 0.1, "warning"), (-0.1, 0.1, "warning"), (-0.3, 0.1, "bad")],
)
def test_gain_is_judged_by_its_standard_error(gain, error, verdict):
    scores = make_contents().scores | {"difference": {"mean": gain, "standard_error": error}}
    finding = statements.held_out(scores, "FlowICA")[1]
    assert finding.verdict == verdict
    assert finding.interval == pytest.approx((gain - 0.2, gain + 0.2))


def test_restarts_agree_within_a_stated_tolerance():
    def records(*values):
        return [{"seed": i, "held_out": v, "status": ""} for i, v in enumerate(values)]

    assert starts.restarts(records(1.0, 1.039, 1.041, None), 2).value == "2 of 4"
    assert starts.restarts(records(1.0, 2.0), 2).verdict == "warning"
    assert starts.restarts(records(1.0), 2).verdict == "info"
    assert starts.restarts([], 2) is None


@pytest.mark.parametrize(("n_segments", "verdict"), [(4, "warning"), (5, "info"), (16, "good")])
def test_distinct_values_of_u_against_theorem_1(n_segments, verdict):
    finding = statements.distinct_values(n_segments, 2, 2)  # n k + 1 = 5
    assert finding.verdict == verdict
    assert ("No violation found" in finding.text) == (verdict != "warning")


def test_effect_of_u_is_the_information_in_the_segments():
    rng = np.random.default_rng(1)
    codes = np.repeat([0, 1], 50_000)
    sources = np.stack(
        [rng.normal(size=100_000) * np.array([1.0, 3.0])[codes], rng.normal(size=100_000)], axis=1
    )
    finding = statements.modulation(sources[:, :1], codes, ["z"])
    # Gaussian of variance 5 against variances 1 and 9: half the mean log ratio.
    assert finding.value == pytest.approx(0.5 * np.log(5) - 0.25 * np.log(9), abs=0.01)
    assert finding.verdict == "good"
    none = statements.modulation(sources, codes, ["y", "z"])
    assert none.value == pytest.approx(0, abs=2e-4)
    assert none.verdict == "warning"
    assert "z" in none.text


def test_dependence_is_measured_within_segments():
    rng = np.random.default_rng(2)
    codes = np.repeat(np.arange(10), 1000)
    shared = rng.normal(size=10)[codes] * 5
    independent = rng.normal(size=(10_000, 2)) + shared[:, None]  # equal means: dependent over segments only
    assert statements.independence(independent, codes, ["a", "b"]).verdict == "good"
    assert statements.independence(independent, None, ["a", "b"]).verdict == "warning"
    rho = 0.4
    pair = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], 10_000)
    finding = statements.independence(pair, codes, ["a", "b"])
    assert finding.value == pytest.approx(rho, abs=4 * (1 - rho**2) / 100)
    assert finding.verdict == "warning"
    # A common gain leaves no correlation of values, but one of sizes.
    gain = np.exp(norm.ppf(rng.random(10_000)))
    assert (
        "sizes of a and b"
        in statements.independence(rng.normal(size=(10_000, 2)) * gain[:, None], codes, ["a", "b"]).text
    )
    assert statements.independence(pair[:, :1], codes, ["a"]) is None


def test_writes_are_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"a\.txt failed: No space left on device"):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text(f"half{1 / 0}")
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]
    assert sha256_of(path) == hashlib.sha256(b"old").hexdigest()


CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)


def browse(page: str, folder) -> tuple[str, str]:
    """The page's document after loading, and what the browser's console said."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += [
        "--enable-logging=stderr",
        "--virtual-time-budget=2000",
        "--dump-dom",
        f"file://{folder / 'page.html'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if ":CONSOLE" in line)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on PATH to render the report with")
def test_browser_renders_it_on_a_phone_without_complaint(tmp_path):
    page = report_page(make_contents())
    # A frame as wide as a phone; the script reports how wide the page wants to be inside it.
    frame = f"""<!DOCTYPE html><title>t</title>
    <iframe width="375" height="800" style="border:0" srcdoc="{html.escape(page)}"></iframe>
    <script>addEventListener("load", () => {{
      const inner = document.querySelector("iframe").contentDocument;
      document.body.dataset.width = inner.documentElement.scrollWidth;
      document.body.dataset.sections = inner.querySelectorAll("main section").length;
      const drawn = [...inner.querySelectorAll("figure svg")].filter(f => f.getBoundingClientRect().height > 60);
      document.body.dataset.figures = drawn.length;
    }});</script>"""
    document, complaints = browse(frame, tmp_path)
    assert complaints == ""
    measured = dict(
        re.findall(
            r'data-(width|sections|figures)="(\d+)"', document.rsplit("<script", 1)[0].split("<body")[1][:400]
        )
    )
    assert int(measured["width"]) <= 375
    assert int(measured["sections"]) == 8
    assert int(measured["figures"]) == 1 + 3 * 2 + 1 + 1


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on PATH to render the report with")
def test_browser_would_have_complained(tmp_path):
    assert "not a function" in browse("<!DOCTYPE html><script>document.nothing()</script>", tmp_path)[1]


def test_bounds_and_collapse_are_named():
    scores = make_contents().scores | {"kind": "lower"}
    assert "at least -2.125" in statements.held_out(scores, "IVAE")[0].text
    assert "is a lower bound" in report_page(make_contents(scores=scores))
    assert "at least" not in statements.held_out(make_contents().scores, "FlowICA")[0].text
    finding = statements.collapse(["ivae1"], 3, has_u=True)
    assert finding.verdict == "warning"
    assert "say nothing about ivae1" in finding.text
    assert statements.collapse([], 3, has_u=True) is None
    assert "repeats u" not in statements.collapse(["vae1"], 3, has_u=False).text
