"""What our manifests promise beyond what a schema says: rules, and how to find who breaks them.

A rule is a function that yields what it finds wrong. `muxtable k8s render` checks what it prints.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from launch.k8s.manifests import Manifests


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong: where, what, and how to put it right."""

    where: str
    what: str
    fix: str


Rule = Callable[[Manifests], Iterator[Finding]]
RULES: dict[str, Rule] = {}
_MODULES = ("rules_pods", "rules_ray", "rules_serve", "rules_network")


def rule(function: Rule) -> Rule:
    """Counts a function among the rules, by its name."""
    RULES[function.__name__] = function
    return function


def check(manifests: Manifests) -> list[tuple[str, Finding]]:
    """Returns what is wrong, each with the name of its rule."""
    for module in _MODULES:
        importlib.import_module(f"launch.k8s.{module}")
    return [(name, found) for name, each in RULES.items() for found in _findings(each, manifests)]


def _findings(each: Rule, manifests: Manifests) -> Iterator[Finding]:
    try:
        yield from each(manifests)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
        yield Finding(
            "the objects",
            f"cannot be held against this rule: {type(exc).__name__} {exc}",
            "hold them against the schemas of Kubernetes and KubeRay first",
        )
