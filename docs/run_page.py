"""Run the Python blocks of a page in order, and write what each prints below it.

    python docs/run_page.py docs/road.md

Blocks share their names, like cells of a notebook; pictures are saved by the blocks themselves. The text block that
follows a Python block is replaced by what was printed.
"""

import contextlib
import io
import re
import sys
import warnings
from pathlib import Path

import matplotlib

_BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n.*?```\n)?", flags=re.DOTALL)


def run(text: str) -> str:
    """The page with the output of every block."""
    names: dict[str, object] = {}

    def one(match: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(match[1], "page", "exec"), names)
        output = printed.getvalue()
        return f"```python\n{match[1]}```\n" + (f"\n```text\n{output}```\n" if output else "")

    return _BLOCK.sub(one, text)


if __name__ == "__main__":
    matplotlib.use("Agg")
    page = Path(sys.argv[1])
    page.write_text(run(page.read_text()))
