"""No command overwrites, cuts or deletes what it did not write: every output option pointed at foreign files."""

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from socialr1_jax import load_hf, save_hf
from socialr1_jax.config.loading import load_config, save_config
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.runtime.files import whole_folder, write_whole
from socialr1_jax.training.grpo import train_grpo

ROOT = Path(__file__).parents[2]
SMOKE = [
    "--config",
    str(ROOT / "configs" / "smoke.yaml"),
    "steps=1",
    "quiet=true",
    "cold_start=0",
    "sampling.max_new_tokens=24",
]
STORY = {"story": "Anna put the coin in the drawer.", "question": "Where is it?", "options": ["drawer", "box"]}
QUESTIONS = [{"id": str(i), "answer": "A", **STORY} for i in range(12)]
RUN_FILES = (
    "config.yaml",
    "metrics.jsonl",
    "rollouts.jsonl",
    "bad_rows.jsonl",
    "shortcuts.json",
    "summary.json",
    "own_files.json",
    "report.html",
    ".lock",
    "checkpoints/5/manifest.json",
    "export/config.json",
)
MODEL_FILES = ("config.json", "manifest.json", "model.safetensors", "tokenizer.json", "params/model.norm.weight/x")
FOREIGN = ("thesis.tex", ".git/HEAD", "params/thesis.tex", "trace", "model.txt", "export/README.md")
FILES = {
    "questions": "".join(json.dumps(row) + "\n" for row in QUESTIONS),
    "text": "precious\n",
    "without an end of line": "precious",
    "JSON": '{"a": 1}',
    "rows": '{"key": 1}\n{"reward": 1}\n',
    "a row without an end": '{"key": "precious"}',
    "an answer": '{"status": "ok", "results": ["precious"]}',
    "other rows": '{"reward": 3, "status": "x", "terms": []}\n',
    "blank lines": "\n\n",
    "bytes": "\x00\udcff\n",
}


def main_of(script: str):
    """Return the `main` of a script."""
    path = ROOT / script
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.main


