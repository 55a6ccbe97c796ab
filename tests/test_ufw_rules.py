"""A rule that is asked for is found again in what ufw tells, or it would be added anew on every run."""

import pytest
from conftest import plugin

ufw = plugin("modules/ufw_rules")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"port": 80}, "allow 80/tcp"),
        ({"port": "6000:6007"}, "allow 6000:6007/tcp"),
        ({"port": 51820, "proto": "udp"}, "allow 51820/udp"),
        ({"port": 22, "rule": "limit"}, "limit 22/tcp"),
        ({"port": 5432, "from": "10.0.0.0/8"}, "allow from 10.0.0.0/8 to any port 5432 proto tcp"),
        ({"port": 5432, "from": "10.1.2.3/8"}, "allow from 10.0.0.0/8 to any port 5432 proto tcp"),
        ({"port": 5432, "from": "10.1.2.3/32"}, "allow from 10.1.2.3 to any port 5432 proto tcp"),
        ({"port": 443, "from": "any"}, "allow 443/tcp"),
        ({"port": 443, "from": "2001:db8::1"}, "allow from 2001:db8::1 to any port 443 proto tcp"),
    ],
)
def test_rules_are_in_the_words_of_ufw(rule, words):
    assert ufw.port_rule(rule) == words


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({}, "is not a rule"),
        ({"port": 0}, "port '0'"),
        ({"port": "http"}, "port 'http'"),
        ({"port": 1, "proto": "icmp"}, "neither tcp nor udp"),
        ({"port": 1, "rule": "drop"}, "not one of allow, deny, reject, limit"),
        ({"port": 1, "from": "10.0.0/8"}, "no address or network"),
    ],
)
def test_a_rule_that_can_not_be_is_told(rule, told):
    with pytest.raises(ValueError, match=told):
        ufw.port_rule(rule)
