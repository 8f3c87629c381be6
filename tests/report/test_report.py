"""The run report: what its page says and holds of runs, what it makes of hostile text and cut files; the figure.

What the page's scripts do with it is in test_report_browser.py.
"""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from socialr1_jax import report
from socialr1_jax.questions.intervals import interval
from socialr1_jax.report import write_report
from socialr1_jax.report.metric_lines import PHASES, metric_line
from socialr1_jax.report.run_files import RUN_FILES, before_after, read_metrics

HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>{{ 7 * 7 }}<!-- & "\'\u2028'
THOUGHTS = (
    "Encode: Anna puts the key in the drawer and leaves. Ben moves the key to the shelf.\n"
    "Interpret: Anna did not see the move, so Anna believes that the key is in the drawer.\n"
    "Goal: Anna wants the key, so she goes to the place where she believes it is.\n"
    "Respond: A: drawer, yes. B: shelf, no. So the answer is A."
)
RESPONSE = f"<think>\n{THOUGHTS}\n</think>\n\n<Answer>A</Answer>"


def rollout(phase: str, step: int, name: str, *, sample: int = 0, right: bool = True, reward=2.0, response=RESPONSE):
    terms = {"format": 1.0, "outcome": float(right), "structure": 0.875, "content": None, "repetition": 0.25}
    row = {"phase": phase, "step": step, "id": name, "sample": sample, "story": "Anna and Ben.", "question": "Where?"}
    row |= {"options": ["drawer", "shelf"], "answer": "A", "response": response, "finish_reason": "stop"}
    row |= {"status": "ok", "tokens": 40}
    return row | {"reward": reward, "terms": terms}


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_run(folder: Path) -> Path:
    """A small whole run: 3 SFT steps, 5 GRPO steps, evaluations at 0 and 5."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "seed: 7\nsteps: 6\ngrpo:\n  prompts_per_step: 24\nsampling:\n  group_size: 8\n"
    )
    metrics = [{"step": step, "phase": "sft", "loss": 3.0 / step} for step in (1, 2, 3)]
    metrics += [
        {"step": step, "phase": "grpo", "reward/total": step / 2, "accuracy": 0.1 * step, "kl": None, "entropy": 0.5}
        for step in range(1, 6)
    ]
    for step, accuracy in ((0, 0.5), (5, 0.65)):
        metrics.append({"step": step, "phase": "eval", "accuracy": accuracy, "accuracy_stderr": 0.02, "responses": 400})
    write_lines(folder / "metrics.jsonl", metrics)
    rollouts = [
        rollout(phase, step, "q1", sample=k) for phase, step in (("eval_sft", 0), ("eval_grpo", 5)) for k in (0, 1)
    ]
    rollouts += [rollout("grpo", step, f"t{step}-{k}", reward=k / 10) for step in range(1, 6) for k in range(8)]
    write_lines(folder / "rollouts.jsonl", rollouts)
    summary = {"accuracy_sft": 0.5, "accuracy_grpo": 0.65, "heldout_responses": 400, "wall_seconds": 390}
    summary |= {"peak_rss_bytes": 3 * 2**30, "reward_sft": 1.25, "reward_grpo": 2.5, "parameters": 832640}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "demo")


class Page(HTMLParser):
    """The elements, attributes, visible text and embedded data of a page, as a browser would cut them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.data = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if attributes.get("id") == "data" and not self.data:
            self.data = data
        elif tag not in ("script", "style"):
            self.text += data


def page_of(*folders: Path) -> Page:
    return Page(write_report(*folders, output=folders[0] / "report.html").read_text(encoding="utf-8"))


def data_of(folder: Path) -> dict:
    """What the page's scripts get of a run."""
    return json.loads(page_of(folder).data)["runs"][0]


def text_of(blocks: list) -> str:
    return "".join(text for _, pieces in blocks for text, _ in pieces)


