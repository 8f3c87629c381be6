"""The report of a run, or of several compared: one HTML file that needs no network and no server.

    python scripts/report.py runs/quickstart
    python scripts/report.py runs/full runs/outcome_only --output comparison.html

Works on a run that is still going, and on one that was stopped.
"""

import argparse

from socialr1_jax.runtime.terminal import print_error, print_line, run_script


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the HTML report of a run, or of several compared.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output_dir of a run, finished or not")
    parser.add_argument(
        "--output", metavar="FILE.html", help="default: report.html, in RUN or, for several, in the working folder"
    )
    arguments = parser.parse_args(argv)
    from socialr1_jax.report import write_report  # takes a moment: only once the arguments are right

    try:
        print_line(str(write_report(*arguments.runs, output=arguments.output)))
    except OSError as error:
        print_error(f"report.py: error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    run_script(main)
