import pytest
from flux_krea.nodes.jobs.ticket import Choice, Ticket


@pytest.mark.parametrize("text", ["fal/0123", "fal/0123/4567", "fal/01|replicate/02/03"])
def test_a_ticket_is_read_as_it_was_written(text):
    assert str(Ticket.parse(f"  {text}\n")) == text


def test_its_names_are_those_of_all_choices():
    ticket = Ticket((Choice("fal", ("a", "b")), Choice("replicate", ("c",))))
    assert str(ticket) == "fal/a/b|replicate/c" and ticket.names == ("a", "b", "c")


@pytest.mark.parametrize("text", ["", "|", "fal", "no ticket at all", "///", "fal/|"])
def test_any_text_can_be_read(text):
    assert isinstance(Ticket.parse(text), Ticket)
