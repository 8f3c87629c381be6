"""Configuration: types, ranges, sums that do not fit, the command line; and that no field is without effect."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_origin

import pytest
import yaml
from pydantic import Field, ValidationError

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.loading import load_config, save_config, to_yaml
from socialr1_jax.config.quickstart import QuickstartConfig
from socialr1_jax.config.reward_model import RewardModelConfig
from socialr1_jax.config.rewards import USES, RewardConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError, Section

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ["model.path=Qwen/Qwen3-4B", "data.train=questions.jsonl"]


def load(*overrides: str, path: Path | None = None) -> RunConfig:
    return load_config(RunConfig, path, [*NEEDED, *overrides])


def fields(config_class: type[Section], prefix: str = "") -> dict[str, type[Section]]:
    """dotted name -> the section that declares it"""
    found: dict[str, type[Section]] = {}
    for name, field in config_class.model_fields.items():
        kind = field.annotation
        entry = get_args(kind)[1] if get_origin(kind) is dict else str
        if isinstance(kind, type) and issubclass(kind, Section):
            found |= fields(kind, f"{prefix}{name}.")
        elif issubclass(entry, Section):
            found |= fields(entry, f"{prefix}{name}.NAME.")
        else:
            found[prefix + name] = config_class
    return found


class ToolConfig(Section):
    """The flags of a small script."""

    model: str = Field(description="folder")
    rows: int = Field(4, ge=1, description="rows at a time")
    greedy: bool = Field(False, description="take the likeliest token")


def test_later_files_win_field_by_field(tmp_path):
    (tmp_path / "a.yaml").write_text("steps: 5\nrewards:\n  floor: 0.5\n  content_weight:\n    start: 2\n    end: 4\n")
    (tmp_path / "b.yaml").write_text("rewards:\n  preset: no_structure\n  content_weight:\n    end: 5\n")
    config = parse_args(
        RunConfig,
        [
            *("--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml")),
            *("model.path=m", "data.train=d", "rewards.content.model=m"),
        ],
        description="later ones win",
    )
    weight = config.rewards.content_weight
    assert (config.steps, config.rewards.floor, config.rewards.preset) == (5, 0.5, "no_structure")
    assert (weight.start, weight.end) == (2.0, 5.0)


@pytest.mark.parametrize("preset", ["full", "outcome_only", "no_content", "no_structure", "no_length"])
def test_each_ablation_goes_on_top_of_a_run(preset):
    files = [ROOT / "configs" / "socialr1_8b_a100x8.yaml", ROOT / "configs" / "ablations" / f"{preset}.yaml"]
    content = ["rewards.content.model=m"] if USES[preset].content else []
    config = load_config(RunConfig, files, ["data.train=d", *content])
    assert config.rewards.preset == preset
    assert config.model.path == "Qwen/Qwen3-8B"


# ------------------------------------------------------------------------------------------------------------- values


def test_defaults_are_the_recipe_of_the_cards():
    config = load()
    assert (config.steps, config.sampling.group_size, config.grpo.kl_coefficient) == (600, 5, 0.04)
    assert (config.grpo.prompts_per_step, config.grpo.mini_batch_prompts) == (64, 16)
    assert config.optimizer.learning_rate == 5e-7
    assert (config.data.max_prompt_tokens, config.sampling.max_new_tokens) == (1024, 3072)
    assert config.updates == 600 * 4


@pytest.mark.parametrize("name", ["outcome_weight", "structure_weight", "content_weight", "tau_right", "tau_wrong"])
def test_one_field_of_a_schedule_leaves_its_others(name):
    used = ["rewards.preset=full", "rewards.content.model=m"]
    before, after = (getattr(load(*used, *changes).rewards, name) for changes in ([], [f"rewards.{name}.end=0.7"]))
    assert (after.start, after.end, after.steps, after.shape) == (before.start, 0.7, before.steps, before.shape)


def test_reward_constants_are_those_of_the_published_reward():
    reward = RewardConfig().model_dump()
    for name in ("preset", "format_mode", "structure", "extra"):
        del reward[name]
    still = {"steps": 200, "shape": "linear"}
    assert reward == {
        "outcome_weight": {"start": 1.0, "end": 1.0} | still,
        "structure_weight": {"start": 2.0, "end": 1.0} | still,
        "content_weight": {"start": 1.0, "end": 3.0} | still,
        "tau_right": {"start": 1.0, "end": 1.0} | still,
        "tau_wrong": {"start": 0.2, "end": 0.2} | still,
        "content": {"model": "", "batch_tokens": 16_384, "shift": 2.0, "power": 1.2},
        "answer_mode": "plain",
        "format_power": 3.0,
        "format_gate": 0.1,
        "floor": 0.01,
        "length_low": 400.0,
        "length_high": 3000.0,
        "length_scale": 50.0,
        "repetition_gram": 16,
        "repetition_threshold": 0.1,
        "repetition_rate": 8.0,
        "most_unscorable": 0.25,
        "unscorable_window": 5,
    }


def test_yaml_then_overrides(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "steps: 7\noptimizer: {learning_rate: 5e-6, weight_decay: 1}\nsampling:\ndata: {where: {deception: false}}\n"
    )
    config = load("steps=9", "data.where.kind=CoTP", path=path)
    assert config.steps == 9
    assert config.optimizer.learning_rate == 5e-6  # YAML itself reads 5e-6 as a text
    assert config.optimizer.weight_decay == 1.0
    assert config.data.where == {"deception": "false", "kind": "CoTP"}
    for nulls, where in (
        (["data.where=null"], {}),
        (["data.where=null", "data.where.kind=CoTP"], {"kind": "CoTP"}),
        (["data.where.deception=null"], {"deception": ""}),
        (["data.where={deception: null}"], {"deception": ""}),
        (["data.where={deception: 'null'}"], {"deception": "null"}),
    ):
        assert load(*nulls, path=path).data.where == where, nulls


def test_text_fields_take_the_override_as_it_stands():
    assert load("output_dir=123", "data.eval=no").data.eval == ("no",)


def test_section_without_fields_keeps_its_defaults(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("grpo:\n  # prompts_per_step: 3\n")
    assert load(path=path).grpo.prompts_per_step == 64


def test_frozen():
    with pytest.raises(ValidationError):
        load().steps = 3


@pytest.mark.parametrize("flags", [[], ["xla_flags=--xla_a=1"], ["xla_flags=[--xla_a=1]"]])
def test_deterministic_sets_kernels_and_flag(flags):
    config = load("deterministic=true", "model.dtype=bfloat16", *flags)
    assert (config.model.attention, config.sampling.attention) == ("xla", "xla")
    assert config.xla_flags == (*["--xla_a=1"] * len(flags), "--xla_gpu_deterministic_ops=true")


def test_saved_configuration_reads_back_equal(tmp_path):
    config = load("optimizer.learning_rate=1.5e-6", 'data.columns={story: "my: story"}', "seed=3", "deterministic=true")
    save_config(config, tmp_path / "deep" / "config.yaml")
    assert load_config(RunConfig, tmp_path / "deep" / "config.yaml") == config
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["config.yaml"]


# ------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=abc", "steps: 'abc' is not a whole number"),
        ("steps=1.5", "steps: 1.5 is not a whole number"),
        ("steps=true", "steps: True is not a whole number"),
        ("steps=0", "steps must be at least 1, not 0"),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate: 'fast' is not a number"),
        ("optimizer.learning_rate=true", "optimizer.learning_rate: True is not a number"),
        ("optimizer.learning_rate=.inf", "optimizer.learning_rate: inf is not a finite number"),
        ("rewards.content.shift=.nan", "rewards.content.shift: nan is not a finite number"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate must be at least 0"),
        ("sampling.temperature=0", "sampling.temperature must be more than 0"),
        ("sampling.top_p=1.01", "sampling.top_p must be at most 1"),
        ("model.remat=2", "model.remat must be one of 'nothing', 'attention' or 'everything', not 2"),
        ("model.dtype=float16", "model.dtype must be one of 'float32' or 'bfloat16', not 'float16'"),
        ("data.where=CoTP", "data.where: 'CoTP' is not a mapping"),
        ("data.where=[", "data.where: cannot read the value '['"),
        ("steps", "'steps' is not of the form"),
        ("epochs=-1", "epochs must be at least 0.0, not -1"),
        ("epochs=true", "epochs: True is not a number"),
        ("epochs=all", "epochs: 'all' is not a number"),
        ("grpo=3", "grpo is a section"),
        ('xla_flags=["xla_fast=true"]', "is not an XLA flag"),
        ('xla_flags=["--xla_fast"]', "is not an XLA flag"),
        ('xla_flags=["--xla_a=1 --xla_b=2"]', "is not an XLA flag"),
    ],
)
def test_a_bad_value_is_named(override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(override)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("grpo.prompts_per_stp", "grpo.prompts_per_step"),
        ("learning_rate", "optimizer.learning_rate"),
        ("sampling.max_tokens", "sampling.max_new_tokens"),
        ("stpes", "steps"),
        ("checkpoint.evry", "checkpoint.every"),
        ("eval.every", "evaluation.every"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(key, nearest, tmp_path):
    with pytest.raises(ConfigError, match=f"unknown key {key!r}; did you mean {nearest!r}"):
        load(f"{key}=1")
    nested: object = 1
    for part in reversed(key.split(".")):
        nested = {part: nested}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(nested))
    with pytest.raises(ConfigError, match=re.escape(str(path)) + ": unknown key"):
        load(path=path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["grpo.prompts_per_step=10"], "set grpo.mini_batch_prompts to 1, 2, 5 or 10"),
        (["grpo.preset=cispo", "grpo.dual_clip=3"], "set dual_clip to 0"),
        (["grpo.old_logprobs=sampler", "grpo.importance_sampling=token"], "grpo: old_logprobs sampler makes the ratio"),
        (["steps=2", "optimizer.warmup_steps=8"], "leaves none of the run's 8 updates"),
        (["rewards.preset=full"], "needs a content reward model"),
        (["cold_start=4"], "cold_start is for model.random"),
        (["rewards.structure.judge=none"], "scores the structure, but structure.judge is none"),
        (["rewards.structure.judge=endpoint"], "needs model and base_url"),
        (["rewards.structure.judge=local"], "needs model, the folder"),
        (["rewards.structure.base_url=http://me:key@host/v1"], "put the key into OPENAI_API_KEY"),
        (["rewards.structure.base_url=http://host/v1?key=1"], "put the key into OPENAI_API_KEY"),
        (["rewards.structure.base_url=host:8000"], "not of the form http://host:8000/v1"),
        (["rewards.structure.offline=true"], "cache is not set"),
        (
            ["rewards.extra.own.function=module"],
            "rewards.extra.own.function: 'module' is not of the form",
        ),
        (["rewards.length_low=3000"], "must be below length_high"),
        (["model.attention=cudnn"], "set model.dtype to bfloat16"),
        (["model.attention=triton"], "model.attention triton computes in bfloat16; set model.dtype to bfloat16"),
        (
            ["deterministic=true", "model.attention=cudnn", "model.dtype=bfloat16"],
            "deterministic needs model.attention xla",
        ),
        (["deterministic=true", "xla_flags=--xla_gpu_exclude_nondeterministic_ops=false"], "no flag against it"),
        (["deterministic=1"], "deterministic"),
    ],
)
def test_numbers_that_do_not_fit_name_the_setting(overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(*overrides)


def test_required_fields():
    with pytest.raises(ConfigError, match=r"^model.path is required: Hugging Face folder"):
        load_config(RunConfig, None, ["data.train=x"])
    with pytest.raises(ConfigError, match=r"^data.train is required"):
        load_config(RunConfig, None, ["model.path=x"])
    with pytest.raises(ConfigError, match=r"^model is required: folder"):
        load_config(ToolConfig)


def test_quickstart_has_its_own_model_and_stories():
    load_config(QuickstartConfig)
    with pytest.raises(ConfigError, match=r"model.path: the quickstart makes its own"):
        load_config(QuickstartConfig, None, ["model.path=x"])
    with pytest.raises(ConfigError, match=r"raise stories.heldout_count"):
        load_config(QuickstartConfig, None, ["evaluation.questions=201"])
    with pytest.raises(ConfigError, match=r"^tiny_model: num_key_value_heads 3 does not divide"):
        load_config(QuickstartConfig, None, ["tiny_model.num_key_value_heads=3"])


def test_all_faults_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        load("steps=abc", "sampling.top_k=-1")
    assert str(caught.value).splitlines() == [
        "steps: 'abc' is not a whole number",
        "sampling.top_k must be at least 0, not -1",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("steps: [1", "line 1: not YAML"),
        ("- 1\n- 2\n", "does not hold key: value lines"),
        ("steps: 1\nseed: 2\nsteps: 3\n", "line 3: the key 'steps' is given twice"),
        ("grpo: 3\n", "grpo is a section"),
        ("1: 3\n", "unknown key '1'"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}:.*{re.escape(message)}"):
        load(path=path)


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml: cannot read the configuration file \(No such file"):
        load(path=tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary.yaml: .*not UTF-8"):
        load(path=tmp_path / "binary.yaml")


# ----------------------------------------------------------------------------------------------------- the command line


def parse(*argv: str, config_class=RunConfig, default_config=None):
    return parse_args(config_class, argv, description="Trains.", default_config=default_config)


def test_flags_file_and_overrides(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("steps: 7\nseed: 1\n")
    config = parse("--config", str(path), "--seed", "5", "--output-dir=out", "grpo.kl_coefficient=0", *NEEDED)
    assert (config.steps, config.seed, config.output_dir, config.grpo.kl_coefficient) == (7, 5, "out", 0.0)
    assert parse(*NEEDED, default_config=path).steps == 7
    assert parse("--model", "a=b", "--greedy", "--rows=2", config_class=ToolConfig) == ToolConfig(
        model="a=b", rows=2, greedy=True
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stps", "5"], "unknown key 'stps'; did you mean 'steps'?"),
        (["--steps"], "--steps needs a value"),
        (["train.yaml"], "unexpected argument 'train.yaml'"),
        (["--config", "/nowhere/run.yaml"], "/nowhere/run.yaml: cannot read"),
        ([*NEEDED, "steps=-1"], "steps must be at least 1"),
    ],
)
def test_fault_is_one_line_and_exit_code_2(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*argv)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_help_lists_every_field_with_default_and_meaning(capsys, tmp_path):
    path = tmp_path / "quick.yaml"
    path.write_text("steps: 41\n")
    with pytest.raises(SystemExit) as caught:
        parse("--help", config_class=QuickstartConfig, default_config=path)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    folded = " ".join(text.split())
    for name, section in fields(QuickstartConfig).items():
        meaning = section.model_fields[name.rpartition(".")[2]].description
        assert meaning, f"{name} has no description"
        assert re.search(rf"^  {re.escape(name)}\s", text, re.MULTILINE), name
        assert " ".join(meaning.split()) in folded, name
    assert re.search(r"^  steps\s+41 ", text, re.MULTILINE)  # the default is the default file's
    assert re.search(r"^  optimizer.learning_rate\s+5e-07 ", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 140


@pytest.mark.parametrize(
    ("arguments", "quiet"),
    [(["--quiet"], True), (["--quiet", "true"], True), (["--quiet", "false"], False), (["--quiet=false"], False)],
)
def test_a_flag_takes_a_value_or_none(arguments, quiet):
    assert parse(*NEEDED, *arguments, "--seed", "3").quiet == quiet
    assert parse("--seed", "3", *NEEDED, *arguments).quiet == quiet


def test_help_ends_quietly_when_nobody_reads_on():
    command = f"{sys.executable} {ROOT / 'scripts' / 'train_grpo.py'} --help | head -n 1"
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("usage: train_grpo.py")


def test_dry_run_prints_yaml_and_the_arithmetic(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--dry-run", *NEEDED)
    assert caught.value.code == 0
    resolved, _, arithmetic = capsys.readouterr().out.partition("\n\n")
    assert yaml.safe_load(resolved)["grpo"]["prompts_per_step"] == 64
    # 64 x 5 = 320 responses, x 3,072 = 983,040 tokens; 16 x 5 = 80 rows of 1,024 + 3,072; 600 steps; 1 + 600/50 looks
    assert arithmetic.splitlines() == [
        "row         up to 1,024 prompt + 3,072 response = 4,096 tokens",
        "step        64 prompts x 5 = 320 responses, up to 983,040 response tokens",
        "mini-batch  16 prompts = 80 rows, up to 327,680 tokens an update, 4,096 at most in a device's backward pass",
        "run         600 steps = 2,400 updates, 38,400 prompts, 192,000 responses, up to 589,824,000 response tokens",
        "evaluation  13 x 100 questions x 4 = 5,200 responses, up to 15,974,400 response tokens",
    ]


def test_bad_key_is_reported_before_heavy_imports():
    code = (
        "import sys; from socialr1_jax.config.run import RunConfig\n"
        "from socialr1_jax.config.command_line import parse_args\n"
        "heavy = {'jax', 'flax', 'numpy', 'transformers', 'torch', 'rich', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "parse_args(RunConfig, ['stps=1'], description='')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "-c: error: unknown key 'stps'; did you mean 'steps'?\n"


# ------------------------------------------------------------------------------------------------------ the repository


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_is_valid(path):
    if path.name.startswith("quickstart"):
        config: Section = load_config(QuickstartConfig, path)
    elif path.name.startswith("reward_model"):
        config = load_config(RewardModelConfig, path, ["data.pairs=pairs.jsonl"])
    else:
        given = yaml.safe_load(path.read_text())
        missing = [x for x in NEEDED if not given.get(x.split(".")[0], {}).get(x.split(".")[1].split("=")[0])]
        config = load_config(RunConfig, path, missing)
    assert yaml.safe_load(to_yaml(config)) is not None


def test_the_card_configurations_are_the_recipe():
    for size in ("4b", "8b"):
        config = load(path=ROOT / "configs" / f"socialr1_{size}_a100x8.yaml")
        fitted = ("model.remat=attention", "sampling.max_rows=40", "grpo.micro_batch_tokens=8192")  # to eight A100
        fitted += ("xla_flags=[--xla_gpu_experimental_parallel_collective_overlap_limit=4]",)
        recipe = load("model.dtype=bfloat16", *fitted, f"output_dir=runs/socialr1_{size}")
        assert config == recipe


DECLARING = ("run.py", "quickstart.py", "rewards.py", "sections.py", "loading.py", "command_line.py")


def test_every_field_has_an_effect():
    """A field that nothing reads is a promise not kept."""
    sources = [*(ROOT / "socialr1_jax").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    declare = [ROOT / "socialr1_jax" / "config" / name for name in DECLARING]
    text = "\n".join(path.read_text() for path in sources if path not in declare)
    whole = set(re.findall(r"\.(\w+)\.model_dump\(", text))  # sections handed on as a whole
    unread = [
        name
        for name in fields(QuickstartConfig)
        if name.split(".")[0] not in whole and not re.search(rf"\.{name.rpartition('.')[2]}\b(?!\()", text)
    ]
    assert unread == ["deterministic"]  # stands for two others: test_deterministic_sets_kernels_and_flag


def test_no_field_holds_a_secret():
    secret = r"api|secret|password|(^|_|\.)key(?!_value)"  # the name of an environment variable is none
    assert not [name for name in fields(QuickstartConfig) if re.search(secret, name.removesuffix("api_key_env"))]
