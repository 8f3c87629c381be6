"""scripts/doctor.py: a line for each fault, with what to do about it; a crash or a hang is a line too."""

import fcntl
import importlib.util
import json
import logging
import re
import shutil
import socket
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from judge_server import JudgeServer

from socialr1_jax.config.loading import load_config, save_config
from socialr1_jax.config.run import DoctorConfig
from socialr1_jax.plan import doctor
from socialr1_jax.run.console import console, print_finding

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "doctor.py"
QUESTION = {"story": "s", "question": "q", "answer": "A", "options": ["a", "b"]}
SECRET = "sk-not-for-anyone-1234"
CODE = {  # files of reward functions
    "own": "def reward(records):\n    return [0.0] * len(records)\n",
    "broken": "\n1 / 0\n",
    "leaky": f"raise KeyError('{SECRET}')",
    "abort": "import os\nos.abort()",
    "hang": "import time\ntime.sleep(60)",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Qwen3 folder with a tokenizer of its own, and a question file beside it."""
    import jax

    from socialr1_jax.data.prompts import question_text, reference_response
    from socialr1_jax.data.tokenizer import build_tokenizer
    from socialr1_jax.models.qwen3 import Qwen3
    from socialr1_jax.models.shapes import SHAPES
    from socialr1_jax.stories.stories import generate_stories
    from socialr1_jax.weights.declared import map_weights
    from socialr1_jax.weights.hf_export import save_hf

    folder = tmp_path_factory.mktemp("doctor")
    stories = generate_stories(12, seed=0, options=3, max_events=5)
    lines = [json.dumps(asdict(story) | {"meta": dict(story.meta)}) for story in stories]
    (folder / "questions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    texts = [f"{question_text(story)}\n{reference_response(story)}" for story in stories]
    build_tokenizer(texts, 640).save_pretrained(folder / "tokenizer")
    zeros = map_weights(
        SHAPES["nano"],
        lambda weight, layers, _: jax.device_put(np.zeros(((layers,) if layers else ()) + weight.shape, np.float32)),
    )
    save_hf(
        Qwen3(SHAPES["nano"], zeros, source=str(folder / "tokenizer"), num_tokens=621),
        folder / "model",
        dtype="float32",
    )
    return folder / "model"


@pytest.fixture
def told(model, tmp_path, monkeypatch):
    """told(check, text of settings) -> what the lines of the check say, as "status: found (fix)" each."""
    monkeypatch.chdir(tmp_path)
    for name, code in CODE.items():
        Path(f"{name}.py").write_text(code)
    Path("empty").write_text("")
    Path("right.jsonl").write_text(json.dumps(QUESTION))
    Path("wrong.jsonl").write_text(json.dumps(QUESTION | {"answer": "C"}))
    Path("mixed.jsonl").write_text("\n".join(map(json.dumps, (QUESTION, QUESTION | {"answer": "C"}, QUESTION))))
    rows = [
        {"story": f"Day {i}", "question": "q", "options": ["a long one", "short"][:: 1 - 2 * (i % 2)]}
        for i in range(60)
    ]
    lines = [json.dumps(row | {"answer": "AB"[i % 2]}) for i, row in enumerate(rows)]
    Path("longest.jsonl").write_text("\n".join(lines))

    def call(check, settings):
        values = settings.format(model=model, questions=model.parent / "questions.jsonl").split()
        config = load_config(DoctorConfig, None, ["output_dir=run", *values])
        return "\n".join(f"{line.status}: {line.found} ({line.fix})" for line in doctor.examine(config, [check]))

    return call


GOOD = "model.path={model} data.train={questions} data.holdout=2 data.max_prompt_tokens=512"
JUDGE = "rewards.structure.judge=endpoint rewards.structure.model=judge rewards.structure.base_url="


@pytest.mark.parametrize(
    ("check", "settings", "texts"),
    [
        ("packages", "", ["ok: jax 0."]),
        ("devices", "", ["ok: ", "(cpu), attention xla in float32"]),
        ("devices", "model.attention=cudnn model.dtype=bfloat16", ["problem: attention cudnn", "set auto"]),
        ("output_dir", "", ["ok: ", "/run can be written to"]),
        ("output_dir", "output_dir=empty/run", ["problem: ", "Not a directory", "(set another output_dir"]),
        ("model", "", ["skipped: not checked: model.path is not given"]),
        ("model", GOOD, ["ok: model.path: all tensors are in "]),
        ("model", "model.path=nowhere", ["problem: model.path: no folder 'nowhere'", "(set model.path to a whole"]),
        ("model", "model.path=me/a--b", ["problem: ", "model path 'me/a--b' is not a folder and cannot be a hub id"]),
        ("model", "rewards.preset=full rewards.content.model={model}", ["problem: rewards.content.model: "]),
        ("plan", GOOD, ["ok: training keeps 0.00 of ", "moments 0.00, reference 0.00"]),
        ("plan", "mesh.fsdp=3", ["problem: mesh: ", "mesh.fsdp (0 = the remaining devices)"]),
        ("plan", "mesh.tensor=2", ["problem: mesh: "]),
        ("plan", "model.random=giant", ["problem: ", "is not one of nano"]),
        ("plan", "model.path=me/absent", ["skipped: not checked: model.path 'me/absent' is neither"]),
        ("plan", "distributed.processes=4 distributed.coordinator=host:1", ["skipped: ", "one of several processes"]),
        ("tokenizer", GOOD, ["ok: ", "621 tokens, prompt leaves thoughts"]),
        ("tokenizer", "model.random=nano", ["skipped: ", "built from the questions"]),
        ("data", GOOD, ["ok: training: 10 questions", "heldout: 2 questions"]),
        ("data", "", ["skipped: not checked: data.train is not given"]),
        ("data", "data.train=none.jsonl", ["problem: none.jsonl", "cannot read", "(correct the file, or"]),
        ("data", "data.train=empty", ["problem: ", "(correct the file"]),
        ("data", "data.train=wrong.jsonl", ["problem: ", "is not among the 2 options"]),
        ("data", "data.train=right.jsonl", ["problem: ", "data.holdout"]),
        ("data", "data.train=mixed.jsonl data.allow_bad_rows=true data.holdout=1", ["warning: 1 bad row dropped ("]),
        ("data", "data.train=longest.jsonl data.holdout=1", ["warning: all questions: longest is right in 1.00"]),
        ("data", "data.train=right.jsonl data.eval=right.jsonl", ["warning: 1 of 1 questions of right are also"]),
        ("data", GOOD + " sampling.max_new_tokens=40950", ["problem: ", "lower sampling.max_new_tokens"]),
        ("data", "data.train=stories:200 model.path=me/absent", ["skipped: room for responses not checked: me/absent"]),
        ("rewards", "", ["skipped: not checked: this run uses no judge"]),
        ("rewards", "rewards.extra.own.function=own.py:reward", ["skipped: "]),
        ("rewards", "rewards.extra.own.function=own.py:rewrd", ["problem: ", "own.py has no function 'rewrd'"]),
        ("rewards", "rewards.extra.own.function=broken.py:reward", ["problem: ", "broken.py:2: ZeroDivisionError"]),
        ("rewards", "rewards.extra.own.function=leaky.py:reward", ["problem: ", "[key]"]),
        ("rewards", JUDGE + "https://judge.invalid/v1 rewards.structure.api_key_env=NONE", ["NONE is not set"]),
        ("rewards", JUDGE + "http://h/v1 rewards.structure.offline=true rewards.structure.cache=no", ["not a folder"]),
        ("tiny step", "no_step=true", ["skipped: not checked: --no-step"]),
    ],
)
def test_what_each_check_says(check, settings, texts, told, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    said = told(check, settings)
    for text in texts:
        assert text in said, said
    assert SECRET not in said
    assert "Traceback" not in said
    for line in said.splitlines():
        assert not re.match(r"problem: .* \(\)$", line)


@pytest.mark.parametrize(
    ("installed", "texts"),
    [
        ({"flax": "0.8.1"}, ["flax 0.8.1, but >=0.12.8 is needed (pip install -U 'flax>=0.12.8')"]),
        ({"optax": None}, ["problem: optax is missing (pip install -U 'optax>=0.2.5')"]),
        ({"jax": None, "jaxlib": None}, ["problem: jax is missing"]),
        ({"jax-cuda12-plugin": "0.4.30"}, ["jax-cuda12-plugin 0.4.30 with jaxlib 0.", "'jax[cuda12]==0."]),
        ({"jax_cuda13_plugin": "0.4.30"}, ["jax-cuda13-plugin 0.4.30 with jaxlib 0."]),
        ({"wandb": None}, ["problem: wandb is missing (pip install -U 'wandb>=0.19')"]),
    ],
)
def test_packages_that_do_not_fit(installed, texts, told, monkeypatch):
    there = {one.name: one.version for one in metadata.distributions()} | {"wandb": "1.0"} | installed
    pairs = [SimpleNamespace(name=name, version=version) for name, version in there.items() if version]
    monkeypatch.setattr(metadata, "distributions", lambda: pairs)
    said = told("packages", "tracking.wandb=true")
    for text in texts:
        assert text in said, said
    assert said.count("problem") == 1


def test_devices_that_do_not_start(told, monkeypatch):
    import jax

    def broken():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, "devices", broken)
    assert "problem: RuntimeError: Unable to initialize backend 'cuda' (pip install" in told("devices", "")
    assert all("skipped: not checked: JAX does not start" in told(name, GOOD) for name in ("plan", "tiny step"))


def test_an_accelerator_that_jax_leaves_out(told, monkeypatch):
    import jax

    cpu = jax.devices()

    def warns():
        logging.getLogger("jax._src.xla_bridge").warning("An NVIDIA GPU may be present on this machine, but")
        return cpu

    monkeypatch.setattr(jax, "devices", warns)
    said = told("devices", "")
    assert "problem: RuntimeError: JAX computes on " in said
    assert "(cpu): An NVIDIA GPU may be present on this machine, but (pip install -e '.[cuda12]'" in said


def test_attention_that_falls_back_is_a_warning(told, monkeypatch):
    from socialr1_jax.models import attention_trial

    monkeypatch.setattr(attention_trial.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention_trial, "attention_trial", lambda *_: ("no plan", 0.0))
    attention_trial._attention_choice.cache_clear()
    said = told("devices", "model.dtype=bfloat16")
    attention_trial._attention_choice.cache_clear()
    assert "warning: attention cudnn does not compute here: no plan" in said
    assert "attention xla in bfloat16" in said
    assert "problem: attention triton does not compute here" in told(
        "devices", "model.dtype=bfloat16 model.attention=triton"
    )


@pytest.mark.parametrize(
    ("free", "text"),
    [
        (1 << 20, "no batch size fits; it needs optimizer.moments_memory=host (then 0.00 GiB are left), or at least 2"),
        (1700 << 10, "it needs grpo.reference_memory=host (then 0.00 GiB are left), or at least 2 such devices"),
    ],
)
def test_too_little_memory(free, text, told, monkeypatch):
    """105,000 parameters: 12 bytes each of weights and moments, 4 of the reference."""
    monkeypatch.setattr("socialr1_jax.plan.plan.free_memory", lambda: free)
    said = told("plan", "model.random=nano grpo.kl_coefficient=0.04")
    assert said.startswith("problem: weights, moments and reference alone take 0.00 GiB")
    assert text in said
    assert told("plan", "model.random=nano grpo.kl_coefficient=0").startswith("ok" if free > 1 << 20 else "problem")
    host = told("plan", "model.random=nano grpo.kl_coefficient=0.04 grpo.reference_memory=host")
    assert host.startswith("ok" if free > 1 << 20 else "problem")


def test_hub_model_that_is_not_here(told, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socialr1_jax.plan.plan.free_memory", lambda: 64 << 30)
    said = told("model", "model.path=Qwen/Qwen3-0.6B")
    assert "warning: model.path: Qwen/Qwen3-0.6B is not on this machine yet: the run's start downloads it" in said
    assert "hf download Qwen/Qwen3-0.6B" in said
    assert "is not on this machine" in told("tokenizer", "model.path=Qwen/Qwen3-0.6B")
    assert "ok: training keeps " in told("plan", "model.path=Qwen/Qwen3-0.6B")  # the sizes are published


# -------------------------------------------------------------------------------------------------- the output folder


def test_an_output_folder_with_a_run(told, tmp_path, model):
    step = tmp_path / "run" / "checkpoints" / "20"
    step.mkdir(parents=True)
    (step / "manifest.json").write_text('{"schema": 1, "files": {}}')
    config = load_config(
        DoctorConfig,
        None,
        ["output_dir=run", *GOOD.format(model=model, questions=model.parent / "questions.jsonl").split()],
    )
    save_config(config, tmp_path / "run" / "config.yaml")
    assert told("output_dir", GOOD + " no_step=true").startswith("ok: ")
    assert told("output_dir", GOOD + " epochs=10000").startswith("ok: ")
    assert "steps 600 -> 1: can only be raised" in told("output_dir", GOOD + " epochs=1")
    said = told("output_dir", GOOD + " seed=7")
    assert said.startswith("problem: ")
    assert "holds a run of another configuration (seed 0 -> 7)" in said
    assert list((tmp_path / "run").iterdir()) != []
    assert not (tmp_path / "run" / ".lock").exists()


def test_an_output_folder_of_others(told, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with (folder / ".lock").open("w") as lock:
        lock.write("socialr1_jax       4242 run 0.0\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "problem: " in (said := told("output_dir", ""))
        assert "process 4242 is at work in this folder" in said
    (folder / ".lock").unlink()
    (folder / "metrics.jsonl").write_text("{}")
    assert re.match("problem: .*metrics.jsonl is there and this program did not write it", told("output_dir", ""))


# ----------------------------------------------------------------------------------------------------- model and judge


def cut_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def drop_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def damage_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model"')


def drop_template(folder):
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def end_turns_otherwise(folder):
    text = "{% for m in messages %}[{{ m.role }}] {{ m.content }}<turn over>{% endfor %}"
    (folder / "chat_template.jinja").write_text(text)


def outgrow_the_vocabulary(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    last = content["added_tokens"][-1]
    content["added_tokens"] += [last | {"id": last["id"] + i, "content": f"<more {i}>"} for i in range(1, 900)]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def split_thoughts(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if "think" not in token["content"]]
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "check", "texts"),
    [
        (cut_weights, "model", ["problem: ", "model.safetensors is cut or damaged", "(set model.path"]),
        (drop_tokenizer, "tokenizer", ["problem: ", "neither tokenizer.json nor vocab.json", "(put tokenizer"]),
        (damage_tokenizer, "tokenizer", ["problem: ", "tokenizer.json is not JSON, or cut"]),
        (outgrow_the_vocabulary, "tokenizer", ["problem: ", "but the model has vocab_size 640"]),
        (drop_template, "tokenizer", ["problem: ", "chat_template is not set", "(put tokenizer, template"]),
        (
            end_turns_otherwise,
            "tokenizer",
            [
                "problem: a turn ends with '<turn over>', but the stop tokens are ['<|im_end|>']",
                "generation_config.json",
            ],
        ),
        (split_thoughts, "tokenizer", ["warning: <think> is not one token", "(use a Qwen3 tokenizer"]),
    ],
)
def test_a_spoiled_model_folder(spoil, check, texts, model, told, tmp_path):
    spoil(Path(shutil.copytree(model, tmp_path / "model")))
    said = told(check, "model.path=model")
    for text in texts:
        assert text in said, said


@pytest.mark.parametrize(
    ("faults", "texts"),
    [
        ({}, ["ok: judge at http://", " grades"]),
        ({"401": 1.0}, ["problem: ", "answers 401 (key from DOCTOR_KEY)"]),
        ({"500": 1.0}, ["problem: ", "http_500", "rewards.structure.judge=rules needs no server"]),
        ({"ungraded": 1.0}, ["problem: ", "take a model that follows instructions"]),
    ],
)
def test_what_the_judge_answers(faults, texts, told, monkeypatch):
    monkeypatch.setenv("DOCTOR_KEY", SECRET)
    with JudgeServer(faults=faults) as server:
        said = told("rewards", f"{JUDGE}{server.base_url} rewards.structure.api_key_env=DOCTOR_KEY")
        assert server.count() == (3 if "ungraded" in faults else 1)
    for text in texts:
        assert text in said, said
    assert SECRET not in said


def test_a_judge_that_is_dead_or_silent(told):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        said = told("rewards", f"{JUDGE}http://127.0.0.1:{free.getsockname()[1]}/v1")
    assert "no server at base_url: start it or correct base_url" in said
    with JudgeServer(plan=("hang",)) as server:
        said = told("rewards", f"{JUDGE}{server.base_url} rewards.structure.call_timeout=0.5")
    assert "problem: " in said
    assert "timeout" in said


# --------------------------------------------------------------------------------------------- the step, and the whole


def test_the_step_computes_as_the_run_does(told, monkeypatch):
    asked = []
    monkeypatch.setitem(sys.modules, "socialr1_jax.training.grpo", SimpleNamespace(train_grpo=asked.append))
    said = told("tiny step", "model.path=Qwen/Qwen3-8B model.dtype=bfloat16 model.remat=attention optimizer.name=muon")
    assert said == "ok: a GRPO step of a tiny model in bfloat16, from sampling to export ()"
    (tiny,) = asked
    assert (tiny.model.path, tiny.model.random, tiny.model.dtype, tiny.model.remat) == (
        "",
        "nano",
        "bfloat16",
        "attention",
    )
    assert (tiny.steps, tiny.optimizer.name, tiny.mesh.replica, tiny.mesh.fsdp) == (1, "muon", 1, 0)
    assert not Path(tiny.output_dir).parent.exists()


def test_a_step_that_fails(told, monkeypatch, capsys):
    def broken(config):
        print("said by the trainer")
        raise RuntimeError("cuDNN is too old")

    monkeypatch.setitem(sys.modules, "socialr1_jax.training.grpo", SimpleNamespace(train_grpo=broken))
    said = told("tiny step", "")
    assert said.startswith("problem: RuntimeError: cuDNN is too old (the installation is broken")
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_real_step(told):
    assert told("tiny step", "").startswith("ok: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [("abort", "status -6 (below 0"), ("hang", "no result after 9 s: the check hangs")],
)
def test_a_check_that_crashes_or_hangs(name, text, monkeypatch, tmp_path):
    (tmp_path / f"{name}.py").write_text(CODE[name])
    monkeypatch.setattr(doctor, "LONGEST_CHECK", 9.0)
    config = load_config(DoctorConfig, None, [f"rewards.extra.own.function={tmp_path / name}.py:reward"])
    lines = list(doctor.examine_apart(config, ["packages", "rewards", "tiny step"]))
    assert [(line.status, line.name) for line in lines] == [
        ("ok", "packages"),
        ("problem", "rewards"),
        ("skipped", "tiny step"),
    ]
    assert text in lines[1].found
    assert lines[1].fix == doctor.CHECKS["rewards"][1]


def test_the_command_is_plain_and_makes_nothing(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("doctor_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "examine_apart", doctor.examine)
    assert script.main(["--no-step", "mesh.fsdp=3"]) == 1
    out = capsys.readouterr().out
    assert [line[:14] for line in out.splitlines()] == [
        "ok       packa",
        "ok       devic",
        "ok       outpu",
        "skipped  model",
        "problem  plan ",
        " " * 14,
        "skipped  token",
        "skipped  data ",
        "skipped  rewar",
        "skipped  tiny ",
        "1 problem, 0 w",
    ]
    assert "\x1b" not in out
    assert script.main(["--no-step"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_lines_are_wrapped_in_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(console, "_force_terminal", True)
    monkeypatch.setattr(console, "_width", 80)
    monkeypatch.setattr(console, "_color_system", None)
    print_finding("problem", "disk", "a few words " * 8, "free some space")
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("problem  disk           a few words")
    assert len(others) > 1
    assert all(line.startswith(" " * 24) and len(line) <= 80 for line in others)
    assert others[-1].strip() == "fix: free some space"
