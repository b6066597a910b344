"""What a run is made of: flags, its beginning, schedule and budget, states, saving, stopping, logs, ranks, sharding,
optimizer.

It imports from ``files``, ``text``, ``model`` and ``checkpoint``; ``utils`` puts the parts together, and the tasks,
``demo`` and ``tune`` use its flags.
"""
