"""Figures of several rounds, and tables of them."""

import statistics


def spread(values: list[float]) -> dict:
    """What several rounds come to."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def cell(value: dict | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value['median']:,.{digits}f} ({value['min']:,.{digits}f}..{value['max']:,.{digits}f})"


def table(heads: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in [heads, *rows])
