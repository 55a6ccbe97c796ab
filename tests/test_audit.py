"""Each dev-sec control has a test or a reason why not, and each lynis suggestion has a reason."""

import re

import pytest
import yaml
from conftest import PROJECT

AUDIT = PROJECT / "molecule/audit"
BASELINES = {"linux": ("os", "package", "sysctl"), "ssh": ("ssh", "sshd"), "nginx": ("nginx",)}
CONTROLS = yaml.safe_load((AUDIT / "tests/controls.yml").read_text())


@pytest.mark.parametrize("baseline", BASELINES)
def test_each_control_has_a_test_or_a_reason_and_not_both(baseline):
    text = (AUDIT / f"tests/test_{baseline}.py").read_text()
    kinds = "|".join(BASELINES[baseline])
    tested = {f"{kind}-{number}" for kind, number in re.findall(rf"\bdef test_({kinds})_(\d+[ab]?)\(", text)}
    tested |= set(re.findall(rf'"((?:{kinds})-\d+[ab]?)"', text))
    controls = CONTROLS[baseline]
    assert tested == {name for name, control in controls.items() if "reason" not in control}
    assert all(control["title"] and control.get("reason", "x") for control in controls.values())


def test_all_controls_of_a_baseline_are_listed():
    """The baselines have this many controls. Some numbers are unused."""
    assert {baseline: len(controls) for baseline, controls in CONTROLS.items()} == {"linux": 59, "ssh": 71, "nginx": 16}


def test_every_suggestion_of_lynis_has_one_reason():
    groups = yaml.safe_load((AUDIT / "tests/lynis.yml").read_text())
    names = [name for group in groups.values() for name in group]
    assert len(names) == len(set(names)) and all(reason.endswith(".") for group in groups.values() for reason in group.values())
