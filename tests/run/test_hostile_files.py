"""Odd files of a run: YAML, a foreign run's config.yaml, manifests, checkpoints and recordings each give one line."""

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.loading import load_config
from socialr1_jax.config.rewards import RewardConfig
from socialr1_jax.config.run import CheckpointConfig, RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.grpo.update import TrainState
from socialr1_jax.report import write_report
from socialr1_jax.rewards.shares import ShareWatch
from socialr1_jax.run.checkpoints import CheckpointError, Checkpoints, _sums, fault, whole_steps
from socialr1_jax.run.weights import find_checkpoint, load_policy
from socialr1_jax.training.recording import Replay
from socialr1_jax.training.sampler import Sampler
from socialr1_jax.training.watches import UnscorableWindow

NEEDED = ("model.path=m", "data.train=d")


def one_short_line(error: BaseException, most: int = 1000) -> str:
    text = str(error)
    assert len(text.splitlines()) == 1, text[:2000]
    assert len(text) <= most, text[:2000]
    assert text.isprintable()
    return text


# --------------------------------------------------------------------------------------------------------------- YAML


def bomb(first: str, join: str, levels: int = 9) -> str:
    """Each level holds the one before nine times."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {join % ', '.join([f'*a{i - 1}'] * 9)}" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


# As a whole file, and as the value of a field.
NOT_CONFIGURATIONS = {
    "list as key": "? [a]\n: 1",
    "mapping as key": "? {a: b}\n: 1",
    "nested key": "{[1, 2]: 3}",
    "int of a word": "steps: !!int x",
    "int of nothing": '!!int ""',
    "float of nothing": '!!float ""',
    "bool of a word": "!!bool perhaps",
    "timestamp": "!!timestamp x",
    "binary": "!!binary x",
    "set": "!!set {a, b}",
    "ordered mapping": "!!omap [a: 1]",
    "pairs": "!!pairs [a: 1]",
    "python object": "!!python/object/apply:os.system [true]",
    "own tag": "!include /etc/passwd",
    "tag on a list": "!!str [a]",
    "digits without end": "9" * 5000,
    "more than 64 bits": "1" + "0" * 30,
    "hexadecimal without digits": "0x_",
    "sixties": ":".join(["59"] * 300),
    "character beyond Unicode": '"\\Uffffffff"',
    "deep list": "[" * 700,
    "deep mapping": "{a: " * 3000,
    "deep block": "- " * 3000,
    "deep key": "? " * 3000,
    "list of itself": "&a [*a]",
    "mapping of itself": "&a {b: *a}",
    "merge of itself": "&a {<<: *a}",
    "bomb of lists": bomb("[x, x, x, x, x, x, x, x, x]", "[%s]"),
    "bomb of merges": bomb("{k: 1}", "{<<: [%s]}"),
    "merge of a number": "<<: 5",
    "unknown alias": "*x",
    "two documents": "a\n---\nb",
    "zero character": "a: \0",
    "escape character": "a: \x1b[31m",
    "unknown directive": "%YAML 9.9\n---\na",
    "key twice": "{a: 1, a: 2}",
}


@pytest.mark.parametrize("text", NOT_CONFIGURATIONS.values(), ids=NOT_CONFIGURATIONS)
def test_what_is_no_configuration_gives_one_line(tmp_path, text):
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    for path, overrides in ((file, ()), (None, (f"data.where={text}",)), (None, (f"seed={text}",))):
        with pytest.raises(ConfigError) as caught:
            load_config(RunConfig, path, [*NEEDED, *overrides])
        line = one_short_line(caught.value)
        assert str(file) in line or "data.where" in line or "seed" in line


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (["seed=2020-99-99"], "seed: '2020-99-99' is not a whole number"),
        (["seed=2020-01-01"], "seed: '2020-01-01' is not a whole number"),
        (["seed=" + "x" * 100_000], "seed: 'xxxx"),
        (["seed=[" + "1," * 5000 + "]"], "seed: [1, 1"),
        (["model.remat=" + "y" * 100_000], "model.remat must be one of"),
        (["x" * 100_000 + "=1"], "unknown key 'xxx"),
        (["grpo." + "x" * 100_000 + "=1"], "unknown key 'grpo.xxx"),
        (["data.where=5", "data.where.kind=x"], "data.where is not a mapping but 5"),
        (["xla_flags=" + "z" * 100_000], "xla_flags: 'zzz"),
        (["sampling.top_k=9223372036854775807"], "sampling.top_k must be less than 2147483648, not 92233"),
        (["steps=9223372036854775807"], "steps must be less than 2147483648, not 9223372036854775807"),
        (["output_dir=a\0b"], "output_dir: 'a\\x00b' holds a zero character"),
        (['data.train=["\\ud800"]'], "data.train: '\\ud800' holds a zero character or half of one"),
        (['rewards.structure.options={stop: "[a"}'], "rewards.structure.options: stop: '[a' is not a value"),
        (["grpo.prompts_per_step=1000000000000", "grpo.mini_batch_prompts=7"], "grpo.mini_batch_prompts 7 does not"),
        (["grpo.prompts_per_step=" + "9" * 18, "grpo.mini_batch_prompts=2"], "grpo.mini_batch_prompts 2 does not"),
    ],
)
def test_a_message_about_a_value_is_short(overrides, start):
    with pytest.raises(ConfigError) as caught:
        load_config(RunConfig, None, [*NEEDED, *overrides])
    assert one_short_line(caught.value).startswith(start)


def test_a_large_file_and_many_faults_are_bounded(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("# " + "x" * (1 << 20))
    with pytest.raises(ConfigError, match=r"run.yaml: the file has more than 1,048,576 bytes"):
        load_config(RunConfig, file, NEEDED)
    file.write_text("data:\n  train: [" + "1, " * 2000 + "1]\n")
    with pytest.raises(SystemExit, match="2"):
        parse_args(RunConfig, ["--config", str(file)], description="")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[-1].endswith("and 1981 more")


@pytest.mark.parametrize("text", ["seed: 1\nx: !!int x\n", "a: \x07b: c\n"])
def test_a_bad_file_ends_with_status_2(tmp_path, capsys, text):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        parse_args(RunConfig, ["--config", str(tmp_path / "run.yaml")], description="")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()


def test_numbers_and_aliases_are_read_dates_are_texts(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "output_dir: 2020-01-01\nseed: 0x10\nsteps: 1_000\nquiet: yes\n"
        "optimizer: {learning_rate: 5e-7, weight_decay: .5}\n"
        "rewards:\n  structure_weight: &w {start: 2, steps: 7}\n  outcome_weight: {<<: *w, start: 3}\n"
        "data: {where: {day: 2020-01-01, 5: ~, on: no}, train: [a, b]}\n"
    )
    config = load_config(RunConfig, file, ["model.path=m"])
    assert (config.output_dir, config.seed, config.steps, config.quiet) == ("2020-01-01", 16, 1000, True)
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (5e-7, 0.5)
    weights = config.rewards.structure_weight, config.rewards.outcome_weight
    assert [(weight.start, weight.steps) for weight in weights] == [(2.0, 7), (3.0, 7)]
    assert config.data.where == {"day": "2020-01-01", "5": "", "on": "false"}
    assert config.data.train == ("a", "b")


@pytest.mark.parametrize(
    "name", ["list as key", "digits without end", "deep block", "bomb of lists", "zero character", "two documents"]
)
def test_report_names_an_unreadable_config(tmp_path, name):
    """The parser is the one of `test_what_is_no_configuration_gives_one_line`, which has all texts."""
    (tmp_path / "config.yaml").write_text(NOT_CONFIGURATIONS[name], encoding="utf-8")
    (tmp_path / "summary.json").write_text('{"steps": 3}')
    began = time.process_time()
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "config.yaml cannot be read" in page
    assert time.process_time() - began < 20


def test_report_reads_only_the_beginning_of_configs(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n#" + "x" * 4_000_000)
    assert write_report(tmp_path).stat().st_size < 3_000_000


# -------------------------------------------------------------------------------------------------------- checkpoints

FILES = {"metrics.jsonl": 0, "rollouts.jsonl": 0}


def state() -> TrainState:
    return TrainState(**{name: jnp.zeros(3) for name in TrainState._fields})


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder, CheckpointConfig(every=1), {"model": {}, "source": None})
    for step in (3, 4):
        checkpoints.save(step, state(), {"files": FILES}, value=0.5)
        checkpoints.finish()
    checkpoints.close()
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def restored(folder: Path) -> dict:
    checkpoints = Checkpoints(folder, CheckpointConfig(every=1), {})
    try:
        return checkpoints.restore(state(), ("files",))[1]
    finally:
        checkpoints.close()


@pytest.mark.parametrize(
    "change",
    [
        {"files": []},
        {"files": {}},
        {"files": None},
        {"files": 5},
        {"files": {"run/metadata": 5}},
        {"files": {"run/metadata": {"bytes": "9", "xxh3": "x"}}},
        {"files": {"run/metadata": {"bytes": -1, "xxh3": "x"}}},
        {"files": {"run/metadata": {"bytes": 5, "xxh3": None}}},
        {"files": {"/etc/hostname": {"bytes": 5, "xxh3": "x"}}},
        {"files": {"../3/manifest.json": {"bytes": 5, "xxh3": "x"}}},
        {"files": {"x" * 5000: {"bytes": 5, "xxh3": "x"}}},
        {"files": {"a\0\ud800\x1b": {"bytes": 5, "xxh3": "x"}}},
        '{"files": ' + "[" * 100_000,
        "[]",
        "{",
        b"\xff\xfe",
    ],
)
def test_unfit_manifest_sets_its_checkpoint_aside(folder, change):
    manifest = folder / "4" / "manifest.json"
    text = json.dumps(json.loads(manifest.read_text()) | change) if isinstance(change, dict) else change
    manifest.write_bytes(text if isinstance(text, bytes) else text.encode())
    problem = fault(folder / "4")
    assert problem.startswith("manifest.json") or "is absent" in problem
    assert len(problem) < 3000
    assert problem.isprintable()
    with pytest.raises(CheckpointError):
        load_policy(folder / "4")
    assert restored(folder) == {"files": FILES}
    assert sorted(path.name for path in folder.iterdir()) == ["3", "4.damaged"]


def test_a_manifest_lists_every_file(folder):
    manifest = folder / "4" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"] = {name: one for name, one in content["files"].items() if not name.startswith("state/")}
    manifest.write_text(json.dumps(content))
    assert "does not list state/" in fault(folder / "4")
    assert fault(folder / "3") == ""


@pytest.mark.parametrize("name", ["４", "²", "９", "007", "0x5", "+6", "-6", "6_0", "x_6", " 6"])
def test_folder_that_resembles_a_step_is_ignored(folder, name):
    (folder / name).mkdir()
    (folder / name / "manifest.json").write_text("{}")
    assert sorted(whole_steps(folder)) == [3, 4]
    assert restored(folder) == {"files": FILES}
    assert (folder / name).is_dir()
    assert find_checkpoint(folder.parent).name == "4"


def forge(checkpoint: Path, path: tuple[str, ...], value: object) -> None:
    """Changes the run's part of a checkpoint and writes a manifest that fits."""
    file = checkpoint / "run" / "metadata"
    content = json.loads(file.read_text())
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    file.write_text(json.dumps(content))
    manifest = checkpoint / "manifest.json"
    listed = json.loads(manifest.read_text())
    sums = {name: {"bytes": size, "xxh3": xxh3} for name, size, xxh3 in _sums(checkpoint, list(listed["files"]))}
    manifest.write_text(json.dumps(listed | {"files": sums}))


