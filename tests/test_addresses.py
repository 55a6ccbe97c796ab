"""Address lists have one normal form, and a session can check whether a list covers its own address."""

import pytest
from conftest import plugin

lists = plugin("module_utils/networks")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "blocked.txt"
    path.write_text("# scanners\n203.0.113.7   # seen in May\n\n198.51.100.9/24\n2001:DB8::/32\n")
    return path


def test_addresses_networks_and_files_are_merged_into_one_sorted_list(file):
    written = ["203.0.113.7/32", str(file), "10.1.2.3/8", "10.9.0.0/16", "2001:db8:1::7"]
    assert lists.addresses(written) == ["10.0.0.0/8", "198.51.100.0/24", "203.0.113.7", "2001:db8::/32"]
    assert lists.addresses(reversed(written)) == lists.addresses(written)
    assert lists.addresses(written, 4) + lists.addresses(written, 6) == lists.addresses(written)


def test_ten_thousand_networks_are_parsed(tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("".join(f"{10 + n // 65536}.{n // 256 % 256}.{n % 256}.0/24\n" for n in range(0, 20_000, 2)))
    assert len(lists.addresses([str(path)])) == 10_000


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["300.1.1.1"], "'300.1.1.1' is not an address, a network, or an existing file"),
        (["10.0.0.0/33"], "'10.0.0.0/33' is not an address"),
        (["nowhere.txt"], "'nowhere.txt' is not an address"),
    ],
)
def test_an_invalid_entry_is_reported(entries, message):
    with pytest.raises(ValueError, match=message):
        lists.addresses(entries)


def test_an_invalid_line_in_a_file_is_reported_with_its_number(file):
    file.write_text("203.0.113.7\n\n203.0.113.0/240\n")
    with pytest.raises(ValueError, match=r"blocked.txt, line 3: '203.0.113.0/240' is not an address"):
        lists.addresses([str(file)])


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("198.51.100.200", "198.51.100.0/24"),
        ("2001:db8::1", "2001:db8::/32"),
        # an IPv4 address as a dual-stack socket returns it, and a link-local address with its interface
        ("::ffff:198.51.100.200", "198.51.100.0/24"),
        ("fe80::1%eth0", ""),
        ("192.0.2.1", ""),
        ("", ""),
    ],
)
def test_the_network_that_covers_an_address_is_found(file, address, network):
    assert lists.covering([str(file)], address) == network
