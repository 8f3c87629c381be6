"""What a GRPO run does beside learning: rollouts kept and replayed, groups replaced, guards, ratios, mismatch."""

import importlib.util
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faults import reseal, states_of
from toys import changed, steps_of, timeless

from socialr1_jax import load_hf, save_hf
from socialr1_jax.config.loading import load_config, save_config
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.grpo.rollouts import Rollouts
from socialr1_jax.grpo.step import GrpoStep, make_step, reference_weights
from socialr1_jax.grpo.update import init_state
from socialr1_jax.rewards import RewardTerms, scorer
from socialr1_jax.run.checkpoints import CheckpointError
from socialr1_jax.run.run import TrainingStopped
from socialr1_jax.run.weights import load_policy
from socialr1_jax.runtime import host_memory
from socialr1_jax.sampling import Completion
from socialr1_jax.training import grpo
from socialr1_jax.training import validation as evaluation
from socialr1_jax.training.recording import Replay, RolloutFile
from socialr1_jax.weights.hf import init_reward_model
from socialr1_jax.weights.hf_export import save_reward_model

pytestmark = pytest.mark.usefixtures("programs_once")

CONFIGS = Path(__file__).parents[2] / "configs"
WEIGHTS = {"outcome": 1.0, "structure": 2.0, "content": 0.0, "tau": 1.0}


def lively(text: str, *args: object, **kwargs: object) -> RewardTerms:
    return RewardTerms(len(set(text)) / 10, 1.0, 0.0, 0.5, float("nan"), 1.0, 1.0, WEIGHTS)


@pytest.fixture
def rewarded(monkeypatch):
    monkeypatch.setattr(scorer, "social_r1_reward", lively)


@pytest.fixture(scope="module")
def saved(start, tmp_path_factory) -> Path:
    """A run of two steps, asked for as epochs of 40 questions, that kept its rollouts; of two updates a step."""
    folder = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer, "social_r1_reward", lively)
        more = {"save_rollouts": str(folder / "kept" / "rollouts.jsonl"), "steps": 600, "epochs": 0.2}
        assert grpo.train_grpo(changed(start, folder, **more))
    return folder


def test_replay_without_sampler_ends_with_equal_bytes(start, saved, tmp_path, monkeypatch):
    for name in ("make_sampler", "make_scorer", "read_run_questions", "load_tokenizer"):
        monkeypatch.setattr(grpo, name, None)
    config = changed(
        start, tmp_path, replay_rollouts=str(saved / "kept" / "rollouts.jsonl"), data={"train": "", "eval": ""}
    )
    assert grpo.train_grpo(config)
    weights = [(folder / "export" / "model.safetensors").read_bytes() for folder in (saved, tmp_path)]
    assert weights[0] == weights[1]
    for first, second in zip(steps_of(saved), steps_of(tmp_path), strict=True):
        row = timeless(first)
        assert row.pop("truth/mean") == 0.0  # the toy states nothing; a replay has no questions to compare with
        assert row.pop("dropped_prompts") == 0  # a replay drops none
        assert row == timeless(second)