WRONG = (5, -5, "4", 1.5, True, None, [], [[1]], {"a": 1}, 10**30)


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (("best",), (5, "4", None, [], {"a": 1}, {"step": "x"}, {"value": None}, {"value": [1]})),
        (("finished",), (*WRONG, 3)),
        (("about",), (5, "4", None, [])),
        (("run",), (5, "4", None, [[1]])),
        (("run", "files"), (*WRONG, {"metrics.jsonl": 5}, {**FILES, "x": 1}, {**FILES, "metrics.jsonl": -1})),
        (("run", "files", "rollouts.jsonl"), ("x", -5, 1.5, True, None, [])),
        (("schema",), ("2", None, 99, [], 10**3000)),
    ],
)
def test_run_part_of_wrong_types_is_one_line(saved, folder, path, values):
    checkpoints = Checkpoints(folder, CheckpointConfig(every=1), {})
    for value in values:
        shutil.rmtree(folder / "4")
        shutil.copytree(saved / "4", folder / "4")
        forge(folder / "4", path, value)
        with pytest.raises(CheckpointError) as caught:
            checkpoints.restore(state(), ("files",))
        line = one_short_line(caught.value)
        assert str(folder / "4") in line
        assert path[-1] in line or path[-1] in ("finished", "run"), line
        assert (folder / "4").is_dir()
    checkpoints.close()


