"""Whatever a role would install, the distribution has: docs/packages.json is of the distributions' own indexes (docs/packages.py)."""

import json

import pytest
from conftest import LOCAL, PROJECT, evaluate, settings_of

TABLE = json.loads((PROJECT / "docs/packages.json").read_text())
ROLES = sorted(path.parents[1].name for path in PROJECT.glob("roles/*/defaults/main.yml"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """By distribution, all that any setting has the roles install; and the version of nginx that they reckon with."""
    hosts = {}
    for distribution in TABLE["sources"]:
        name, version = distribution.split()
        facts = {"distribution": name, "distribution_version": version, "distribution_major_version": version.split(".")[0]}
        hosts[distribution.replace(" ", "")] = {"facts": facts}
    settings = settings_of(*ROLES) | LOCAL | {"app_name": "shop", "app_domains": ["shop.test"]}
    settings |= {"tls_source": "letsencrypt", "backup_database_url": "postgresql://shop@db.test/shop"}
    names = sorted(name for name in settings if name.endswith("_packages") and not name.startswith("base_extra"))
    shown = {"packages": "{{ (" + " + ".join(names) + ") | unique }}", "nginx": "{{ __nginx_version }}"}
    facts = [{"ansible.builtin.set_fact": {"ansible_facts": "{{ facts }}"}}]
    return evaluate(tmp_path_factory.mktemp("packages"), facts, shown, hosts, settings=settings)


@pytest.mark.parametrize("distribution", TABLE["sources"])
def test_every_package_is_in_the_distribution(installed, distribution):
    wanted = installed[distribution.replace(" ", "")]["packages"]
    assert {"nginx", "ufw", "certbot", "postgresql-client", "restic", "redis-server", "podman"} <= {*wanted}
    missing = [name for name in wanted if distribution not in TABLE["packages"].get(name, {})]
    assert missing == [], f"not in {TABLE['sources'][distribution]}; if a role got another package, run docs/packages.py"


@pytest.mark.parametrize("distribution", TABLE["sources"])
def test_the_roles_reckon_with_the_nginx_that_the_distribution_has(installed, distribution):
    found = TABLE["packages"]["nginx"][distribution].split()[1]
    assert found.startswith(f"{installed[distribution.replace(' ', '')]['nginx']}.")
