"""
Ways through graphs of tasks, against walking all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from reports.graphs import Waits, longest_path, nearest

#: A graph without circles: a task waits for tasks of lower ids, whole numbers so that sums are exact.
GRAPHS = st.integers(1, 8).flatmap(
    lambda size: st.fixed_dictionaries(
        {
            task: st.lists(st.integers(1, task - 1), unique=True) if task > 1 else st.just([])
            for task in range(1, size + 1)
        }
    )
)


def ways(waits: Waits, task: int) -> Iterator[list[int]]:
    """Yield every way that ends in *task*, wherever it begins."""
    yield [task]
    for other in waits.get(task, ()):
        for way in ways(waits, other):
            yield [*way, task]


@given(GRAPHS, st.dictionaries(st.integers(1, 8), st.integers(0, 5)))
def test_longest_path_is_the_longest_of_all_ways(waits: dict[int, list[int]], lengths: dict[int, float]) -> None:
    """As long as the longest, a part of one of that length, and nothing on it that has no length."""
    length, path = longest_path(lengths, waits)
    lengths_of_ways = {
        tuple(each for each in way if lengths.get(each)): sum(lengths.get(each, 0) for each in way)
        for task in {*waits, *lengths}
        for way in ways(waits, task)
    }

    assert length == max(lengths_of_ways.values())
    assert lengths_of_ways[tuple(path)] == length


def test_longest_path_of_equals_is_that_of_the_lowest_ids() -> None:
    """Whatever the order in which they are given."""
    waits = {4: [3, 2], 2: [1], 3: [1]}

    assert longest_path({4: 1, 3: 2, 2: 2, 1: 1}, waits) == (4, [1, 2, 4])
    assert longest_path({7: 1, 6: 1}, {}) == (1, [6])
    assert longest_path({}, {}) == (0, [])


def test_longest_path_leads_through_tasks_without_a_length() -> None:
    """A way is as long as what is on it, and they are not told."""
    assert longest_path({1: 2, 3: 2, 4: 3}, {2: [1], 3: [2], 5: [3]}) == (4, [1, 3])


@given(GRAPHS, st.sets(st.integers(1, 8), min_size=1))
def test_nearest_is_the_shortest_of_all_ways(waits: dict[int, list[int]], roots: set[int]) -> None:
    """Everybody who waits for a root, at the distance of the shortest way, for one who is a step nearer."""
    expected: dict[int, int] = dict.fromkeys(roots, 0)
    for task in waits:
        for way in ways(waits, task):
            if way[0] in roots:
                expected[task] = min(expected.get(task, len(way)), len(way) - 1)
    found = nearest(roots, waits)

    assert {task: distance for task, (distance, _) in found.items()} == expected
    for task, (distance, nearer) in found.items():
        steps = [other for other in waits.get(task, ()) if expected.get(other) == distance - 1]
        assert nearer == (min(steps) if distance else None)
