"""Benchmarks: times as ratios, side by side in one run, with checks that both sides compute the same."""

from geomol.bench.plain import plain_potential
from geomol.bench.stages import StageReport, Timing, measure_stages

__all__ = ["StageReport", "Timing", "measure_stages", "plain_potential"]
