"""The two reduced priors of BMRS: all mass at the lower bound, or fewer bits."""

from __future__ import annotations

__all__ = ["low_precision", "spike"]

from numbers import Real

from bmrs_pyro.distributions import IntervalDistribution, LogUniform, TruncatedLogNormal


def spike(prior: LogUniform, scale: float = 1e-6) -> TruncatedLogNormal:
    """BMRS_N's reduced prior: a gain stuck at the prior's lower bound, where the structure does nothing.

        log θ ~ N(log low, scale²) cut to the prior's interval

    Args:
        prior: The prior to reduce, on [low, high].
        scale: Standard deviation of log θ; the paper's is 1e-6.

    Raises:
        TypeError: `prior` has no interval.

    Reference:
        Wright, Igel and Selvan, "BMRS: Bayesian Model Reduction for Structured Pruning", 2024, section 3.2.
    """
    if not isinstance(prior, IntervalDistribution):
        raise TypeError(
            f"the prior is {prior!r}; the spike is at the lower bound of a LogUniform(low, high), without to_event"
        )
    # float64, like the bounds: float32 would put the spike a few of its own widths beside log low
    return TruncatedLogNormal(prior.log_low, scale, prior.low, prior.high)


def low_precision(bits: int, mantissa_bits: int = 23) -> LogUniform:
    """BMRS_U's reduced prior: gains that vanish in arithmetic of `bits` bits.

        θ ~ LogUniform(2^−mantissa_bits, 2^−bits)

    Args:
        bits: p; gains up to 2^−p are prunable. The paper uses 4 and 8.
        mantissa_bits: Precision of the weights; 23 is float32.

    Raises:
        ValueError: `bits` is not between 0 and `mantissa_bits`.
        TypeError: `bits` is no number.

    Reference:
        Wright, Igel and Selvan, "BMRS: Bayesian Model Reduction for Structured Pruning", 2024, section 3.3.
    """
    if isinstance(bits, bool) or not isinstance(bits, Real):
        raise TypeError(f"bits is {bits!r}; give a number, such as 8")
    if not 0 <= bits < mantissa_bits:
        raise ValueError(f"bits must be at least 0 and below mantissa_bits={mantissa_bits}, got {bits}")
    return LogUniform(2.0**-mantissa_bits, 2.0**-bits)
