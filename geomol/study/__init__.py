"""Studies: several ways of having a symmetry, trained alike and put in one table."""

from geomol.study.compare import Comparison, Entry, compare, read_configs
from geomol.study.table import markdown_table, tradeoff_figure

__all__ = ["Comparison", "Entry", "compare", "markdown_table", "read_configs", "tradeoff_figure"]
