"""Lists of addresses come out the same however they are written, and a session knows whether it would be shut out."""

import pytest
from conftest import plugin

lists = plugin("module_utils/networks")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "blocked.txt"
    path.write_text("# scanners\n203.0.113.7   # seen in May\n\n198.51.100.9/24\n2001:DB8::/32\n")
    return path


def test_addresses_networks_and_files_are_one_list_in_one_order(file):
    written = ["203.0.113.7/32", str(file), "10.1.2.3/8", "10.9.0.0/16", "2001:db8:1::7"]
    assert lists.addresses(written) == ["10.0.0.0/8", "198.51.100.0/24", "203.0.113.7", "2001:db8::/32"]
    assert lists.addresses(reversed(written)) == lists.addresses(written)
    assert lists.addresses(written, 4) + lists.addresses(written, 6) == lists.addresses(written)


def test_thousands_take_no_time(tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("".join(f"{10 + n // 65536}.{n // 256 % 256}.{n % 256}.0/24\n" for n in range(0, 20_000, 2)))
    assert len(lists.addresses([str(path)])) == 10_000


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (["300.1.1.1"], "'300.1.1.1' is no address or network, and no file with such"),
        (["10.0.0.0/33"], "'10.0.0.0/33' is no address"),
        (["nowhere.txt"], "'nowhere.txt' is no address"),
    ],
)
def test_what_is_neither_is_told(entries, told):
    with pytest.raises(ValueError, match=told):
        lists.addresses(entries)


def test_a_bad_line_of_a_file_is_told_with_its_number(file):
    file.write_text("203.0.113.7\n\n203.0.113.0/240\n")
    with pytest.raises(ValueError, match=r"blocked.txt, line 3: '203.0.113.0/240' is no address"):
        lists.addresses([str(file)])


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("198.51.100.200", "198.51.100.0/24"),
        ("2001:db8::1", "2001:db8::/32"),
        # as a socket for both kinds tells an IPv4 address, and a link-local one with its interface
        ("::ffff:198.51.100.200", "198.51.100.0/24"),
        ("fe80::1%eth0", ""),
        ("192.0.2.1", ""),
        ("", ""),
    ],
)
def test_who_is_in_a_list(file, address, network):
    assert lists.covering([str(file)], address) == network
