"""Properties that hold for all distributions, masks, records and tensors, not only for a few cases."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.files.sealed import load_tensors, save_tensors, seal, unseal
from bmrs_pyro.metrics import hdi, probability_below, quantile
from bmrs_pyro.reduction import (
    Criterion,
    Decision,
    ExpectedGain,
    KeepMask,
    SignalToNoise,
    WeightNorm,
    bmrs_n,
    bmrs_u,
    score_structures,
    select,
)

settings.register_profile("reproducible", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("reproducible")

LOCS, LOG_SCALES = st.floats(-40, 20), st.floats(-6, 5)
GAINS = st.lists(st.tuples(LOCS, LOG_SCALES), min_size=1, max_size=8)
NAMES = st.text(min_size=1, max_size=12)
MASKS = st.dictionaries(NAMES, st.lists(st.booleans(), max_size=20), max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def posterior(gains: list[tuple[float, float]]) -> TruncatedLogNormal:
    loc, log_scale = torch.tensor(gains, dtype=torch.float64).unbind(1)
    return TruncatedLogNormal(loc, log_scale.exp())


@given(GAINS, st.floats(0, 1))
def test_quantiles_invert_probabilities(gains: list[tuple[float, float]], level: float) -> None:
    q = posterior(gains)
    theta = quantile({"theta.a": q}, level)["theta.a"]
    assert ((theta >= q.low) & (theta <= q.high)).all()
    assert (q.cdf(theta) - level).abs().max() < 1e-6


@given(GAINS, st.floats(0.01, 0.99))
def test_shortest_intervals_have_their_mass_and_hold_the_mode(
    gains: list[tuple[float, float]], mass: float
) -> None:
    q = posterior(gains)
    start, end = hdi({"theta.a": q}, mass)["theta.a"].unbind(1)
    assert (q.cdf(end) - q.cdf(start) - mass).abs().max() < 1e-6
    slack = 1 + 1e-6
    assert ((q.mode >= start / slack) & (q.mode <= end * slack)).all()


@given(GAINS)
def test_moments_lie_where_they_must(gains: list[tuple[float, float]]) -> None:
    q = posterior(gains)
    assert ((q.mean >= q.low) & (q.mean <= q.high)).all()
    # Popoviciu's bound on the variance over an interval
    assert ((q.variance >= 0) & (q.variance <= (q.high - q.low) ** 2 / 4)).all()
    assert (torch.distributions.kl_divergence(q, LogUniform()) >= -1e-9).all()


@given(GAINS, st.floats(1e-9, 1))
def test_probabilities_grow_with_the_level(gains: list[tuple[float, float]], level: float) -> None:
    q = {"theta.a": posterior(gains)}
    less, more = (probability_below(q, factor * level)["theta.a"] for factor in (0.5, 1))
    assert ((less >= 0) & (less <= more + 1e-12) & (more <= 1)).all()


@pytest.mark.parametrize(
    "criterion",
    [bmrs_n(), bmrs_u(8), SignalToNoise(), ExpectedGain(0.1), "norm"],
    ids=["bmrs_n", "bmrs_u", "snr", "expected", "norm"],
)
@given(gains=GAINS, data=st.data())
def test_permuting_structures_permutes_scores(
    criterion: Criterion | str, gains: list[tuple[float, float]], data: st.DataObject
) -> None:
    order = torch.tensor(data.draw(st.permutations(range(len(gains)))))
    q, permuted = posterior(gains), posterior([gains[place] for place in order.tolist()])
    norms = torch.arange(len(gains)).double() * 2
    first, second = (
        WeightNorm(0.5, {"theta.a": values}) if isinstance(criterion, str) else criterion
        for values in (norms, norms[order])
    )
    scores = score_structures({"theta.a": q}, LogUniform(), first)["theta.a"]
    torch.testing.assert_close(
        score_structures({"theta.a": permuted}, LogUniform(), second)["theta.a"], scores[order]
    )


@given(GAINS, GAINS)
def test_families_are_decided_each_by_itself(
    one: list[tuple[float, float]], other: list[tuple[float, float]]
) -> None:
    families = {"theta.a": posterior(one), "theta.b": posterior(other)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # of emptied families
        both = select(families, LogUniform(), bmrs_n())
        alone = [select({name: q}, LogUniform(), bmrs_n()) for name, q in families.items()]
    assert both == KeepMask({name: mask[name] for name, mask in zip(families, alone, strict=True)})


@given(MASKS)
def test_masks_survive_json(masks: dict[str, list[bool]]) -> None:
    keep = KeepMask({name: torch.tensor(mask, dtype=torch.bool) for name, mask in masks.items()})
    again = KeepMask.from_json(keep.to_json())
    assert again == keep
    assert hash(again) == hash(keep)
    assert keep.kept + keep.removed == keep.total == sum(map(len, masks.values()))


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.data())
def test_two_selections_are_one(first: list[bool], data: st.DataObject) -> None:
    count = sum(first)
    second = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    joined = KeepMask({"a": torch.tensor(first)}).then(
        KeepMask({"a": torch.tensor(second, dtype=torch.bool)})
    )
    numbers = [number for number, kept in enumerate(first) if kept]
    assert joined.indices("a").tolist() == [n for n, kept in zip(numbers, second, strict=True) if kept]


@given(st.text() | JSON.map(json.dumps))
def test_readers_of_json_refuse_or_understand_any_text(text: str) -> None:
    with pytest.raises(ValueError, match="not the JSON of a KeepMask"):
        KeepMask.from_json(text)
    with suppress(ValueError):
        assert unseal(text).items() <= json.loads(text).items()


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_decisions_refuse_or_understand_any_record(record: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"malformed decision|not the JSON of a KeepMask"):
        Decision.from_json({**record, "scores": record.get("scores")})


@given(
    st.dictionaries(st.text().filter(lambda key: key not in ("checksum", "format_version")), JSON, max_size=4)
)
def test_sealed_records_survive_and_notice_a_change(record: dict[str, object]) -> None:
    text = json.dumps(seal(record))
    assert unseal(text) == record
    changed = {**json.loads(text), "one more": 1}
    with pytest.raises(ValueError, match="checksum"):
        unseal(json.dumps(changed))


TENSORS = st.dictionaries(
    st.text("abc.:", min_size=1, max_size=8),
    st.tuples(
        st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16]),
        st.lists(st.integers(0, 4), max_size=3),
    ),
    max_size=4,
)


@settings(max_examples=40)
@given(TENSORS, st.integers(0, 2**31), st.dictionaries(st.text("xyz", min_size=1), st.text(), max_size=2))
def test_sealed_tensors_survive(
    kinds: dict[str, tuple[torch.dtype, list[int]]], seed: int, meta: dict[str, str]
) -> None:
    torch.manual_seed(seed)
    tensors: dict[str, Tensor] = {
        name: (100 * torch.randn(shape)).to(dtype) for name, (dtype, shape) in kinds.items()
    }
    with TemporaryDirectory() as folder:
        file = Path(folder) / "tensors.safetensors"
        save_tensors(file, tensors, meta)
        found, texts = load_tensors(file)
    assert texts == {**meta, "format_version": texts["format_version"]}
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_floats_are_kept_to_the_last_digit() -> None:
    record = {"elbo": -math.pi * 1e300, "kl": 5e-324}
    assert unseal(json.dumps(seal(record))) == record
