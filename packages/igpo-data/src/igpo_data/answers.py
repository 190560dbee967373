"""Are two stated answers equal? Exact, in process, and unable to hang: spelling and fractions, no algebra.

What stays undecided (None) takes algebra and goes to a killable worker (`igpo_data.pool`). No answer is ever evaluated
as code. Every pattern is linear, so hostile text costs no more than any other.
"""

from __future__ import annotations

import re

from igpo_data.quantities import Quantity, is_measure, read_quantity, read_unit

CHARACTERS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "⁄": "/", "π": r"\pi "}
    | {
        "⟨": "(",
        "⟩": ")",
        "∞": r"\infty ",
        "°": r"^\circ ",
        "√": r"\sqrt ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "∪": r"\cup ",
        "’": "'",
    }
    | dict.fromkeys("\u00a0\u202f\u2009\u2007\t\r\n", " ")
    | dict.fromkeys("\u200b\u200c\u200d\ufeff\u2060\x02\x03")
)
DELIMITERS = re.compile(
    r"(?<!\\)\\[()\[\]]|\\displaystyle(?![a-zA-Z])|\\(?:left|right)(?![a-zA-Z])\.?|\\[bB]igg?[lr]?(?![a-zA-Z])"
    r"|\\(?:bf|rm|it|sf|bm|boldsymbol|underline)(?![a-zA-Z])|\\(?:text)?color\s?\{[a-zA-Z]{1,20}\}"
)
SYNONYMS = {"\\langle": "(", "\\rangle": ")", "\\varnothing": r"\emptyset", "\\leqslant": r"\le", "\\geqslant": r"\ge"}
SYNONYM = re.compile(r"\\(?:[lr]angle|varnothing|[lg]eqslant)(?![a-zA-Z])")
APPROXIMATE = re.compile(
    r"(?:\\(?:approx|simeq)(?![a-zA-Z])|≈|(?:approximately|approx\.?|about|roughly)(?=\s))\s?", re.IGNORECASE
)
DOTS = re.compile(r"\\[lc]?dots(?![a-zA-Z])|…|\.\.\.")
LABEL = re.compile(r"\x02[A-Za-z ]{1,40}\x03\s?")
TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|mathrm|mathbf|mathsf|mbox|hbox|operatorname)\s{0,4}\{([^{}]{0,200})\}"
)
DEGREES = re.compile(r"\^\s?(?:\\circ(?![a-zA-Z])|\{\s?\\circ\s?\})|\\degree(?![a-zA-Z])")
GROUPING = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!|\\[!,;:])\s?(?=[0-9]{3}(?![0-9]))")
SPACING = re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad(?![a-zA-Z])|~")
ASSIGNMENT = re.compile(r"([A-Za-z](?:_\{?[A-Za-z0-9]\}?)?(?:\s?\(\s?[a-z]\s?\))?)\s?(?:=|\\in(?![a-zA-Z]))\s?(?=[^=])")
SEPARATOR = re.compile(r"\s?,?\s?(?<![a-zA-Z])\x02?\s?\b(?:and|or)\b\s?\x03?(?![a-zA-Z])\s?|\s?[,;]\s?")
BASED = re.compile(r"([0-9A-Za-z]{1,64})\s?_\s?\{?\s?([0-9]{1,2})\s?\}?")
MATRIX = re.compile(r"\{(?:bmatrix|matrix|smallmatrix)\}|\{array\}(?:\s?\{[lcr| ]{1,20}\})?")
GROUPED = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
ZEROS = re.compile(r"(?<=[0-9]),(?=0[0-9]{2}(?![0-9]))")
# Digits behind a comma that can only be thousands, as in (1,000).
CLOCK = re.compile(r"(?<![0-9:])([0-9]{1,2}):00(?=[\s\x02]{0,3}[ap]\.?m)", re.IGNORECASE)
DEPTH = 24
# Brackets nested deeper are no answer.
ELEMENTS = 64
# Longer lists are not compared in any order.
PROSE = re.compile(r"(?<![\\a-zA-Z])(?:[A-Za-z]{4,}|not|but|and|the|are|was|for|nor)(?![a-zA-Z])")
FUNCTIONS = frozenset({"sqrt", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "infinity"})


def clean(text: str) -> str:
    """One spelling of the same mathematics: no delimiters or sizing, single spaces, \\text{...} as \\x02...\\x03."""
    text = SYNONYM.sub(lambda name: SYNONYMS[name[0]], DELIMITERS.sub("", text.translate(CHARACTERS)))
    text = GROUPING.sub(",", DEGREES.sub("\x02 degree \x03", text))
    text = SPACING.sub(" ", TEXT.sub("\x02\\1\x03", text))
    text = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", MATRIX.sub("{pmatrix}", text)).replace("\\%", "%")
    if text.count("$") == 1:
        text = re.sub(r"^\$(?=\s?[0-9.])", r"\\$", text.strip())  # $18 is money, $18$ a formula
    text = re.sub(r"\\?\$", lambda sign: "$" if sign[0] == "\\$" else "", text)
    text = re.sub(r"(?<=[^\s*])\*\*(?=\s|$)", "", text)  # the end of markdown's **bold**
    text = CLOCK.sub(r"\1", re.sub(r"\s+", " ", text))
    return text.rstrip("\\.,;:* ").lstrip("* ")


