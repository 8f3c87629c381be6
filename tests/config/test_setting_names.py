"""Names of TRL and verl: each leads to a field of ours, TRL has its own, and the docs' table is the program's."""

from pathlib import Path

import pytest

from socialr1_jax.config.loading import load_config, names_of
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.config.setting_names import ABSENT, NAMES, absent_reason, known_name

OURS = set(names_of(RunConfig))
PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
EARLIER = {"max_prompt_length", "torch_dtype", "warmup_ratio"}  # names of earlier releases


def test_every_name_leads_to_exactly_one_field():
    assert len(NAMES) >= 50
    assert {one.ours for one in NAMES} <= OURS
    names = [name for one in NAMES for name in (*one.trl, *one.verl, *one.other)]
    assert len(names) == len(set(names))
    for one in NAMES:
        for name in (*one.trl, *one.verl, *one.other):
            assert known_name(name) == one.ours


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("lr", "optimizer.learning_rate"),
        ("num_train_epochs", "epochs"),
        ("trainer.total_epochs", "epochs"),
        ("num_epochs", "epochs"),
        ("learning_rate", "optimizer.learning_rate"),
        ("--learning-rate", "optimizer.learning_rate"),
        ("num_generations", "sampling.group_size"),
        ("actor_rollout_ref.actor.optim.lr", "optimizer.learning_rate"),
        ("+actor_rollout_ref.actor.optim.lr", "optimizer.learning_rate"),
        ("optim.lr", "optimizer.learning_rate"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("rollout.n", "sampling.group_size"),
        ("sampling.n", "sampling.group_size"),
        ("grpo.beta", "grpo.kl_coefficient"),
        ("KL_coef", "grpo.kl_coefficient"),
        ("rewards.extra_weight", "rewards.extra.NAME.weight"),
        ("evaluation.n", None),  # sampling's, which is another section
        ("optimiser.epsilon", None),  # the clip range is not what is meant
        ("path", None),  # of several of verl's
        ("enable", None),
        ("learning_rat", None),
        ("", None),
    ],
)
def test_known_name(key, ours):
    assert known_name(key) == ours


def test_trl_has_its_names():
    trl = pytest.importorskip("trl")
    from trl.scripts.grpo import GRPOScriptArguments

    classes = (trl.GRPOConfig, trl.ModelConfig, trl.ScriptArguments, GRPOScriptArguments)
    fields = {name for one in classes for name in one.__dataclass_fields__}
    assert {name for one in NAMES for name in one.trl} - fields <= EARLIER


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("logging_steps", "every step is in metrics.jsonl"),
        ("num_iterations ppo_epochs actor_rollout_ref.actor.ppo_epochs", "each rollout is trained on once"),
        ("use_vllm vllm_mode --use-vllm actor_rollout_ref.rollout.name", "the sampler is part of the program"),
        ("actor_rollout_ref.rollout.gpu_memory_utilization", "the sampler is part of the program"),
        ("use_peft lora_r actor_rollout_ref.model.lora_rank", "all parameters are trained"),
        ("eval_strategy trainer.val_before_train", "evaluation.every sets the steps"),
        ("push_to_hub hub_token", "the trained weights are in output_dir/export"),
        ("per_device_eval_batch_size", "the sampler sizes its batches"),
        ("sync_ref_model", "the reference stays"),
        ("algorithm.use_kl_in_reward", "the KL term is part of the loss"),
        ("trainer.project_name trainer.experiment_name", "a run is named by output_dir"),
        ("critic.optim.lr", "no value model is trained"),
    ],
)
def test_a_name_without_counterpart_says_why(keys, said):
    for key in keys.split():
        with pytest.raises(ConfigError) as refused:
            load_config(RunConfig, None, [f"{key}=1"])
        assert str(refused.value).startswith(f"{key!r} has no counterpart here: {said}")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("stpes", "steps"),
        ("epoch", "epochs"),
        ("learning_rat", "optimizer.learning_rate"),
        ("optimiser.epsilom", "optimizer.epsilon"),
        ("rewards.structure.judgee", "rewards.structure.judge"),
        ("evaluation.sample", "evaluation.samples"),
        ("optimizer.fraction", "optimizer.final_fraction"),
        ("grpo.steps", "steps"),  # the name is right, the section is not
        ("print_steps", None),
        ("inner_epochs", None),
        ("engine.name", None),  # of another section
        ("trainer.stpes", None),
        ("something_else", None),
        ("x" * 10_000, None),
        ("", None),
    ],
)
def test_only_what_is_near_is_offered(key, nearest):
    with pytest.raises(ConfigError) as refused:
        load_config(RunConfig, None, [f"{key}=1"])
    end = f"did you mean {nearest!r}?" if nearest else "--help lists all"
    assert str(refused.value).startswith("unknown key ")
    assert str(refused.value).endswith(f"; {end}")


def test_names_without_counterpart_exist_on_neither_side():
    assert not [name for name in OURS if absent_reason(name)]
    assert not [name for names, _ in ABSENT for name in names if known_name(name)]
    names = [name for names, _ in ABSENT for name in names]
    assert len(names) == len(set(names))
    assert absent_reason("") == ""


def test_the_tables_of_the_docs_are_the_programs():
    def code(names):
        return ", ".join(f"`{name}`" for name in names)

    rows = [(f"`{one.ours}`", code(one.trl), code(one.verl), code(one.other), one.note) for one in NAMES]
    lines = [" ".join(f"| {' | '.join(row)} |".split()) for row in rows]
    page = [" ".join(line.split()) for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    lines += [f"| {code(names)} | {why} |" for names, why in ABSENT]
    assert page == lines