def paired_rows(before: str, after: str, step: int = 5) -> list[dict]:
    """Evaluations at step 0 and `step` of as many questions as letters; "r" is a right answer."""
    return [
        rollout("eval", at, f"q{i}", right=letter == "r") | {"story": f"Story {i}.", "set": "heldout"}
        for at, letters in ((0, before), (step, after))
        for i, letter in enumerate(letters)
    ]


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (
            paired_rows("rrwwwwww", "rrrwwwww"),
            ["+12.5 points, 95 % interval -17 to +42: not a difference yet", "1 of 8"],
        ),
        (paired_rows("w" * 12 + "rr", "r" * 12 + "rr"), ["step 0", "the second is better", "0.0005", "12 of 14"]),
        (paired_rows("rw", "rw"), ["no difference: every item has the same grade in both", "0 of 2"]),
        (paired_rows("rw", "rw", step=0), []),  # one evaluation
        (paired_rows("rw", "")[:1], []),
        ([], []),
    ],
)
def test_evaluations_are_compared_by_question(rows, parts, run):
    write_lines(run / "rollouts.jsonl", [*rows, rollout("grpo", 1, "t1")])
    text = page_of(run).text
    assert ("First and last evaluation, question by question" in text) == bool(parts)
    assert [part for part in parts if part not in text] == []
    assert "not compared" not in text


def test_evaluations_that_differ_are_not_compared(run):
    rows = paired_rows("rw", "rw")
    write_lines(run / "rollouts.jsonl", [*rows[:2], *(row | {"answer": "B"} for row in rows[2:])])
    text = page_of(run).text
    assert "question by question" not in text
    assert "the evaluations at step 0 and step 5 are not compared: heldout: the item q0 has another gold" in text


def test_the_header_states_the_facts_of_the_run(run: Path) -> None:
    text = re.sub(r"\s+", "", page_of(run).text)
    for fact in ("50.0 % → 65.0 %", "+15.0 points, 400 responses each", "46.1 % to 53.9 %", "61.1 % to 68.9 %"):
        assert fact.replace(" ", "") in text
    for fact in ("Seed 7", "SFT steps 3", "GRPO steps 5 of 6", "24 prompts × 8", "Parameters 0.83 M"):
        assert fact.replace(" ", "") in text
    for fact in ("reward 1.25 → 2.50", "Wall time 6.5 min", "Peak memory 3.00 GiB", "guessing, 50.0 %"):
        assert fact.replace(" ", "") in text


@pytest.mark.parametrize(
    ("share", "stderr", "count", "low", "high"),
    [
        (0.5, None, 100, 0.403832, 0.596168),  # Wilson, by hand: (0.5 + 0.019207 -+ 1.96 * 0.050951) / 1.038415
        (1.0, None, 20, 0.838875, 1.0),  # Wilson at the edge: 1 / (1 + z^2 / n)
        (1.0, 0.0, 20, 0.838875, 1.0),  # all right: a standard error of 0 is no certainty
        (0.5, 0.02, 100, 0.460801, 0.539199),
        (0.99, 0.02, 100, 0.950801, 1.0),
        (0.5, None, 0, 0.5, 0.5),
    ],
)
def test_interval(share, stderr, count, low, high) -> None:
    assert interval(share, stderr, count) == pytest.approx((low, high), abs=2e-6)


def test_accuracy_without_summary_comes_from_evaluations(run: Path) -> None:
    (run / "summary.json").unlink()
    points = before_after({}, read_metrics(run, []))
    assert [point["value"] for point in points] == [0.5, 0.65]
    # an evaluation that is not the summary's lends it no standard error
    other = before_after({"accuracy_grpo": 0.9, "heldout_responses": 100}, read_metrics(run, []))
    assert (other[1]["low"], other[1]["high"]) == pytest.approx(interval(0.9, None, 100))


def test_an_evaluations_own_interval_is_taken(run: Path) -> None:
    row = {"step": 5, "phase": "eval", "accuracy": 0.65, "accuracy_low": 0.6, "accuracy_high": 0.71}
    write_lines(run / "metrics.jsonl", [row | {"step": 0}, row])
    assert [(p["low"], p["high"]) for p in before_after({}, read_metrics(run, []))] == [(0.6, 0.71)] * 2


def test_charts_get_every_number_and_null(run: Path) -> None:
    metrics = data_of(run)["metrics"]
    assert metrics["grpo"]["step"] == [1, 2, 3, 4, 5]
    assert metrics["grpo"]["reward/total"] == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert "kl" not in metrics["grpo"]
    assert metrics["sft"]["loss"] == [3.0, 1.5, 1.0]
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            '{"step": 5, "phase": "grpo", "reward/total": 9, "kl": 0.25, "bad": NaN, "note": "x", "flag": true}\n'
        )
    grpo = data_of(run)["metrics"]["grpo"]
    assert grpo["reward/total"] == [0.5, 1.0, 1.5, 2.0, 9.0]  # a resumed run repeats a step
    assert grpo["kl"] == [None, None, None, None, 0.25]
    assert grpo["entropy"] == [0.5, 0.5, 0.5, 0.5, None]
    assert not {"bad", "note", "flag", "phase"} & set(grpo)


