"""Audits of question files, benchmarks and generated stories: reader, console table and plot."""

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from socialr1_jax.config.commands import AuditConfig
from socialr1_jax.config.evaluation import ASKED
from socialr1_jax.data.bad_rows import summary
from socialr1_jax.data.examples import Example
from socialr1_jax.data.tables import DataError
from socialr1_jax.evaluation.card import card_example
from socialr1_jax.evaluation.tasks import get_task
from socialr1_jax.questions.audit import STRONG, audit_examples, is_strong, rule_interval
from socialr1_jax.questions.sources import open_questions
from socialr1_jax.run.console import collected_warnings
from socialr1_jax.runtime.files import ROW_SUFFIXES, read_json, write_json, write_whole
from socialr1_jax.runtime.ownership import refuse_foreign_file
from socialr1_jax.runtime.terminal import counted, print_result, printable, remark

_MOST_TYPES = 20  # on the console
_MOST_PANELS = 30  # of a plot
_SOFTWARE = "socialr1_jax audit_questions"  # PNG metadata that marks a file as our plot
_KEYS = {"n", "chance", "rules", "by_type", "pair"}

_WEAK_COLOUR, _STRONG_COLOUR = "#1f5fbf", "#b3541e"
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a8880",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 9.5,
    "grid.color": "#e6e4de",
    "legend.frameon": False,
}


def print_audits(config: AuditConfig) -> int:
    """Print the audit of each source and write the configured files; return exit status 2 if no source can be audited.

    Raises ForeignFile (an OSError) if an output file exists that this command did not write.
    """
    if config.output:
        refuse_foreign_file(Path(config.output), _is_audits, "a file of audits")
    if config.plot:
        refuse_foreign_file(Path(config.plot), _is_plot, "a plot of audits")
    if not (learned := find_spec("sklearn") is not None):
        remark("no_story and bag_of_words need scikit-learn and are left out: pip install -e '.[audit]'")
    audits = {}
    for source in dict.fromkeys(config.files):
        try:
            with collected_warnings("socialr1_jax"):  # the remarks report the dropped rows
                examples, remarks = read_source(source, config.columns, config.where, config.first_label)
        except (ValueError, ImportError, OSError) as error:
            remark(f"not audited: {printable(str(error), 500)}")
            continue
        audits[source] = audit_examples(examples, learned=learned)
        print_result(table(source, audits[source]))
        for text in (*remarks, *remarks_on(audits[source])):
            remark(f"{printable(source, 200)}: {text}")
    if config.output and audits:
        write_json(Path(config.output), audits)
    if config.plot and audits:
        plot_audits(audits, Path(config.plot))
    return 0 if audits else 2


def read_source(
    source: str, columns: Mapping[str, str], where: Mapping[str, str], first_label: int = 0
) -> tuple[list[Example], tuple[str, ...]]:
    """Return the questions of a source that have options, and a remark on each kind of dropped row.

    A source is a file, hub dataset or `stories:COUNT` as in `open_questions`, or a folder. A folder named after a
    benchmark is read as in evaluate.py, but only in English and, for FANToM, with short contexts. In any other folder
    all question files form one source. `columns`, `where` and `first_label` are those of `open_questions`.

    Raises DataError or BenchmarkError (both ValueErrors) or OSError if there is nothing to audit.
    """
    if not source:
        raise DataError("empty source name")
    folder = Path(source)
    if os.path.isdir(source) and folder.resolve().name in ASKED:
        return list(_benchmark(folder)), ()
    sources = [source]
    if os.path.isdir(source):
        sources = [str(file) for file in sorted(folder.rglob("*")) if file.suffix.lower() in ROW_SUFFIXES]
        if not sources:
            raise DataError(f"{source}: a folder without question files that is not named after a benchmark")
    questions = open_questions(sources, columns=columns, where=where, allow_bad_rows=True, first_label=first_label)
    rows = list(questions)
    examples = [example for example in rows if example.options]
    if not examples:
        raise DataError(f"{source}: no question has options; only multiple choice can be audited")
    remarks = []
    if bad := questions.bad_rows:
        remarks.append(f"left out {counted(len(bad), 'row')} that cannot be used: {summary(bad)}")
    if len(rows) > len(examples):
        remarks.append(f"left out {counted(len(rows) - len(examples), 'question')} without options")
    return examples, tuple(remarks)


def _benchmark(folder: Path) -> Iterator[Example]:
    task = get_task(folder.resolve().name)
    for request in task.requests(task.load(folder), "social_r1", 0):
        if not task.in_headline(request.meta):
            continue
        name = str(request.meta.get(task.kind, ""))
        meta = {"source": task.name, "story_id": request.item}
        if name:
            meta["type"] = f"order_{name}" if task.kind == "order" else name
        yield replace(card_example(request), meta=meta)


