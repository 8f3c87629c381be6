"""SOTOPIA: two agents with a goal each talk for up to twenty turns, and a judge scores the episode.

Rules as of sotopia-lab/sotopia, tag v0.1.4 or @ a0aaafb ("head"), data of sotopia-space @ 12c13d8; prompts are ours
unless prompts.json is there. `run.py` calls the other modules in their order.
"""
