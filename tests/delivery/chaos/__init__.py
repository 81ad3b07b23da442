"""Chaos: workers, writers, links and the server are killed, paused, cut and filled up by a seeded
schedule, and at the end every frame has to be accounted for.

    python -m tests.delivery.chaos --minutes 10 --seed 7
"""