def test_weights_of_a_forged_checkpoint_are_refused(folder):
    for about in ({}, {"model": 5}, {"model": {}, "source": 5}, {"model": [], "source": None}):
        forge(folder / "4", ("about",), about)
        with pytest.raises(CheckpointError) as caught:
            load_policy(folder / "4")
        assert str(folder / "4") in one_short_line(caught.value)


def streams() -> Sampler:
    stream = SimpleNamespace(set_state=lambda state: None)
    return Sampler(**dict.fromkeys(Sampler.__dataclass_fields__) | {"prompts": stream, "spare": stream})


PLACE = {"grain": {"next_index": 4}, "questions": 12, "seed": 0}


@pytest.mark.parametrize(
    ("part", "good", "bad"),
    [
        (
            lambda: UnscorableWindow(RewardConfig()),
            [[8, {}], [8, {"judge": 2}]],
            (5, "x", None, {}, [5], ["ab"], [[8]], [[8, 5]], [["8", {}]], [[-8, {}]], [[8, {"a": "1"}]], [[True, {}]]),
        ),
        (
            ShareWatch,
            {"seen": {"outcome": [0.5, 1]}, "said": ["outcome"]},
            (
                5,
                "x",
                [],
                {},
                {"seen": {}},
                {"seen": 5, "said": []},
                {"seen": {"a": 5}, "said": []},
                {"seen": {"a": ["x"]}, "said": []},
                {"seen": {"a": [None]}, "said": []},
                {"seen": {}, "said": [[1]]},
                {"seen": {}, "said": "ab"},
            ),
        ),
        (
            streams,
            {"prompts": PLACE, "spare": PLACE},
            [
                5,
                [],
                {"prompts": 5, "spare": PLACE},
                {"prompts": PLACE, "spare": PLACE, "x": PLACE},
                *({"prompts": PLACE, "spare": {"grain": grain}} for grain in (5, [], "x", {"a": 1})),
                *({"prompts": {"grain": {"next_index": x}}, "spare": PLACE} for x in (-5, "4", 1.5, True, None, 2**70)),
            ],
        ),
    ],
)
def test_each_part_checks_what_it_restores(part, good, bad):
    part().set_state(good)
    for state in bad:
        with pytest.raises(ValueError):
            part().set_state(state)


