"""Names of TRL and verl: each leads to a field of ours, TRL has its own, and the docs' table is the program's."""

from pathlib import Path

import pytest

from socialr1_jax.command_line import names_of
from socialr1_jax.config import RunConfig
from socialr1_jax.setting_names import NAMES, known_name

OURS = set(names_of(RunConfig))
PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
EARLIER = {"max_prompt_length", "torch_dtype", "warmup_ratio"}  # names of earlier releases


def test_every_name_leads_to_a_field_and_to_one_alone():
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


def test_the_table_of_the_docs_is_the_programs():
    def code(names):
        return ", ".join(f"`{name}`" for name in names)

    rows = [(f"`{one.ours}`", code(one.trl), code(one.verl), code(one.other), one.note) for one in NAMES]
    lines = [" ".join(f"| {' | '.join(row)} |".split()) for row in rows]
    page = [" ".join(line.split()) for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert page == lines
