"""SOTOPIA: two agents with a goal each talk for up to twenty turns, and a judge scores the episode.

Rules as of sotopia-lab/sotopia, tag v0.1.4 or @ a0aaafb ("head"), data of sotopia-space @ 12c13d8; prompts are ours
unless prompts.json is there. Episodes and verdicts are stored in two files of JSON lines, without a server or database,
and the same calls resume an interrupted run. `run.py` calls the other modules in their order.
"""
