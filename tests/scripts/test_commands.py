"""Every command, called as `socialr1 NAME` and as a script: one help, one line for an error, one exit status."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from socialr1_jax import __version__, cli
from socialr1_jax.cli import COMMANDS, Command
from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.commands import AuditConfig, CompareConfig, ReportConfig
from socialr1_jax.config.loading import config_file, load_config
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.profiling.steps import ImplicitTransfer
from socialr1_jax.rewards import JudgeRefused
from socialr1_jax.run.run import TrainingStopped

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    file: next(line.split('"')[1] for line in file.read_text().splitlines() if line.startswith("main = script("))
    for folder in ("scripts", "convert")
    for file in sorted((ROOT / folder).glob("*.py"))
}


def ended(run, *arguments):
    """Return the exit status."""
    try:
        return run(*arguments)
    except SystemExit as end:
        return end.code


def socialr1(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["/somewhere/socialr1", *words])
    return ended(cli._main)


def main_of(file):
    spec = spec_from_file_location(file.stem, file)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_every_script_is_a_command():
    assert COMMANDS.keys() - SCRIPTS.values() == {"benchmark checkpoints", "benchmark loading"}
    assert set(SCRIPTS.values()) <= COMMANDS.keys()


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_a_script_and_its_command_say_the_same(file, monkeypatch, capsys):
    name = SCRIPTS[file]
    for arguments, status in ((["--help"], 0), (["--no_such_field", "3"], 2)):
        assert ended(main_of(file), arguments) == status
        by_script = capsys.readouterr()
        assert socialr1(monkeypatch, *name.split(), *arguments) == status
        by_name = capsys.readouterr()
        for one, other in zip(by_script, by_name, strict=True):
            assert one.replace(file.name, "X", 1) == other.replace(f"socialr1 {name}", "X", 1)
    assert by_script.out == ""
    assert by_script.err.startswith(f"{file.name}: error: unknown key 'no_such_field'; ")
    assert by_script.err.count("\n") == 1


def test_all_that_commands_name_is_there():
    for command in COMMANDS.values():
        for name in filter(None, (command.settings, command.work, command.check)):
            assert callable(cli._imported(name)), name


def test_help_does_not_wait_for_jax():
    """Of `socialr1` not even for pydantic; of every command, and of a misspelt key, not for JAX."""
    program = """
import sys
from socialr1_jax import cli
def run(*words):
    sys.argv = ["socialr1", *words]
    try:
        return cli._main()
    except SystemExit as end:
        return end.code
assert run("--help") == 0
assert "pydantic" not in sys.modules
for name in cli.COMMANDS:
    assert (run(*name.split(), "--help"), run(*name.split(), "--modle", "m")) == (0, 2)
heavy = {"jax", "orbax", "transformers", "torch", "rich"} & sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"  {name} " in done.stdout
        assert f"  {COMMANDS[name].description}\n" in done.stdout
        assert f"usage: socialr1 {name} " in done.stdout
    assert done.stderr.count("unknown key 'modle'; did you mean 'model'?") == 2  # evaluate and generate


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (None, 7, ""),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(141), 141, ""),
        (ValueError("no such row"), 2, "X: error: no such row\n"),
        (ValueError("two\nfaults"), 2, "X: error: two\nX: faults\n"),
        (ImportError("pip install it"), 2, "X: error: pip install it\n"),
        (FileNotFoundError(2, "No such file or directory", "a\x1b.jsonl"), 2, "X: error: a\\x1b.jsonl: No such file "),
        (OSError("no space left"), 2, "X: error: no space left\n"),
        (JudgeRefused("a wrong key"), 2, "X: error: a wrong key\n"),
        (TrainingStopped("at step 3"), 1, "X: stopped: at step 3\n"),
        (ImplicitTransfer("of x"), 1, "X: strict: of x\n"),
    ],
)
def test_errors_become_a_line_and_a_status(raised, status, line, monkeypatch, capsys):
    def work(settings):
        if raised:
            raise raised
        return 7

    monkeypatch.setattr(cli, "_imported", lambda name: work if name == "x" else lambda argv, description: argv)
    monkeypatch.setitem(COMMANDS, "report", Command("about x", "settings", "x"))
    assert ended(cli.run, "report", [], "X") == status
    printed = capsys.readouterr()
    assert printed.err.startswith(line)
    assert bool(printed.err) == bool(line)
    assert printed.out == ""


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "_imported", lambda name: lambda *given: {}["bug"])
    with pytest.raises(KeyError):
        cli.run("report", [], "X")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 0, "usage: socialr1 COMMAND "),
        (["-h"], 0, "usage: socialr1 COMMAND "),
        (["--version"], 0, f"socialr1 {__version__}\n"),
        (["trian"], 2, "socialr1: error: there is no command 'trian'; did you mean train?\n"),
        (["train_reward_model"], 2, "did you mean train-reward-model?"),
        (["convert"], 2, "'convert'; did you mean convert hf-to-orbax or convert orbax-to-hf?"),
        (["audit_questions"], 2, "'audit_questions'; did you mean audit?"),
        (["xyzzy", "--help"], 2, "there is no command 'xyzzy'; --help lists all\n"),
        (["\x1b[31m" * 1000], 2, "there is no command '"),
        ([""], 2, "there is no command ''; "),
    ],
)
def test_names_of_commands(words, status, said, monkeypatch, capsys):
    assert socialr1(monkeypatch, *words) == status
    printed = capsys.readouterr()
    assert said in (printed.err if status else printed.out)
    assert printed.err.count("\n") == bool(status)
    assert "\x1b" not in printed.err


