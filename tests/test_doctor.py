"""scripts/doctor.py: a green run, and each fault with its line, what mends it, and the exit status."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from judge_server import JudgeServer

from socialr1_jax.config import save_config
from socialr1_jax.training import doctor
from socialr1_jax.training.doctor import DoctorConfig, Line, examine

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "doctor.py"
SECRET = "sk-not-for-anyone-1234"


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("doctor_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.examine_apart = examine  # in this process, where faults can be put in; apart: at the end of this file
    return module.main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Qwen3 folder with a tokenizer of its own, and a question file beside it."""
    import jax

    from socialr1_jax.data.prompts import question_text, reference_response
    from socialr1_jax.data.stories import generate_stories
    from socialr1_jax.data.tokenizer import build_tokenizer
    from socialr1_jax.hf import save_hf
    from socialr1_jax.models.qwen3 import Qwen3, Qwen3Config, init_params

    folder = tmp_path_factory.mktemp("doctor")
    stories = generate_stories(12, seed=0, options=3, max_events=5)
    lines = [json.dumps(asdict(story) | {"meta": dict(story.meta)}) for story in stories]
    (folder / "questions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    tokenizer = build_tokenizer([f"{question_text(story)}\n{reference_response(story)}" for story in stories], 640)
    tokenizer.save_pretrained(folder / "tokenizer")
    shape = Qwen3Config(
        vocab_size=640, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=64, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    params = init_params(shape, jax.random.key(0))
    save_hf(Qwen3(shape, params, source=str(folder / "tokenizer"), num_tokens=len(tokenizer)), folder / "model")
    return folder / "model"


@pytest.fixture
def copied(model, tmp_path):
    """The model's folder, to be spoiled."""
    return Path(shutil.copytree(model, tmp_path / "model"))


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


# ------------------------------------------------------------------------------------------------------- nothing wrong


def test_a_good_environment_is_all_green(model, run):
    status, lines, out = run(*settings(model), "model.remat=nothing", step=True)
    assert status == 0, out
    assert "0 problems, 0 warnings" in out
    assert "cpu" in one(lines, "devices", "ok")
    assert "fsdp" in one(lines, "mesh", "ok")
    assert "xla: model.attention auto, model.dtype float32" in one(lines, "attention", "ok")
    assert f"jax {metadata.version('jax')}" in one(lines, "packages", "ok")
    assert "all tensors there" in one(lines, "model", "ok")
    assert "decodes 320 of a step's 320 responses" in one(lines, "memory", "ok")
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


def test_without_a_model_what_needs_one_is_not_checked(run):
    status, lines, _ = run()
    assert status == 0
    for name in ("model", "memory", "disk", "tokenizer", "data", "judge", "tiny step"):
        assert "not checked" in one(lines, name, "skipped")


def test_lines_are_wrapped_under_their_beginning_in_a_terminal(monkeypatch, capsys):
    from socialr1_jax.training.console import console

    monkeypatch.setattr(console, "_force_terminal", True)
    monkeypatch.setattr(console, "_width", 80)
    monkeypatch.setattr(console, "_color_system", None)
    doctor.show(Line("disk", "problem", "a few words " * 8, "free some space"))
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("problem  disk           a few words")
    assert len(others) > 1
    assert all(line.startswith(" " * 24) and len(line) <= 80 for line in others)
    assert others[-1].strip() == "fix: free some space"


# ------------------------------------------------------------------------------------------------------------ packages


@pytest.mark.parametrize(
    ("versions", "name", "found", "fix"),
    [
        ({"flax": "0.8.1"}, "packages", "flax 0.8.1, but >=0.12.8 is needed", "fix: pip install -U 'flax>=0.12.8'"),
        ({"optax": None}, "packages", "optax is missing", "fix: pip install -U 'optax>=0.2.5'"),
        ({"jaxlib": "0.4.30"}, "jaxlib", "with jaxlib 0.4.30", "fix: pip install -U 'jax=="),
        ({"jaxlib": None}, "jaxlib", "with no jaxlib", "fix: pip install -U 'jax=="),
        ({"jax-cuda12-plugin": "0.4.30"}, "jaxlib", "jax-cuda12-plugin 0.4.30 with jaxlib", "'jax[cuda12]=="),
        ({"wandb": None}, "extras", "wandb is missing, for tracking.wandb", "fix: pip install -U -e '.[wandb]'"),
        ({"wandb": "0.1"}, "extras", "wandb 0.1, but >=0.19 is needed", "fix: pip install -U -e '.[wandb]'"),
        (
            {"pyarrow": None, "wandb": "9"},
            "extras",
            "pyarrow is missing, for q.parquet",
            "pip install -U 'pyarrow>=17'",
        ),
        ({"openai": None, "wandb": "9"}, "extras", "openai is missing, for rewards.structure.judge", "'.[judge]'"),
    ],
)
def test_versions(versions, name, found, fix, monkeypatch):
    real = metadata.version

    def version(asked):
        if asked in versions:
            if versions[asked] is None:
                raise metadata.PackageNotFoundError(asked)
            return versions[asked]
        return real(asked)

    monkeypatch.setattr(metadata, "version", version)
    structure = {"judge": "endpoint", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    config = DoctorConfig(
        tracking={"wandb": True}, data={"train": "q.parquet"}, rewards={"structure": structure}, no_step=True
    )
    monkeypatch.setattr(doctor, "_CHECKS", {"packages": doctor._CHECKS["packages"]})
    bad = [line for line in examine(config) if line.status == "problem" and line.name == name and found in line.found]
    assert bad, list(examine(config))
    assert fix in f"fix: {bad[0].fix}"


def test_an_old_python(monkeypatch, run):
    monkeypatch.setattr(sys, "version_info", (3, 10, 2, "final", 0))
    lines = list(doctor._versions(DoctorConfig()))
    assert lines[0].status == "problem"
    assert "Python 3.10.2, >=3.11" in lines[0].found
    assert "virtual environment" in lines[0].fix


def test_a_package_that_is_not_installed_itself(monkeypatch, run):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    status, lines, _ = run()
    assert status == 1
    assert "socialr1_jax" in "\n".join(lines["packages"])
    assert "fix: in the repository: pip install -e ." in "\n".join(lines["packages"])


# ------------------------------------------------------------------------------------------------- devices and memory


@pytest.mark.parametrize(
    ("platforms", "installed", "status", "fix"),
    [
        ("", None, "problem", "pip install -e '.[cuda12]'"),
        ("", "0.10.2", "problem", "nvidia-smi must list it"),
        ("cpu", None, "warning", "unset JAX_PLATFORMS"),
    ],
)
def test_a_gpu_that_jax_does_not_see(platforms, installed, status, fix, monkeypatch, run):
    monkeypatch.setattr(doctor, "_nvidia", lambda: ("cuda12", "an NVIDIA GPU (GPU 0: A100)"))
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: installed if name == "jax-cuda12-plugin" else real(name))
    lines = {line.name: line for line in doctor._devices(DoctorConfig())}
    assert lines["devices"].status == status
    assert "although there is an NVIDIA GPU (GPU 0: A100)" in lines["devices"].found
    assert fix in lines["devices"].fix


def test_a_tpu_that_jax_does_not_see(monkeypatch):
    monkeypatch.setattr(doctor, "_tpu", lambda: ("tpu", "a TPU (PCI 0000:00:04.0)"))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    first = next(iter(doctor._devices(DoctorConfig())))
    assert first.status == "problem"
    assert first.fix == "pip install -e '.[tpu]'"


def test_nvidia_smi_is_asked(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-1)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert doctor._nvidia() == ("cuda12", "an NVIDIA GPU (GPU 0: NVIDIA A100-SXM4-80GB)")
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert doctor._nvidia() is None


def test_jax_that_does_not_start_is_told_once(monkeypatch, model, run):
    import jax

    def broken():
        raise RuntimeError("Unable to initialize backend 'cuda':\n no driver")

    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(jax, "devices", broken)
    monkeypatch.setattr(jax, "default_backend", broken)
    status, lines, out = run(*settings(model), step=True)
    assert status == 1
    assert "JAX does not start: RuntimeError: Unable to initialize backend 'cuda': no driver" in one(
        lines, "devices", "problem"
    )
    for name in ("attention", "memory", "tiny step"):
        one(lines, name, "skipped")
    assert "1 problem, " in out


@pytest.mark.parametrize("mesh", ["mesh.fsdp=3", "mesh.tensor=2"])
def test_a_mesh_that_does_not_fit(mesh, run):
    status, lines, _ = run(mesh)
    assert status == 1
    assert "fix: set mesh.replica" in one(lines, "mesh", "problem")


def test_several_processes_are_not_judged_by_one(run, model):
    arguments = ["distributed.processes=4", "distributed.coordinator=host:1", "mesh.fsdp=4"]
    status, lines, _ = run(*settings(model), *arguments)
    assert status == 0
    assert "one of several processes" in one(lines, "mesh", "skipped")
    one(lines, "memory", "skipped")


def test_attention(run, monkeypatch):
    status, lines, _ = run("model.attention=cudnn", "model.dtype=bfloat16")
    assert status == 1
    assert "fix: model.attention=auto" in one(lines, "attention", "problem")
    monkeypatch.setattr(doctor, "_platform", lambda: "gpu")
    found = [next(doctor._attention(DoctorConfig(model={"dtype": dtype}))) for dtype in ("float32", "bfloat16")]
    assert [(line.status, line.found[:5]) for line in found] == [("warning", "xla: "), ("ok", "cudnn")]
    assert "model.dtype=bfloat16" in found[0].fix


@pytest.mark.parametrize(
    ("free", "found"), [(1 << 20, "a device at least: weights and moments"), (3 << 20, "sampling")]
)
def test_too_little_memory(free, found, monkeypatch, model, run):
    monkeypatch.setattr("socialr1_jax.sampling.memory.free_memory", lambda: free)
    status, lines, _ = run(*settings(model))
    assert status == 1
    assert found in one(lines, "memory", "problem")
    assert "fix: more devices under mesh.fsdp" in one(lines, "memory", "problem")


def test_the_estimate_of_a_published_size(run):
    """8.19 billion parameters x 12 bytes = 91.5 GiB of masters and moments, and as much a checkpoint."""
    status, lines, _ = run("model.random=8b", "checkpoint.best=", "checkpoint.keep=2")
    assert status == 1
    assert "weights and moments 91.5 GiB, reference 30.5 GiB, gradients 30.5 GiB" in one(lines, "memory", "problem")
    assert "up to 3 checkpoints at a time and the export, 305.1 GiB" in one(lines, "disk", "problem")


def test_the_host_beside_accelerators():
    config = DoctorConfig(grpo={"reference_memory": "host"})
    line = doctor._beside(config, 100 << 30, 8 << 30, 2)
    assert line.status == "problem"
    assert "a checkpoint while it is written 96.0 GiB, reference 16.0 GiB; 100.0 GiB are free" in line.found
    assert doctor._beside(config, 120 << 30, 8 << 30, 2).status == "ok"


# --------------------------------------------------------------------------------------------------------- the folder


def test_a_file_in_the_way_of_the_output_folder(run, tmp_path):
    (tmp_path / "file").write_text("")
    status, lines, _ = run("--output_dir", str(tmp_path / "file" / "run"))
    assert status == 1
    assert "file is no folder" in one(lines, "output_dir", "problem")
    assert "fix: give another output_dir" in one(lines, "output_dir", "problem")


def test_a_folder_that_refuses_to_be_written_to(run, monkeypatch, tmp_path):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    status, lines, _ = run()
    assert status == 1
    assert "cannot be written to: Permission denied" in one(lines, "output_dir", "problem")


def test_a_full_disk(run, model, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(10, 9, 1 << 20))
    status, lines, _ = run(*settings(model))
    assert status == 1
    assert "1.0 MiB free" in one(lines, "disk", "problem")
    assert "lower checkpoint.keep" in one(lines, "disk", "problem")


def test_a_folder_with_a_run(run, model, tmp_path):
    from socialr1_jax.config import RunConfig, load_config

    folder = tmp_path / "run"
    config = load_config(RunConfig, None, [f"output_dir={folder}", *settings(model)])
    for step in (4, 20):
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
        (folder / "checkpoints" / str(step) / "manifest.json").write_text("{}")
    save_config(config, folder / "config.yaml")
    status, lines, _ = run(*settings(model))
    assert status == 0
    assert "goes on after step 20 of 600" in one(lines, "output_dir", "ok")
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


def test_no_such_model(run, tmp_path):
    status, lines, _ = run(f"model.path={tmp_path / 'nowhere'}")
    assert status == 1
    assert "no folder" in one(lines, "model", "problem")
    assert "fix: set model.path to a whole Qwen3 folder" in one(lines, "model", "problem")


def test_a_hub_id_without_a_network(run, monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise ConnectionError("[Errno -2] Name or service not known")

    monkeypatch.setattr(huggingface_hub, "model_info", offline)
    status, lines, _ = run("model.path=Qwen/Qwen3-0.6B")
    assert status == 1
    assert "Name or service not known" in one(lines, "model", "problem")
    assert "hf download Qwen/Qwen3-0.6B" in one(lines, "model", "problem")
    assert "is not on this machine" in one(lines, "tokenizer", "skipped")
    assert "weights and moments" in one(lines, "memory", "ok")  # the sizes are published
    monkeypatch.setattr(huggingface_hub, "model_info", lambda *_, **__: None)
    status, lines, _ = run("model.path=Qwen/Qwen3-0.6B")
    assert status == 0
    assert "downloads it" in one(lines, "model", "warning")


def test_a_cut_weight_file(copied, run):
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    status, lines, _ = run(f"model.path={copied}")
    assert status == 1
    assert "model.safetensors is cut or damaged" in one(lines, "model", "problem")


def test_a_content_model_that_is_none(model, run):
    status, lines, _ = run("rewards.preset=full", f"rewards.content.model={model}")
    assert status == 1
    assert "a language model" in one(lines, "content model", "problem")


def test_no_tokenizer(copied, run):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copied / name).unlink()
    status, lines, _ = run(f"model.path={copied}")
    assert status == 1
    assert "holds no tokenizer" in one(lines, "tokenizer", "problem")
    assert "fix: put tokenizer.json" in one(lines, "tokenizer", "problem")


def test_a_damaged_tokenizer(copied, run):
    (copied / "tokenizer.json").write_text('{"version": "1.0", "model"')
    status, lines, _ = run(f"model.path={copied}")
    assert status == 1
    assert "fix: put tokenizer.json" in one(lines, "tokenizer", "problem")


def drop_template(folder):
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_no_chat_template(copied, run):
    drop_template(copied)
    status, lines, _ = run(f"model.path={copied}")
    assert status == 1
    assert "has no chat template" in one(lines, "chat template", "problem")
    assert "fix: put chat_template.jinja" in one(lines, "chat template", "problem")
    assert "prompt" not in lines


def test_a_template_whose_turns_end_with_no_stop_token(copied, run):
    drop_template(copied)
    text = "{% for m in messages %}[{{ m.role }}] {{ m.content }}<turn over>{% endfor %}"
    (copied / "chat_template.jinja").write_text(text)
    status, lines, _ = run(f"model.path={copied}")
    assert status == 1
    assert "a turn ends with '<turn over>', but the stop tokens are: <|im_end|>" in one(
        lines, "chat template", "problem"
    )
    assert "generation_config.json" in one(lines, "chat template", "problem")


def test_a_tokenizer_larger_than_the_vocabulary(copied, run):
    content = json.loads((copied / "tokenizer.json").read_text())
    content["added_tokens"].append(content["added_tokens"][-1] | {"id": 900, "content": "<more>"})
    (copied / "tokenizer.json").write_text(json.dumps(content))
    status, lines, _ = run(f"model.path={copied}")
    assert status == 1
    assert "vocab" in one(lines, "tokenizer", "problem")


def test_thoughts_of_several_tokens_are_a_warning(copied, run):
    content = json.loads((copied / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if "think" not in token["content"]]
    (copied / "tokenizer.json").write_text(json.dumps(content))
    status, lines, _ = run(f"model.path={copied}", "sampling.max_new_tokens=16")
    assert status == 0
    assert "<think> and </think> not one token" in one(lines, "thoughts", "warning")


def test_a_short_prompt_limit_is_a_warning(model, run):
    status, lines, _ = run(f"model.path={model}", "data.max_prompt_tokens=20")
    assert status == 0
    assert "fix: raise data.max_prompt_tokens" in one(lines, "prompt", "warning")


# ------------------------------------------------------------------------------------------------------ data and judge


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "cannot read the file"),
        ("", "holds no rows"),
        ('{"story": "s", "question": "q", "answer": "C", "options": ["a", "b"]}\n', "is not among the 2 options"),
        ('{"story": "s", "question": "q", "answer": "A", "options": ["a", "b"]}\n', "none is left to train on"),
    ],
)
def test_data(content, found, run, tmp_path):
    file = tmp_path / "questions.jsonl"
    if content is not None:
        file.write_text(content)
    status, lines, _ = run(f"data.train={file}")
    assert status == 1
    told = [line for line in lines["data.train"] if line.startswith("problem")]
    assert len(told) == 1
    assert found in told[0]
    assert "fix: " in lines["data.train"][-1]


