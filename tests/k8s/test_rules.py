"""Rules find what they are for: each has manifests that break it, and it alone says so."""

import pytest

from launch.k8s.manifests import Manifests
from launch.k8s.rules import RULES, check
from tests.k8s.mutations import MUTATIONS
from tests.k8s.overlays import OVERLAYS, built, everything, needs_kustomize

pytestmark = needs_kustomize
_CASES = [(rule, number) for rule, cases in MUTATIONS.items() for number in range(len(cases))]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_overlays_keep_all_rules(overlay):
    assert check(Manifests(built(overlay))) == []


def test_the_objects_that_are_mutated_keep_all_rules():
    assert check(Manifests(everything())) == []


def test_every_rule_is_broken_by_something():
    check(Manifests([]))

    assert set(MUTATIONS) == set(RULES)


@pytest.mark.parametrize(("rule", "number"), _CASES)
def test_a_rule_finds_what_breaks_it(rule, number):
    objects = everything()

    MUTATIONS[rule][number](objects)

    found = [finding for name, finding in check(Manifests(objects)) if name == rule]
    assert found
    assert all(each.where and each.what and each.fix for each in found)