# ----------------------------------------------------------------------------------------------------------- a replay

TERM = {
    "total": 1.5,
    "format": 1.0,
    "outcome": 0.0,
    "structure": None,
    "content": None,
    "length_window": 1.0,
    "repetition": 1.0,
    "weights": {"outcome": 1.0, "structure": 2.0, "content": 0.0, "tau": 1.0},
    "extra": {},
    "cause": "late",
}


def line(step: int) -> dict:
    return {
        "step": step,
        "group": 2,
        "prompts": [[1, 2, 3], [4]],
        "prompt_ids": [7, 0],
        "tokens": [[5, 6], [7], [8], []],
        "logprobs": [[-0.5, 0], [-1e-9], [1e-7], []],
        "finish_reason": ["stop", "length", "stop", "error"],
        "terms": [TERM, TERM, TERM, TERM],
        "replaced": 0,
    }


@pytest.fixture
def recording(tmp_path):
    def made(second: object) -> Replay:
        file = tmp_path / "kept.jsonl"
        text = second if isinstance(second, str) else json.dumps(second)
        file.write_text(json.dumps(line(0)) + "\n" + text + "\n")
        sizes = {"prompts_per_step": 2, "mini_batch_prompts": 2}
        return Replay(
            RunConfig(
                replay_rollouts=str(file),
                steps=2,
                model={"path": "m"},
                grpo=sizes,
                sampling={"group_size": 2, "max_new_tokens": 4},
                data={"max_prompt_tokens": 4},
            )
        )

    return made


