"""scripts/doctor.py: a green run, and each fault with its line, what mends it, and the exit status."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from socialr1_jax.config import RunConfig, load_config, save_config
from socialr1_jax.training.doctor import DoctorConfig, Line, examine, folder, memory, runner, show
from socialr1_jax.training.doctor.step import tiny_run

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "doctor.py"
QUESTION = {"story": "s", "question": "q", "answer": "A", "options": ["a", "b"]}


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Half the time of the tiny step, which computes next to nothing."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("doctor_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.examine_apart = examine  # in this process, where faults can be put in; apart: test_doctor_runner.py
    return module.main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Qwen3 folder with a tokenizer of its own, and a question file beside it."""

    from socialr1_jax.data.prompts import question_text, reference_response
    from socialr1_jax.data.stories import generate_stories
    from socialr1_jax.data.tokenizer import build_tokenizer
    from socialr1_jax.hf import random_model, save_hf

    folder = tmp_path_factory.mktemp("doctor")
    stories = generate_stories(12, seed=0, options=3, max_events=5)
    lines = [json.dumps(asdict(story) | {"meta": dict(story.meta)}) for story in stories]
    (folder / "questions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    tokenizer = build_tokenizer([f"{question_text(story)}\n{reference_response(story)}" for story in stories], 640)
    tokenizer.save_pretrained(folder / "tokenizer")
    save_hf(random_model(folder / "tokenizer", "nano", 0), folder / "model")
    return folder / "model"


@pytest.fixture
def run(main, capsys, tmp_path):
    """run(*arguments) -> exit status, {check: [lines of output]}, all output; without the tiny step unless asked."""

    def call(*arguments, step=False):
        given = ["--output_dir", str(tmp_path / "run"), *arguments, *([] if step else ["--no-step"])]
        status = main(given)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        lines, last = {}, []
        for line in out.splitlines():
            if line[:8].strip():
                last = lines.setdefault(line[9:23].strip(), [])
            last.append(line)
        return status, lines, out + err

    return call


def settings(folder):
    """A run that fits the tiny model."""
    values = [f"model.path={folder}", f"data.train={folder.parent / 'questions.jsonl'}", "data.holdout=2"]
    return [*values, "data.max_prompt_tokens=512", "sampling.max_new_tokens=16"]


def one(lines, name, status):
    """What the check says, its fix included, after a look at its status."""
    assert lines[name][0].startswith(status), lines[name]
    if status in ("problem", "warning"):
        assert any(line.strip().startswith("fix: ") for line in lines[name]), lines[name]
    return "\n".join(lines[name])


def test_a_good_environment_is_all_green(model, run):
    status, lines, out = run(*settings(model), "model.remat=nothing", step=True)
    assert status == 0, out
    assert "0 problems, 0 warnings" in out
    assert "cpu" in one(lines, "devices", "ok")
    assert "fsdp" in one(lines, "mesh", "ok")
    assert "xla: model.attention auto, model.dtype float32" in one(lines, "attention", "ok")
    assert f"jax {metadata.version('jax')}" in one(lines, "packages", "ok")
    assert "all tensors there" in one(lines, "model", "ok")
    assert "weights and moments" in one(lines, "memory", "ok")
    assert "stop token (<|im_end|>)" in one(lines, "chat template", "ok")
    assert "comes back whole" in one(lines, "prompt", "ok")
    assert "12 questions" in one(lines, "data.train", "ok")
    loss = float(one(lines, "tiny step", "ok").rpartition("loss ")[2])
    assert 0 < abs(loss) < 1
    assert "not checked" in one(lines, "judge", "skipped")


def test_the_command_line_is_quick_and_plain_and_makes_nothing(tmp_path):
    started = time.monotonic()
    called = [sys.executable, "-X", "importtime", SCRIPT, "--help"]
    help_ = subprocess.run(called, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 3  # 0.3 s where nothing else computes
    assert "no_step" in help_.stdout
    imported = {line.rpartition("|")[2].strip() for line in help_.stderr.splitlines()}
    assert "pydantic" in imported
    assert not {"jax", "transformers", "rich"} & imported
    done = subprocess.run([sys.executable, SCRIPT, "steps=none"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    done = subprocess.run(
        [sys.executable, SCRIPT, "--no-step"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"TERM": "xterm"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout
    assert list(tmp_path.iterdir()) == []
    for name in ("model", "memory", "disk", "tokenizer", "data", "judge", "tiny step"):
        assert re.search(rf"^skipped  {name} +not checked", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize(
    ("function", "status", "found"),
    [
        ("", "skipped", "this run has no reward functions of your own"),
        ("own.py:reward", "ok", "own: own.py:reward"),
        ("own.py:rewrd", "problem", "rewards.extra.own: own.py has no function 'rewrd'"),
        ("broken.py:reward", "problem", "broken.py:2: ZeroDivisionError: division by zero"),
    ],
)
def test_own_reward_functions(function, status, found, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "CHECKS", {"own rewards": runner.CHECKS["own rewards"]})
    (tmp_path / "own.py").write_text("def reward(records):\n    return [0.0] * len(records)\n")
    (tmp_path / "broken.py").write_text("\n1 / 0\n")
    code, lines, _ = run(*([f"rewards.extra.own.function={function}"] if function else []))
    assert found in one(lines, "own rewards", status)
    assert code == (status == "problem")


def test_lines_are_wrapped_under_their_beginning_in_a_terminal(monkeypatch, capsys):
    from socialr1_jax.training.console import console

    monkeypatch.setattr(console, "_force_terminal", True)
    monkeypatch.setattr(console, "_width", 80)
    monkeypatch.setattr(console, "_color_system", None)
    show(Line("disk", "problem", "a few words " * 8, "free some space"))
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("problem  disk           a few words")
    assert len(others) > 1
    assert all(line.startswith(" " * 24) and len(line) <= 80 for line in others)
    assert others[-1].strip() == "fix: free some space"


# ------------------------------------------------------------------------------------------------------- one fault each


FAULTS = [  # what is set, the line that tells it, what it says
    ("mesh.fsdp=3", "mesh", "fix: set mesh.replica"),
    ("mesh.tensor=2", "mesh", "fix: set mesh.replica"),
    ("model.attention=cudnn model.dtype=bfloat16", "attention", "fix: model.attention=auto"),
    ("output_dir={tmp}/empty/run", "output_dir", "empty is not a folder", "fix: give another output_dir"),
    ("model.path={tmp}/nowhere", "model", "no folder", "fix: set model.path to a whole Qwen3 folder"),
    ("model.random=giant", "model", "is not one of nano"),
    ("rewards.preset=full rewards.content.model={model}", "content model", "a language model"),
    # 8.19 billion parameters: 12 bytes each of masters and moments, and as much in a checkpoint
    ("model.random=8b", "memory", "at least 152.6 GiB", "weights and moments 91.5 GiB, gradients 30.5 GiB"),
    ("model.random=8b checkpoint.best= checkpoint.keep=2", "disk", "3 checkpoints at a time and the export, 305.1 GiB"),
    ("model.random=0.6b checkpoint.best= checkpoint.keep=20", "disk", "set checkpoint.keep to 8, which needs 62.2 GiB"),
    ("replay_rollouts={tmp}/none", "rollouts", "fix: set replay_rollouts"),
    ("data.train={tmp}/none.jsonl", "data.train", "cannot read the file", "fix: correct the file"),
    ("data.train={tmp}/empty", "data.train", "fix: correct the file"),
    ("data.train={tmp}/wrong.jsonl", "data.train", "is not among the 2 options", "fix: correct the file"),
    ("data.train={tmp}/right.jsonl", "data.train", "none is left to train on", "fix: lower data.holdout"),
]


@pytest.mark.parametrize(("arguments", "name", "texts"), [(fault[0], fault[1], fault[2:]) for fault in FAULTS])
def test_a_fault_is_told_with_its_mend(arguments, name, texts, model, run, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 64 << 30)
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda path: SimpleNamespace(free=64 << 30))
    (tmp_path / "empty").write_text("")
    (tmp_path / "right.jsonl").write_text(json.dumps(QUESTION))
    (tmp_path / "wrong.jsonl").write_text(json.dumps(QUESTION | {"answer": "C"}))
    status, lines, _ = run(*arguments.format(tmp=tmp_path, model=model).split())
    assert status == 1
    told = [line for line in lines[name] if not line.startswith("ok")]
    assert told[0].startswith("problem")
    for text in (*texts, "fix: "):
        assert text in "\n".join(told)


# ------------------------------------------------------------------------------------------------- packages and devices


def test_a_package_that_is_not_installed_itself(monkeypatch, run):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    status, lines, _ = run()
    assert status == 1
    assert "socialr1_jax" in "\n".join(lines["packages"])
    assert "fix: in the repository: pip install -e ." in "\n".join(lines["packages"])


def test_jax_that_does_not_start_is_told_once(monkeypatch, model, run):
    import jax

    def broken():
        raise RuntimeError("Unable to initialize backend 'cuda':\n no driver")

    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(jax, "devices", broken)
    monkeypatch.setattr(jax, "default_backend", broken)
    status, lines, out = run(*settings(model), step=True)
    assert status == 1
    told = one(lines, "devices", "problem")
    assert "JAX does not start: RuntimeError: Unable to initialize backend 'cuda': no driver" in told
    for name in ("mesh", "attention", "memory", "tiny step"):
        one(lines, name, "skipped")
    assert "1 problem, " in out


def test_several_processes_are_not_judged_by_one(run, model):
    arguments = ["distributed.processes=4", "distributed.coordinator=host:1", "mesh.fsdp=4"]
    status, lines, _ = run(*settings(model), *arguments)
    assert status == 0
    assert "one of several processes" in one(lines, "mesh", "skipped")
    one(lines, "memory", "skipped")


# ------------------------------------------------------------------------------------------------ memory and the folder


def test_too_little_memory(monkeypatch, model, run):
    monkeypatch.setattr("socialr1_jax.sampling.memory.free_memory", lambda: 1 << 20)
    status, lines, _ = run(*settings(model))
    assert status == 1
    assert "of 1.0 MiB free: weights and moments" in one(lines, "memory", "problem")
    assert re.search(r"fix: a machine with [\d.]+ MiB more, or a smaller model", one(lines, "memory", "problem"))


# 8 billion parameters on 8 devices in float32: 12 GB of masters and moments, 4 of gradients, 4 of the reference.
@pytest.mark.parametrize(
    ("free", "fixes", "no_fix"),
    [
        (19e9, ["grpo.reference_memory=host (at least 14.9 GiB, 2.8 GiB left)", "model.dtype=bfloat16 (", "9 such"],
         "with model.dtype"),
        (17e9, ["grpo.reference_memory=host (", "at least 10 such devices (mesh.fsdp=10)"], "bfloat16"),
        (10e9, ["at least 16 such devices (mesh.fsdp=16)", "or a smaller model"], "grpo."),
    ],
)  # fmt: skip
def test_what_is_proposed_for_memory_would_help(free, fixes, no_fix):
    mesh = {"replica": 1, "fsdp": 8, "tensor": 1}
    config = load_config(DoctorConfig, None, ["grpo.kl_coefficient=0.04"])
    parts = memory.device_parts(config, 8_000_000_000, mesh)
    assert sum(parts.values()) == 20e9
    fix = memory.device_fix(config, 8_000_000_000, mesh, int(free))
    for text in fixes:
        assert text in fix
    assert no_fix not in fix


def test_what_is_proposed_for_a_host_would_help():
    parts = {"a checkpoint while it is written": 12 << 30, "reference": 4 << 30}
    assert memory.host_fix(parts, 13 << 30) == (
        "a host with 3.0 GiB more memory, or grpo.reference_memory=device (then 12.0 GiB), or a smaller model"
    )
    assert "reference_memory" not in memory.host_fix(parts, 11 << 30)


def test_a_folder_that_refuses_to_be_written_to(run, monkeypatch, tmp_path):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder.tempfile, "TemporaryFile", refuse)
    status, lines, _ = run()
    assert status == 1
    assert "cannot be written to: Permission denied" in one(lines, "output_dir", "problem")


def test_a_full_disk(run, model, monkeypatch):
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    status, lines, _ = run(*settings(model))
    assert status == 1
    assert "1.0 MiB free" in one(lines, "disk", "problem")
    assert "checkpoint.keep" not in one(lines, "disk", "problem")  # no number of them would fit
    assert re.search(r"fix: free [\d.]+ MiB, or give an output_dir", one(lines, "disk", "problem"))


def test_a_folder_with_a_run(run, model, tmp_path):
    folder = tmp_path / "run"
    config = load_config(RunConfig, None, [f"output_dir={folder}", *settings(model)])
    for step in (4, 20):
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
        (folder / "checkpoints" / str(step) / "manifest.json").write_text('{"schema": 1, "files": {}}')
    save_config(config, folder / "config.yaml")
    status, lines, _ = run(*settings(model))
    assert status == 0
    assert "resumes after step 20 of 600" in one(lines, "output_dir", "ok")
    _, lines, _ = run(*settings(model), "epochs=10000")
    assert re.search("resumes after step 20 of [0-9]{4}$", one(lines, "output_dir", "ok").strip())
    _, lines, _ = run(*settings(model), "epochs=1")
    assert "steps 600 -> 1: more may be asked for only" in one(lines, "output_dir", "problem")
    _, lines, _ = run(*settings(model), "epochs=1", "data.train=nowhere.jsonl")
    assert "the number of steps of epochs 1 is unknown: nowhere.jsonl" in one(lines, "output_dir", "skipped")
    status, lines, _ = run(*settings(model), "seed=7")
    assert status == 1
    assert "holds a run of another configuration" in one(lines, "output_dir", "problem")
    assert f"--config {folder}/config.yaml" in one(lines, "output_dir", "problem")


def test_a_folder_that_another_program_holds(run, tmp_path):
    folder = tmp_path / "run"
    code = "import sys, time\nfrom pathlib import Path\nfrom socialr1_jax.training.run_folder import own_folder\n"
    code += f"with own_folder(Path({str(folder)!r})):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        status, lines, _ = run()
        other.communicate("")
    assert status == 1
    assert "is at work in this folder" in one(lines, "output_dir", "problem")


# -------------------------------------------------------------------------------------------------- model and tokenizer


def test_a_hub_id_that_is_not_here(run, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socialr1_jax.sampling.memory.free_memory", lambda: 64 << 30)
    monkeypatch.setattr(memory, "host_memory", lambda: 0)
    status, lines, _ = run("model.path=Qwen/Qwen3-0.6B")
    assert status == 0
    assert "downloads it" in one(lines, "model", "warning")
    assert "fix: hf download Qwen/Qwen3-0.6B" in one(lines, "model", "warning")
    assert "is not on this machine" in one(lines, "tokenizer", "skipped")
    assert "weights and moments" in one(lines, "memory", "ok")  # the sizes are published


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
    drop_template(folder)
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
    ("spoil", "name", "status", "found", "fix"),
    [
        (cut_weights, "model", "problem", "model.safetensors is cut or damaged", "set model.path"),
        (drop_tokenizer, "tokenizer", "problem", "holds no tokenizer", "put tokenizer.json"),
        (damage_tokenizer, "tokenizer", "problem", "tokenizer.json is not JSON, or cut", "put tokenizer.json"),
        (outgrow_the_vocabulary, "tokenizer", "problem", "vocab", "put tokenizer.json"),
        (drop_template, "chat template", "problem", "has no chat template", "put chat_template.jinja"),
        (
            end_turns_otherwise, "chat template", "problem",
            "a turn ends with '<turn over>', but the stop tokens are: <|im_end|>", "generation_config.json",
        ),
        (split_thoughts, "thoughts", "warning", "<think> and </think> not one token", "take a Qwen3 tokenizer"),
    ],
)  # fmt: skip
def test_a_spoiled_model_folder(spoil, name, status, found, fix, model, run, tmp_path):
    copied = Path(shutil.copytree(model, tmp_path / "model"))
    spoil(copied)
    code, lines, _ = run(f"model.path={copied}")
    assert code == (status == "problem")
    assert found in one(lines, name, status)
    assert fix in one(lines, name, status)


def test_a_short_prompt_limit_is_a_warning(model, run):
    status, lines, _ = run(f"model.path={model}", "data.max_prompt_tokens=20")
    assert status == 0
    assert "fix: raise data.max_prompt_tokens" in one(lines, "prompt", "warning")


# ----------------------------------------------------------------------------------------------------------------- data


def test_rows_that_are_dropped_are_counted(run, tmp_path):
    rows = [QUESTION, QUESTION | {"answer": "C"}, QUESTION]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = f"data.train={tmp_path / 'questions.jsonl'}"
    status, lines, _ = run(source, "data.allow_bad_rows=true", "data.eval=stories:8")
    assert status == 0
    assert "2 questions, 1 bad row dropped (" in one(lines, "data.train", "warning")
    assert "stories:8: 8 questions" in one(lines, "data.eval", "ok")


@pytest.mark.parametrize(("options", "warned"), [(["a long one", "short"], True), (["first", "other"], False)])
def test_a_strong_shortcut_is_a_warning(options, warned, run, tmp_path):
    made = [{"story": f"Day {i}", "question": "q", "options": options[:: 1 - 2 * (i % 2)]} for i in range(60)]
    answers = ["AB"[i % 2] if options[0] == "a long one" else "AB"[i // 2 % 2] for i in range(60)]
    rows = [json.dumps(row | {"answer": answer}) for row, answer in zip(made, answers, strict=True)]
    (tmp_path / "questions.jsonl").write_text("\n".join(rows))
    status, lines, _ = run(f"data.train={tmp_path / 'questions.jsonl'}", "data.holdout=1")
    assert status == 0
    assert ("shortcuts" in lines) == warned
    if warned:
        assert "all questions: longest is right in 1.00 (chance 0.50)" in one(lines, "shortcuts", "warning")


def test_a_benchmark_that_must_not_be_trained_on(run, monkeypatch):
    from socialr1_jax.data.tables import DataError

    def refuse(*_):
        raise DataError("its authors forbid training on it")

    monkeypatch.setattr("socialr1_jax.data.evaluation_sets.refuse_evaluation_sets", refuse)
    status, lines, _ = run("data.train=stories:200")
    assert status == 1
    assert "forbid training" in one(lines, "data.train", "problem")


# -------------------------------------------------------------------------------------------------------- the tiny step


def test_a_check_that_breaks_is_a_line_and_the_others_go_on(monkeypatch, run):
    def broken(config):
        raise KeyError("a\nlong\nstory")
        yield

    monkeypatch.setitem(runner.CHECKS, "attention", (broken, "mend it"))
    status, lines, _ = run()
    assert status == 1
    assert "KeyError: 'a\\nlong\\nstory'" in one(lines, "attention", "problem")
    assert "fix: mend it" in one(lines, "attention", "problem")
    one(lines, "output_dir", "ok")


def test_a_step_that_breaks(monkeypatch, run):
    def broken(config):
        print("said by the trainer")
        raise RuntimeError("cuDNN is too old")

    monkeypatch.setitem(sys.modules, "socialr1_jax.training.grpo", SimpleNamespace(train_grpo=broken))
    status, lines, out = run(step=True)
    assert status == 1
    assert "RuntimeError: cuDNN is too old" in one(lines, "tiny step", "problem")
    assert "said by the trainer" not in out


def test_a_loss_that_is_not_finite(monkeypatch, run):
    def spoiled(config):
        Path(config.output_dir).mkdir()
        (Path(config.output_dir) / "metrics.jsonl").write_text('{"phase": "grpo", "step": 1, "loss": null}\n')
        return True

    monkeypatch.setitem(sys.modules, "socialr1_jax.training.grpo", SimpleNamespace(train_grpo=spoiled))
    status, lines, _ = run(step=True)
    assert status == 1
    assert "the loss is not finite" in one(lines, "tiny step", "problem")


def test_the_step_computes_as_the_run_does(tmp_path):
    model = {"path": "Qwen/Qwen3-8B", "dtype": "bfloat16", "remat": "attention"}
    tiny = tiny_run(DoctorConfig(model=model, optimizer={"name": "muon"}), tmp_path)
    assert (tiny.model.path, tiny.model.dtype, tiny.model.remat) == ("", "bfloat16", "attention")
    assert tiny.optimizer.name == "muon"
    assert tiny.mesh.fsdp == 0
    tiny = tiny_run(DoctorConfig(mesh={"tensor": 3}), tmp_path)  # told by the check of the mesh
    assert (tiny.mesh.replica, tiny.mesh.fsdp, tiny.mesh.tensor) == (1, 1, 1)
