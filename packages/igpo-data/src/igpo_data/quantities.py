"""Numbers as people and models write them, read exactly: 1,000 and 3\\frac{1}{2} and 25\\% and 12\\text{ cm}.

Only fractions, never floats; every pattern is linear (possessive quantifiers) and every number is capped.
"""

from __future__ import annotations

import re
from fractions import Fraction

from attrs import frozen

DIGITS = 400
# Longest number in characters and largest power of ten; beyond that it is no quantity.

DECIMAL = r"(?>[0-9]{1,3}(?:[, ][0-9]{3})++(?![0-9])(?:\.[0-9]*+)?|[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)"
ARGUMENT = r"(?:\{\s?([+-]?+\s?" + DECIMAL + r")\s?\}|([0-9]))"
NUMBER = re.compile(
    r"(?P<sign>[+-]?+)\s?(?P<currency>[$€£]?+)\s?(?P<minus>-?+)(?:"
    rf"(?:(?P<whole>[0-9]++)\s?)?\\frac\s?{ARGUMENT}\s?{ARGUMENT}"
    rf"|(?:(?P<mixed>[0-9]++)\s)?(?P<over>{DECIMAL})\s?/\s?(?P<under>{DECIMAL})"
    rf"|(?:(?P<mantissa>{DECIMAL})\s?(?:\\times|\\cdot|\*|x)\s?)?10\s?\^\s?(?P<power>[0-9]{{1,3}}+|\{{\s?[+-]?+\s?[0-9]{{1,6}}+\s?\}})"
    r"|(?P<fixed>[0-9]*+\.[0-9]*+)\\(?:overline|bar)\s?\{(?P<period>[0-9]{1,20})\}"
    rf"|(?P<decimal>{DECIMAL})(?:[eE](?P<exponent>[+-]?[0-9]{{1,6}}))?"
    r")"
)
PERCENT = re.compile(r"[\s\x02]*(?:%|(?:percent|percentage|pct)(?: points?)?\b)[\s\x03]*", re.IGNORECASE)
MAGNITUDE = re.compile(r"[\s\x02]*(hundred|thousand|million|billion|trillion)\b\s?\x03?", re.IGNORECASE)
MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
UNIT = re.compile(
    r"(?P<space>\s*)(?:(?P<mark>[\x02\x03])|(?P<word>[A-Za-z](?:[A-Za-z'-]|\.(?=[A-Za-z]))*+)\.?|(?P<sign>[/$€£¢])"
    r"|\^\s?\{?\s?(?P<power>[0-9])\s?\}?)"
)

MEASURES = {
    word: name
    for name, words in {
        "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "m": "m meter metre",
        "km": "km kilometer kilometre", "inch": "in inch inche", "foot": "ft foot feet", "yard": "yd yard",
        "mile": "mi mile", "mg": "mg milligram", "g": "g gram", "kg": "kg kilogram kilo", "lb": "lb",
        "ounce": "oz ounce", "ml": "ml milliliter millilitre", "l": "l liter litre", "gallon": "gal gallon",
        "second": "s sec second", "minute": "min minute", "hour": "h hr hour", "day": "day", "week": "week",
        "month": "month", "year": "yr year", "dollar": "dollar buck usd $", "cent": "cent ¢", "euro": "euro eur €",
        "am": "am a.m", "pm": "pm p.m", "degree": "degree deg", "radian": "radian rad", "per": "per /",
        "mile per hour": "mph",
    }.items()
    for word in words.split()
}  # fmt: skip
# Two different measures make two answers (12 cm, 12 m); any other word only names what is counted (12 apples).
POWERS_BEFORE = {"square": "2", "sq": "2", "cubic": "3"}
POWERS_BEHIND = {"squared": "2", "cubed": "3"}
NOT_UNITS = (
    "and or but not to than then through from if is are was were either neither nor about minus plus times over "
    "mod pi sqrt sin cos tan cot sec csc log ln exp inf infinity root factorial choose base remainder half halves "
    "third thirds fourth fourths quarter quarters fifth fifths sixth sixths seventh sevenths eighth eighths ninth "
    "ninths tenth tenths hundredths thousandths dozen dozens pair pairs score because since so where when which that "
    "while therefore except without"
)
# Words behind a number that make it another number, or a sentence.
NO_UNIT = frozenset(NOT_UNITS.split())


