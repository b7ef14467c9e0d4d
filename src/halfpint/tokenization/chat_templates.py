"""Chat templates: programs from strangers, rendered in a sandbox in a process that can be ended."""

from __future__ import annotations

import datetime
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halfpint.errors import CheckpointError, UsageError

LONGEST_TEMPLATE = 1 << 20
"""Characters of a template that is rendered at all."""

LONGEST_CHAT = 4 << 20
"""Characters that a conversation may be rendered to."""

CPU_SECONDS = 1.5
"""Processor time that a template may take for one conversation; real ones take some thousandths."""

_WALL_SECONDS = 60.0
"""Templates cannot wait, so this only ends a process that the machine has forgotten."""

MEMORY_BYTES = 512 << 20
"""Address space of that process."""

FIXED_DATE = datetime.datetime(2024, 7, 26)
"""What `strftime_now` answers where equal conversations must give equal texts. Llama 3's own default."""

_WORKER = Path(__file__).with_name("template_worker.py")


def render_chat(template: str, variables: Mapping[str, Any], now: datetime.datetime = FIXED_DATE) -> str:
    """Render one conversation.

    Parameters
    ----------
    template : str
        Jinja source, as models carry it.
    variables : Mapping
        `messages` and whatever else the template may use; JSON's types only.
    now : datetime
        What `strftime_now` answers.

    Returns
    -------
    str

    Raises
    ------
    CheckpointError
        If the template is broken, refuses the conversation, tries to leave the sandbox, or takes too much time,
        memory or text.
    UsageError
        If the variables are not JSON's types.
    """
    return render_chats(template, [variables], now)[0]


def render_chats(
    template: str, conversations: Sequence[Mapping[str, Any]], now: datetime.datetime = FIXED_DATE
) -> list[str]:
    """Render several conversations with one process; see `render_chat`."""
    if len(template) > LONGEST_TEMPLATE:
        raise CheckpointError(
            f"the chat template has {len(template)} characters; more than {LONGEST_TEMPLATE} are refused"
        )
    job = {
        "template": template,
        "variables": list(conversations),
        "now": now.timetuple()[:6],
        "longest": LONGEST_CHAT,
        "memory_bytes": MEMORY_BYTES,
        "cpu_seconds": CPU_SECONDS,
    }
    try:
        request = json.dumps(job).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"a conversation holds what is neither text, number, list nor object: {error}") from error
    return _ask(request)


def _ask(request: bytes) -> list[str]:
    # -P: nothing is imported from the folder of the program itself.
    command = [sys.executable, "-P", str(_WORKER)]
    try:
        done = subprocess.run(command, input=request, capture_output=True, timeout=_WALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"the chat template did not end within {_WALL_SECONDS} seconds; it was stopped") from None
    if done.returncode == -signal.SIGPROF:
        raise CheckpointError(f"the chat template took more than {CPU_SECONDS} seconds; it was stopped")
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise CheckpointError(f"the chat template ended the process that rendered it: {reason[0][:300]}") from None
    if "error" in answer:
        raise CheckpointError(f"the chat template cannot be rendered: {str(answer['error'])[:600]}")
    return list(answer["rendered"])