def changed(path: tuple[str | int, ...], value: object) -> dict:
    content = json.loads(json.dumps(line(1)))
    inner: object = content
    for name in path[:-1]:
        inner = inner[name]  # type: ignore[index]
    inner[path[-1]] = value  # type: ignore[index]
    return content


NUMBERS = ("x", True, [], {}, 1e999, -1e999, float("nan"), 10**300)
BAD_LINES = [
    *((("tokens", 0, 0), x) for x in (-1, 1.5, 1.0, True, "5", None, [], 10**30, 2**31)),
    *((("prompts", 1, 0), x) for x in (-1, 1.5, True, "5", None, 10**30)),
    *((("prompts", 1), x) for x in ([], None, 5, "ab", [1] * 5)),
    *((("tokens", 1), x) for x in (None, 5, "ab", [], [7, 7], [7] * 5)),
    *((("logprobs", 0, 0), x) for x in (*NUMBERS, None, 5)),
    *((("logprobs", 0), x) for x in ([], [-1], [-1, -1, -1], None, 5)),
    *((("finish_reason", 0), x) for x in ("", "x", None, 5, [])),
    *((("terms", 2, name), x) for name in ("total", "outcome", "content") for x in NUMBERS),
    *((("terms", 2, "weights"), x) for x in ({}, None, 5, [], {**TERM["weights"], "extra": 1.0}, {"outcome": 1})),
    *((("terms", 2, "weights", "tau"), x) for x in (*NUMBERS, None)),
    *((("terms", 2, "extra"), x) for x in (0.0, None, [], {"own": 1.0}, {"own": "x"})),
    (("terms", 2, "unknown"), 1),
    (("terms", 2, "cause"), 5),
    *((("terms", 2), x) for x in (None, 5, [], {})),
    *(
        ((name,), x)
        for name in ("tokens", "logprobs", "terms", "prompts", "prompt_ids", "finish_reason")
        for x in (None, 5, "abcd", {}, [])
    ),
    *((("prompt_ids", 0), x) for x in (-1, 1.5, "x", None, True)),
    *(((name,), x) for name in ("step", "group", "replaced") for x in (-1, 1.0, "1", None, True, [], 10**30)),
]


def test_a_recording_keeps_what_the_users_functions_gave(recording):
    own = {"extra": {"own": None, "other": 2.0}, "weights": {**TERM["weights"], "own": 0.0, "other": 1.0}}
    rollouts = recording(line(1) | {"terms": [TERM | own] * 4}).read(1)
    assert rollouts.terms[0].raw()["other"] == 2.0
    metrics = rollouts.metrics()
    assert (metrics["reward/other"], metrics["weight/other"]) == (2.0, 1.0)
    assert "reward/own" not in metrics  # it could say nothing of any response


@pytest.mark.parametrize(("path", "value"), BAD_LINES)
def test_recording_with_a_wrong_field_names_it(recording, tmp_path, path, value):
    replay = recording(changed(path, value))
    replay.read(0)
    with pytest.raises(ConfigError) as caught:
        replay.read(1)
    text = one_short_line(caught.value)
    assert f"{tmp_path / 'kept.jsonl'} line 2" in text
    assert str(path[0]) in text or "prompts x" in text


@pytest.mark.parametrize("text", ["", "{}", "[]", "5", "null", "x", "[" * 100_000, '{"step": ' + "1" * 5000 + "}"])
def test_a_line_that_is_no_rollouts_is_named(recording, text):
    with pytest.raises(ConfigError, match=r"line 2: not rollouts of a step") as caught:
        recording(text).read(1)
    one_short_line(caught.value)


def test_good_recording_is_read_as_written(recording):
    replay = recording(line(1))
    replay.check(num_tokens=9)
    rollouts = replay.read(1)
    assert [completion.logprobs for completion in rollouts.completions] == line(1)["logprobs"]
    assert (rollouts.prompts, rollouts.completions[3].finish_reason) == (line(1)["prompts"], "error")
    assert rollouts.terms[0].structure != rollouts.terms[0].structure
    assert (rollouts.terms[0].total, rollouts.terms[0].cause) == (1.5, "late")
    with pytest.raises(ConfigError, match=r"line 1: tokens\.2 holds token 8, the model has 8 tokens"):
        replay.check(num_tokens=8)
