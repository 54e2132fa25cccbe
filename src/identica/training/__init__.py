"""Stages and the one chunked loop that runs them; it sees callables and pytrees, no model."""
