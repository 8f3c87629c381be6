"""All commands: `socialr1 COMMAND`, and the scripts in `scripts/` and `convert/`, each of which runs one.

A command reads its settings, imports its work (which imports JAX), and ends with a message and an exit status.
"""

import difflib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from socialr1_jax import __version__
from socialr1_jax.runtime.interrupt import requeue_on_sigterm
from socialr1_jax.runtime.startup import describe_devices, prepare, take_memory
from socialr1_jax.runtime.terminal import CommandEnded, named, print_line, remark, run_script


class Command(NamedTuple):
    """The description, settings and work of a command.

    Functions and classes are given by name, `room.module.name`, and imported late.
    """

    description: str
    settings: str  # a configuration class, or a function of arguments and description that returns the settings
    work: str  # a function of the settings that returns an exit status, or None for 0
    before: Callable[[Any], object] = lambda settings: None  # called before the work, and with it JAX, is imported
    check: str = ""  # a function that checks the settings of a dry run
    default_config: str | None = None  # name of the configuration to start from


def run(name: str, argv: Sequence[str], program: str) -> int:
    """Run a command and return its exit status: 0 or its own, 2 after a user's mistake, 130 after Ctrl-C.

    Messages start with `program`. Raises SystemExit after --help, --dry-run and invalid settings.
    """
    command = COMMANDS[name]
    with named(program):
        try:
            settings = _read_settings(command, argv)
            command.before(settings)
            return _imported(command.work)(settings) or 0
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except CommandEnded as error:
            remark(f"{error.word}: {error}")
            return error.status
        except OSError as error:
            place = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error
            remark(f"error: {place}")
        except (ValueError, ImportError) as error:
            remark(f"error: {error}")
        return 2


def _read_settings(command: Command, argv: Sequence[str]) -> Any:
    settings, check = _imported(command.settings), command.check
    if not isinstance(settings, type):
        return settings(argv, command.description)
    return _imported("config.command_line.parse_args")(
        settings,
        argv,
        description=command.description,
        default_config=command.default_config,
        check=lambda config: _imported(check)(config) if check else None,
    )


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(f"socialr1_jax.{module}"), attribute)


def _prepare_run(settings: Any) -> None:
    prepare(settings.xla_flags)


def _prepare_benchmark(settings: Any) -> None:
    if settings.peers:  # their process needs memory of the same GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    prepare(programs=False)


def _prepare_training(settings: Any) -> None:
    requeue_on_sigterm()
    prepare(settings.xla_flags)


def _on_the_host(settings: Any) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the host has memory for models that do not fit on one device