def test_replay_command_ends_with_summary_and_report(start, saved, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("train_grpo_script", CONFIGS.parent / "scripts/train_grpo.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    config = changed(start, tmp_path / "run", replay_rollouts=str(saved / "kept" / "rollouts.jsonl"))
    save_config(config, tmp_path / "replay.yaml")
    assert script.main(["--config", str(tmp_path / "replay.yaml")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 2
    assert "accuracy_grpo" not in summary
    assert "holds no evaluation" in (tmp_path / "run" / "report.html").read_text()


def test_a_cut_or_foreign_rollout_file_is_refused(start, saved, tmp_path):
    text = (saved / "kept" / "rollouts.jsonl").read_text()
    file = tmp_path / "cut.jsonl"
    file.write_text(text[: text.index("\n") + 50])
    replayed = changed(start, tmp_path / "run", replay_rollouts=str(file))
    with pytest.raises(ConfigError, match="holds 1 whole steps, the run has 2"):
        grpo.train_grpo(replayed)
    with pytest.raises(ConfigError, match="no file"):
        Replay(changed(start, tmp_path / "run", replay_rollouts="nowhere.jsonl"))
    file.write_text('{"step": 0}\n' * 2)
    with pytest.raises(ConfigError, match="line 1: not rollouts of a step"):
        Replay(replayed).read(0)
    file.write_text(text)
    sizes = {"prompts_per_step": 2, "mini_batch_prompts": 2}
    with pytest.raises(ConfigError, match="4 prompts x 4 responses, the run wants step 0 with 2 x 4"):
        Replay(changed(start, tmp_path / "run", replay_rollouts=str(file), grpo=sizes)).read(0)
    file.write_text(text.splitlines()[0] + "\n" + text.splitlines()[0] + "\n")
    with pytest.raises(ConfigError, match="holds step 0 with"):
        Replay(replayed).read(1)


def test_replayed_token_beyond_the_model_is_refused(start, saved, tmp_path):
    kept = (saved / "kept" / "rollouts.jsonl").read_text().splitlines()
    for name in ("tokens", "prompts"):
        line = json.loads(kept[-1])
        line[name][1][0] = 99_999
        (tmp_path / "kept.jsonl").write_text("\n".join([*kept[:-1], json.dumps(line)]) + "\n")
        with pytest.raises(ConfigError, match=rf"kept\.jsonl line 2: {name}\.1 holds token 99999, the model has"):
            grpo.train_grpo(changed(start, tmp_path / "run", replay_rollouts=str(tmp_path / "kept.jsonl")))
        assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("counts", "finished"), 2, "after step 2 of 2"),
        (("counts", "finished"), "1", "state of counts .*finished: "),
        (("counts", "evaluated"), 5, "after step 1 of 2"),
        (("counts",), {}, "state of counts .*finished: Field required"),
        (("unscorable",), [[8]], "state of unscorable .*0.1: Field required"),
        (("shares", "said"), 5, "state of shares .*said: "),
        (("truth", "seen"), [], "state of truth .*seen: "),
        (("prompts", "spare"), None, "state of prompts .*spare: "),
        (("prompts", "prompts", "grain", "next_index"), -5, "state of prompts .*prompts.grain.next_index: .*not -5"),
        (("prompts", "prompts", "seed"), 3, "state of prompts .*the seed that it began with"),
        (("files",), {"metrics.jsonl": 0}, "files: "),
    ],
)
def test_a_forged_state_of_a_run_is_refused(start, saved, tmp_path, path, value, field):
    for name in ("config.yaml", ".lock"):
        shutil.copy(saved / name, tmp_path)
    checkpoint = Path(shutil.copytree(saved / "checkpoints" / "1", tmp_path / "checkpoints" / "1"))
    file = checkpoint / "run" / "metadata"
    content = json.loads(file.read_text())
    inner = content["run"]
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    file.write_text(json.dumps(content))
    reseal(checkpoint)
    config = load_config(RunConfig, tmp_path / "config.yaml")
    with pytest.raises(CheckpointError, match=rf"checkpoints/1\b.*{field}") as refused:
        grpo.train_grpo(config.model_copy(update={"output_dir": str(tmp_path), "save_rollouts": ""}))
    assert len(str(refused.value).splitlines()) == 1
    assert "move it away" in str(refused.value)


@pytest.mark.parametrize("field", ["tie_word_embeddings", "num_hidden_layers", "vocab_size", "head_dim"])
def test_a_checkpoint_that_describes_another_model_is_refused(saved, tmp_path, field):
    checkpoint = Path(shutil.copytree(saved / "checkpoints" / "1", tmp_path / "1"))
    file = checkpoint / "run" / "metadata"
    content = json.loads(file.read_text())
    model = content["about"]["model"]
    model[field] = not model[field] if field == "tie_word_embeddings" else model[field] + 2
    file.write_text(json.dumps(content))
    reseal(checkpoint)
    with pytest.raises(CheckpointError, match=r"does not fit the model that its about describes: params/"):
        load_policy(checkpoint)


def test_resumed_run_drops_lines_it_rewrites(tmp_path, saved):
    text = (saved / "kept" / "rollouts.jsonl").read_text()
    file = tmp_path / "rollouts.jsonl"
    for finished, cut in ((0, ""), (1, text[: text.index("\n") + 1]), (2, text), (9, text)):
        file.write_text(text + '{"step": 2, "gro')
        RolloutFile(file, finished=finished)
        assert file.read_text() == cut


def test_first_ratio_is_1_and_reference_starts_there(saved):
    """Two updates a step: the first one's ratio is 1 to the bit, so the step's extremes come from the second."""
    first = steps_of(saved)[0]
    assert first["ratio_max"] >= 1.0 >= first["ratio_min"]
    assert first["seconds/old"] > 0
    assert first["skipped"] == 0


@pytest.mark.parametrize("mini_batch_prompts", [4, 2])
def test_ratios_without_learning_are_exactly_1(start, tmp_path, rewarded, mini_batch_prompts, monkeypatch):
    """With learning rate 0 also the second update's old log-probs, of another program, are its own to rounding."""
    passes = []
    monkeypatch.setattr(
        GrpoStep, "_pass", lambda self, *args, real=GrpoStep._pass: passes.append(1) or real(self, *args)
    )
    config = changed(
        start,
        tmp_path,
        steps=1,
        optimizer={"learning_rate": 0.0},
        grpo={"mini_batch_prompts": mini_batch_prompts, "kl_coefficient": 0.0},
    )
    assert grpo.train_grpo(config)
    (row,) = steps_of(tmp_path)
    assert row["ratio_max"] == pytest.approx(1.0, abs=0 if mini_batch_prompts == 4 else 2e-5)
    assert row["ratio_min"] == pytest.approx(1.0, abs=0 if mini_batch_prompts == 4 else 2e-5)
    # no reference pass at KL 0, no old-policy pass with one update, and none for the first of two
    assert bool(passes) == (mini_batch_prompts == 2)
    assert row["kl"] == 0


def test_mismatch_stays_flat_at_learning_rate_0(start, tmp_path, rewarded):
    config = changed(
        start,
        tmp_path,
        steps=6,
        optimizer={"learning_rate": 0.0},
        checkpoint={"every": 0},
    )
    before = load_hf(start.model.path).params
    assert grpo.train_grpo(config)
    rows = steps_of(tmp_path)
    assert len(rows) == 6
    assert max(row["mismatch/max"] for row in rows) < 1e-4
    assert max(row["mismatch/ratio_error"] for row in rows) < 1 + 1e-4
    assert min(row["mismatch/effective_samples"] for row in rows) > 1 - 1e-6
    after = load_hf(tmp_path / "export").params
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_rollouts_of_int8_weights_train(start, saved, tmp_path, rewarded):
    """Importance weights correct what rounding changed: it is in the metrics, far above that of equal weights."""
    changes = {"sampling": {"weights": "int8"}, "grpo": {"importance_sampling": "token"}}
    assert grpo.train_grpo(changed(start, tmp_path, **changes))
    rows, equal = steps_of(tmp_path), steps_of(saved)
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["nonfinite_count"] == 0 and row["grad_norm"] > 0 for row in rows)
    means = [[row["mismatch/mean"] for row in part] for part in (rows, equal)]
    assert 10 * max(means[1]) < min(means[0]) < max(means[0]) < 0.05
    assert all(1 < row["mismatch/ratio_error"] < 1.05 for row in rows)


