"""`halfpint completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the script that completes halfpint's commands, options and formats in SHELL.

    bash: eval "$(halfpint completion bash)" in ~/.bashrc; zsh: the same with zsh in ~/.zshrc;
    fish: halfpint completion fish > ~/.config/fish/completions/halfpint.fish
    """
    found = get_completion_class(shell)
    assert found is not None, f"click completes {shell}"
    click.echo(found(context.find_root().command, {}, "halfpint", "_HALFPINT_COMPLETE").source())
