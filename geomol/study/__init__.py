"""Studies: several ways of having a symmetry, trained alike and put in one table."""

from geomol.study.compare import Comparison, Entry, compare, read_configs
from geomol.study.conditional import AskedAndGot, asked_and_got
from geomol.study.denoisers import equivariance_error, measure_denoiser
from geomol.study.sampling_curves import CurvePoint, curve_figure, curves_json, sampler_curve, training_curve
from geomol.study.table import markdown_table, tradeoff_figure

__all__ = [
    "AskedAndGot",
    "Comparison",
    "CurvePoint",
    "Entry",
    "asked_and_got",
    "compare",
    "curve_figure",
    "curves_json",
    "equivariance_error",
    "markdown_table",
    "measure_denoiser",
    "read_configs",
    "sampler_curve",
    "tradeoff_figure",
    "training_curve",
]