def test_sampler_that_differs_from_the_trainer_is_reported(start, saved, tmp_path, caplog):
    """Rollouts whose log-probs are off by 0.1 each: exp(0.1) = 1.105 is over the limit of 1.05."""
    file = tmp_path / "off.jsonl"
    with file.open("w") as out:
        for text in (saved / "kept" / "rollouts.jsonl").read_text().splitlines():
            line = json.loads(text)
            line["logprobs"] = [[x - 0.1 for x in row] for row in line["logprobs"]]
            out.write(json.dumps(line) + "\n")
    with caplog.at_level(logging.WARNING, logger="socialr1_jax"):
        logging.getLogger("socialr1_jax").addHandler(caplog.handler)
        assert grpo.train_grpo(changed(start, tmp_path / "run", steps=1, replay_rollouts=str(file)))
        logging.getLogger("socialr1_jax").removeHandler(caplog.handler)
    (row,) = steps_of(tmp_path / "run")
    assert row["mismatch/mean"] == pytest.approx(0.1, abs=1e-3)
    assert row["mismatch/ratio_error"] == pytest.approx(np.exp(0.1), abs=1e-3)
    assert row["mismatch/effective_samples"] == pytest.approx(1.0, abs=1e-4)  # one factor for all is no loss
    assert "differ from the trainer's by a factor of 1.105" in caplog.text