# --------------------------------------------------------------------------------------------- arguments without a name


@pytest.mark.parametrize(
    ("config_class", "arguments", "expected"),
    [
        (ReportConfig, ["a", "--output", "o.html", "b=1", "output=p.html"], {"runs": ("a", "b=1"), "output": "p.html"}),
        (ReportConfig, ["runs=[a, b]"], {"runs": ("a", "b")}),
        (CompareConfig, ["a: [", "~"], {"first": "a: [", "second": str(Path.home())}),
        (CompareConfig, ["--second", "b", "a"], {"first": "a", "second": "b"}),
        (AuditConfig, ["f", "columns.answer=gold", "files"], {"files": ("f", "files"), "columns": {"answer": "gold"}}),
        (CompareConfig, ["a"], "second is required: "),
        (CompareConfig, ["a", "b", "c"], "unexpected argument 'c'; "),
        (ReportConfig, ["a", "-x"], "unexpected argument '-x'; "),
        (ReportConfig, [], "runs is required: "),
        (RunConfig, ["a"], "unexpected argument 'a'; "),
    ],
)
def test_arguments_without_a_name(config_class, arguments, expected, capsys):
    if isinstance(expected, dict):
        found = parse_args(config_class, arguments, description="")
        assert {name: getattr(found, name) for name in expected} == expected
        return
    with pytest.raises(SystemExit, match="2"):
        parse_args(config_class, arguments, description="")
    assert f"error: {expected}" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------- configurations by name


def test_configurations_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = config_file("smoke").parent
    assert (own / "smoke.yaml").read_bytes() == (ROOT / "configs" / "smoke.yaml").read_bytes()
    (tmp_path / "full").mkdir()
    (tmp_path / "quickstart.yaml").write_text("steps: 3\n")
    (tmp_path / "hitom_small.yaml").symlink_to("nowhere")
    for name, file in {
        "smoke": own / "smoke.yaml",
        "smoke.yaml": own / "smoke.yaml",
        "configs/smoke.yaml": own / "smoke.yaml",
        "./configs/ablations/full": own / "ablations/full.yaml",
        "quickstart": own / "quickstart.yaml",
        "quickstart.yaml": Path("quickstart.yaml"),  # a file that is there wins
        "full": Path("full"),
        "hitom_small.yaml": Path("hitom_small.yaml"),  # a broken link is no other file
        "configs/../smoke.yaml": Path("configs/../smoke.yaml"),
        "/configs/smoke.yaml": Path("/configs/smoke.yaml"),
        "": Path(""),
        "\0": Path("\0"),
    }.items():
        assert config_file(name) == file, name
    with pytest.raises(ConfigError, match=r"^smok: cannot .*; by name there are .*, hitom_small, .*smoke, "):
        load_config(RunConfig, "smok")
    assert load_config(RunConfig, "configs/smoke.yaml") == load_config(RunConfig, own / "smoke.yaml")
