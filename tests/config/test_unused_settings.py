"""A setting that another one makes useless is refused, or taken away where the other one came later."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from socialr1_jax.config.loading import load_config, to_yaml
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError

BASE = {"model": {"random": "nano"}, "data": {"train": "q.jsonl"}, "cold_start": 3}
JUDGE = {"rewards": {"structure": {"judge": "endpoint", "model": "m", "base_url": "http://x/v1"}}}


def load(tmp_path: Path, layers: list[dict], *overrides: str) -> RunConfig:
    files = []
    for number, layer in enumerate(layers):
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(yaml.safe_dump(layer))
    return load_config(RunConfig, files, overrides)


# (layers over the first one, overrides, the setting that is named, what to change)
@pytest.mark.parametrize(
    ("layers", "overrides", "named", "change"),
    [
        ([], ["rewards.content.model=dir"], "rewards.content.model", "rewards.preset"),
        ([{"rewards": {"preset": "full", "content": {"model": "dir"}}}], ["rewards.preset=full"], "", ""),
        ([], ["rewards.content_weight.end=5"], "rewards.content_weight.end", "rewards.preset"),
        ([], ["rewards.structure.model=m"], "rewards.structure.model", "rewards.structure.judge"),
        ([], ["rewards.structure.concurrency=3"], "rewards.structure.concurrency", "rewards.structure.judge"),
        ([{"rewards": {"preset": "outcome_only"}}, JUDGE], [], "rewards.structure.judge", "rewards.preset"),
        ([], ["rewards.preset=outcome_only", "rewards.length_low=1"], "rewards.length_low", "rewards.preset"),
        ([], ["optimizer.final_fraction=0.1"], "optimizer.final_fraction", "optimizer.schedule"),
        ([], ["data.eval=e.jsonl", "data.holdout=7"], "data.holdout", "data.eval"),
        ([], ["quiet=true", "verbose=true"], "verbose", "quiet"),
        ([], ["distributed.process=1"], "distributed.process", "distributed.processes"),
        ([{"cold_start": 0}], ["epochs=2", "replay_rollouts=r.jsonl"], "epochs", "replay_rollouts"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(tmp_path, layers, overrides, named, change):
    if not named:
        assert load(tmp_path, [BASE, *layers], *overrides)
        return
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, [BASE, *layers], *overrides)
    lines = [line for line in str(refused.value).splitlines() if line.startswith(f"{named} would be ignored")]
    assert len(lines) == 1
    assert f"change {change}, or leave {named} out" in lines[0]


def test_later_settings_replace_what_they_exclude(tmp_path):
    other = load(tmp_path, [BASE], "model.path=dir")
    assert (other.model.path, other.model.random, other.cold_start) == ("dir", "", 0)
    both = load(tmp_path, [BASE | {"model": {"path": "dir", "random": "nano"}}])
    assert (both.model.path, both.model.random, both.cold_start) == ("dir", "nano", 3)  # its tokenizer alone
    again = load(tmp_path, [BASE], "model.path=dir", "model.random=tiny")
    assert (again.model.random, again.cold_start) == ("tiny", 3)
    judged = load(tmp_path, [BASE | JUDGE], "rewards.preset=outcome_only")
    assert judged.rewards.structure == RunConfig.model_fields["rewards"].default.structure
    assert load(tmp_path, [BASE | {"quiet": True}], "verbose=true").verbose
    assert not load(tmp_path, [BASE | {"verbose": True}], "quiet=true").verbose
    assert load(tmp_path, [BASE | {"data": {"train": "q", "holdout": 9}}], "data.eval=e").data.holdout == 100


def test_default_of_an_unused_setting_may_be_written(tmp_path):
    config = load(tmp_path, [BASE])
    assert load(tmp_path, [config.model_dump(mode="json")]) == config


# (layers, overrides, steps and epochs that count; None: refused)
@pytest.mark.parametrize(
    ("layers", "overrides", "counts"),
    [
        ([], [], (600, 0)),
        ([{"epochs": 2}], [], (600, 2)),
        ([{"steps": 5}, {"epochs": 0.5}], [], (600, 0.5)),
        ([{"epochs": 2}, {"steps": 5}], [], (5, 0)),
        ([{"epochs": 2}], ["steps=600"], (600, 0)),
        ([{"steps": 5}], ["epochs=1e-1"], (600, 0.1)),
        ([{"steps": 5}, {"epochs": 2}], ["steps=7"], (7, 0)),
        ([{"steps": 5, "epochs": 0}], [], (5, 0)),
        ([{"steps": 5}], ["epochs=0"], (5, 0)),
        ([{"epochs": 2}], ["replay_rollouts=r.jsonl", "cold_start=0"], (600, 0)),
        ([{"steps": 5, "epochs": 2}], [], None),
        ([{"steps": 600, "epochs": 2}], [], None),  # its default, and not meant to be ignored either
        ([], ["epochs=2", "steps=5"], None),
        ([], ["steps=5", "epochs=2"], None),
    ],
)
def test_of_steps_and_epochs_the_later_one_counts(tmp_path, layers, overrides, counts):
    if counts is None:
        with pytest.raises(ConfigError) as refused:
            load(tmp_path, [BASE, *layers], *overrides)
        assert str(refused.value) == "steps and epochs are both given, and only one of them can count: leave one out"
        return
    config = load(tmp_path, [BASE, *layers], *overrides)
    assert (config.steps, config.epochs) == counts
    (tmp_path / "saved.yaml").write_text(to_yaml(config))
    assert load_config(RunConfig, tmp_path / "saved.yaml") == config