def test_rows_that_are_dropped_are_counted(run, tmp_path):
    good = {"story": "s", "question": "q", "answer": "A", "options": ["a", "b"]}
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, [good, good | {"answer": "C"}, good])))
    source = f"data.train={tmp_path / 'questions.jsonl'}"
    status, lines, _ = run(source, "data.holdout=1", "data.allow_bad_rows=true", "data.eval=stories:8")
    assert status == 0
    assert "2 questions, 1 bad rows are dropped" in one(lines, "data.train", "ok")
    assert "stories:8: 8 questions" in one(lines, "data.eval", "ok")


def test_a_benchmark_that_must_not_be_trained_on(run, monkeypatch):
    from socialr1_jax.data.tables import DataError

    def refuse(*_):
        raise DataError("its authors forbid training on it")

    monkeypatch.setattr("socialr1_jax.data.evaluation_sets.refuse_evaluation_sets", refuse)
    status, lines, _ = run("data.train=stories:200")
    assert status == 1
    assert "forbid training" in one(lines, "data.train", "problem")


def test_rollouts_to_replay(run, tmp_path):
    status, lines, _ = run(f"replay_rollouts={tmp_path / 'none.jsonl'}")
    assert status == 1
    assert "fix: set replay_rollouts" in one(lines, "rollouts", "problem")


