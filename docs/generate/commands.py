"""The page of all commands, from what `bacl COMMAND --help` is made of."""

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from bacl_platform.cli.main import app
from bacl_platform.cli.options import records


def page() -> str:
    """All commands as Markdown: usage, text, examples, arguments and options of each."""
    parts = [
        "# Commands",
        "Made from the commands' own help. Exit codes, JSON and environment variables are in "
        "[the command line](command-line.md).",
    ]
    root = typer.main.get_command(app)
    for words, command, context in _commands(
        root, typer.Context(root, info_name="bacl", **root.context_settings)
    ):
        parts += [f"## {words}", *_section(words, command, context)]
    return "\n\n".join(parts) + "\n"


def _commands(group: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    """(words, command, context) of a group and of all commands in it, in the order of its help."""
    yield context.command_path, group, context
    for name in group.list_commands(context):
        command = group.commands[name]
        settings = command.context_settings
        inner = typer.Context(command, info_name=name, parent=context, **settings)
        if hasattr(command, "commands"):
            yield from _commands(command, inner)
        else:
            yield f"{context.command_path} {name}", command, inner


def _section(words: str, command: Any, context: Any) -> Iterator[str]:
    usage = " ".join([words, *command.collect_usage_pieces(context)])
    yield f"```text\n{usage}\n```"
    text, examples = _split(inspect.cleandoc(command.help or ""))
    yield text
    if examples:
        yield "```bash\n" + "\n".join(examples) + "\n```"
    for title, rows in records(command, context).items():
        if rows:
            head = f"| {title.lower()[:-1]} | what it is |\n|---|---|\n"
            yield head + "\n".join(f"| `{_cell(name)}` | {_cell(about)} |" for name, about in rows)


def _split(help_text: str) -> tuple[str, list[str]]:
    """A help text without its examples, and those."""
    text, _, examples = help_text.replace("\b", "").partition("\nExample")
    lines = [line.strip() for line in examples.splitlines()[1:]]
    return text.strip(), [line for line in lines if line]


def _cell(text: str) -> str:
    """Text in a table's cell, where a bar would end it."""
    return " ".join(text.split()).replace("|", "\\|")
