"""The report's page in headless Chromium: what it draws, what its controls do, that it fits a phone and stays offline.

    python tests/report/test_report_browser.py RUN [RUN ...] docs/report.png

makes the picture for the README: the top of the page of these runs, 1440 wide.
"""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_report import HOSTILE, RESPONSE, make_run, rollout, with_types, write_lines

from socialr1_jax.report import write_report
from socialr1_jax.report.metric_lines import metric_line

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="chromium is not on PATH")
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1440, "height": 900}


@contextmanager
def chromium() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def visit(browser: sync_api.Browser):
    """Opens a page; what it logs and asks for from elsewhere must be nothing at the end of the test."""
    faults: list[str] = []
    pages: list[sync_api.Page] = []

    def opened(path: Path, **options) -> sync_api.Page:
        page = browser.new_page(**({"viewport": DESKTOP} | options))
        page.set_default_timeout(5000)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: request.url == path.as_uri() or faults.append(request.url))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert faults == []


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "demo")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A second run: another size of group, and rows with tokens, status and source."""
    folder = make_run(tmp_path / "other")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("group_size: 8", "group_size: 4"))
    rows = [rollout("grpo", step, f"t{step}-{k}", reward=k) for step in range(1, 6) for k in range(8)]
    for i, row in enumerate(rows):
        row |= {"tokens": 100 + i, "status": "ok", "source": "tom" if i % 2 else "iqa"}
    rows[3] |= {
        "status": "truncated",
        "response": "<think>\nEncode: Ben is.\nGoal: to",
        "tokens": 200,
        "terms": {"structure": 0.1},
    }
    write_lines(folder / "rollouts.jsonl", rows)
    return folder


def choose(page: sync_api.Page, name: str, value: str) -> str:
    """Sets one filter of the table; what its count then says."""
    control = page.locator(f"#f-{name}")
    control.select_option(value) if control.evaluate("it => it.tagName") == "SELECT" else control.fill(value)
    count = page.locator("#count").inner_text()
    assert page.locator(".row").count() == min(25, int(count.split()[0]))
    return count


def test_inherited_names_are_names_like_others(run: Path, other: Path, visit) -> None:
    names = ("constructor", "toString", "__proto__", "hasOwnProperty", "valueOf")
    rows = [{"step": step, "phase": "grpo"} | dict.fromkeys(names, 0.5) for step in (1, 2)]
    write_lines(run / "metrics.jsonl", rows + [{"step": 1, "phase": name, "loss": 1.0} for name in names])
    odd = [rollout("grpo", 1, "q", reward=1.0), *(rollout(name, 1, "q") for name in names)]
    for row in odd:
        row["terms"] |= dict.fromkeys(names, 0.5)
    write_lines(run / "rollouts.jsonl", odd)
    page = visit(write_report(run, other, output=run / "both.html"))
    charts = page.locator("figcaption strong").all_text_contents()
    assert set(names) <= set(charts)
    page.locator(".row summary").first.click()
    assert "NaN" not in (page.locator(".row .terms").first.get_attribute("style") or "")
    text = page.locator("body").inner_text()
    assert "native code" not in text
    assert "undefined" not in text


def test_curves_follow_slider_pointer_and_keys(run: Path, visit) -> None:
    page = visit(write_report(run))
    assert page.title() == "demo · Social-R1 run report"
    # held out: accuracy; training: total reward, accuracy, entropy; others, closed: SFT loss, eval responses
    assert page.locator("html").get_attribute("data-charts") == "6"
    assert page.locator("#charts figure:visible svg").count() == 4
    assert page.locator("#charts figure:visible path.curve:not(.raw)").count() == 4
    accuracy = page.locator("#charts figure").first
    assert accuracy.locator("circle").count() == 2
    assert accuracy.locator(".whisker").count() == 2
    curve = page.locator("figure", has_text="Total reward").locator("path.curve:not(.raw)")
    before = curve.get_attribute("d")
    assert re.fullmatch(r"M[\d.]+ [\d.]+(L[\d.]+ [\d.]+){4}", before)
    page.locator("#smooth").fill("0")
    assert curve.get_attribute("d") != before
    assert page.locator("path.raw").count() == 0
    entropy = page.locator("figure", has_text="Entropy")
    chart = page.locator("figure", has_text="Total reward").locator("svg")
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 20)
    assert entropy.locator(".readout").inner_text() == "0.5 at 5"
    page.mouse.move(0, 0)
    chart.press("ArrowLeft")  # to the last step, for none was pointed at
    chart.press("ArrowLeft")
    assert page.locator("figure", has_text="Total reward").locator(".readout").inner_text() == "2 at 4"


def test_chance_and_best_rule_are_chart_lines(run: Path, visit) -> None:
    page = visit(write_report(with_types(run)))
    titles = page.locator("#charts figure strong").all_text_contents()
    assert titles[:4] == ["Accuracy", "Pair accuracy", f"accuracy/{HOSTILE}", "accuracy/belief"]
    assert not [title for title in titles if "rule" in title or "chance" in title]
    words = [page.locator("#charts figure").nth(place).locator("line.level").count() for place in range(4)]
    assert words == [2, 1, 0, 1]
    assert "best rule 0.43" in page.locator("#charts figure").first.inner_text()
    page.locator("#find").fill("best_rule_pair")
    assert page.locator("#charts figure:visible strong").all_inner_texts() == ["Pair accuracy"]


def test_every_metric_can_be_found_whatever_its_name(run: Path, visit) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        numbers = {"accuracy_low": 0.6, "accuracy_high": 0.7, "maj@4": 0.7, "hitom/accuracy": 0.4, "accuracy": 0.65}
        file.write(json.dumps({"step": 5, "phase": "eval", **numbers}) + "\n")
        file.write('{"step": 5, "phase": "grpo", "source/tom/reward/outcome": 0.5, "brand/new <b>": 1}\n')
        file.write('{"step": 1, "phase": "doctor", "pulse": 60}\n')
    page = visit(write_report(run))
    held_out = page.locator(".group", has_text="Held-out questions").locator("figure strong").all_inner_texts()
    assert held_out == ["Accuracy", "hitom/accuracy", "maj@4"]
    found = {"high accuracy": "Accuracy", "SOURCE tom": "source/tom/reward/outcome", "new <b>": "brand/new <b>"}
    for looked_for, title in (found | {"pulse": "pulse"}).items():
        page.locator("#find").fill(looked_for)
        assert page.locator("#charts figure:visible strong").all_inner_texts() == [title]
        assert page.locator("#charts figure:visible circle").count() > 0 or title == "Accuracy"
    captions = {
        title: page.locator("figcaption", has=page.get_by_text(title, exact=True)).first.get_attribute("title")
        for title in ("hitom/accuracy", "brand/new <b>")
    }
    assert captions == {"hitom/accuracy": f"hitom/accuracy: {metric_line('eval', 'accuracy')}", "brand/new <b>": None}
    page.locator("#find").fill("nothing like it")
    assert page.locator("#charts figure:visible").count() == 0
    assert page.locator("#found").inner_text().startswith("0 of ")
    page.locator("#find").fill("")
    assert page.locator("#charts figure:visible").count() == 6


def test_two_runs_share_charts_and_switch_off(run: Path, other: Path, visit) -> None:
    page = visit(write_report(run, other, output=run / "both.html"))
    assert page.locator(".switches label").all_inner_texts() == ["demo", "other"]
    row = page.locator(".differing tbody tr")
    assert row.all_inner_texts() == ["sampling.group_size\t8\t4"]
    chart = page.locator("figure", has_text="Total reward")
    assert chart.locator(".curve.tone0:not(.raw)").count() == chart.locator(".curve.tone1:not(.raw)").count() == 1
    assert chart.locator(".readout").inner_text().count("2.5 at 5") == 2
    assert page.locator(".maps figure").count() == 2
    page.locator(".switches label", has_text="demo").click()
    assert (chart.locator(".tone0").count(), chart.locator(".curve.tone1:not(.raw)").count()) == (0, 1)
    assert page.locator(".maps figure").count() == 1
    page.locator("#pairs-run").select_option("1")
    assert "No held-out question has an answer" in page.locator("#pairs-of-run").inner_text()
    assert choose(page, "run", "1") == "40 of 84 responses on this page"


def test_lengths_are_mapped_with_their_cuts(run: Path, other: Path, visit) -> None:
    page = visit(write_report(run, other, output=run / "both.html"))
    first, second = page.locator(".maps figure").all()
    assert "Tokens of 40 responses" in first.inner_text()
    assert "none truncated" in first.locator("svg").text_content()
    assert second.locator(".cell").count() > 0
    assert second.locator(".cut").count() == 1
    assert "truncated, up to 12.5 %" in second.locator("svg").text_content()
    second.locator("svg").hover(position={"x": 60, "y": 100})
    assert "step 1: median 105 of 8, truncated 12.5 %" in re.sub(r"\s+", " ", second.inner_text())


def test_filters_change_which_responses_are_listed(other: Path, visit) -> None:
    page = visit(write_report(other))
    assert page.locator("#count").inner_text() == "40 of 40 responses on this page"
    assert page.locator(".counts tbody tr").inner_text() == "shown of all\t40 of 40\t39 of 39\t1 of 1"
    page.locator("#more").click()
    assert page.locator(".row").count() == 40
    assert choose(page, "status", "truncated") == "1 of 40 responses on this page"
    row = page.locator(".row").first
    row.locator("summary").first.click()
    row.locator(".stage").first.wait_for()  # drawn when the browser says that the row is open
    assert row.locator(".stage").all_inner_texts() == ["Encode: Ben is.", "Goal: to"]
    assert "truncated: cut at the length limit" in row.inner_text()
    assert choose(page, "text", "no such words") == "0 of 40 responses on this page"
    assert choose(page, "text", "BEN is") == "1 of 40 responses on this page"
    choose(page, "text", "")
    choose(page, "status", "")
    choose(page, "term", "term structure")
    assert choose(page, "value", "0.5") == "1 of 40 responses on this page"
    assert choose(page, "side", "above") == "39 of 40 responses on this page"
    choose(page, "term", "length")
    assert choose(page, "value", "130") == "10 of 40 responses on this page"
    choose(page, "term", "")
    choose(page, "from", "2")
    assert choose(page, "to", "3") == "16 of 40 responses on this page"
    assert choose(page, "right", "wrong") == "0 of 40 responses on this page"
    choose(page, "right", "right")
    assert choose(page, "source", "iqa") == "8 of 40 responses on this page"
    choose(page, "order", "best")
    assert "6.00" in page.locator(".row").first.inner_text()


def test_a_violation_is_marked_in_the_text(run: Path, visit) -> None:
    early = RESPONSE.replace("Interpret: Anna", "Interpret: Option B is wrong. Anna")
    write_lines(run / "rollouts.jsonl", [rollout("grpo", 1, "x", response=early)])
    page = visit(write_report(run))
    page.locator(".row summary").first.click()
    mark = page.locator(".row mark")
    assert (mark.inner_text(), mark.get_attribute("title")) == ("B", "option before inference")
    assert page.locator(".row .chips .located").inner_text() == "1 option before inference"
    assert page.locator(".row .text .stage").count() == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_hostile_text_never_acts_or_widens_the_page(run: Path, other: Path, visit, viewport, scheme) -> None:
    long = "x" * 3000
    texts = {
        "story": HOSTILE + long,
        "question": HOSTILE + long,
        "options": [HOSTILE, long],
        "answer": HOSTILE,
        "id": long,
    }
    texts |= {"source": HOSTILE + long, "terms": {HOSTILE: 1.0, long: 0.5}}
    response = f"<think>\nEncode: {HOSTILE}{long}\nGoal: {HOSTILE}\n</think>\n<Answer>{HOSTILE}{long}</Answer>"
    phases = (("eval", 0), ("eval", 5), ("grpo", 1), (HOSTILE + long, 2))
    write_lines(run / "rollouts.jsonl", [rollout(*phase, "x", response=response) | texts for phase in phases])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "phase": "grpo", HOSTILE: 1.0, long: 2.0, "reward/total": 1}) + "\n")
    (run / "config.yaml").write_text(f"seed: 1\nname: {json.dumps(HOSTILE + long)}\n")
    hostile = run.rename(run.with_name("<img src=x onerror=alert(1)>" + 100 * "y"))
    page = visit(write_report(hostile, other, output=other / "both.html"), viewport=viewport, color_scheme=scheme)
    for _ in range(2):  # opened rows hold stories that open too
        page.evaluate("document.querySelectorAll('details').forEach(it => it.open = true)")
        page.wait_for_selector(".row:last-of-type .text")
    assert "owned" not in page.title()
    assert page.locator("img").count() == 0
    assert HOSTILE in page.locator("#table .text").first.text_content()
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]


def test_page_of_an_empty_run_says_so(run: Path, visit) -> None:
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        (run / name).write_text("")
    text = visit(write_report(run), viewport=PHONE).locator("main").inner_text()
    for missing in ("No step is recorded yet", "No training response is recorded yet", "No response is recorded yet"):
        assert missing in text


def test_the_picture_for_the_readme(run: Path, tmp_path: Path, browser) -> None:
    take_picture(browser, [run], tmp_path / "report.png")
    header = (tmp_path / "report.png").read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert int.from_bytes(header[16:20], "big") == 1440


def take_picture(browser: sync_api.Browser, runs: list[Path], png: Path) -> None:
    """The top of the runs' page, down to the end of the training curves."""
    with tempfile.TemporaryDirectory() as folder:
        page = browser.new_page(viewport=DESKTOP, color_scheme="light")
        page.goto(write_report(*runs, output=Path(folder) / "report.html").as_uri())
        end = page.locator(".group", has_text="Training").bounding_box()
        page.screenshot(
            path=png, full_page=True, clip={"x": 0, "y": 0, "width": 1440, "height": end["y"] + end["height"]}
        )
        page.close()


if __name__ == "__main__":
    if len(sys.argv) < 3 or not CHROMIUM:
        sys.exit("usage: python tests/report/test_report_browser.py RUN [RUN ...] FILE.png   (needs chromium on PATH)")
    with chromium() as headless:
        take_picture(headless, [Path(name) for name in sys.argv[1:-1]], Path(sys.argv[-1]))