def judged(address, *more):
    return ["rewards.structure.judge=endpoint", "rewards.structure.model=judge",
            f"rewards.structure.base_url={address}", "rewards.structure.api_key_env=DOCTOR_KEY", *more]  # fmt: skip


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("DOCTOR_KEY", SECRET)


@pytest.fixture
def judge_only(monkeypatch):
    monkeypatch.setattr(doctor, "_CHECKS", {"judge": doctor._CHECKS["judge"]})


@pytest.mark.usefixtures("judge_only", "key")
class TestJudge:
    def test_one_call_is_made_and_its_time_told(self, run):
        with JudgeServer(key=SECRET) as server:
            status, lines, out = run(*judged(server.base_url))
            assert [call.authorization for call in server.log] == [f"Bearer {SECRET}"]
        assert status == 0, out
        assert "graded a sample with" in one(lines, "judge", "ok")
        assert "DOCTOR_KEY is set" in one(lines, "judge", "ok")
        assert SECRET not in out

    def test_nobody_listens(self, run):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
            status, lines, out = run(*judged(address))
        assert status == 1
        assert "connection (nobody listens there, or hung up)" in one(lines, "judge", "problem")
        assert f"{address}/models" in one(lines, "judge", "problem")
        assert SECRET not in out

    @pytest.mark.parametrize(
        ("kind", "found"),
        [
            ("401", "answered 401 (key from DOCTOR_KEY)"),
            ("404", "answered 404"),
            ("400", "the server does not take the request"),
            ("429", "too many requests"),
            ("500", "http_500"),
            ("html", "a web page"),
            ("ungraded", "not as the rubric asks"),
            ("refusal", "the model declined"),
        ],
    )
    def test_what_a_server_may_answer(self, kind, found, run):
        with JudgeServer(plan=(kind,)) as server:
            status, lines, out = run(*judged(server.base_url))
            assert server.count() == 1
        assert status == 1
        assert found in one(lines, "judge", "problem")
        assert SECRET not in out

    def test_the_wait_is_bounded(self, run, monkeypatch):
        monkeypatch.setattr(doctor, "_JUDGE_SECONDS", 0.5)
        started = time.monotonic()
        with JudgeServer(plan=("hang",)) as server:
            status, lines, _ = run(*judged(server.base_url))
        assert status == 1
        assert "timeout (no whole answer)" in one(lines, "judge", "problem")
        assert time.monotonic() - started < 5

    def test_no_key_for_a_server_elsewhere(self, run, monkeypatch):
        monkeypatch.delenv("DOCTOR_KEY")
        status, lines, _ = run(*judged("https://judge.invalid/v1"))
        assert status == 1
        assert "DOCTOR_KEY with the judge's key is not set" in one(lines, "judge", "problem")
        assert "fix: put a good key into DOCTOR_KEY" in one(lines, "judge", "problem")

    def test_a_preset_that_asks_no_judge(self, run):
        status, lines, _ = run(*judged("http://127.0.0.1:9/v1", "rewards.preset=outcome_only"))
        assert status == 0
        assert "asks no server" in one(lines, "judge", "skipped")

    def test_offline_answers(self, run, tmp_path):
        offline = ["rewards.structure.offline=true", f"rewards.structure.cache={tmp_path / 'none'}"]
        status, lines, _ = run(*judged("http://127.0.0.1:9/v1", *offline))
        assert status == 1
        assert "no folder" in one(lines, "judge", "problem")