COMMANDS = {
    "quickstart": Command(
        "Train a small Qwen3 from scratch with Social-R1: stories, SFT, GRPO, export, report.",
        "config.quickstart.QuickstartConfig",
        "training.commands.quickstart",
        before=_prepare_run,
        default_config="quickstart",
        check="rewards.extra.check_extras",
    ),
    "train": Command(
        "Train a Qwen3 with GRPO and the Social-R1 rewards.",
        "config.run.RunConfig",
        "training.commands.train",
        before=_prepare_training,
        check="run.questions.check_questions",
    ),
    "train-reward-model": Command(
        "Train a reward model on preference pairs.",
        "config.reward_model.RewardModelConfig",
        "training.commands.reward_model",
        before=_prepare_run,
    ),
    "stories": Command(
        "Generate theory-of-mind stories as a question file.",
        "config.stories.MakeStoriesConfig",
        "questions.story_files.write_generated",
    ),
    "pairs": Command(
        "Build preference pairs for a content reward model.",
        "config.pairs.PairsConfig",
        "training.commands.pairs",
        before=lambda settings: prepare(),
    ),
    "audit": Command(
        "Measure how well rules without a model of minds answer question files.",
        "config.commands.AuditConfig",
        "evaluation.audit_files.print_audits",
    ),
    "generate": Command(
        "Ask a model one question and watch it answer.",
        "config.evaluation.GenerateConfig",
        "evaluation.one_answer.ask_one",
    ),
    "evaluate": Command(
        "Evaluate a model on ten benchmarks of social reasoning, or on your own questions.",
        "config.evaluation.EvaluateConfig",
        "evaluation.evaluate.run_evaluation",
        before=lambda settings: prepare(),
    ),
    "score": Command(
        "Score the samples of an evaluation again, without generating.",
        "config.commands.RescoreConfig",
        "evaluation.rescore.print_rescored",
    ),
    "score-responses": Command(
        "Score the responses of a JSONL file with the Social-R1 reward.",
        "rewards.scoring.ScoreConfig",
        "rewards.scoring.run_scoring",
        check="rewards.extra.check_extras",
    ),
    "compare": Command(
        "Compare two finished runs on the same questions.",
        "config.commands.CompareConfig",
        "evaluation.compare.print_comparison",
    ),
    "report": Command(
        "Write the HTML report of a run, or of several compared.",
        "config.commands.ReportConfig",
        "report.page.print_report",
    ),
    "prompts": Command(
        "Extract the wording of a benchmark's prompts from its authors' repository.",
        "evaluation.wording.WordingConfig",
        "evaluation.wording.write_wording",
    ),
    "convert hf-to-orbax": Command(
        "Convert a Hugging Face model folder to an Orbax folder.",
        "config.commands.HfToOrbaxConfig",
        "run.convert.hf_to_orbax",
        before=_on_the_host,
    ),
    "convert orbax-to-hf": Command(
        "Convert an Orbax folder to a Hugging Face model folder.",
        "config.commands.OrbaxToHfConfig",
        "run.convert.orbax_to_hf",
        before=_on_the_host,
    ),
    "doctor": Command(
        "Check the environment of a run, and suggest fixes.",
        "config.run.DoctorConfig",
        "plan.doctor.print_findings",
        before=lambda settings: take_memory(),
    ),
    "plan": Command(
        "Compile a run for devices that are not on this machine.",
        "config.run.PlanConfig",
        "plan.advice.print_plan_and_advice",
        before=lambda settings: describe_devices(settings.topology, settings.xla_flags),
    ),
    "profile": Command(
        "Trace steps of a run.",
        "config.profile.parse_profile",
        "profiling.run.print_profile",
        before=lambda settings: prepare(settings[1].xla_flags, programs=False),
    ),
    "benchmark": Command(
        "Measure the speed of sampling and training.",
        "benchmark.config.BenchmarkConfig",
        "benchmark.record.print_benchmark",
        before=_prepare_benchmark,
    ),
    "benchmark checkpoints": Command(
        "Measure the cost of checkpoints.",
        "benchmark.config.CheckpointBenchmark",
        "benchmark.checkpoints.print_checkpoints",
    ),
    "benchmark loading": Command(
        "Measure loading and saving of a Hugging Face folder.",
        "benchmark.config.LoadingBenchmark",
        "benchmark.loading.print_loading",
    ),
}


def script(name: str, file: str) -> Callable[..., int]:
    """Return the `main` of a script, which runs the command with the given arguments or those of the process."""

    def main(argv: Sequence[str] | None = None) -> int:
        return run(name, sys.argv[1:] if argv is None else argv, Path(file).name)

    return main


def main() -> None:
    """Run the command named by this process's arguments, and exit with its status."""
    run_script(_main)


def _main() -> int:
    words = sys.argv[1:] or ["--help"]
    for count in (2, 1):
        if (name := " ".join(words[:count])) in COMMANDS:
            return run(name, words[count:], f"socialr1 {name}")
    if words[0] == "--version":
        print_line(f"socialr1 {__version__}")
    elif words[0] in ("-h", "--help"):
        print_line(_overview())
    else:
        remark(f"error: there is no command {words[0]!r}; {_near(words[0])}")
        return 2
    return 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.description}" for name, command in COMMANDS.items()]
    usage = "usage: socialr1 COMMAND [--config FILE.yaml] [--name value ...] [section.field=value ...] [--dry-run]"
    return "\n".join([usage, "", *lines, "", "socialr1 COMMAND --help lists the settings of a command."])


def _near(word: str) -> str:
    near = [name for name in COMMANDS if name.startswith(f"{word} ")]
    near = near or difflib.get_close_matches(word.replace("_", "-")[:50], COMMANDS)
    near = near or [name for name in COMMANDS if name in word.split("_")]  # the name of a script
    return f"did you mean {' or '.join(near)}?" if near else "--help lists all"