def test_nonfinite_updates_stop_the_run_with_equal_weights(start, saved, tmp_path, monkeypatch):
    """Advantages of NaN rewards are 0, so the poison is a sampled log-prob under importance sampling."""
    config = changed(
        start,
        tmp_path / "run",
        replay_rollouts=str(saved / "kept" / "rollouts.jsonl"),
        grpo={"importance_sampling": "token", "most_skipped": 3},
    )

    def poisoned(self, step, real=Replay.read):
        rollouts = real(self, step)
        for completion in rollouts.completions:
            completion.logprobs[:] = [float("nan")] * len(completion.logprobs)
        return rollouts

    monkeypatch.setattr(Replay, "read", poisoned)
    with pytest.raises(TrainingStopped, match=r"3 updates in a row .* not finite") as stopped:
        grpo.train_grpo(config)
    kept = np.load(tmp_path / "run" / "skipped_step_2.npz")
    assert str(tmp_path / "run" / "skipped_step_2.npz") in str(stopped.value)
    assert np.isnan(kept["sampler_logp_bt"][kept["mask_bt"]]).all()
    assert kept["tokens_bt"].shape[0] == 8  # the rows of one update
    rows = steps_of(tmp_path / "run")
    assert [row["skipped"] for row in rows] == [2, 2]
    assert not (tmp_path / "run" / "export").exists()
    monkeypatch.undo()  # the run resumes from the weights before
    assert grpo.train_grpo(config)
    before, after = load_hf(start.model.path).params, load_hf(tmp_path / "run" / "export").params
    jax.tree.map(np.testing.assert_array_equal, after, before)  # both steps were done, and both changed nothing


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("cispo", "rloo", "dr_grpo", "grpo")]


@pytest.mark.parametrize("preset", ["dapo", "gspo", *SLOW])
def test_every_preset_trains(start, saved, tmp_path, preset):
    config = changed(
        start, tmp_path, steps=1, replay_rollouts=str(saved / "kept" / "rollouts.jsonl"), grpo={"preset": preset}
    )
    assert grpo.train_grpo(config)
    (row,) = steps_of(tmp_path)
    assert row["grad_norm"] > 0
    assert np.isfinite([row[name] for name in ("loss", "entropy", "clip_fraction", "ratio_max", "ratio_min")]).all()


# ------------------------------------------------------------------------------------------------ groups and truncation


def test_flat_groups_are_replaced_by_other_prompts(start, tmp_path, monkeypatch):
    """A group is flat where all responses earn the same: here every prompt with an even number, known by its answer."""
    flat_answers = {"A"}

    def score(text, answer, *args, **kwargs):
        return replace(lively(text), total=0.5 if answer in flat_answers else len(set(text)) / 10)

    monkeypatch.setattr(scorer, "social_r1_reward", score)
    file = tmp_path / "rollouts.jsonl"
    config = changed(
        start, tmp_path / "run", save_rollouts=str(file), grpo={"replace_flat_groups": True, "most_replacements": 4}
    )
    assert grpo.train_grpo(config)
    rows = steps_of(tmp_path / "run")
    assert sum(row["replaced_groups"] for row in rows) > 0
    replayed = Replay(changed(start, tmp_path / "again", replay_rollouts=str(file)))
    for step, row in enumerate(rows):
        found = replayed.read(step)
        assert len(set(found.prompt_ids)) == 4  # no prompt twice in a step, whose samples would be the same
        assert row["zero_variance_groups"] == 0
        assert len(found.completions) == 16
    plain = changed(start, tmp_path / "plain")
    assert grpo.train_grpo(plain)
    assert sum(row["zero_variance_groups"] for row in steps_of(tmp_path / "plain")) > 0


