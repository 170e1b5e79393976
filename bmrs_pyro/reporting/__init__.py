"""Reporting: evaluation on held-out data, latency, tables and figures."""

from bmrs_pyro.reporting.evaluation import Evaluation as Evaluation
from bmrs_pyro.reporting.evaluation import evaluate as evaluate
from bmrs_pyro.reporting.latency import latency as latency
from bmrs_pyro.reporting.plots import plot_evidence as plot_evidence
from bmrs_pyro.reporting.plots import save_figure as save_figure
from bmrs_pyro.reporting.tables import comparison_table as comparison_table
from bmrs_pyro.reporting.tables import family_table as family_table