def algebra(text: str) -> str:
    """The answer as LaTeX for the worker: no delimiters, and plain spellings of powers, roots and constants made LaTeX."""
    text = SYNONYM.sub(lambda name: SYNONYMS[name[0]], DELIMITERS.sub("", text.translate(CHARACTERS)))
    text = re.sub(r"\\?\$", "", text).replace("**", "^")
    text = re.sub(r"\^\s?([0-9]{2,9})", r"^{\1}", MATRIX.sub("{pmatrix}", text))
    text = re.sub(r"(?<![\\a-zA-Z])sqrt\s?\(([^()]{1,200})\)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\\a-zA-Z])(pi|sqrt|sin|cos|tan|log|ln)(?![a-zA-Z])", r"\\\1 ", text)
    return text.strip().rstrip(".,;: ")


def read_number(text: str) -> Quantity | None:
    """The number that the whole text is, with its unit, or None."""
    return read_quantity(_bare(_assigned(clean(text))[1]))


def equal(gold: str, given: str) -> bool | None:
    """True or False where spelling and exact arithmetic settle it, None where it takes algebra. "" equals nothing.

    Understood are thousands separators, fractions, mixed numbers, decimals, powers of ten, currency, percent, units,
    names and choices, `x =` in front, tuples, intervals, and lists and sets (in any order).
    """
    gold, given = clean(gold), clean(given)
    if not gold or not given or _tangled(given):
        return False
    return _equal(gold, given)


def _equal(gold: str, given: str) -> bool | None:
    if _squeeze(gold) == _squeeze(given):
        return True
    equation = "=" in gold
    if not equation:
        given = _result(given)
    gold_name, gold = _assigned(gold)
    given_name, given = _assigned(given)
    if gold_name and given_name and gold_name != given_name:
        return None
    gold, given = _bare(gold), _bare(given)
    if _squeeze(gold) == _squeeze(given):
        return bool(_squeeze(gold))
    about = APPROXIMATE.match(given)
    quantities = read_quantity(gold), read_quantity(given[about.end() :] if about else given)
    if quantities[0] and quantities[1]:
        return quantities[0].agrees(quantities[1])
    bases = _based(gold), _based(given)
    if bases[1]:
        return bases[0] is not None and int(*bases[0]) == int(*bases[1])
    if re.search(r"[0-9]\s?_", given) and "_" not in gold:
        return False  # a number with a subscript that is no base; algebra would drop it
    if bases[0]:
        return bases[0][0] == given  # Like a unit, a base that the question asks for may be left out.
    (gold, gold_unit), (given, given_unit) = _measured(gold), _measured(given)
    if gold_unit and given_unit and gold_unit != given_unit:
        return False  # algebra would drop both
    if (gold_unit or given_unit) and _squeeze(gold) == _squeeze(given):
        return True
    words = _words(gold), _words(given)
    if words[0] and words[1]:
        return _equal_words(words[0], words[1])
    parts = _parts(gold), _parts(given)
    if parts[0] and parts[1]:
        return _equal_parts(parts[0], parts[1])
    if _kinds(quantities[0], words[0], parts[0]) and _kinds(quantities[1], words[1], parts[1]):
        return False  # a number, a name and several things are never equal
    if "=" in given and (quantities[0] or not equation):
        return False  # several equations: algebra would take the last for the answer
    if gold.count("'") != given.count("'") or (DOTS.search(given) and not DOTS.search(gold)):
        return False  # x and its derivative, 1.25 and 1.25...: algebra drops these signs
    # In a sentence it would find some number and believe it.
    prose = {word.lower() for word in PROSE.findall(given)} - FUNCTIONS
    return None if prose <= {word.lower() for word in PROSE.findall(gold)} else False


def _kinds(quantity: Quantity | None, words: str | None, parts: tuple[str, list[str]] | None) -> bool:
    return bool(quantity or words or (parts and len(parts[1]) > 1))


def _squeeze(text: str) -> str:
    """Without spaces, but 1 8 stays apart."""
    return re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", re.sub(r"[\x02\x03]", "", text))


def _assigned(text: str) -> tuple[str, str]:
    """x = 5 -> ("x", "5"), where that is the only equation; otherwise ("", text)."""
    match = ASSIGNMENT.match(text)
    if match is None or "=" in text[match.end() :]:
        return "", text
    return _squeeze(match[1]), text[match.end() :].strip()


def _result(text: str) -> str:
    """8 + 8 + 15 = 31 units -> 31 units; not where it is several equations, an inequality or a sentence."""
    if "=" not in text:
        return text
    first, *middle, last = text.split("=")
    first = "" if LABEL.fullmatch(first) else first
    number, result = read_quantity(first.strip()), read_quantity(last.strip())
    if number and not (result and number.agrees(result)):
        return text  # 0 = 5 states nothing
    chain = not re.search(r"[<>!\\]\s?$|\\n(?:ot|e)", first) and not any(
        re.search(r"[A-Za-z<>!]", part) for part in middle
    )
    return last.strip() if chain and not PROSE.search(first) and len(_split(text)) == 1 else text


