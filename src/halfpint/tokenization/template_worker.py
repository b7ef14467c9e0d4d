"""The program that renders one model's chat template, in a process of its own.

It runs by path, imports nothing of halfpint, reads one JSON object from standard input and writes one to standard
output. The sandbox keeps a template from Python's insides; the limits keep it from time and memory, which no sandbox
does: a template can ask for `'%2147483647d' % 1` or nest a list in itself forty times.
"""

from __future__ import annotations

import datetime
import json
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Generation(Extension):
    """`{% generation %}` marks what an assistant said, for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        # A scope of its own, as in transformers: what is set inside is not set outside.
        scope = nodes.Scope(lineno=parser.stream.current.lineno)
        scope.body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return [scope]


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's own sandbox lets a forbidden attribute pass as empty text; here it is an error."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r}")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: jinja's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _clock(moment: datetime.datetime) -> Callable[[str], str]:
    def now(layout: str) -> str:
        return moment.strftime(layout)

    return now


def render(job: Mapping[str, Any]) -> list[str]:
    """Render the job's template for each of its conversations.

    Parameters
    ----------
    job : Mapping
        `template`: Jinja source; `variables`: one mapping per conversation; `now`: what the clock says, [year, month,
        day, hour, minute, second]; `longest`: characters that one conversation may have; `cpu_seconds`: time that it
        may take.
    """
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _clock(datetime.datetime(*job["now"]))
    signal.setitimer(signal.ITIMER_PROF, job["cpu_seconds"])
    template = environment.from_string(job["template"])
    rendered = []
    for variables in job["variables"]:
        # Nobody handles the signal of this timer: it ends the process, whatever the template is doing.
        signal.setitimer(signal.ITIMER_PROF, job["cpu_seconds"])
        pieces: list[str] = []
        length = 0
        for piece in template.generate(variables):
            length += len(piece)
            if length > job["longest"]:
                raise TemplateError(f"it makes more than {job['longest']} characters")
            pieces.append(piece)
        rendered.append("".join(pieces))
    return rendered


def main() -> None:
    """Answer one job: {"rendered": [...]} or {"error": "..."}."""
    job = json.load(sys.stdin.buffer)
    _, hardest = resource.getrlimit(resource.RLIMIT_AS)
    memory_bytes = job["memory_bytes"] if hardest == resource.RLIM_INFINITY else min(job["memory_bytes"], hardest)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    answer: dict[str, Any]
    try:
        answer = {"rendered": render(job)}
    except SecurityError as error:
        answer = {"error": f"it does what templates must not: {error}"}
    except MemoryError:
        answer = {"error": "it needs too much memory"}
    except RecursionError:
        answer = {"error": "it calls itself without end"}
    except Exception as error:  # whatever a template provokes is an answer, not a crash
        answer = {"error": str(error) or type(error).__name__}
    sys.stdout.buffer.write(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
