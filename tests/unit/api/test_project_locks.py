"""Locks of projects: one at a time of each, all side by side, and nothing is kept of those that are gone."""

import gc

import anyio

from api.project_locks import ProjectLocks


def test_each_project_takes_one_turn_after_another_and_no_project_waits_for_another():
    under_way, most = {"a": 0, "b": 0}, {"a": 0, "b": 0}
    seen_together = []

    async def take(turns, project_id):
        async with turns.of(project_id):
            under_way[project_id] += 1
            most[project_id] = max(most[project_id], under_way[project_id])
            await anyio.sleep(0.01)
            seen_together.append(all(under_way.values()))
            under_way[project_id] -= 1

    async def main():
        turns = ProjectLocks()
        async with anyio.create_task_group() as group:
            for project_id in "aaabbb":
                group.start_soon(take, turns, project_id)

    anyio.run(main)
    assert most == {"a": 1, "b": 1} and any(seen_together)


def test_a_lock_that_nobody_uses_is_forgotten():
    async def main():
        turns = ProjectLocks()
        for number in range(100):
            async with turns.of(f"project-{number}"):
                pass
        gc.collect()
        return len(turns._locks)

    assert anyio.run(main) == 0
