"""The command line: one thin file per command, imported only when that command runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

import click

from halfpint.cli.group import CommandEntry, LazyGroup
from halfpint.version import __version__

# Every product has one thread of BLAS (`halfpint.kernels.machine`): buffers for more would only take memory. It must be
# said before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__all__ = ["COMMANDS", "main"]

COMMANDS: Mapping[str, CommandEntry] = MappingProxyType(
    {
        "demo": CommandEntry("halfpint.cli.demo", "The whole story on the model inside halfpint."),
        "inspect": CommandEntry("halfpint.cli.inspect", "What a model weighs, what a tensor looks like."),
        "plan": CommandEntry("halfpint.cli.plan", "Which tensor would get which format, and who loads it."),
        "quantize": CommandEntry("halfpint.cli.quantize", "Make a smaller model, and compare it with the original."),
        "measure": CommandEntry("halfpint.cli.measure", "Compare a model with its original on held-out text."),
        "verify": CommandEntry("halfpint.cli.verify", "Check that a checkpoint is complete and consistent."),
        "generate": CommandEntry("halfpint.cli.generate", "Continue a text."),
        "chat": CommandEntry("halfpint.cli.chat", "Talk to a model."),
        "bench": CommandEntry("halfpint.cli.bench", "How fast a model reads and writes here."),
        "doctor": CommandEntry("halfpint.cli.doctor", "Processor, kernels, memory, and what is installed."),
        "completion": CommandEntry("halfpint.cli.completion", "Print the script that completes commands in a shell."),
    }
)
"""Every command: the module that holds it as `command`, and its line in `halfpint --help`."""


@click.group(
    cls=LazyGroup, entries=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="halfpint")
def main() -> None:
    """Make neural-network checkpoints smaller on an ordinary computer, and prove that they still work.

    MODEL is a Hugging Face folder, a .safetensors or .gguf file, or `demo` for the small model inside halfpint.
    Try: halfpint demo
    """