def state(folder: Path) -> dict[str, object]:
    """Return what is below a folder: bytes of files, targets of links, None for folders."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


def put(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    return file


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny) -> Path:
    """What commands read: questions, responses, a model folder and an Orbax folder."""
    folder = tmp_path_factory.mktemp("inputs")
    put(folder / "questions.jsonl", FILES["questions"])
    rows = [row | {"response": "<think>a</think><Answer>A</Answer>"} for row in QUESTIONS]
    put(folder / "responses.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    put(folder / "samples.jsonl", "")
    put(folder / "run" / "metrics.jsonl", "{}")
    save_hf(load_hf(tiny.folder), folder / "model")
    assert main_of("convert/hf_to_orbax.py")(["--src", str(folder / "model"), "--dst", str(folder / "orbax")]) == 0
    return folder


def commands(inputs: Path) -> dict[str, tuple[str, list[str], tuple[str, ...]]]:
    """Return by command its output option, the other arguments, and the names in a folder that it must not touch.

    Without names the option is a file.
    """
    folder_of_run = tuple(name for name in RUN_FILES if "rollouts" not in name)
    pairs = ["--source", "corruptions", "corruptions.count=2"]
    model = ["--src", str(inputs / "model")]
    return {
        "scripts/train_grpo.py": ("output_dir", SMOKE, (*RUN_FILES, "everything")),
        "scripts/train_grpo.py save_rollouts": ("save_rollouts", [*SMOKE, "output_dir=OTHER"], ()),
        "scripts/train_reward_model.py": (
            "output_dir",
            ["model.path=x", "data.pairs=x.jsonl"],
            (*folder_of_run, "everything"),
        ),
        "scripts/quickstart.py": (
            "output_dir",
            [],
            ("quickstart.yaml", "questions/train.jsonl", "sft/config.json", *RUN_FILES, "everything"),
        ),
        "scripts/profile_run.py": ("output_dir", [*SMOKE, "quiet=true"], ("profile.json", "thesis.tex", "everything")),
        "scripts/evaluate.py": (
            "output",
            ["--model", str(inputs / "model"), "--tasks", "hitom", "--data_dir", str(inputs)],
            ("results.json", "results.html", "replies.jsonl", "samples_hitom.jsonl", ".lock", "everything"),
        ),
        "scripts/build_pairs.py": ("output", pairs, ()),
        "scripts/make_stories.py": ("output", ["count=2"], ()),
        "scripts/build_pairs.py work": (
            "output",
            ["--source", "responses", "--responses", str(inputs / "responses.jsonl")],
            (),
        ),
        "scripts/score_responses.py": (
            "output",
            ["--input", str(inputs / "responses.jsonl"), "--preset", "no_content"],
            (),
        ),
        "scripts/score.py": ("output", [str(inputs / "samples.jsonl")], ()),
        "scripts/benchmark_prompts.py": ("output", ["--benchmark", "hitom", "--source", str(inputs)], ()),
        "scripts/report.py": ("output", [str(inputs / "run")], ()),
        "scripts/audit_questions.py": ("--output", [str(inputs / "questions.jsonl")], ()),
        "scripts/audit_questions.py plot": ("--plot", [str(inputs / "questions.jsonl")], ()),
        "scripts/compare.py": ("--output", 2 * [str(inputs / "run")], ()),
        "scripts/benchmark.py": ("record", [], ()),
        "convert/hf_to_orbax.py": ("dst", model, (*FOREIGN, *MODEL_FILES, "everything")),
        "convert/orbax_to_hf.py": (
            "dst",
            ["--src", str(inputs / "orbax")],
            (*FOREIGN, "manifest.json", "params/x", "everything"),
        ),
    }


def test_every_script_is_in_the_table(inputs):
    scripts = {
        f"{path.parent.name}/{path.name}" for room in ("scripts", "convert") for path in (ROOT / room).glob("*.py")
    }
    writes_nothing = {"doctor", "generate", "plan"}
    without = {f"scripts/{name}.py" for name in writes_nothing}
    assert scripts - without == {name.partition(" ")[0] for name in commands(inputs)}


def run(main, arguments: list[str], capsys) -> tuple[int, str]:
    """Return exit status and stderr of a command."""
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    return status, capsys.readouterr().err


@pytest.mark.parametrize("command", commands(Path()))
def test_foreign_files_stay_as_they_are(command, inputs, tmp_path, capsys, monkeypatch):
    option, arguments, names = commands(inputs)[command]
    main = main_of(command.partition(" ")[0])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "victim").write_text("precious")
    for number, name in enumerate(names or (*FILES, "link", "folder")):
        place = tmp_path / str(number)
        target = place if names else place / f"out.{'yaml' if 'xla' in command else 'jsonl'}"
        file = target.with_name("out.jsonl.work") if command.endswith("work") else target
        if name == "everything":
            for one in (*RUN_FILES, *MODEL_FILES, *FOREIGN):
                put(place / one, "precious\n")
            (place / "link").symlink_to("../victim")
            (place / ".hg").mkdir()
        elif names:
            put(place / name, "precious\n")
            if command.startswith("convert"):  # a folder of the right kind, but for one file
                shutil.copytree(inputs / ("orbax" if "to_orbax" in command else "model"), place, dirs_exist_ok=True)
                put(place / name, "precious\n")
        elif name == "link":
            file.parent.mkdir()
            file.symlink_to("../victim")
        elif name == "folder":
            put(file / "thesis.tex", "precious\n")
        else:
            put(file, FILES[name])
        if name in MODEL_FILES and command.startswith("convert"):
            continue  # its names are ours: a model folder of the same kind is replaced
        before = state(tmp_path)
        given = [text.replace("OTHER", str(tmp_path / "other")) for text in arguments]
        status, error = run(main, [*given, f"{option}={target}"], capsys)
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        assert state(tmp_path) == before, (name, error)
        assert status in (1, 2), (name, error)
        assert len(error.splitlines()) <= 2, error
        assert str(place) in error, (name, error)


def smoke(folder: Path, *settings: str) -> RunConfig:
    return load_config(RunConfig, SMOKE[1], [*SMOKE[2:], "evaluation.every=0", f"output_dir={folder}", *settings])


@pytest.fixture
def finished(tmp_path) -> Path:
    """The files of a finished run that kept its rollouts, made by hand."""
    folder = tmp_path / "finished"
    save_config(smoke(folder, f"save_rollouts={tmp_path / 'kept.jsonl'}"), folder / "config.yaml")
    put(folder / ".lock", "socialr1_jax       1234 run 0.0\n")
    put(folder / "metrics.jsonl", '{"phase": "grpo", "step": 1}\n')
    put(folder / "rollouts.jsonl", '{"phase": "grpo", "step": 1}\n')
    put(folder / "checkpoints/1/manifest.json", '{"schema": 1, "files": {}}')
    put(folder / "export/config.json", '{"model_type": "qwen3"}')
    put(tmp_path / "kept.jsonl", '{"step": 0, "group": 4, "prompts": []}\n')
    return folder


@pytest.mark.parametrize(
    ("remove", "settings", "reason"),
    [
        (("checkpoints",), ("seed=9",), "another configuration"),
        (("checkpoints",), (), "a finished run without its checkpoints"),
        (("checkpoints", "config.yaml"), (), "no config.yaml"),
        (("checkpoints", "config.yaml", "export"), (), "no config.yaml"),
        (("checkpoints", "config.yaml", "export", "metrics.jsonl"), (), "no config.yaml"),
        (("checkpoints", ".lock"), (), "did not write it"),
        (("config.yaml",), (), "no config.yaml"),
    ],
)
def test_a_finished_run_is_not_overwritten(finished, tmp_path, remove, settings, reason):
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    for name in remove:
        shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    before = state(copy)
    with pytest.raises(ConfigError, match=reason):
        train_grpo(smoke(copy, *settings))
    assert {name: content for name, content in state(copy).items() if name != ".lock"} == {
        name: content for name, content in before.items() if name != ".lock"
    }


def test_a_recording_is_not_overwritten(finished, tmp_path, inputs):
    """By the run that reads it, by a link to it, by another run, or by one that resumes elsewhere."""
    kept = tmp_path / "kept.jsonl"
    content = kept.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(kept)
    replay = ("model.random=", f"model.path={finished / 'export'}", f"replay_rollouts={kept}")
    for settings in (
        (*replay, f"save_rollouts={kept}"),
        (*replay, f"save_rollouts={tmp_path / 'link.jsonl'}"),
        (f"save_rollouts={kept}",),
        (f"save_rollouts={tmp_path / 'link.jsonl'}",),
    ):
        with pytest.raises((ConfigError, FileExistsError), match=r"save_rollouts|kept"):
            train_grpo(smoke(tmp_path / "new", *settings))
        assert kept.read_bytes() == content
    moved = Path(shutil.copytree(finished, tmp_path / "run"))
    with pytest.raises(ConfigError, match="this run did not write it"):
        train_grpo(smoke(moved, f"save_rollouts={shutil.copy(kept, tmp_path / 'other.jsonl')}"))
    assert (tmp_path / "other.jsonl").read_bytes() == content


def test_links_in_a_run_folder_are_not_followed(finished, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".lock", "metrics.jsonl", "rollouts.jsonl", "config.yaml", "summary.json", "report.html"):
        copy = Path(shutil.copytree(finished, tmp_path / f"of {name}"))
        (copy / name).unlink(missing_ok=True)
        (copy / name).symlink_to(victim)
        with pytest.raises(ConfigError, match="is a link"):
            train_grpo(smoke(copy, "steps=2"))
        assert victim.read_text() == "precious"


def test_folder_of_another_command_is_not_overwritten(inputs, tmp_path, capsys):
    put(tmp_path / "runs" / ".lock", "socialr1_jax       1234 run 0.0\n")
    put(tmp_path / "runs" / "results.json", "precious")
    put(tmp_path / "evaluated" / ".lock", "socialr1_jax       1234 evaluation 0.0\n")
    put(tmp_path / "evaluated" / "config.yaml", "precious")
    for name, fields in (
        ("llama", {"model_type": "llama"}),
        ("hub", {"model_type": "qwen3", "transformers_version": "5"}),
    ):
        put(tmp_path / name / "config.json", json.dumps(fields))
        put(tmp_path / name / "model.safetensors", "precious")
    put(tmp_path / ".new.old-20240101" / "thesis.tex", "precious")
    rows = put(
        tmp_path / "rows.jsonl", json.dumps({**STORY, "answer": "A", "response": "A", "status": "reviewed"}) + "\n"
    )
    before = state(tmp_path)
    evaluate, export = main_of("scripts/evaluate.py"), main_of("convert/orbax_to_hf.py")
    score = main_of("scripts/score_responses.py")
    asked = ["--model", str(inputs / "model"), "--tasks", "hitom", "--data_dir", str(inputs)]
    assert evaluate([*asked, "--output", str(tmp_path / "runs")]) == 2
    with pytest.raises(ConfigError, match=r"config\.yaml is there"):
        train_grpo(smoke(tmp_path / "evaluated"))
    for name in ("llama", "hub"):
        assert export(["--src", str(inputs / "orbax"), "--dst", str(tmp_path / name)]) == 2
    assert score(["--input", str(rows), "--output", str(rows), "--preset", "no_content"]) == 2
    assert "status" in capsys.readouterr().err.splitlines()[-1]
    assert export(["--src", str(inputs / "orbax"), "--dst", str(tmp_path / "new")]) == 0
    shutil.rmtree(tmp_path / "new")
    assert state(tmp_path) == before


def test_bad_input_leaves_no_mark_in_a_folder(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    before = state(tmp_path)
    with pytest.raises(ValueError, match="absent"):
        train_grpo(smoke(tmp_path, "data.train=absent.jsonl"))
    assert state(tmp_path) == before


# ------------------------------------------------------------------------------------------------------ temporary names


def test_planted_names_are_neither_followed_nor_adopted(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    planted = tmp_path / f".out.json.partial-{os.getpid()}"
    planted.symlink_to(victim)
    write_whole(tmp_path / "out.json", "{}")
    assert (victim.read_text(), (tmp_path / "out.json").read_text()) == ("precious", "{}")
    planted.unlink()

    unfinished = tmp_path / ".model.partial"
    unfinished.mkdir()
    (unfinished / ".source.json").write_text('{"a": 1}')
    (unfinished / "model.safetensors").write_text("foreign")
    with whole_folder(tmp_path / "model", marker="config.json", source={"a": 1}) as partial:
        assert [path.name for path in partial.iterdir()] == [".source.json"]
        (partial / "config.json").write_text("{}")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]

    for place in (".model.partial", f".model.partial-{os.getpid()}"):
        put(tmp_path / place / "thesis.tex", "precious")
    before = state(tmp_path)
    for source in (None, {"a": 1}):
        with (
            pytest.raises(FileExistsError),
            whole_folder(tmp_path / "model", marker="config.json", source=source),
        ):
            raise AssertionError("the block must not run")
        assert state(tmp_path) == before


@pytest.mark.parametrize("name", ["a*", "out[1]", "?"])
def test_glob_characters_in_names_are_names(tmp_path, name):
    """Left-overs of `ab` are not those of `a*`, and `out[1]` finds its own."""
    others = [tmp_path / f".{other}.old-999999999" for other in ("ab", "out1", "x")]
    for other in others:
        put(other / "config.json", "{}")
    own = tmp_path / f".{name}.old-999999999"
    put(own / "config.json", '{"model_type": "qwen3"}')
    with whole_folder(tmp_path / name, marker="config.json") as partial:
        assert (tmp_path / name / "config.json").read_text() == '{"model_type": "qwen3"}'  # a kill had left it aside
        put(partial / "config.json", "{}")
    assert all(other.exists() for other in others)
    assert not own.exists()


def test_what_was_added_meanwhile_is_not_lost(tmp_path):
    def replace():
        with whole_folder(tmp_path / "model", marker="config.json") as partial:
            put(partial / "config.json", "{}")
            put(tmp_path / "model" / "config.json", '{"model_type": "qwen3"}')
            put(tmp_path / "model" / "notes.txt", "precious")

    with pytest.raises(FileExistsError, match=r"holds notes\.txt"):
        replace()
    assert (tmp_path / "model" / "notes.txt").read_text() == "precious"


def test_own_files_are_replaced(tmp_path, inputs, capsys):
    """What each command wrote it may write again."""
    pairs, scored = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    for seed in ("0", "1"):
        built = ["--source", "corruptions", "corruptions.count=2", "--seed", seed, "--output", str(pairs)]
        assert main_of("scripts/build_pairs.py")(built) == 0
        score = ["--input", str(inputs / "responses.jsonl"), "--preset", "no_content", "--judge", "rules"]
        assert main_of("scripts/score_responses.py")([*score, "--output", str(scored)]) == 0
    with scored.open("a") as file:
        file.write('{"note": "by hand"}\n')
    before = scored.read_bytes()
    assert main_of("scripts/score_responses.py")([*score, "--output", str(scored)]) == 2
    assert scored.read_bytes() == before
