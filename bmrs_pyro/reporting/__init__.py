"""Reporting: evaluation on held-out data, questions to the posteriors, latency, tables and figures."""

from bmrs_pyro.reporting.corruptions import CORRUPTIONS as CORRUPTIONS
from bmrs_pyro.reporting.corruptions import corrupted as corrupted
from bmrs_pyro.reporting.evaluation import Evaluation as Evaluation
from bmrs_pyro.reporting.evaluation import evaluate as evaluate
from bmrs_pyro.reporting.inference_data import to_inference_data as to_inference_data
from bmrs_pyro.reporting.latency import latency as latency
from bmrs_pyro.reporting.plots import plot_evidence as plot_evidence
from bmrs_pyro.reporting.plots import save_figure as save_figure
from bmrs_pyro.reporting.prediction import Prediction as Prediction
from bmrs_pyro.reporting.prediction import averaged as averaged
from bmrs_pyro.reporting.prediction import predict as predict
from bmrs_pyro.reporting.queries import hdi as hdi
from bmrs_pyro.reporting.queries import probability_below as probability_below
from bmrs_pyro.reporting.queries import quantile as quantile
from bmrs_pyro.reporting.survey import Survey as Survey
from bmrs_pyro.reporting.survey import removal_error as removal_error
from bmrs_pyro.reporting.survey import survey as survey
from bmrs_pyro.reporting.survey import survey_table as survey_table
from bmrs_pyro.reporting.tables import comparison_table as comparison_table
from bmrs_pyro.reporting.tables import family_table as family_table
