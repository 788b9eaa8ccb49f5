"""Benchmarks: times as ratios, side by side in one run, with checks that both sides compute the same."""

from geomol.bench.call import CallReport, FormReport, Timing, measure_call
from geomol.bench.gates import FormGates, ModelGates, measure_drift
from geomol.bench.plain import has_plain_form, plain_potential

__all__ = [
    "CallReport",
    "FormGates",
    "FormReport",
    "ModelGates",
    "Timing",
    "has_plain_form",
    "measure_call",
    "measure_drift",
    "plain_potential",
]
