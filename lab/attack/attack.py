"""An attack and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.attack.stage import Stage

BOUND_S = 60.0


@dataclass(frozen=True, slots=True)
class Result:
    """`achieved`: what the attacker got, empty where the attack failed. `seen`: what the product did instead,
    such as the counter that went up or its message, for the table."""

    achieved: str = ""
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Attack:
    """One row: who attacks, a name, what is tried, and the function that tries it on the live world.

    `bound_s`: the longest that it may take; over it the row counts as failed. `fault`: the row's number in
    the list of faults that were found, where it has one.
    """

    by: str
    name: str
    what: str
    run: Callable[[Stage], Result]
    fault: str = ""
    bound_s: float = BOUND_S
