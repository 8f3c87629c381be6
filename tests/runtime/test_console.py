"""Text of users, files and servers on the console, consoles that go away or are full, and users without a home."""

import contextlib
import errno
import importlib.util
import io
import json
import logging
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
import rich.live
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from socialr1_jax.run import console as console_module
from socialr1_jax.run.console import Bar, console, print_finding, shown_log, working
from socialr1_jax.runtime import interrupt, startup
from socialr1_jax.runtime.compiles import compiled, told
from socialr1_jax.runtime.terminal import counted
from socialr1_jax.training.quickstart_console import response_pair, show_results

ROOT = Path(__file__).resolve().parents[2]
LOG = logging.getLogger("socialr1_jax.test")
HOSTILE = (
    "[/x]",
    "[bold red]m",
    "[link=file:///etc/passwd]x[/link]",
    "[@click=quit]x",
    "[#ff0000]x",
    "[[",
    "\\[x]",
    "[/]",
    ":smile: :warning:",
    "{task.description} {0}",
    "%s %d",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1bc",
    "\x1b",
    "\x1b]8;;http://x\x1b\\text",
    "\x9b31m",
    "\x90q",
    "\u202egnp.exe",
    "\u2066x\u2069",
    "\u200eleft",
    "\ufeffmark",
    "\ud800half",
    "a\x08\x08b",
    "a\x00b",
    "\x7f",
    "a\x0bb\x0cc",
    "\u2028line",
    "\U000e0041tag",
    "a\rover",
)
OWN_CODES = re.compile(r"\x1b\[(?:\?25[lh]|[0-9;]*m|[0-9]*[AK]|2K)|\r")  # rich's: cursor, colours, cleared lines


def script(name):
    """Return the module of a script."""
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Terminal(io.StringIO):
    def isatty(self):
        return True


def _table(text):
    table = Table(text, title=text)
    table.add_row(text)
    table.add_row(Text(text))
    console.print(table)


def _bar(text):
    with Bar(text, 2) as bar:
        bar.advance(text)
        bar.advance(text)


def _working(text):
    with working(text):
        pass


def _log(text, quiet=False):
    with shown_log(quiet):
        LOG.warning("id %s", text)


PLACES = {
    "print": lambda text: console.print(f"loading {text}"),
    "styled": lambda text: console.print(text, style="dim", soft_wrap=True),
    "text": lambda text: console.print(Text(text)),
    "object": lambda text: console.print(text, {"key": [text]}),
    "table": _table,
    "bar": _bar,
    "working": _working,
    "log": _log,
    "quiet log": lambda text: _log(text, quiet=True),
    "doctor": lambda text: print_finding("problem", "model", text, text),
}


def shown_of(place, text, stream, monkeypatch):
    """Return what the place shows of the text."""
    monkeypatch.setattr(logging.getLogger("socialr1_jax"), "handlers", [])
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(console, "_width", 300)
    monkeypatch.setattr(console, "_color_system", None)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console, "is_interactive", stream.isatty())
    start = rich.live.Live.start
    monkeypatch.setattr(rich.live.Live, "start", lambda live, refresh=False: start(live, refresh=True))
    PLACES[place](text)
    return stream.getvalue()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
@pytest.mark.parametrize("place", PLACES)
def test_no_text_commands_the_terminal(place, kind, monkeypatch):
    wrong = []
    for text in HOSTILE:
        try:
            shown = shown_of(place, text, kind(), monkeypatch)
        except Exception as error:
            wrong.append((text, repr(error)))
            continue
        bare = OWN_CODES.sub("", shown) if kind is Terminal else shown
        commands = {character for character in bare if not character.isprintable() and character != "\n"}
        visible = [word for word in re.findall(r"[!-~]{2,}", text.replace("\\", " ")) if word not in bare]
        if commands or (visible and place != "object") or "\x1b[31m" in shown:
            wrong.append((text, shown))
    assert not wrong


