"""The script of the lab creates the images and networks that a scenario's molecule.yml names."""

import subprocess

import pytest
import yaml
from conftest import PROJECT
from molecule.util import safe_dump

SCENARIOS = [path for path in sorted(PROJECT.glob("molecule/*/molecule.yml")) if "image: localhost/" in path.read_text()]


def run(function, file):
    """Call a function of the script, without running one of its commands."""
    script = f'source <(sed "/^verb=/,\\$d" {PROJECT}/molecule/lab/lab); {function} {file}'
    return subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.parent.name)
def test_images_and_networks_are_found_in_the_file_as_molecule_writes_it(scenario, tmp_path):
    """molecule passes a file of its own, whose keys are sorted."""
    platforms = yaml.safe_load(scenario.read_text())["platforms"]
    written = tmp_path / "molecule.yml"
    written.write_text(safe_dump({"platforms": platforms}))
    assert run("images_of", written) == sorted({platform["image"].removeprefix("localhost/flaskhost-lab:") for platform in platforms})
    assert [line.split() for line in run("networks_of", written)] == [[platform["network"], platform["ip"]] for platform in platforms]
