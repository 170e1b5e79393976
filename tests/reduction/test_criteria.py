"""Reduced priors, criteria and selection."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.reduction import (
    Criterion,
    ExpectedGain,
    ModelReduction,
    SignalToNoise,
    WeightNorm,
    bmrs_n,
    bmrs_u,
    criterion_name,
    delta_f,
    low_precision,
    named_criterion,
    score_structures,
    select,
    spike,
)

PRIOR = LogUniform()
POSTERIORS = {
    "theta.a": TruncatedLogNormal(torch.tensor([-0.1, -25.0, -10.0]), torch.tensor([0.01, 0.5, 130.0])),
    "theta.b": TruncatedLogNormal(torch.tensor([-2.0, -6.0]), torch.tensor([0.05, 0.3])),
}


def test_spike_sits_on_the_bound_to_the_last_digit() -> None:
    for low in (math.exp(-20.0), 0.1, 1e-7):
        reduced = spike(LogUniform(low, 1.0))
        assert torch.equal(reduced.loc, reduced.log_low)
        assert reduced.scale.item() == 1e-6
        assert (reduced.low.item(), reduced.high.item()) == (low, 1.0)


def test_low_precision_holds_what_rounds_away() -> None:
    reduced = low_precision(4)
    assert (reduced.low.item(), reduced.high.item()) == (2.0**-23, 2.0**-4)
    assert low_precision(4, mantissa_bits=10).low.item() == 2.0**-10
    for bits in (-1, 23):
        with pytest.raises(ValueError, match="bits"):
            low_precision(bits)
    with pytest.raises(TypeError, match="bits is '8'; give a number"):
        bmrs_u("8")  # type: ignore[arg-type]


def test_too_many_bits_in_a_name_are_told_of() -> None:
    with pytest.raises(ValueError, match="criterion 'bmrs-u-99': bits must be at least 0 and below"):
        named_criterion("bmrs-u-99")


@pytest.mark.parametrize("name", ["bmrs-n", "snr", "bmrs-u-0", "bmrs-u-4", "bmrs-u-8", "bmrs-u-22"])
def test_a_criterion_has_the_name_that_it_is_made_by(name: str) -> None:
    criterion = named_criterion(name)
    assert criterion is not None
    assert criterion_name(criterion) == name


def test_a_criterion_with_other_odds_or_bounds_has_another_name() -> None:
    for other in (
        ModelReduction(low_precision(8), log_prior_odds=1.0),
        ModelReduction(low_precision(8, mantissa_bits=10)),
        ModelReduction(LogUniform(2.0**-23, 0.3)),
    ):
        assert criterion_name(other) == "ModelReduction"


def test_the_reduced_prior_is_made_from_the_prior_or_given() -> None:
    reduced = bmrs_n().reduced_prior(PRIOR)
    assert isinstance(reduced, TruncatedLogNormal)
    assert torch.equal(reduced.loc, spike(PRIOR).loc)
    given = low_precision(8)  # distributions of Pyro can be called
    assert ModelReduction(given).reduced_prior(PRIOR) is given


def test_model_reduction_adds_the_odds() -> None:
    q = POSTERIORS["theta.a"]
    assert torch.equal(bmrs_n()(q, PRIOR), delta_f(q, PRIOR, spike(PRIOR)) + 1.0)
    assert torch.equal(bmrs_u(8)(q, PRIOR), delta_f(q, PRIOR, low_precision(8)))
    fixed = ModelReduction(spike(PRIOR, scale=1e-3), log_prior_odds=-2.0)
    assert torch.equal(fixed(q, PRIOR), delta_f(q, PRIOR, spike(PRIOR, scale=1e-3)) - 2.0)


def test_bmrs_removes_the_dead_and_the_undecided_and_keeps_the_rest() -> None:
    keep = select(POSTERIORS, PRIOR, bmrs_n())
    assert keep["theta.a"].tolist() == [True, False, False]
    assert keep["theta.b"].tolist() == [True, True]
    # at even odds a structure that kept its prior stays
    assert select(POSTERIORS, PRIOR, ModelReduction(spike))["theta.a"].tolist() == [True, False, True]


def test_thresholds_include_equality() -> None:
    q = POSTERIORS["theta.b"]
    snr, mean = q.signal_to_noise[1].item(), q.mean[1].item()
    assert (SignalToNoise(snr)(q, PRIOR) > 0).tolist() == [False, True]
    assert (SignalToNoise(math.nextafter(snr, 0))(q, PRIOR) > 0).tolist() == [False, False]
    assert (ExpectedGain(mean)(q, PRIOR) > 0).tolist() == [False, True]
    assert (ExpectedGain(math.nextafter(mean, 0))(q, PRIOR) > 0).tolist() == [False, False]
    normal = dist.Normal(torch.tensor([1.0, 4.0]), 2.0)
    torch.testing.assert_close(SignalToNoise()(normal, PRIOR), torch.tensor([0.5, -1.0]).double())


def test_weight_norm_ranks_over_all_families() -> None:
    norms = {"theta.a": torch.tensor([3.0, 1.0, 0.5]), "theta.b": torch.tensor([0.1, 2.0])}
    for fraction, kept in [(0.0, [0.1, 0.5, 1, 2, 3]), (0.4, [1, 2, 3]), (0.6, [2, 3])]:
        keep = select(POSTERIORS, PRIOR, WeightNorm(fraction, norms))
        left = torch.cat([norms[name][keep[name]] for name in norms])
        torch.testing.assert_close(left.sort().values, torch.tensor(kept, dtype=torch.float32))


def test_weight_norm_removes_its_share_of_ties() -> None:
    posterior = {"theta": TruncatedLogNormal(torch.zeros(10), 1.0)}
    assert select(posterior, PRIOR, WeightNorm(0.3, {"theta": torch.ones(10)})).removed == 3


def test_a_share_of_a_larger_network_counts_what_has_left_it_already() -> None:
    posterior = {"theta": TruncatedLogNormal(torch.zeros(10), 1.0)}
    removed = [
        select(posterior, PRIOR, WeightNorm(0.4, {"theta": torch.arange(10.0)}, total)).removed
        for total in (10, 14, 17, 30)
    ]
    assert removed == [4, 6 - 4, 7 - 7, 0]


def test_weight_norm_needs_fitting_norms() -> None:
    with pytest.raises(ValueError, match=r"producer_norms\(network\)"):
        score_structures(POSTERIORS, PRIOR, WeightNorm(0.5))
    with pytest.raises(ValueError, match=r"no norms for 'theta\.b'"):
        score_structures(POSTERIORS, PRIOR, WeightNorm(0.5, {"theta.a": torch.ones(3)}))
    with pytest.raises(ValueError, match=r"'theta\.b' have shape \(7,\)"):
        score_structures(
            POSTERIORS, PRIOR, WeightNorm(0.5, {"theta.a": torch.ones(3), "theta.b": torch.ones(7)})
        )
    ones = {"theta.a": torch.ones(3), "theta.b": torch.ones(2)}
    with pytest.raises(ValueError, match="scores 5 structures, more than the total of 4"):
        score_structures(POSTERIORS, PRIOR, WeightNorm(0.5, ones, total=4))
    broken = WeightNorm(0.5, {"theta.a": torch.ones(3), "theta.b": torch.tensor([1.0, math.nan])})
    with pytest.raises(ValueError, match=r"theta\.b: 1 scores are NaN"):
        score_structures(POSTERIORS, PRIOR, broken)
    with pytest.raises(ValueError, match="fraction"):
        WeightNorm(1.5)


@pytest.mark.filterwarnings("ignore:theta.b. the posterior.s interval")
def test_any_callable_is_a_criterion_and_priors_may_differ() -> None:
    priors = {"theta.a": PRIOR, "theta.b": LogUniform(math.exp(-30.0), 1.0)}
    seen = []

    def median(posterior: Distribution, prior: Distribution) -> Tensor:
        seen.append(prior)
        return 0.1 - posterior.icdf(torch.tensor(0.5))

    keep = select(POSTERIORS, priors, median)
    assert seen == list(priors.values())
    assert keep["theta.a"].tolist() == [True, False, False]
    with pytest.raises(ValueError, match=r"no prior for 'theta\.b'"):
        score_structures(POSTERIORS, {"theta.a": PRIOR}, median)


def test_bad_scores_name_the_family() -> None:
    with pytest.raises(ValueError, match=r"theta\.a: .*shape \(\).*expected \(3,\)"):
        score_structures(POSTERIORS, PRIOR, lambda q, p: torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"theta\.a: 3 scores are NaN"):
        score_structures(POSTERIORS, PRIOR, lambda q, p: torch.full(q.batch_shape, math.nan))


def test_selecting_is_pure_and_scores_carry_no_graph() -> None:
    loc = torch.tensor([-0.1, -25.0], requires_grad=True)
    posteriors = {"theta": TruncatedLogNormal(loc, 0.5)}
    scores = score_structures(posteriors, PRIOR, bmrs_n())
    assert not scores["theta"].requires_grad
    assert select(posteriors, PRIOR, bmrs_n()) == select(posteriors, PRIOR, bmrs_n())
    assert torch.equal(score_structures(posteriors, PRIOR, bmrs_n())["theta"], scores["theta"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
@pytest.mark.parametrize("criterion", [bmrs_n(), bmrs_u(4), SignalToNoise()])
def test_same_decision_on_an_accelerator(criterion: Criterion) -> None:
    there = {
        name: TruncatedLogNormal(posterior.loc.cuda(), posterior.scale.cuda())
        for name, posterior in POSTERIORS.items()
    }
    assert select(there, PRIOR, criterion) == select(POSTERIORS, PRIOR, criterion)


def test_min_keep_keeps_the_lowest_scores_and_says_so() -> None:
    dead = {"theta.dead": TruncatedLogNormal(torch.tensor([-25.0, -22.0, -30.0]), 0.3)}
    scores = score_structures(dead, PRIOR, bmrs_n())["theta.dead"]
    for min_keep in (1, 2):
        with pytest.warns(UserWarning, match=rf"theta\.dead.*min_keep={min_keep}"):
            keep = select(dead, PRIOR, bmrs_n(), min_keep=min_keep)["theta.dead"]
        assert keep.sum() == min_keep
        assert scores[keep].max() <= scores[~keep].min()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert select({"theta.b": POSTERIORS["theta.b"]}, PRIOR, bmrs_n(), min_keep=2).kept == 2
        assert select(dead, PRIOR, bmrs_n(), min_keep=3).kept == 3  # was said when three were left
    with pytest.raises(ValueError, match="min_keep"):
        select(dead, PRIOR, bmrs_n(), min_keep=0)


def test_posteriors_under_to_event_are_scored_too() -> None:
    wrapped = {name: q.to_event(1) for name, q in POSTERIORS.items()}
    for criterion in (bmrs_n(), bmrs_u(4), SignalToNoise(), Weakest()):
        assert select(wrapped, PRIOR, criterion) == select(POSTERIORS, PRIOR, criterion)
    assert select(wrapped, PRIOR, bmrs_n()).total == 5


class Weakest:
    """Removes gains below 0.1, and knows families that have left."""

    def scores(self, posteriors: Mapping[str, Distribution]) -> dict[str, Tensor]:
        return {"theta.gone": torch.ones(7), **{name: 0.1 - q.mean for name, q in posteriors.items()}}


def test_what_is_no_criterion_is_refused_in_one_line() -> None:
    for wrong, name in ((bmrs_n, "bmrs_n"), (SignalToNoise, "SignalToNoise"), ("bmrs-n", "str")):
        with pytest.raises(
            TypeError, match=rf"^the criterion {name} cannot be called with \(posterior, prior\)"
        ):
            select(POSTERIORS, PRIOR, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^the criterion Weakest cannot be called with \(posteriors\)"):
        select(POSTERIORS, PRIOR, Weakest)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"^theta\.a: the criterion returned a list, expected a tensor of shape \(3,\)"
    ):
        select(POSTERIORS, PRIOR, lambda q, p: q.mean.tolist())  # type: ignore[arg-type, return-value]
    silent = Weakest()
    silent.scores = lambda posteriors: {"theta.a": torch.zeros(3)}  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"^the criterion returned \['theta.a'\], expected .*'theta.b'\]$"):
        select(POSTERIORS, PRIOR, silent)


def test_another_prior_has_no_spike() -> None:
    for wrong in (dist.Normal(0.0, 1.0), LogUniform, PRIOR.expand([3]).to_event(1)):
        with pytest.raises(
            TypeError, match=r"^the prior is .*; the spike is at the lower bound of a LogUniform"
        ):
            select(POSTERIORS, wrong, bmrs_n())  # type: ignore[arg-type]


@pytest.mark.parametrize("criterion", [SignalToNoise, ExpectedGain])
def test_a_threshold_is_not_negative(criterion: type[SignalToNoise | ExpectedGain]) -> None:
    with pytest.raises(ValueError, match="threshold is -1; gains are positive"):
        criterion(-1)


def test_a_threshold_is_a_number() -> None:
    for criterion in (SignalToNoise, ExpectedGain):
        with pytest.raises(TypeError, match="threshold is 'a'; give a number"):
            criterion("a")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reduced", "odds", "error", "match"),
    [
        (3, 0.0, TypeError, "reduced is 3; give a distribution, or a function such as spike"),
        (spike, "a", ValueError, "log_prior_odds is 'a'; it must be a finite number"),
        (spike, math.nan, ValueError, "log_prior_odds is nan"),
        (spike, True, ValueError, "log_prior_odds is True"),
    ],
)
def test_a_reduction_of_nonsense_is_refused(
    reduced: Any, odds: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        ModelReduction(reduced, log_prior_odds=odds)


def test_a_prior_that_is_wider_than_the_posterior_is_doubted() -> None:
    """With the posterior's own prior half of the structures leave, and with a wider one none."""
    own, loc = LogUniform(1e-3, 1.0), torch.tensor([0.0, -7.0])
    q = {"a": TruncatedLogNormal(loc, torch.tensor([0.01, 1.0]), own.low, own.high)}
    assert select(q, own, bmrs_n())["a"].tolist() == [True, False]
    wide = (
        r"a: the posterior's interval \[0.001, 1\] is narrower than the prior's \[2.06e-09, 1\].* model.prior"
    )
    with pytest.warns(UserWarning, match=wide):
        assert select(q, LogUniform(), bmrs_n())["a"].all()
