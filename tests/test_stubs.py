"""The stub of the drop-in classes says what the classes take."""

from descend import stubs


def test_the_stub_is_what_the_rules_say():
    assert stubs.PATH.read_text() == stubs.text(), "run `make stubs`"
