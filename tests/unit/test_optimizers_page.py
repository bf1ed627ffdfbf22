"""server/OPTIMIZERS.md tells the truth."""

from __future__ import annotations

import re

from tests.oracle import test_family, test_reference_against_public
from tests.unit.optimizers_page import PAGE, generated

from sheepfold_wire import rules


def test_generated_parts_are_those_of_the_code() -> None:
    """To renew them: python -m tests.unit.optimizers_page."""
    text = PAGE.read_text("utf-8")
    assert text == generated(text)


def test_every_rule_has_a_section_and_every_setting_is_named() -> None:
    text = PAGE.read_text("utf-8")
    for name, rule in rules.RULES.items():
        assert re.search(rf"^## .*`{name}`", text, re.MULTILINE), name
        for key in rule.model_fields.keys() - {"rule"}:
            assert f"`{key}" in text, f"{name}.{key}"


def test_every_public_implementation_that_is_named_as_equal_is_a_test_case() -> None:
    text = PAGE.read_text("utf-8").split("## What each one equals")[1]
    named = re.findall(r"^\| ([^|]+?) \| `([^`|]+)` \|", text, re.MULTILINE)
    cases = {case for _, case in named}
    assert cases <= test_reference_against_public.CASES.keys() | {"recorded"}, cases
    assert len(cases) >= 20


def test_every_preset_is_run_against_the_reference() -> None:
    run = {given.get("preset", "paper-v5") for given in test_family.LAMBS.values()}
    assert run >= rules.PRESETS.keys()
