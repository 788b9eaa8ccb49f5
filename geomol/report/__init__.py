"""Plots and the self-contained HTML report of a run."""

from geomol.report.card import measure_cost, measure_symmetry, publish
from geomol.report.confusion import confusion_figure, save_confusion_figure
from geomol.report.gallery import write_gallery
from geomol.report.generator_card import generator_card, measure_generator, publish_generator
from geomol.report.md_plots import distribution, drift_plot, energy_series, time_series
from geomol.report.page import save_plots, write_report
from geomol.report.plots import element_bars, error_histogram, learning_curve, parity
from geomol.report.task_card import publish_measured, task_card

__all__ = [
    "confusion_figure",
    "distribution",
    "drift_plot",
    "element_bars",
    "energy_series",
    "error_histogram",
    "generator_card",
    "learning_curve",
    "measure_cost",
    "measure_generator",
    "measure_symmetry",
    "parity",
    "publish",
    "publish_generator",
    "publish_measured",
    "save_confusion_figure",
    "save_plots",
    "task_card",
    "time_series",
    "write_gallery",
    "write_report",
]