@frozen
class Quantity:
    """A number and what stood behind it."""

    value: Fraction
    percent: bool = False
    """True where a percent sign stood behind the number; `value` is the number as written."""
    unit: str = ""
    """The measure in one spelling, such as "cm2" or "mile per hour"; empty for none and for things counted."""

    def agrees(self, other: Quantity) -> bool:
        """The same number, where 25% is as good as 25 and as 0.25, and no two different measures."""
        if self.unit and other.unit and self.unit != other.unit:
            return False
        if self.percent == other.percent:
            return self.value == other.value
        return self.value == other.value or self.share == other.share

    @property
    def share(self) -> Fraction:
        """The number that a percent sign makes of the value."""
        return self.value / 100 if self.percent else self.value


def read_quantity(text: str) -> Quantity | None:
    """The quantity that the whole of a cleaned text is (`igpo_data.answers.clean`), or None."""
    text = text.lstrip("\x02\x03 ")
    match = NUMBER.match(text)
    if match is None or match.end() > DIGITS:
        return None
    value, rest = _value(match), text[match.end() :]
    if value is None:
        return None
    if percent := PERCENT.match(rest):
        return Quantity(value, percent=True) if percent.end() == len(rest) else None
    if magnitude := MAGNITUDE.match(rest):
        value *= 10 ** MAGNITUDES[magnitude[1].lower()]
        rest = rest[magnitude.end() :]
    unit = read_unit(rest)
    if unit is None:
        return None
    return Quantity(value, unit=MEASURES.get(match["currency"], unit))


def is_measure(word: str) -> bool:
    """Is this a measure, or a word that stands before one?"""
    word = word.lower()
    return word in MEASURES or word.removesuffix("s") in MEASURES or word in POWERS_BEFORE or word in POWERS_BEHIND


def _value(match: re.Match[str]) -> Fraction | None:
    """The number of a match; None for a zero denominator, an improper mixed number or a power beyond the cap."""
    if match["power"] or match["decimal"]:
        exponent = int(re.sub(r"[{}\s]", "", match["power"] or match["exponent"] or "0"))
        if abs(exponent) > DIGITS:
            return None
        value = _fraction(match["decimal"] or match["mantissa"] or "1") * Fraction(10) ** exponent
    elif period := match["period"]:
        places = len(match["fixed"].partition(".")[2])
        value = _fraction(match["fixed"] + "0") + Fraction(int(period), 10**places * (10 ** len(period) - 1))
    else:
        above, above_digit, below, below_digit = match.groups()[4:8]  # the arguments of \frac
        top, bottom = match["over"] or above or above_digit, match["under"] or below or below_digit
        whole = match["whole"] or match["mixed"]
        if not _fraction(bottom):
            return None
        value = _fraction(top) / _fraction(bottom)
        if whole:
            if not 0 < value < 1:
                return None
            value += _fraction(whole)
    return -value if "-" in match["sign"] + match["minus"] else value


def _fraction(digits: str) -> Fraction:
    return Fraction(re.sub(r"[, ]", "", digits).removesuffix("."))


def read_unit(rest: str) -> str | None:
    """The unit behind a number in one spelling, "" for none or for things counted, None where it is no unit.

    Plain single letters and unknown words are units only behind a space: 12 m and 12 apples, but 5m is a product.
    """
    names: list[str] = []
    measured, inside, ahead, position = True, False, "", 0
    while position < len(rest.rstrip()):
        match = UNIT.match(rest, position)
        if match is None or len(names) == 6:
            return None
        position = match.end()
        if match["mark"]:
            inside = match["mark"] == "\x02"
            continue
        word = (match["word"] or match["sign"] or "").lower()
        power = match["power"] or POWERS_BEHIND.get(word)
        if power:
            if not names:
                return None
            names[-1] += power
            continue
        name = MEASURES.get(word) or MEASURES.get(word.removesuffix("s"))
        apart = inside or not match["word"] or names[-1:] == ["per"]  # m/s
        apart = apart or (names == ["degree"] and word in ("c", "f", "k"))
        apart = apart or (bool(match["space"]) and (name is not None or len(word) > 2))
        if word in NO_UNIT or not (apart or (name is not None and len(word) > 1)):
            return None
        if word in POWERS_BEFORE:
            ahead = POWERS_BEFORE[word]
            continue
        measured = measured and name is not None
        names.append((name or word) + ahead)
        ahead = ""
    return " ".join(names) if measured else ""