# What runs of every kind have written: quickstart, judges, several question files, the content reward model.
RECORDED = {
    "grpo": """accuracy clip_fraction compiled_programs dropped_prompts entropy format_rate grad_norm judge/cache_hits
        judge/calls judge/cost judge/failed/timeout judge/latency judge/retries judge/seconds judge/tokens_in
        judge/tokens_out judge/waited_seconds kl learning_rate loss memory_peak_bytes mfu mismatch/effective_samples
        mismatch/max mismatch/mean mismatch/p99 mismatch/ratio_error nonfinite_count padding_waste ratio_max ratio_min
        replaced_groups response_tokens reward/content reward/brevity reward/format reward/length_window reward/outcome
        reward/repetition reward/shaped reward/structure reward/total reward/unscorable sampling_errors seconds
        seconds/between seconds/old seconds/reference seconds/reward seconds/rollout seconds/update
        shared_prompt_tokens skipped source/hitom/reward/outcome tokens tokens_per_second truncated
        truth/content_correlation truth/content_gap truth/mean truth/structure_gap unscorable/judge_timeout
        update_tflops variance_share/content variance_share/brevity variance_share/format
        variance_share/length_and_format variance_share/outcome
        variance_share/structure weight/brevity weight/content weight/structure zero_variance_groups""",
    "eval": """accuracy accuracy/belief accuracy_high accuracy_length_matched accuracy_low accuracy_stderr best_rule
        best_rule_accuracy best_rule_accuracy/belief best_rule_pair_accuracy calibration_error chance format_rate
        hitom/accuracy hitom/accuracy/belief judge/waited_seconds length_correlation length_matched_pairs longer_wins
        loss maj@4 margin mean@4 pair_accuracy pair_accuracy_high pair_accuracy_low pair_accuracy_stderr pairs
        response_tokens responses reward sampling_errors score_chosen score_rejected seconds swap_consistency truncated
        unscorable unscorable/judge_timeout""",
    "sft": "grad_norm learning_rate loss skipped tokens",
    "reward_model": """accuracy grad_norm learning_rate loss margin score seconds skipped tokens tokens_per_second""",
}


def test_every_metric_has_its_line_and_vice_versa() -> None:
    for phase, (_, known) in PHASES.items():
        lines = {name: metric_line(phase, name) for name in RECORDED[phase].split()}
        assert [name for name, line in lines.items() if not line] == []
        assert set(known.values()) - set(lines.values()) == set()
    assert metric_line("grpo", "accuracy/belief") == ""
    assert metric_line("eval", "/" * 10_000) == ""
    assert metric_line("other", "loss") == ""