def test_no_key_is_ever_shown(monkeypatch):
    """Not even where a library would put it into its error's text."""
    for name in ("HF_TOKEN", "WANDB_API_KEY", "DOCTOR_KEY"):
        monkeypatch.setenv(name, f"{SECRET}-{name}")

    def leaks(config):
        yield Line("one", "ok", f"{SECRET}-HF_TOKEN")
        raise ValueError(f"bad key {SECRET}-WANDB_API_KEY, {SECRET}-DOCTOR_KEY")

    monkeypatch.setattr(doctor, "_CHECKS", {"leaks": (leaks, f"set {SECRET}-DOCTOR_KEY")})
    config = DoctorConfig(rewards={"structure": {"api_key_env": "DOCTOR_KEY"}})
    lines = list(examine(config))
    assert [line.found for line in lines] == ["[key]", "bad key [key], [key]"]
    assert SECRET not in repr(lines)


# ------------------------------------------------------------------------------------------------------------ the step


def test_a_check_that_breaks_is_a_line_and_the_others_go_on(monkeypatch, run):
    def broken(config):
        raise KeyError("a\nlong\nstory")
        yield

    monkeypatch.setitem(doctor._CHECKS, "attention", (broken, "mend it"))
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
    tiny = doctor._tiny_run(DoctorConfig(model=model, optimizer={"name": "muon"}), tmp_path)
    assert (tiny.model.path, tiny.model.dtype, tiny.model.remat) == ("", "bfloat16", "attention")
    assert tiny.optimizer.name == "muon"
    assert tiny.mesh.fsdp == 0
    tiny = doctor._tiny_run(DoctorConfig(mesh={"tensor": 3}), tmp_path)  # told by the check of the mesh
    assert (tiny.mesh.replica, tiny.mesh.fsdp, tiny.mesh.tensor) == (1, 1, 1)