def test_piped_lines_end_without_blanks(monkeypatch):
    table = Table("name", "value", title="a title", caption="a caption", caption_justify="left", show_edge=False)
    table.add_row("a longer cell", "")
    for stream, padded in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stdout", stream)
        console.print(table)
        console.print("word  ", end="")
        assert (" \n" in stream.getvalue()) == padded
        assert "a longer cell" in stream.getvalue()
        assert stream.getvalue().endswith("word  ")


@pytest.mark.parametrize("place", PLACES)
def test_megabytes_are_cut(place, monkeypatch):
    if place not in ("text", "object"):
        shown = shown_of(place, "x" * 3_000_000, io.StringIO(), monkeypatch)
        assert 100 < len(shown) < 30_000


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("report", ["{}"]),
        ("score", ["{}"]),
        ("score_responses", ["--input", "{}", "--output", "o.jsonl", "--preset", "no_content", "--judge", "rules"]),
        ("generate", ["--model", "m", "--file", "{}"]),
        ("train_grpo", ["--config", str(ROOT / "configs/smoke.yaml"), "data.train={}", "output_dir=o"]),
        ("build_pairs", ["--source", "responses", "--responses", "{}", "--output", "p.jsonl"]),
        ("evaluate", ["--model", "m", "--tasks", "hitom", "--data_dir", "{}", "--output", "o"]),
    ],
)
def test_errors_of_scripts_are_bounded_lines_without_commands(name, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for text in ("\x1b[31m", "\u202ex", "x\x1b]0;t\x07/[/x].jsonl", "\x9b2J" * 50):
        with contextlib.suppress(SystemExit):
            assert script(name).main([argument.format(f"no\x1b[1m{text}") for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert err
        assert {character for character in out + err if not character.isprintable()} <= {"\n"}
        assert max(map(len, err.splitlines())) < 5000


# --------------------------------------------------------------------------------------------------- lines of progress

FIGURES = "reward 0.01  accuracy 0.05  format 0.06  tokens 60  kl 0.0000  19.4 s"


@pytest.mark.parametrize(
    ("width", "kept", "left_out"),
    [
        (200, "0.0000  19.4 s  3 programs compiled, 7 s", "@"),
        (100, "kl 0.0000", "compiled"),
        (80, "0:00  reward 0.01  accuracy 0.05  format 0.06", "kl"),
        (40, "1/9  0:00  reward", "accuracy"),
        (25, "1/9  0:00", "reward"),
        (6, "grpo", "1/9"),
    ],
)
def test_a_live_line_is_shortened_never_wrapped(width, kept, left_out, monkeypatch):
    monkeypatch.setattr(console, "_force_terminal", True)
    monkeypatch.setattr(console, "_width", width)
    bar = Bar("grpo", 9)
    compiled().programs += 3
    compiled().seconds += 7
    bar.advance(FIGURES)
    (line,) = console.render_lines(bar, console.options, pad=False)
    text = "".join(segment.text for segment in line)
    assert cell_len(text) <= width
    assert kept in text
    assert left_out not in text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_bar_is_drawn_in_any_encoding(encoding, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    monkeypatch.setattr(console, "_force_terminal", True)
    monkeypatch.setattr(console, "_width", 80)
    bar = Bar("grpo", 2)
    bar.advance("")
    full, rest = "#-" if encoding == "ascii" else "\u2501\u2500"
    assert bar.__rich__().plain == f"grpo {5 * full}{5 * rest} 1/2  0:00"


def test_piped_output_cuts_no_cell(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(console, "_width", 80)
    table = Table("word " * 40)
    table.add_row(Text("cell " * 60))
    console.print(table)
    console.print(Text("long " * 40))
    shown = sys.stdout.getvalue()
    assert ("word " * 40).strip() in shown
    assert ("cell " * 60).strip() in shown
    assert shown.splitlines()[-1] == "long " * 40


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(0, "row", "0 rows"), (1, "more line", "1 more line"), (2, "device", "2 devices"), (1024, "step", "1,024 steps")],
)
def test_one_of_a_kind_is_singular(number, noun, text):
    assert counted(number, noun) == text


def test_plain_lines_are_whole_and_few(monkeypatch):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(console_module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(console, "_width", 80)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    console.print("word " * 40)
    with Bar("grpo", 30) as bar:
        for _ in range(20):
            bar.advance(FIGURES)
        with working("evaluating"):
            pass
    first, *lines, waiting, last = sys.stdout.getvalue().splitlines()
    assert first == "word " * 40
    assert lines[0] == f"grpo 1/30  {FIGURES}"
    assert 3 <= len(lines) <= 7
    assert re.fullmatch(rf"grpo \d+/30  {re.escape(FIGURES)}  eta \d+ s", lines[1])
    assert waiting == "evaluating"
    assert last.startswith("grpo 20/30  ")  # a phase that ends early shows its last figures


@pytest.mark.parametrize(
    ("seconds", "compiling", "eta"),
    [
        ([300], [290], ""),
        ([300, 40], [290, 38], ""),
        ([300, 40, 3], [290, 38, 0], "eta 18 s"),
        ([300, 2, 2], [0, 0, 0], "eta 14 s"),
        ([300, 9, 9, 2, 2, 2, 2], [0] * 7, "eta 6 s"),
        ([1] * 10, [0] * 10, ""),
    ],
)
def test_the_time_left_is_that_of_late_steps(seconds, compiling, eta, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    bar = Bar("grpo", 10)
    for step, compilation in zip(seconds, compiling, strict=True):
        now[0] += step
        compiled().seconds += compilation
        bar.advance("")
    assert bar._eta == eta


def test_waits_between_steps_show_in_the_live_line(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console, "_width", 80)
    with Bar("grpo", 2) as bar:
        bar.advance("reward 0.5")
        with working("evaluating"):
            assert "evaluating" in bar.__rich__().plain
        assert "reward 0.5" in bar.__rich__().plain


@pytest.mark.parametrize(("verbose", "quiet", "shown"), [(False, False, False), (True, False, True), (True, True, 0)])
def test_compilations_are_named_when_verbose(verbose, quiet, shown, monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger("socialr1_jax"), "handlers", [])
    with shown_log(quiet, verbose), told("decode of 8 rows"):
        compiled().programs += 1
    assert ("compiled decode of 8 rows in 0.0 s" in capsys.readouterr().out) == shown


# ------------------------------------------------------------------------------------------ the end of the quickstart


def evaluated(step, name, right, **more):
    row = {"phase": "eval", "step": step, "set": "heldout", "id": name, "sample": 0, "terms": {"outcome": float(right)}}
    question = {"story": "Ann left.", "question": "Where?", "options": ["a", "b"], "answer": "A"}
    return row | question | {"response": f"{name} after {step}\n\n<Answer>A</Answer>"} | more


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ([], None),
        ([evaluated(0, "x", 0)], None),
        ([evaluated(0, "x", 0), evaluated(9, "y", 1)], None),
        ([evaluated(0, "x", 1), evaluated(9, "x", 1)], "x"),
        ([evaluated(s, n, n == "y" and s) for s in (0, 5, 9) for n in "xy"], "y"),
        ([evaluated(s, n, s == 9, **({"twin_id": "t"} if n == "y" else {})) for s in (0, 9) for n in "xyz"], "y"),
        ([evaluated(s, n, s == 9, status="ok" if n == "z" else "malformed") for s in (0, 9) for n in "xyz"], "z"),
    ],
)
def test_the_response_shown_became_right(rows, chosen, tmp_path):
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"cut')
    pair = response_pair(tmp_path)
    assert (pair and [row["response"][:9].strip() for row in pair]) == (
        chosen and [f"{chosen} after 0", f"{chosen} after 9"]
    )


@pytest.mark.parametrize("whole", [True, False])
def test_the_quickstart_ends_with_its_results(whole, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "_width", 80)
    rows = [evaluated(0, "x", 0, response="\x1b[31m" + "word " * 40), evaluated(9, "x", 1, response="line\n" * 99)]
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"heldout_responses": 8, "wall_seconds": 9.0, "peak_rss_bytes": 2**30, "accuracy_sft": None}
    if whole:
        summary |= {"accuracy_sft": 0.5, "accuracy_grpo": 0.75, "pair_accuracy_sft": 0.25, "pair_accuracy_grpo": 0.625}
        summary |= {"accuracy_by_type": {"belief": [0.5, 0.875]}, "chance": 0.333, "best_rule": "named last"}
        summary |= {"best_rule_accuracy": 0.4, "best_rule_pair_accuracy": 0.125, "reward_sft": float("nan")}
    show_results(summary, tmp_path, tmp_path / "report.html", tensorboard=False)
    out = capsys.readouterr().out
    cells = [re.sub(r"[\s│]+", " ", line).strip() for line in out.splitlines() if "│" in line]
    assert cells == (
        ["accuracy 0.500 0.750 0.333 0.400", "belief 0.500 0.875 0.333", "both twins right 0.250 0.625 0.125"]
        if whole
        else []
    )
    assert ("best rule: named last" in out) == whole
    assert "after SFT, wrong:\n    \\x1b[31mword " + "word " * 39 in out
    assert out.count("    line\n") == 30
    assert "socialr1 generate --model" in out
    assert "tensorboard" not in out


# ------------------------------------------------------------------------------------ consoles that go away or are full


class Lost(io.StringIO):
    """A stream that fails from write number `after` on."""

    def __init__(self, error, after=0):
        super().__init__()
        self.error, self.left = error, after

    def write(self, text):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().write(text)

    def flush(self):
        if self.left < 0:
            raise self.error


class LostTerminal(Lost):
    def isatty(self):
        return True


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS = {
    "no reader": lambda: Lost(BrokenPipeError(errno.EPIPE, "Broken pipe")),
    "reader leaves": lambda: Lost(BrokenPipeError(errno.EPIPE, "Broken pipe"), after=2),
    "full disk": lambda: Lost(OSError(errno.ENOSPC, "No space left on device"), after=1),
    "i/o error": lambda: LostTerminal(OSError(errno.EIO, "Input/output error"), after=3),
    "terminal hangs up": lambda: LostTerminal(BrokenPipeError(errno.EPIPE, "Broken pipe"), after=5),
    "would block": lambda: Lost(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")),
    "closed": closed,
    "none": lambda: None,
    "ASCII only": lambda: io.TextIOWrapper(io.BytesIO(), "ascii"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_work_goes_on_without_its_console(name, monkeypatch):
    monkeypatch.setattr(logging.getLogger("socialr1_jax"), "handlers", [])
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr(sys, "stdout", STREAMS[name]())
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    done = 0
    with shown_log(), working("loading …"), Bar("grpo", 30) as bar:
        monkeypatch.setattr(console_module, "_BETWEEN_LINES", 0)
        for step in range(30):
            LOG.info("step %d — é", step)
            console.print(f"step {step} 猫")
            bar.advance("reward 0.5")
            done += 1
    with shown_log(quiet=True):
        LOG.warning("half a character \ud800")
    assert done == 30
    if name == "ASCII only":
        sys.stdout.seek(0)
        text = sys.stdout.read()
        assert r"step 29 \u732b" in text
        assert text.isascii()


@pytest.mark.parametrize("name", STREAMS)
def test_second_signal_ends_a_run_without_console(name, monkeypatch):
    ended = []
    monkeypatch.setattr(sys, "stderr", STREAMS[name]())
    monkeypatch.setattr(interrupt.os, "_exit", ended.append)
    with interrupt.stop_on_signal() as stop:
        for wanted in (lambda: stop.asked, lambda: ended):
            os.kill(os.getpid(), signal.SIGTERM)
            limit = time.monotonic() + 5
            while not wanted() and time.monotonic() < limit:
                time.sleep(0.005)
    assert stop.asked
    assert ended == [128 + signal.SIGTERM]


@pytest.mark.parametrize("name", ["no reader", "would block", "closed"])
def test_unprintable_result_ends_its_command(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("socialr1_jax.evaluation.rescore.rescore", lambda file: {"accuracy": 0.5, "n": ["x" * 99] * 99})
    (samples := tmp_path / "samples.jsonl").touch()
    monkeypatch.setattr(sys, "stdout", STREAMS[name]())
    with pytest.raises(SystemExit) as end:
        script("score").main([str(samples), f"output={tmp_path / 'figures.json'}"])
    assert end.value.code == (141 if name == "no reader" else 2)
    assert json.loads((tmp_path / "figures.json").read_text())["accuracy"] == 0.5
    said = capsys.readouterr().err
    assert said == "" if name == "no reader" else "cannot write to standard output" in said


def test_remarks_and_errors_are_dropped_without_their_stream(monkeypatch):
    from socialr1_jax.runtime.terminal import print_error, print_line

    for make in STREAMS.values():
        monkeypatch.setattr(sys, "stdout", make())
        monkeypatch.setattr(sys, "stderr", make())
        print_line("results: é \ud800")
        print_error("error: é \ud800\nand more")


def test_errors_have_a_bounded_number_of_lines(capsys):
    from socialr1_jax.runtime.terminal import print_error

    print_error("a\n" * 1_000_000)
    assert capsys.readouterr().err.splitlines()[-2:] == ["a", "... and 999,900 more lines"]


@pytest.mark.parametrize(("raised", "status"), [(None, 7), (KeyboardInterrupt(), 130), (SystemExit(2), 2)])
def test_scripts_end_with_their_status(raised, status, monkeypatch):
    from socialr1_jax.runtime import terminal

    def main():
        if raised:
            raise raised
        return 7

    monkeypatch.setattr(terminal.atexit, "register", lambda function: None)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.StringIO())
    with pytest.raises(SystemExit) as end:
        terminal.run_script(main)
    assert end.value.code == status


def test_every_script_is_run_that_way():
    for file in (ROOT / "scripts").glob("*.py"):
        assert "    run_script(main)\n" in file.read_text(), file.name


def test_standard_streams_of_a_process():
    """A closed pipe, a full disk and closed descriptors, up to the interpreter's own flush at the end."""
    program = """
import os, sys
from socialr1_jax.runtime.terminal import print_error, run_script
def main():
    first = os.open(os.devnull, os.O_RDONLY)
    for step in range(2000):
        print(f"step {step} of a run that prints what its standard output no longer takes")
        print_error("a warning")
    return 0 if first > 2 else 9
run_script(main)
"""
    command = [sys.executable, "-X", "dev", "-c", program]
    read, written = os.pipe()
    os.close(read)
    for stdout in (written, os.open("/dev/full", os.O_WRONLY)):
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        os.close(stdout)
        assert (done.returncode, set(done.stderr.splitlines())) == (0, {"a warning"})
    shell = " ".join(["exec", '"$@"', "<&-", ">&-", "2>&-"])
    assert subprocess.run(["sh", "-c", shell, "sh", *command], cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_a_run_survives_its_closed_pipe(tmp_path):
    command = [
        sys.executable,
        "scripts/train_grpo.py",
        "--config",
        "configs/smoke.yaml",
        f"output_dir={tmp_path / 'r'}",
    ]
    with subprocess.Popen(
        [*command, "steps=4", "checkpoint.every=0"], stdout=-1, stderr=-1, text=True, cwd=ROOT
    ) as process:
        next(line for line in process.stdout if line.startswith("grpo 1/"))
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0
    assert (tmp_path / "r" / "export" / "config.json").exists()
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["reward/total"] for row in rows if row["phase"] == "grpo") > 0.05


# ------------------------------------------------------------------------------------------------- users without a home


@pytest.mark.parametrize(
    ("home", "cache", "folder"),
    [
        (None, None, None),
        (None, "", None),
        ("~", None, None),
        (None, "/cache", "/cache/socialr1_jax/"),
        ("/home/x", "", "/home/x/.cache/socialr1_jax/"),
        ("/home/x", "/cache", "/cache/socialr1_jax/"),
    ],
)
def test_a_user_without_a_home_keeps_no_programs(home, cache, folder, monkeypatch):
    def absent(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", absent)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    for name, value in (("HOME", home), ("XDG_CACHE_HOME", cache)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    settings = {}
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    startup.keep_programs()
    kept = settings.get("jax_compilation_cache_dir")
    assert kept is None if folder is None else kept.startswith(folder)
