"""
Ways through a graph of tasks that wait for each other: what SQL can only walk one by one, however many there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

#: A task to those of its like that it waits for.
Waits = Mapping[int, Sequence[int]]


def longest_path(lengths: Mapping[int, float], waits: Waits) -> tuple[float, list[int]]:
    """
    Return the longest way through a graph and the tasks on it, the first one first.

    Each task and each edge is looked at once. Of ways that are equally long, the one that ends in the task of the lowest
    id, and so on backwards. Tasks without a length, which are on the way to others, are left out of it.

    Args:
        lengths: Task to how long it is; a task that is not there has no length.
        waits: Without circles.
    """
    reached: dict[int, float] = {}
    before: dict[int, int] = {}
    for task in _in_order(lengths, waits):
        far = 0.0
        for other in sorted(waits.get(task, ())):
            if reached[other] > far:
                far, before[task] = reached[other], other
        reached[task] = far + lengths.get(task, 0.0)
    longest = max(reached.values(), default=0.0)
    path: list[int] = []
    at = min((task for task, far in reached.items() if far == longest), default=None)
    while at is not None:
        if lengths.get(at, 0.0) > 0:
            path.append(at)
        at = before.get(at)
    return longest, path[::-1]


def _in_order(tasks: Iterable[int], waits: Waits) -> list[int]:
    """Return every task behind those that it waits for."""
    left = {task: len(others) for task, others in waits.items()}
    followers = _turned(waits)
    ready = deque(task for task in sorted({*tasks, *left, *followers}) if not left.get(task))
    order: list[int] = []
    while ready:
        task = ready.popleft()
        order.append(task)
        for follower in followers.get(task, ()):
            left[follower] -= 1
            if not left[follower]:
                ready.append(follower)
    return order


def nearest(roots: Iterable[int], waits: Waits) -> dict[int, tuple[int, int | None]]:
    """
    Return the tasks that wait for *roots*, directly or not: task to its distance, and to whom it waits for there.

    Roots are at distance 0 and wait for nobody. Of those that are equally near, a task waits for the one of the lowest id.
    """
    followers = _turned(waits)
    found: dict[int, tuple[int, int | None]] = dict.fromkeys(sorted(roots), (0, None))
    ring, distance = list(found), 0
    while ring:
        distance += 1
        further: list[int] = []
        for task in sorted(ring):
            for follower in followers.get(task, ()):
                if follower not in found:
                    found[follower] = (distance, task)
                    further.append(follower)
        ring = further
    return found


def _turned(waits: Waits) -> dict[int, list[int]]:
    followers: dict[int, list[int]] = {}
    for task, others in waits.items():
        for other in others:
            followers.setdefault(other, []).append(task)
    return followers
