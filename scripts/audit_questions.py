"""Measure how far rules that read no minds get on question files: positions, overlap, length, letters, word counts.

    python scripts/audit_questions.py questions.jsonl stories:4000 --output audit.json --plot audit.png
    python scripts/audit_questions.py data/tombench data/simpletom    # folders with the name of a benchmark
    python scripts/audit_questions.py quiz.csv --columns '{options: choices}' --where '{split: test}' --first_label 1

A rule that is 0.20 or more above chance is marked: such questions can be answered without what they ask for.
"""

import argparse
import logging
from pathlib import Path

from pydantic import Field

from socialr1_jax.config.loading import load_config
from socialr1_jax.config.sections import ConfigError, Section, TextMap
from socialr1_jax.runtime.terminal import print_error, print_result, printable, run_script


class AuditConfig(Section):
    """Settings for reading the files and writing the figures."""

    columns: TextMap = Field({}, description="our field name -> the file's column name, where they differ")
    where: TextMap = Field({}, description="keep only the rows whose column has this value")
    first_label: int = Field(0, ge=0, le=1, description="number of the first option, where gold answers are numbers")
    output: str = Field("", description="file for the figures as JSON")
    plot: str = Field("", description="file for a plot of them, a PNG")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure how far rules that read no minds get on question files.")
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="question file, folder, hub dataset or stories:[heldout:]COUNT[:SEED]"
    )
    metavars = {"first_label": "0|1", "output": "FILE.json", "plot": "FILE.png"}
    for name, field in AuditConfig.model_fields.items():
        parser.add_argument(f"--{name}", metavar=metavars.get(name, "{NAME: NAME}"), help=field.description)
    arguments = vars(parser.parse_intermixed_args(argv))
    files = list(dict.fromkeys(arguments.pop("files")))
    from socialr1_jax.evaluation import audit_files
    from socialr1_jax.questions.audit import audit_examples  # imports SciPy: only once the arguments are right
    from socialr1_jax.runtime.files import write_json

    try:
        given = [f"{name}={value}" for name, value in arguments.items() if value is not None]
        config = load_config(AuditConfig, None, given)
        if config.output:
            audit_files.refuse_foreign_audit(Path(config.output))
        if config.plot:
            audit_files.refuse_foreign_plot(Path(config.plot))
    except (ConfigError, OSError) as error:
        print_error(f"audit_questions.py: error: {error}")
        return 2
    learned = _learned_rules_work()
    audits = {}
    for file in files:
        try:
            examples, remarks = audit_files.read_source(file, config.columns, config.where, config.first_label)
        except (ValueError, ImportError, OSError) as error:
            print_error(f"audit_questions.py: not audited: {printable(str(error), 500)}")
            continue
        audits[file] = audit_examples(examples, learned=learned)
        print_result(audit_files.table(file, audits[file]))
        for remark in (*remarks, *audit_files.remarks_on(audits[file])):
            print_error(f"audit_questions.py: {printable(file, 200)}: {remark}")
    if not audits:
        return 2
    try:
        if config.output:
            write_json(Path(config.output), audits)
        if config.plot:
            audit_files.plot_audits(audits, Path(config.plot))
    except OSError as error:
        print_error(f"audit_questions.py: error: {error.filename}: {error.strerror}")
        return 2
    return 0


def _learned_rules_work() -> bool:
    try:
        import sklearn  # noqa: F401
    except ImportError:
        print_error("audit_questions.py: no_story and bag_of_words are left out: pip install -e '.[audit]'")
        return False
    return True


if __name__ == "__main__":
    logging.getLogger("socialr1_jax").setLevel(logging.ERROR)  # main reports the rows that are left out
    run_script(main)