def _bare(text: str) -> str:
    """Without the braces or parentheses around a single thing: {5}, (5) and ((C)), but not (1, 2)."""
    for _ in range(3):
        inside = text[1:-1].strip()
        if not inside or (text[0], text[-1]) not in (("{", "}"), ("(", ")")) or not _balanced(inside):
            break
        if text[0] == "(" and len(_split(inside)) > 1:
            break
        text = inside
    return text


def _measured(text: str) -> tuple[str, str]:
    """2\\sqrt{3} \\text{ cm} -> ("2\\sqrt{3}", "cm"); (text, "") where no measure stands at the end."""
    head, mark, tail = text.rpartition("\x02")
    if not mark:
        words = text.split(" ")
        behind = len(words)
        while behind > 1 and len(words[behind - 1]) > 1 and is_measure(words[behind - 1]):
            behind -= 1
        head, tail = " ".join(words[:behind]), " " + " ".join(words[behind:])
    unit = read_unit(mark + tail) if head.strip() else None
    return (head.strip(), unit) if unit else (text, "")


def _tangled(text: str) -> bool:
    """Braces that do not match, or brackets nested without end: nothing that algebra should be asked to read."""
    text = re.sub(r"\\[{}]", "", text)
    depth = braces = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        braces += (character == "{") - (character == "}")
        if depth > DEPTH or braces < 0:
            return True
    return braces != 0


def _based(text: str) -> tuple[str, int] | None:
    """1011_2 -> ("1011", 2), where the digits belong to that base."""
    match = BASED.fullmatch(text)
    if match is None or not 2 <= int(match[2]) <= 36:
        return None
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"[: int(match[2])]
    return (match[1], int(match[2])) if set(match[1].lower()) <= set(digits) and match[1][0].isdigit() else None


def _balanced(text: str) -> bool:
    """Does every bracket in the text open and close within it, whatever its kind?"""
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _words(text: str) -> str | None:
    """The text where it is only words: a name, yes or no, the letter of a choice; otherwise None."""
    words = re.sub(r"[\s\x02\x03]+", " ", text).strip(" ()")
    words = words[1:-1] if words[:1] in ("'", '"') and words[-1] == words[0] else words
    return words if re.fullmatch(r"[A-Za-z](?:[A-Za-z' .-]*[A-Za-z])?", words) else None


def _equal_words(gold: str, given: str) -> bool | None:
    """Names differ in more than case; of short ones only single letters are certain (ab and ba may be products)."""
    if len(gold) == len(given) == 1:
        return gold == given
    if gold.casefold() == given.casefold():
        return True
    return False if re.search(r"[A-Za-z]{3}", gold + " " + given) else None


def _parts(text: str) -> tuple[str, list[str]] | None:
    """The brackets ("" for a bare list) and the elements of a collection; None for what is none."""
    for opening, closings in (("(", (")", "]")), ("[", ("]", ")")), ("\\{", ("\\}",))):
        for closing in closings:
            inside = text[len(opening) : -len(closing)]
            if text.startswith(opening) and text.endswith(closing) and _balanced(inside):
                elements = _split(inside)
                return (opening + closing, elements) if len(elements) > 1 or opening == "\\{" else None
    elements = _split(text, grouped=True)
    return ("", elements) if len(elements) > 1 else None


def _split(text: str, *, grouped: bool = False) -> list[str]:
    """The elements between top-level commas, semicolons, and, or; with `grouped`, 1,000 is one element."""
    elements, start, depth, position = [], 0, 0, 0
    while position < len(text):
        depth += (text[position] in "([{") - (text[position] in ")]}")
        separator = SEPARATOR.match(text, position) if depth == 0 else None
        if separator and separator.end() > position and not (GROUPED if grouped else ZEROS).match(text, position):
            elements.append(text[start:position].strip())
            start = position = separator.end()
        else:
            position += 1
    return [element for element in (*elements, text[start:].strip()) if element]


def _equal_parts(gold: tuple[str, list[str]], given: tuple[str, list[str]]) -> bool | None:
    """Tuples and intervals in order, lists and sets in any order."""
    unordered = ("", "\\{\\}")
    if gold[0] != given[0] and not (gold[0] in unordered and given[0] in unordered):
        return None if "" in (gold[0], given[0]) else False
    if len(gold[1]) != len(given[1]):
        return False if all(map(read_quantity, gold[1] + given[1])) else None
    if len(gold[1]) > ELEMENTS:
        return None
    if gold[0] not in unordered:
        results = [_equal(left, right) for left, right in zip(gold[1], given[1], strict=True)]
        return False if False in results else (None if None in results else True)
    left_over, undecided = list(given[1]), False
    for element in gold[1]:
        results = [_equal(element, other) for other in left_over]
        if True in results:
            left_over.pop(results.index(True))
        elif None in results:
            undecided = True
        else:
            return False
    return None if undecided else True
