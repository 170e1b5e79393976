"""NetworkMetrics show the numbers they were given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.network import NoisyNetwork, compact, cost_model
from bmrs_pyro.reduction import Decision, KeepMask, low_precision, spike
from bmrs_pyro.reporting import (
    plot_compression,
    plot_density,
    plot_evidence,
    plot_gains,
    plot_path,
    plot_reliability,
    plot_training,
    plot_widths,
    save_figure,
)
from bmrs_pyro.training import Epoch
from tests.reporting.paths import PATH, path, point

KEEP = KeepMask({"theta.a": torch.tensor([True, False, True]), "theta.b": torch.tensor([True, True])})
EPOCHS = [
    Epoch(
        epoch=number,
        phase="prune" if number < 3 else "fine-tune",
        elbo=-100.0 / number,
        kl=10.0 * number,
        accuracy=0.5 + 0.1 * number,
        log_likelihood=-1.0,
        removed=1,
        structures={"theta.a": 5 - number},
        learning_rate=1e-3,
        seconds=2.0,
    )
    for number in (1, 2, 3)
]


def test_the_histogram_counts_every_scored_structure() -> None:
    scores = {"theta.a": torch.tensor([-50.0, 0.3, -1e5]), "theta.b": torch.tensor([-3.0, torch.nan])}
    ax = plot_evidence(Decision("bmrs-n", KEEP, {k: v.double() for k, v in scores.items()}, 1.0))
    kept, removed, by_odds = (sum(bar.get_height() for bar in bars.patches) for bars in ax.containers)
    assert (kept, removed, by_odds) == (3, 0, 1)  # NaN was not asked


def test_the_histogram_tells_the_prior_odds_from_the_data() -> None:
    # removed: ΔF of 0.5 by the data, -0.2 by the odds of 1 nat; kept: -1.5
    scores = {"theta.a": torch.tensor([-0.5, 1.5, 0.8], dtype=torch.float64)}
    keep = KeepMask({"theta.a": torch.tensor([True, False, False])})
    decision = Decision("bmrs-n", keep, scores, 1.0)
    assert decision.by_odds["theta.a"].tolist() == [False, False, True]
    ax = plot_evidence(decision)
    assert [sum(bar.get_height() for bar in bars.patches) for bars in ax.containers] == [1, 1, 1]
    (place,) = [bar.get_x() for bar in ax.containers[2].patches if bar.get_height()]
    assert -0.3 < place <= -0.2
    assert len(plot_evidence(Decision("snr", keep, scores, evidence=False)).containers) == 2


def test_the_path_shows_scores_with_errors_and_the_chosen_point() -> None:
    ax = plot_path(PATH, point(4, 80, 0.96))
    drawn = {line.get_gid(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn["points"] == [[800, 0.98], [90, 0.95]]
    chosen = next(line for line in ax.lines if line.get_label() == "chosen")
    assert chosen.get_xydata().tolist() == [[80, 0.96]]
    (bars,) = ax.collections
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [
        pytest.approx([0.97, 0.99]),
        pytest.approx([0.94, 0.96]),
    ]
    (bars,) = plot_path(path(point(0, 900, 1.0), point(1, 800, 0.995))).collections
    assert bars.get_segments()[0][:, 1].tolist() == pytest.approx([0.985, 1.0])  # no accuracy is above 100 %
    values = path(point(0, 900, None), point(1, 800, None))
    assert plot_path(values).get_ylabel() == "log-likelihood [nats]"


def test_widths_are_bars() -> None:
    sizes, left = plot_widths(KEEP).containers
    assert [bar.get_width() for bar in sizes.patches] == [3, 2]
    assert [bar.get_width() for bar in left.patches] == [2, 2]


def test_gains_are_sorted_and_named_by_their_channel() -> None:
    q = TruncatedLogNormal(torch.tensor([-3.0, -0.5, -1.0]), torch.full((3,), 0.3))
    ax = plot_gains(q, torch.tensor([4, 7, 9]))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["7", "9", "4"]
    assert ax.lines[0].get_xydata()[:, 1].tolist() == pytest.approx(
        q.mean.sort(descending=True).values.tolist()
    )


@pytest.mark.parametrize("scale", [1e-4, 0.1, 3.0, 100.0])
def test_densities_integrate_to_one(scale: float) -> None:
    prior = LogUniform()
    q = TruncatedLogNormal(torch.tensor(-1.0, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))
    for reduced, curves in ((spike(prior), 3), (low_precision(8), 3)):
        ax = plot_density(q, prior, reduced)
        assert len(ax.lines) == curves
        for line in ax.lines:
            theta, density = (torch.tensor(values) for values in line.get_data())
            if len(theta) > 2:  # not the spike's line
                # trapezium rule on the drawn mesh
                assert torch.trapezoid(density, theta.log()).item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [("elbo", [-100, -50, -100 / 3]), ("structures", [4, 3, 2]), ("accuracy", [0.6, 0.7, 0.8])],
)
def test_training_curves_are_the_records(curve: str, expected: list[float]) -> None:
    ax = plot_training(EPOCHS, curve)
    assert ax.lines[0].get_xydata()[:, 1].tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="curve is 'loss'; use one of elbo, kl"):
        plot_training(EPOCHS, "loss")


def test_compression_ends_at_the_last_epoch() -> None:
    ax = plot_compression([100, 60, 40], [0.8, 0.9, 0.85])
    assert ax.lines[1].get_xydata().tolist() == [[40, 0.85]]


def test_reliability_draws_the_filled_bins() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.5], [2.0, 0.0]])
    result = evaluate(nn.Identity(), [(logits, torch.tensor([0, 1, 1]))], 2)
    p = logits.double().softmax(1).max(1).values
    drawn = plot_reliability(result).lines[1].get_xydata()
    assert drawn[:, 0].tolist() == pytest.approx([float(p[1]), float(p[0])])
    assert drawn[:, 1].tolist() == pytest.approx([1.0, 0.5])


def test_parameters_left_are_those_of_the_network_cut_down() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8 * 16, 10), nn.Tanh(), nn.Linear(10, 3)),
    )
    network = NoisyNetwork(net, torch.zeros(1, 2, 6, 6))
    keep = {family.name: torch.rand(family.size) < 0.6 for family in network.structures}
    small = compact(network, keep)
    widths = {name: int(mask.sum()) for name, mask in keep.items()}
    assert round(cost_model(network)(widths)) == sum(weight.numel() for weight in small.parameters())


def test_figures_are_saved_or_refused(tmp_path: Path) -> None:
    ax = plot_compression([100, 60], [0.8, 0.9])
    save_figure(ax, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")
    with pytest.raises(ValueError, match="cannot be written to"):
        save_figure(ax, tmp_path / "figure.doc")
