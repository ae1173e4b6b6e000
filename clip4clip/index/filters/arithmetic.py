"""Solve the arithmetic of a filter for its field: ``size / 1000 > 5`` becomes ``size > 5000``. No engine computes.

Engines differ in integer division, overflow and decimals, and a Milvus server crashes when a filter divides by zero.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from .tree import Comparison, Field, Membership, Not, Remainder, Value

MAX_INTEGER = 2**63 - 1
MAX_NUMBER_LENGTH = 400  # characters
MAX_EXPONENT = 400
MAX_BITS = 4096  # of numerator and denominator of a result
MIRRORED = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}


@dataclass(frozen=True)
class Computed:
    """The expression ``scale * field + offset``, or ``scale * (field % divisor) + offset``."""

    field: Field
    scale: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)
    divisor: int | None = None


def to_number(text: str) -> Value:
    """Return a number literal as an int, or as a float if it has a point or an exponent.

    Raises:
        ValueError: the number is out of range, or begins with a zero that would make it octal in other languages.
    """
    if len(text) > MAX_NUMBER_LENGTH:
        raise ValueError(f"this number has more than {MAX_NUMBER_LENGTH} characters")
    if text.isdecimal():
        if len(text) > 1 and text.startswith("0"):
            raise ValueError(f"write {text.lstrip('0') or '0'} without zeros before it")
        if int(text) > MAX_INTEGER:
            raise ValueError(f"this is the integer {text}, which does not fit into 64 bits")
        return Value(int(text), text)
    exponent = re.search(r"[eE]([+-]?\d+)$", text)
    if math.isinf(float(text)) or (exponent and abs(int(exponent[1])) > MAX_EXPONENT):
        raise ValueError(f"the number {text} is out of range")
    return Value(float(text), text)


def compute(left: Any, operator: str, right: Any) -> Value | Computed:
    """Return the sum, difference, product, quotient or remainder of two operands, of which one may have a field.

    Args:
        left: Field, Computed or Value.
        operator: one of ``+ - * / %``.
        right: likewise.

    Raises:
        ValueError: the expression is not part of the language.
    """
    left, right = _to_operand(left), _to_operand(right)
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _to_value(_compute_constant(left, operator, right))
    if isinstance(left, Computed) and isinstance(right, Computed):
        raise ValueError("two fields cannot be computed with each other")
    if isinstance(left, Fraction):
        return _compute_mirrored(left, operator, right)
    return _compute_linear(left, operator, right)


def negate(operand: Any) -> Value | Computed:
    """Return an operand with a minus before it; raise ValueError if it is not a number."""
    if isinstance(operand, Value) and operand.kind == "number":
        text = operand.text.removeprefix("-") if operand.text.startswith("-") else f"-{operand.text}"
        return Value(-operand.value, text)  # type: ignore[operator]
    return compute(Value(0, "0"), "-", operand)


def solve(left: Computed, operator: str, right: Value) -> Any:
    """Return the comparison of an expression with a number as a condition on its field.

    Raises:
        ValueError: the value is not a number, or a remainder is compared by ``<`` and the like.
    """
    constant = _to_operand(right)
    if not isinstance(constant, Fraction):
        raise ValueError("expected a comparison with a number")
    solution = _limit((constant - left.offset) / left.scale)
    if left.divisor is None:
        sign = MIRRORED[operator] if left.scale < 0 else operator
        return Comparison(left.field, sign, _to_value(solution), is_computed=True)
    if operator not in ("==", "!="):
        raise ValueError("a remainder can be compared by == and != only")
    is_possible = solution.denominator == 1 and abs(solution) < left.divisor
    condition = Remainder(left.field, left.divisor, int(solution)) if is_possible else Membership(left.field, ())
    return condition if operator == "==" else Not(condition)


def _to_operand(operand: Any) -> Fraction | Computed:
    if isinstance(operand, Field):
        return Computed(operand)
    if isinstance(operand, Computed):
        return operand
    if isinstance(operand, Value) and operand.kind == "number":
        return Fraction(operand.text)
    raise ValueError("only numbers and fields can be computed with")


def _to_value(number: Fraction) -> Value:
    """Return a whole number as an int and any other one as the nearest float."""
    if number.denominator == 1 and abs(number) <= MAX_INTEGER:
        return Value(int(number), str(number))
    try:
        return Value(float(number), str(number))
    except OverflowError:
        raise ValueError("the result is out of range") from None


def _limit(number: Fraction) -> Fraction:
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > MAX_BITS:
        raise ValueError("the result has too many digits")
    return number


def _compute_constant(left: Fraction, operator: str, right: Fraction) -> Fraction:
    if operator in "/%" and right == 0:
        raise ValueError("a division by zero")
    if operator == "%":
        if left.denominator != 1 or right.denominator != 1:
            raise ValueError("% takes whole numbers")
        return Fraction(int(math.copysign(1, left)) * (abs(int(left)) % abs(int(right))))
    results = {"+": left + right, "-": left - right, "*": left * right}
    return _limit(results[operator] if operator in results else left / right)


def _compute_linear(left: Computed, operator: str, right: Fraction) -> Computed:
    if operator in "+-":
        offset = left.offset + right if operator == "+" else left.offset - right
        return replace(left, offset=_limit(offset))
    if operator == "%":
        if left != Computed(left.field):
            raise ValueError("% takes a field, as in frame_count % 2 == 0, and no other computation before it")
        if right.denominator != 1 or not 0 < right <= MAX_INTEGER:
            raise ValueError("expected a whole number greater than 0 after %")
        return replace(left, divisor=int(right))
    if right == 0:
        raise ValueError("a division by zero" if operator == "/" else "a product with 0 is the same for all rows")
    factor = right if operator == "*" else 1 / right
    return replace(left, scale=_limit(left.scale * factor), offset=_limit(left.offset * factor))


def _compute_mirrored(left: Fraction, operator: str, right: Computed) -> Computed:
    if operator in "+*":
        return _compute_linear(right, operator, left)
    if operator == "-":
        return replace(right, scale=-right.scale, offset=_limit(left - right.offset))
    raise ValueError(f"a field can stand before {operator} only, with a number after it")