def remarks_on(audit: Mapping[str, Any]) -> Iterator[str]:
    """Yield caveats about the figures of an audit."""
    if audit["n"] == 1:
        yield "only one question: figures have no interval"
    if unmentioned := audit["n"] - audit["mentioned"]:
        yield f"the story mentions no option in {unmentioned} of {audit['n']} questions; rules of mention guess there"
    if "constant" not in audit["rules"]:
        yield "fewer than three stories: rules fitted on other stories are left out"


def table(source: str, audit: Mapping[str, Any]) -> str:
    """Return the figures of an audit as lines of text."""
    chance = audit["chance"]
    lines = [f"{printable(source, 200)}: {counted(audit['n'], 'question')}, chance {chance:.3f}"]
    width = max(map(len, audit["rules"]))
    for name, rule in sorted(audit["rules"].items(), key=lambda item: -item[1]["accuracy"]):
        strong = f"  passes chance + {STRONG:.2f}" if is_strong(rule, chance) else ""
        lines.append(f"  {name:<{width}}  {_figure(rule, audit['n'])}{strong}")
    types = sorted(audit["by_type"].items(), key=lambda item: (-item[1]["n"], item[0]))
    if types:
        lines.append("  best rule of each type:")
        names = {name: printable(name, 40) for name, _ in types[:_MOST_TYPES]}
        width = max(map(len, names.values()))
        lines += [f"    {text:<{width}}  {_best(audit['by_type'][name])}" for name, text in names.items()]
    if len(types) > _MOST_TYPES:
        lines.append(f"  ... and {counted(len(types) - _MOST_TYPES, 'more type')}")
    if audit["pair"]["n"]:
        lines += ["  best rule on groups of twins, all of a group right:", f"    {_best(audit['pair'])}"]
    return "\n".join(lines)


def _figure(rule: Mapping[str, Any], count: int) -> str:
    low, high = rule_interval(rule, count)
    return f"{rule['accuracy']:.3f}  ({low:.3f} to {high:.3f})"


def _best(part: Mapping[str, Any]) -> str:
    name = part["best_rule"]
    rule = part["rules"][name]
    strong = f"  passes chance + {STRONG:.2f}" if is_strong(rule, part["chance"]) else ""
    return f"{part['n']:>6,}  chance {part['chance']:.3f}  {_figure(rule, part['n'])}  {name}{strong}"


def _is_audits(file: Path) -> bool:
    audits = read_json(file)
    return bool(audits) and all(audit.keys() >= _KEYS for audit in audits.values())


def _is_plot(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(1000)
    return head.startswith(b"\x89PNG") and _SOFTWARE.encode() in head


def plot_audits(audits: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Plot the accuracy of each rule with its 95 % interval as a PNG, one panel for each of the first 30 sources.

    Dotted line: chance. Dashed line: chance + 0.20.
    """
    import matplotlib
    from matplotlib.figure import Figure

    shown = list(audits.items())[:_MOST_PANELS]
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    with matplotlib.rc_context({**_STYLE, "text.parse_math": False}):
        figure = Figure(figsize=(4.6 * across, 3.6 * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for axes, (source, audit) in zip(panels, shown, strict=False):
            rules = sorted(audit["rules"].items(), key=lambda item: item[1]["accuracy"])
            values = np.array([rule["accuracy"] for _, rule in rules])
            low, high = np.transpose([rule_interval(rule, audit["n"]) for _, rule in rules])
            spread = np.maximum([values - low, high - values], 0.0)
            colours = [_STRONG_COLOUR if is_strong(rule, audit["chance"]) else _WEAK_COLOUR for _, rule in rules]
            axes.barh([name for name, _ in rules], values, xerr=spread, color=colours, ecolor="#6b6a65")
            axes.axvline(audit["chance"], color="#333333", linestyle=":")
            axes.axvline(audit["chance"] + STRONG, color="#333333", linestyle="--")
            axes.set(xlim=(0, 1), title=_title(source), xlabel=f"accuracy of {audit['n']:,} questions")
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        image = io.BytesIO()
        figure.savefig(image, dpi=130, format="png", metadata={"Software": _SOFTWARE})
    write_whole(file, image.getvalue())


def _title(source: str) -> str:
    """Return the end of a source's name; escape non-ASCII characters, which the font may lack."""
    name = printable(Path(source).name or source, 40)
    return name.encode("ascii", "backslashreplace").decode()
