"""Entries of API keys: what is accepted, what is refused, and that the key itself is nowhere."""

import pytest

from shortlist_server.errors import InvalidArgument
from shortlist_server.keys import PREFIX, ApiKey, KeyRing, Scope, new_key, read_entry

HASH = "ab" * 32


def test_a_new_key_is_found_by_its_secret_and_by_nothing_else() -> None:
    secret, key = new_key("web", [Scope.READ], ["books"])
    ring = KeyRing([key.entry()], None)
    assert ring.find(secret) == key
    assert [ring.find(other) for other in ("", secret[:-1], secret + "x", key.digest.hex(), key.name)] == [None] * 5
    assert secret.startswith(PREFIX)
    assert secret not in key.entry()


def test_no_two_keys_are_alike() -> None:
    assert len({new_key("a", [Scope.READ])[0] for _ in range(100)}) == 100


def test_an_entry_reads_back_as_it_was_written() -> None:
    _, key = new_key("a.b_c-1", [Scope.ADMIN, Scope.READ], ["books", "team-*"])
    assert read_entry(key.entry()) == key
    assert key.entry().split(":")[1] == "read,admin"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("", "name"),
        (f"a b:read:{HASH}", "name"),
        (f":read:{HASH}", "name"),
        ("web:read", "is not NAME"),
        (f"web:read:{HASH}:books:more", "is not NAME"),
        (f"web:root:{HASH}", "unknown scope"),
        (f"web::{HASH}", "unknown scope"),
        ("web:read:sl_the-key-itself", "SHA-256"),
        (f"web:read:{HASH}:../etc", "cannot exist"),
        (f"web:read:{HASH}:a*b", "cannot exist"),
        (f"web:read:{HASH}:", "cannot exist"),
    ],
)
def test_a_malformed_entry_is_refused_without_repeating_the_secret(entry: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        read_entry(entry)
    assert "sl_" not in caught.value.message


def test_two_keys_of_one_name_are_refused() -> None:
    entries = [new_key("web", [Scope.READ])[1].entry() for _ in range(2)]
    with pytest.raises(InvalidArgument, match="two API keys"):
        KeyRing(entries, None)


@pytest.mark.parametrize(
    ("grants", "name", "granted"),
    [
        ((), "anything", True),
        ((), "*", True),
        (("books",), "books", True),
        (("books",), "books2", False),
        (("books",), "*", False),
        (("team-*",), "team-a", True),
        (("team-*",), "team-", True),
        (("team-*",), "team", False),
        (("team-*",), "*", False),
        (("*",), "*", True),
        (("books",), "", False),
    ],
)
def test_a_grant_covers_its_names_and_no_other(grants: tuple[str, ...], name: str, granted: bool) -> None:
    assert ApiKey(name="k", scopes=frozenset(), collections=grants).may_use(name) is granted
