"""What the pages of the documentation show: links lead somewhere, and code prints what stands below it."""

import ast
import re
import runpy
from pathlib import Path

import matplotlib
import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def run(text: str) -> str:
    return runpy.run_path(str(DOCS / "run_page.py"))["run"](text)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_are_there(page):
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not link.startswith(("http", "mailto")):
            assert (page.parent / link).exists(), link


def test_output_goes_below_its_block_and_replaces_what_stood_there():
    page = "a\n\n```python\nx = 2\nprint(x + 1)\n```\n\n```text\nold\n```\n\nb\n\n```python\ny = x\n```\n"
    shown = run(page)
    assert shown == page.replace("old", "3")
    assert run(shown) == shown


def test_blocks_of_the_road_are_python():
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "road.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        ast.parse(block)


def likelihoods(text: str) -> dict[str, float]:
    table = text[text.index("road  ") : text.index("All are judged")]
    rows = [re.match(r"(.+?)\s+(-\d+\.\d+)", line) for line in table.splitlines()[1:]]
    return {row[1]: float(row[2]) for row in rows if row}


@pytest.mark.slow
def test_the_road_prints_what_it_says(tmp_path, monkeypatch):
    text = (DOCS / "road.md").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs" / "images").mkdir(parents=True)
    matplotlib.use("Agg")
    said, printed = likelihoods(text), likelihoods(run(text))
    assert said.keys() == printed.keys() >= {"direct MLE", "VAE", "IWAE", "variational EM"}
    for name, value in said.items():
        assert printed[name] == pytest.approx(value, abs=0.05), name
    assert len(list((tmp_path / "docs" / "images").glob("road-*.png"))) == 3
