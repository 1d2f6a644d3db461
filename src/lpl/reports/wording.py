"""Numbers, times and sizes as people read them; the page and the terminal table share these."""

from __future__ import annotations

import math
from collections.abc import Iterable

MINUS = "\N{MINUS SIGN}"
GAP = "\N{NO-BREAK SPACE}"  # between a number and its unit
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of_ten(exponent: int) -> str:
    """10 to a whole power, such as 10⁻³."""
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def decimals_for(values: Iterable[float], digits: int = 4) -> int:
    """Decimals that give the largest of the values `digits` significant digits, so that a column lines up."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest == 0:
        return 1
    return min(max(digits - 1 - math.floor(math.log10(largest)), 0), 12)


def number(value: float, decimals: int | None = None, signed: bool = False) -> str:
    """A number with a true minus sign and grouped thousands; tiny or huge ones as a power of ten.

    Args:
        value: any float; what is not finite is spelt out.
        decimals: digits after the point; by default four significant digits.
        signed: whether a positive number carries a plus sign.
    """
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else f"{'+' if value > 0 else MINUS}∞"
    places = decimals_for([value]) if decimals is None else decimals
    tiny_or_huge = value != 0 and not 1e-4 <= abs(value) < 1e7
    text = _scientific(value) if (tiny_or_huge and places > 6) or abs(value) >= 1e7 else f"{value:,.{places}f}"
    if not any(digit in text for digit in "123456789"):
        return text.replace("-", "")
    return ("+" if signed and value > 0 else "") + text.replace("-", MINUS)


def compact(value: float, largest: float | None = None) -> str:
    """A number without trailing zeros, such as for an axis whose `largest` tick decides how all are written."""
    size = abs(value if largest is None else largest)
    if value != 0 and (size <= 1e-3 or size >= 1e6):
        return _scientific(value).replace("-", MINUS)
    return f"{value:,.6g}".replace("-", MINUS)


def percent(share: float, signed: bool = False) -> str:
    """A share as a percentage with one decimal."""
    return f"{number(100 * share, 1, signed)}{GAP}%"


def duration(seconds: float) -> str:
    """Seconds as the two largest units that matter, such as 3 min 20 s."""
    if not math.isfinite(seconds) or seconds < 0:
        return number(seconds)
    if round(seconds) < 60:
        return f"{seconds:.1f}{GAP}s" if seconds < 10 else f"{seconds:.0f}{GAP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{GAP}min{GAP}{rest}{GAP}s" if rest else f"{minutes}{GAP}min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{GAP}h{GAP}{minutes}{GAP}min" if minutes else f"{hours}{GAP}h"


def byte_size(count: float) -> str:
    """Bytes in binary units, such as 1.4 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f}{GAP}{unit}" if unit == "B" or count >= 100 else f"{count:.1f}{GAP}{unit}"
        count /= 1024
    return f"{count:.1f}{GAP}TiB"


def quantity(count: float) -> str:
    """A large count in short, such as 9.8 M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g}{GAP}{unit}"
    return f"{count:,.6g}"


def listed(words: Iterable[str]) -> str:
    """Words as one reads them out: a, b and c."""
    *first, last = [*words] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def counted(count: float, noun: str, plural: str | None = None) -> str:
    """A count with its noun: 1 image, 2 images."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def _scientific(value: float) -> str:
    mantissa, exponent = f"{value:.2e}".split("e")
    power = power_of_ten(int(exponent))
    trimmed = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return power if trimmed == "1" else f"{trimmed}×{power}"
