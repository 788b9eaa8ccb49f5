"""Studies: several ways of having a symmetry, trained alike and put in one table."""

from geomol.study.compare import Comparison, Entry, compare, read_configs
from geomol.study.conditional import AskedAndGot, Wanted, asked_and_got, counted, predicted
from geomol.study.denoisers import equivariance_error, measure_denoiser
from geomol.study.grid import Axis, Cell, StudyConfig, cells, load_study
from geomol.study.record import CellResult
from geomol.study.runner import StudyResult, run_study
from geomol.study.sampling_curves import CurvePoint, curve_figure, curves_json, sampler_curve, training_curve
from geomol.study.scaling import PowerLaw, fit_power_law
from geomol.study.study_figures import study_figures
from geomol.study.summary import outcome, power_laws, sentences
from geomol.study.summary import table as study_table
from geomol.study.table import markdown_table, tradeoff_figure

__all__ = [
    "AskedAndGot",
    "Axis",
    "Cell",
    "CellResult",
    "Comparison",
    "CurvePoint",
    "Entry",
    "PowerLaw",
    "StudyConfig",
    "StudyResult",
    "Wanted",
    "asked_and_got",
    "cells",
    "compare",
    "counted",
    "curve_figure",
    "curves_json",
    "equivariance_error",
    "fit_power_law",
    "load_study",
    "markdown_table",
    "measure_denoiser",
    "outcome",
    "power_laws",
    "predicted",
    "read_configs",
    "run_study",
    "sampler_curve",
    "sentences",
    "study_figures",
    "study_table",
    "tradeoff_figure",
    "training_curve",
]