# ------------------------------------------------------------------------------------------------- a process of its own

PROGRAM = """
import os, time
from socialr1_jax.training import doctor
from socialr1_jax.training.doctor import Line

def first(config):
    yield Line("first", "ok", "before it")

def fatal(config):
    FATAL
    yield

doctor._CHECKS = {"first": (first, ""), "fatal": (fatal, "mend it"), "last": (first, "")}
doctor._LONGEST_CHECK = 5.0
if __name__ == "__main__":
    for line in doctor.examine_apart(doctor.DoctorConfig()):
        print(line.name, line.status, line.found, line.fix, sep="|")
"""


@pytest.mark.parametrize(
    ("fatal", "found"),
    [
        ("os.abort()", "the process was killed by SIGABRT in this check"),
        ("os._exit(3)", "the process ended with status 3 in this check"),
        ("time.sleep(60)", "nothing after 5 s: the check hangs"),
    ],
)
def test_what_ends_or_stops_the_process_is_a_line(fatal, found, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("FATAL", fatal))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=40, check=True)
    lines = [line.split("|") for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines] == [["first", "ok"], ["fatal", "problem"], ["last", "skipped"]]
    assert found in lines[1][2]
    assert lines[1][3] == "mend it"
    assert "Traceback" not in done.stderr
