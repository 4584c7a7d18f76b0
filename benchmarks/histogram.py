"""Latency histograms: nanoseconds from 1 to 10 minutes, to three digits."""

from collections import Counter
from collections.abc import Iterable

from hdrh.histogram import HdrHistogram

_HIGHEST = 600 * 10**9


def histogram(nanoseconds: Iterable[int] = ()) -> HdrHistogram:
    """A histogram of these values."""
    result = HdrHistogram(1, _HIGHEST, 3)
    for value, count in Counter(nanoseconds).items():
        result.record_value(min(max(value, 1), _HIGHEST), count)
    return result


def encode(values: HdrHistogram) -> str:
    """The histogram as text (HdrHistogram's own compressed form, base64)."""
    return str(values.encode().decode("ascii"))


def merge(encoded: Iterable[str]) -> HdrHistogram:
    """One histogram of all."""
    result = histogram()
    for text in encoded:
        result.decode_and_add(text)
    return result


def percentile(values: HdrHistogram, percent: float) -> float:
    """A percentile, in microseconds."""
    return float(values.get_value_at_percentile(percent)) / 1000


def longest(values: HdrHistogram) -> float:
    """The highest value, in microseconds."""
    return float(values.get_max_value()) / 1000