def test_the_docs_have_the_lines_of_the_tooltips(run: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for title, lines in PHASES.values():
        rows = "".join(f"| `{name}` | {line} |\n" for name, line in lines.items())
        assert f"## {title}\n\n| metric | meaning |\n|---|---|\n{rows}" in page
    meanings = json.loads(page_of(run).data)["meanings"]
    assert meanings["grpo"]["entropy"] == metric_line("grpo", "entropy")
    assert f"| `entropy` | {meanings['grpo']['entropy']} |" in page
    assert set(meanings) == {"sft", "grpo", "eval"}


def test_settings_that_differ_from_defaults_or_between_runs(run: Path, tmp_path: Path) -> None:
    text = re.sub(r"\s+", " ", page_of(run).text)
    assert "What differs from the defaults" in text
    assert "Settingthis rundefault seed70 steps6600 grpo.prompts_per_step2464 sampling.group_size85 All" in text
    other = make_run(tmp_path / "other")
    (other / "config.yaml").write_text("seed: 7\nsteps: 9\nsampling:\n  group_size: 8\n")
    text = re.sub(r"\s+", " ", page_of(run, other).text.split("What differs between the runs")[1])
    assert text.startswith(" Settingdemoother steps69 grpo.prompts_per_step24– All settings")


def test_runs_on_one_page_have_distinct_names(run: Path, tmp_path: Path, monkeypatch) -> None:
    other = make_run(tmp_path / "again" / "demo")
    (other / "summary.json").unlink()
    monkeypatch.chdir(tmp_path)
    assert write_report(run, other, run) == Path("report.html")
    page = Page(Path("report.html").read_text(encoding="utf-8"))
    names = [held["name"] for held in json.loads(page.data)["runs"]]
    assert names == [f"{tmp_path.name}/demo", f"{tmp_path.name}/again/demo"]  # a folder given twice counts once
    assert f"{names[1]}: summary.json is missing" in page.text
    assert not (run / "report.html").exists()


def test_hostile_text_stays_text_in_the_page(run: Path) -> None:
    wrapped = f"<think>\nEncode: {HOSTILE}\n</think>\n\n<Answer>{HOSTILE}</Answer>\ud800"
    fields = {"story": HOSTILE, "question": HOSTILE, "options": [HOSTILE, "b"], "answer": HOSTILE, "id": HOSTILE}
    fields |= {"source": HOSTILE, "terms": {HOSTILE: 1.0}}
    rows = [rollout(phase, 1, "x", response=wrapped) | fields for phase in ("eval_sft", "eval_grpo", HOSTILE)]
    write_lines(run / "rollouts.jsonl", rows)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 6, "phase": "grpo", HOSTILE: 1.0}) + "\n")
    (run / "config.yaml").write_text(f"seed: 1\nname: {json.dumps(HOSTILE)}\n")
    (run / "summary.json").write_text(json.dumps({HOSTILE: 1.0}))
    page = page_of(run)
    assert len([tag for tag, _ in page.elements if tag == "script"]) == 2
    assert not [tag for tag, _ in page.elements if tag in ("img", "iframe", "link", "object")]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) == 2  # the differing setting, and summary.json; config.yaml is in JSON's spelling
    data = json.loads(page.data)["runs"][0]
    assert data["metrics"]["grpo"][HOSTILE][-1] == 1.0
    assert "<" not in page.data
    assert len(data["responses"]) == 3
    for response in data["responses"]:
        assert text_of(response["blocks"]).count(HOSTILE) == 2
        assert data["questions"][response["question"]]["options"] == [HOSTILE, "b"]


def test_page_needs_no_network_and_one_script(run: Path) -> None:
    html = write_report(run).read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"']+", html)) == {"http://www.w3.org/2000/svg"}
    policy = next(a["content"] for tag, a in Page(html).elements if a.get("http-equiv") == "Content-Security-Policy")
    nonce = re.search(r"script-src 'nonce-(\w+)'", policy)[1]
    assert policy.startswith("default-src 'none'")
    assert f'<script nonce="{nonce}">' in html
    assert write_report(run).read_text(encoding="utf-8") == html  # the same run, the same bytes


@pytest.mark.parametrize("name", RUN_FILES)
def test_missing_or_cut_file_is_named(run: Path, name: str) -> None:
    whole = (run / name).read_bytes()
    for keep in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 4):
        (run / name).write_bytes(whole[:keep])
        page = page_of(run)
        assert "All settings" in page.text
        if name != "config.yaml" and keep == len(whole) - 4:  # a cut YAML file is often whole YAML
            assert name in page.text.split("Curves\n")[0]
    (run / name).unlink()
    assert f"{name} is missing" in page_of(run).text


@pytest.mark.parametrize(
    "content",
    [
        "[1, 2]\n",
        "null\n",
        "}{\n",
        "[" * 100_000,
        "\x00\xff",
        "a: [\n",
        '{"step": "1"}\n',
        '{"step": 1}\n',
        "1e999",
        '{"step": 1, "phase": "grpo", "kl": 1' + 400 * "0" + "}",
    ],
)
@pytest.mark.parametrize("name", RUN_FILES)
def test_no_content_of_a_file_breaks_the_report(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="latin-1")
    assert "Social-R1 run report" in page_of(tmp_path).text


AUDIT = {
    "n": 100,
    "chance": 0.25,
    "rules": {"longest": {"accuracy": 0.6, "stderr": 0.05}},
    "best_rule": "longest",
    "best_rule_accuracy": 0.6,
    "by_type": {},
}


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (json.dumps(AUDIT), "all questions: longest is right in 0.60 (chance 0.25)"),
        (json.dumps(AUDIT | {"chance": 0.5}), ""),
        (json.dumps(AUDIT | {"n": "many"}), "shortcuts.json is cut or unreadable"),
        (json.dumps(AUDIT | {"n": 1e400}), ""),
        (json.dumps(AUDIT | {"by_type": [1]}), "shortcuts.json is cut or unreadable"),
        (json.dumps(AUDIT | {"best_rule": "<b>"}), "shortcuts.json is cut or unreadable"),
        (json.dumps(AUDIT | {"rules": {"longest": {"accuracy": 1e308, "stderr": 1e-308}}}), ""),
        ("[" * 100_000, "shortcuts.json is cut or unreadable"),
        ("[1]", "shortcuts.json is cut or unreadable"),
    ],
)
def test_strong_shortcuts_of_the_questions_are_shown(run: Path, content: str, shown: str) -> None:
    (run / "shortcuts.json").write_text(content)
    text = page_of(run).text
    assert shown in text
    assert ("Shortcuts in data.train" in text) or not shown


