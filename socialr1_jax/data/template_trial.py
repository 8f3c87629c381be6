"""Render a chat template in a process of its own, where it cannot take more than a little time and memory.

Jinja's sandbox bounds one loop, but not loops within loops, nor the length of a text. Run as a program, this file reads
a template from its standard input and ends well unless a limit stops it; errors of the template do not count. It
imports Jinja alone, since transformers takes ten times as long.
"""

import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

SECONDS = 2  # of processor time; a template of the hub takes a thousandth
MEMORY = 1 << 30  # bytes of address space
_DEADLINE = 60  # seconds until a process that waits for a processor is given up


def refuse_endless(template: str, special_tokens: Mapping[str, Any]) -> None:
    """Raise ValueError for a template that renders a short chat only beyond `SECONDS` or `MEMORY`."""
    _try(template, json.dumps({name: str(token) for name, token in special_tokens.items()}))


@lru_cache
def _try(template: str, special_tokens: str) -> None:
    asked = json.dumps([template, special_tokens])
    try:
        command = [sys.executable, "-P", __file__]
        ended = subprocess.run(command, input=asked, text=True, stderr=subprocess.DEVNULL, timeout=_DEADLINE)
    except subprocess.TimeoutExpired:
        raise ValueError(f"it takes more than {_DEADLINE} s") from None
    if ended.returncode:
        raise ValueError(f"it takes more than {SECONDS} s or {MEMORY >> 20} MiB")


def _render(template: str, special_tokens: str) -> None:
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):  # {% generation %}, around what the assistant says
        tags = {"generation"}  # noqa: RUF012 (as the base class has it)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": str}
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    compiled = environment.from_string(template)
    for messages in (turns[1:2], turns[:2], turns[1:], turns):
        for thinking in (True, False):
            for header in (True, False):
                try:
                    compiled.render(
                        json.loads(special_tokens),
                        messages=messages,
                        add_generation_prompt=header,
                        enable_thinking=thinking,
                        thinking=thinking,
                    )
                except MemoryError:
                    raise
                except Exception:  # the program meets it, too, and reports it
                    continue


def main() -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for limit, value in ((resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_AS, MEMORY)):
        with contextlib.suppress(ValueError):  # a lower one holds already
            resource.setrlimit(limit, (value, value))
    try:
        _render(*json.load(sys.stdin))
    except MemoryError:
        return 1
    except Exception:  # such as a syntax error
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
