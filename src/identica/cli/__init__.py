"""The command line; see `identica.cli.app` for its commands and exit codes."""

import sys
from collections.abc import Sequence


def main(tokens: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    tokens : sequence of str, optional
        Arguments without the program name; ``sys.argv[1:]`` if omitted.

    Returns
    -------
    int
        0 done; 1 failure; 2 usage; 3 bad data; 4 not converged under ``--strict``; 130 interrupted.
    """
    from identica.cli.app import run

    return run(sys.argv[1:] if tokens is None else list(tokens))