def test_rollout_rows_of_wrong_types_are_shown(run: Path) -> None:
    odd = {"step": 1, "phase": "grpo", "response": None, "options": "AB", "terms": [1], "reward": "x", "sample": [1]}
    write_lines(run / "rollouts.jsonl", [odd, odd | {"phase": "eval_sft"}, odd | {"phase": "eval_grpo"}])
    assert [row["status"] for row in data_of(run)["responses"]] == ["ok"] * 3


def test_an_empty_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds none of config\.yaml, .*give the output_dir of a run"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="no report written"):
        write_report(tmp_path / "nowhere")


def test_failed_write_leaves_the_old_report(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write_report(run).read_bytes()
    before = sorted(run.iterdir())

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_report(run)
    assert sorted(run.iterdir()) == before
    assert (run / "report.html").read_bytes() == old


def with_types(run: Path) -> Path:
    """Give the evaluations of `make_run` twins, types and baselines."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["phase"] == "eval":
            after = row["step"] > 0
            row |= {"pair_accuracy": 0.6 if after else 0.2, "pair_accuracy_stderr": 0.05, "chance": 1 / 3}
            row |= {"accuracy_by_type": {"belief": 0.75 if after else 0.5, HOSTILE: 0.25}}
            row |= {"best_rule": "last_mentioned", "best_rule_accuracy": 0.43, "best_rule_pair_accuracy": 0.07}
            row |= {"best_rule_accuracy_by_type": {"belief": 0.45}}
    write_lines(run / "metrics.jsonl", rows)
    return run


def test_accuracy_by_type_stands_beside_chance_and_rule(run: Path) -> None:
    assert "Accuracy by type" not in page_of(run).text
    page = page_of(with_types(run))
    text = re.sub(r"\s+", " ", page.text.split("Accuracy by type of question")[1].split("Curves")[0])
    assert "All questions50.0 %65.0 %33.3 %43.0 %" in text
    assert "Groups of twins, all right20.0 %60.0 %–7.0 %" in text
    assert "belief50.0 %75.0 %–45.0 %" in text
    assert "The best rule that needs no model of minds is last_mentioned" in text
    assert "dashes are guessing, 33.3 %; dots are the best rule, 43.0 %" in page.text
    metrics = json.loads(page.data)["runs"][0]["metrics"]["eval"]
    assert metrics["accuracy/belief"] == [0.5, 0.75]
    assert metrics["best_rule_accuracy/belief"] == [0.45, 0.45]
    assert not {"best_rule", "accuracy_by_type"} & set(metrics)


def test_report_imports_neither_jax_nor_matplotlib() -> None:
    code = "import sys, socialr1_jax.report; sys.exit(bool({'jax', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_text_colour_has_contrast_on_its_ground() -> None:
    css = Path(report.__file__).with_name("style.css").read_text(encoding="utf-8")
    schemes = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    assert len(schemes) == 2  # light and dark
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", scheme))
        for name in ("ink", "muted", "accent", "encode", "interpret", "goal", "respond", "fault"):
            for ground in ("paper", "raised"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)  # WCAG 2.2, 1.4.3
        for number in range(6):
            assert contrast(colours[f"tone{number}"], colours["paper"]) >= 3  # of a line: 1.4.11


def contrast(first: str, second: str) -> float:
    """WCAG 2.2 contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def script(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(Path(__file__).parents[2] / "scripts" / "report.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_script_writes_the_page_or_one_line(run: Path, tmp_path: Path) -> None:
    done = script(str(run))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{run}/report.html\n", "")
    done = script(str(run), str(tmp_path), "--output", str(tmp_path / "both.html"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert re.match(r"report\.py: error: .* holds none of config\.yaml", done.stderr)
    assert not (tmp_path / "both.html").exists()
    assert "page (.html)" in script("--help").stdout
