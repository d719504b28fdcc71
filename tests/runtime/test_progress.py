"""Reports of long work."""

from tfm.runtime.progress import tracked


def test_an_item_is_reported_once_the_next_is_asked_for():
    reports = []
    items = tracked("ab", 2, "reading", lambda *report: reports.append(report))
    assert (next(items), reports) == ("a", [])
    assert (next(items), reports) == ("b", [("reading", 1, 2)])
    assert list(items) == []
    assert reports[1:] == [("reading", 2, 2)]
