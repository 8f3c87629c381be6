"""SOTOPIA: two agents with a goal each talk for up to twenty turns, and a judge scores what became of it.

Rules as of sotopia-lab/sotopia, tag v0.1.4 or @ a0aaafb ("head"), data of sotopia-space @ 12c13d8; prompts are ours.
There is no server and no data base: two files of JSON lines hold the episodes and the verdicts, and the same calls go
on where they were stopped.
`run.py` makes players of models and calls these:

    settings = episodes_of(load(folder), "hard")
    played = play(settings, tested, partner, output / "episodes.jsonl", run=run_id(players))
    verdicts = judge(settings, played.episodes, judging, output / "verdicts.jsonl", run=run_id(judge_identity))
    found = figures(settings, played.episodes, verdicts)
"""
