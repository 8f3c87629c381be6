"""Render a chat template in a subprocess with limits on time and memory.

Jinja's sandbox bounds a single loop, but neither nested loops nor the length of a text. Run as a program, this file
reads a template from standard input and exits with 0 unless it exceeds a limit; errors of the template are ignored. It
imports only Jinja, since importing transformers takes ten times as long.
"""

import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from itertools import product
from typing import Any

SECONDS = 2  # of CPU time; templates on the hub take a thousandth of it
MEMORY = 1 << 30  # bytes of address space
_DEADLINE = 60  # seconds of wall-clock time, for a process that gets no CPU time


def refuse_endless(template: str, special_tokens: Mapping[str, Any]) -> None:
    """Raise ValueError if the template needs more than `SECONDS` or `MEMORY` to render a short chat."""
    _try(template, json.dumps({name: str(token) for name, token in special_tokens.items()}))


@lru_cache
def _try(template: str, special_tokens: str) -> None:
    request = json.dumps([template, special_tokens])
    try:
        command = [sys.executable, "-P", __file__]
        process = subprocess.run(command, input=request, text=True, stderr=subprocess.DEVNULL, timeout=_DEADLINE)
    except subprocess.TimeoutExpired:
        raise ValueError(f"it takes more than {_DEADLINE} s") from None
    if process.returncode:
        raise ValueError(f"it takes more than {SECONDS} s or {MEMORY >> 20} MiB")


def _render(template: str, special_tokens: str) -> None:
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):  # {% generation %}, which marks the assistant's text
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
    chats = (turns[1:2], turns[:2], turns[1:], turns)
    for messages, thinking, header in product(chats, (True, False), (True, False)):
        options = {"add_generation_prompt": header, "enable_thinking": thinking, "thinking": thinking}
        try:
            compiled.render(json.loads(special_tokens), messages=messages, **options)
        except MemoryError:
            raise
        except Exception:  # reported when the template is used
            continue


def main() -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for limit, value in ((resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_AS, MEMORY)):
        with contextlib.suppress(ValueError):  # a lower limit is already set
            resource.setrlimit(limit, (value, value))
    try:
        _render(*json.load(sys.stdin))
    except MemoryError:
        return 1
    except Exception:  # such as a syntax error
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
