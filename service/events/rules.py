"""Which rules can be: what is wrong with some, in words that say what to do; and the file of rules for all streams."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml
from pydantic import ValidationError

from stmixer.service.errors import InputError, StartError
from stmixer.service.event_schemas import MOST_CORNERS_IN_ALL, Rule, Rules
from stmixer.service.events.zone import why_no_area

MOST_NAMED = 100
"""Labels that are named where one is unknown."""


def check_rules(rules: Sequence[Rule], labels: Collection[str] | None = None) -> None:
    """Raises InputError (``bad_rule``) for the first that cannot be. ``labels``: the model's, where that is known."""
    corners = sum(len(rule.zone or ()) for rule in rules)
    if corners > MOST_CORNERS_IN_ALL:
        many = f"the zones of all rules have {corners} corners together, at most {MOST_CORNERS_IN_ALL}"
        raise InputError("bad_rule", f"{many}: draw them with fewer")
    seen: set[str] = set()
    for rule in rules:
        why = "two rules have this id: give each its own" if rule.id in seen else _why_not(rule, labels)
        if why is not None:
            raise InputError("bad_rule", f"rule {rule.id!r}: {why}")
        seen.add(rule.id)


def _why_not(rule: Rule, labels: Collection[str] | None) -> str | None:
    if rule.label is not None and labels is not None and rule.label not in labels:
        near = get_close_matches(rule.label, labels, n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        names = ", ".join(sorted(labels)[:MOST_NAMED])
        return f"the model knows no label {rule.label!r}; {meant}it knows {names}"
    if rule.zone is not None and (why := why_no_area(rule.zone)) is not None:
        return f"zone: {why}"
    return None


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a YAML file, ``rules:`` with a list. Raises StartError (``bad_rules``)."""
    try:
        found = Rules.model_validate(yaml.safe_load(path.read_bytes()))
        check_rules(found.rules)
    except OSError as error:
        raise _unusable(path, error.strerror or "it cannot be read") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(_place(part) for part in first["loc"]) or "file"
        raise _unusable(path, f"{where}: {first['msg']}") from None
    except InputError as error:
        raise _unusable(path, str(error)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise _unusable(path, "this is no YAML" if mark is None else f"line {mark.line + 1}: this is no YAML") from None
    except (ValueError, AttributeError, TypeError, RecursionError):  # of values that are not what their tag says
        raise _unusable(path, "this is no YAML") from None
    return found.rules


def _place(part: int | str) -> str:
    return str(part) if isinstance(part, int) or re.fullmatch(r"[a-z_]{1,40}", part) else "?"


def _unusable(path: Path, why: str) -> StartError:
    return StartError("bad_rules", f"--rules {path}: {why}")
