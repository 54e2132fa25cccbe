def demo(table: str):
    """X."""