def some_rollouts(lengths, reasons, rewards, group=4):
    terms = [lively("", "", step=0, config=None) for _ in rewards]
    return Rollouts(
        group=group,
        prompts=[[1]] * (len(rewards) // group),
        prompt_ids=list(range(len(rewards) // group)),
        completions=[Completion([7] * n, [0.0] * n, reason) for n, reason in zip(lengths, reasons, strict=True)],
        terms=[replace(term, total=reward) for term, reward in zip(terms, rewards, strict=True)],
    )


def test_truncated_responses_are_kept_masked_or_penalised(start, tmp_path):
    """DAPO's worked example: limit 25, buffer 5, factor 0.5."""
    found = some_rollouts([10, 22, 25, 25], ["stop", "stop", "stop", "length"], [1.0, 0.8, 0.6, 0.4])

    def shaped(truncated):
        objective = {"truncated": truncated, "overlong_share": 0.2, "overlong_penalty": 0.5}
        config = changed(start, tmp_path, sampling={"max_new_tokens": 25}, grpo=objective)
        return found.shaped_rewards(config)[0]

    np.testing.assert_allclose(shaped("keep"), [1.0, 0.8, 0.6, 0.4])
    np.testing.assert_allclose(shaped("mask"), [1.0, 0.8, 0.6, np.nan])
    np.testing.assert_allclose(shaped("penalise"), [1.0, 0.6, 0.1, -0.1], atol=1e-12)


def test_unfinished_samples_are_unscorable(start, tmp_path):
    found = some_rollouts([3, 3, 3, 3], ["stop", "error", "stop", "stop"], [1.0, 5.0, 0.0, np.nan])
    np.testing.assert_array_equal(found.rewards_pg, [[1.0, np.nan, 0.0, np.nan]])
    metrics = found.metrics()
    assert metrics["reward/unscorable"] == 0.5
    assert metrics["sampling_errors"] == 1
    assert metrics["reward/total"] == 0.5


def test_masked_responses_leave_baseline_and_loss(start, saved, tmp_path):
    """A really truncated response, from the sampler's finish reason to the loss mask: all of the toy's are."""
    config = changed(
        start, tmp_path, steps=1, replay_rollouts=str(saved / "kept" / "rollouts.jsonl"), grpo={"truncated": "mask"}
    )
    assert grpo.train_grpo(config)
    (row,) = steps_of(tmp_path)
    kept = Replay(config).read(0)
    ended = sum(len(c.tokens) for c in kept.completions if c.finish_reason == "stop")
    assert row["truncated"] > 0.5
    assert row["tokens"] * 2 == ended  # the mean over two updates
    if not ended:
        assert (row["grad_norm"], row["loss"]) == (0.0, 0.0)


def test_widest_micro_batch_is_tried_first(start, tiny_jax):
    """What warm_up runs is the program of rows at both limits, as many as the budget takes; nothing is changed."""
    step = make_step(start, tiny_jax.config, tiny_jax.num_tokens, tiny_jax.params, "xla")
    programs = step.programs
    state = init_state(tiny_jax.params, programs.optimizer)
    widths = []
    accumulate = programs.update.accumulate
    update = replace(
        programs.update, accumulate=lambda p, s, rows: widths.append(rows.tokens_bt.shape) or accumulate(p, s, rows)
    )
    replace(step, programs=programs._replace(update=update)).warm_up(state, width=140)
    assert widths == [(3, 144)]  # of 512 tokens
    jax.tree.map(np.testing.assert_array_equal, state.params, tiny_jax.params)


def test_the_reference_may_rest_in_the_hosts_memory(tiny_jax):
    reference = reference_weights(tiny_jax.params, "bfloat16", "host")
    kinds = {x.sharding.memory_kind for x in jax.tree.leaves(reference)}
    assert kinds == {"pinned_host"}
    assert {x.dtype for x in jax.tree.leaves(reference)} == {jnp.dtype("bfloat16")}


def test_host_memory_changes_nothing_but_its_place(start, saved, tmp_path):
    """A run with the reference and the moments there, and its second step resumed from a checkpoint of the first."""
    config = changed(
        start,
        tmp_path,
        replay_rollouts=str(saved / "kept" / "rollouts.jsonl"),
        grpo={"reference_memory": "host"},
        optimizer={"moments_memory": "host"},
        checkpoint={"every": 1},
    )
    assert grpo.train_grpo(config)
    expected = states_of(saved, 2)
    assert any("nu" in name for name in expected)
    assert states_of(tmp_path, 2) == expected
    weights = [(folder / "export" / "model.safetensors").read_bytes() for folder in (saved, tmp_path)]
    assert weights[0] == weights[1]
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    assert grpo.train_grpo(config)
    assert states_of(tmp_path, 2) == expected
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    assert grpo.train_grpo(changed(config, tmp_path, optimizer={"moments_memory": "device"}))
    assert states_of(tmp_path, 2) == expected


def test_too_little_host_memory_is_one_line(start, saved, tmp_path, monkeypatch):
    monkeypatch.setattr(host_memory, "available", lambda: 1000)
    for name in ("optimizer.moments_memory", "grpo.reference_memory"):
        section, field = name.split(".")
        config = changed(
            start, tmp_path, replay_rollouts=str(saved / "kept" / "rollouts.jsonl"), **{section: {field: "host"}}
        )
        with pytest.raises(ValueError, match=rf"{name} host: [\d.]+ GiB are needed on each host, and .* set it to dev"):
            grpo.train_grpo(config)
    monkeypatch.setattr(host_memory, "_KINDS", {"host": "remote"})
    with pytest.raises(ValueError, match="host: cpu does not use its host's memory; set it to device"):
        host_memory.check_room({"w": jnp.ones(3)}, "optimizer.moments_memory")


def test_run_exports_the_dtype_it_began_with(start, saved, tmp_path):
    save_hf(load_hf(start.model.path), tmp_path / "model", dtype="bfloat16")
    config = changed(
        start,
        tmp_path / "run",
        steps=1,
        replay_rollouts=str(saved / "kept" / "rollouts.jsonl"),
        model={"path": str(tmp_path / "model")},
    )
    assert grpo.train_grpo(config)
    rounded = load_hf(tmp_path / "run" / "export", dtype=None).params
    assert {x.dtype.name for x in jax.tree.leaves(rounded)} == {"bfloat16"}
    assert grpo.train_grpo(changed(config, tmp_path / "run", model={"export_dtype": "float32"}))  # a resumed run
    exact = load_hf(tmp_path / "run" / "export", dtype=None).params
    assert {x.dtype.name for x in jax.tree.leaves(exact)} == {"float32"}
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x.astype("bfloat16"), y), exact, rounded)


@pytest.fixture(scope="module")
def content_model(start, tmp_path_factory) -> Path:
    """A reward model that has learned nothing, on the toy's weights."""
    folder = tmp_path_factory.mktemp("content") / "model"
    save_reward_model(init_reward_model(load_hf(start.model.path), jax.random.key(0), 0), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return folder


@pytest.mark.parametrize("preset", ["full", "outcome_only", "no_content", "no_structure", "no_length"])
def test_each_ablation_trains_from_its_configuration(start, content_model, tmp_path, monkeypatch, preset):
    """The real reward of responses that are made well-formed; the presets differ in what they count."""
    monkeypatch.setattr(evaluation, "decode_responses", lambda tokenizer, completions: [well_formed(completions[0])])
    save_config(changed(start, tmp_path / "run", steps=1), tmp_path / "run.yaml")
    files = [tmp_path / "run.yaml", CONFIGS / "ablations" / f"{preset}.yaml"]
    content = [f"rewards.content.model={content_model}"] if preset in WITH_CONTENT else []
    config = load_config(RunConfig, files, content)
    assert grpo.train_grpo(config)
    (row,) = steps_of(tmp_path / "run")
    assert row["format_rate"] == 1.0
    assert row["reward/unscorable"] == 0.0
    assert np.isfinite(row["loss"])
    assert (row["weight/content"] > 0) == (row.get("reward/content") is not None) == (preset in WITH_CONTENT)
    assert (row["weight/structure"] > 0) == (preset in ("full", "no_content", "no_length"))


WITH_CONTENT = ("full", "no_structure", "no_length")


def well_formed(completion: Completion) -> str:
    words = " ".join(f"Fact {token} is known." for token in completion.tokens * 3)
    return f"<think>Encode: {words}</think><Answer>{'AB'[completion.tokens[0] % 2]}</Answer>"
