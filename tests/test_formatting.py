"""How failures of clients are listed for the user."""

from fedbabu.formatting import format_failures


def test_clients_that_failed_for_the_same_reason_are_listed_together():
    assert format_failures({8: "out of memory", 3: "loss not finite", 5: "out of memory"}) == (
        "client 3 (loss not finite), clients 5, 8 (out of memory)"
    )


def test_only_the_first_clients_and_the_beginning_of_a_reason_are_shown():
    listed = format_failures(dict.fromkeys(range(9), "a reason of many words " * 20), max_shown=30)
    assert listed.startswith("clients 0, 1, 2, 3, 4 and 4 more (a reason of")
    assert len(listed) < 80
