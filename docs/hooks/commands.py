"""Writes the reference of the command line from the Typer application, where a page asks for it."""

from collections.abc import Iterator
from enum import EnumType
from typing import Any, Literal, get_args, get_origin

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put every command in the place of the mark."""
    if MARK not in markdown:
        return markdown
    from typer.main import get_command

    from toolkit.cli import app

    return markdown.replace(MARK, "\n".join(_lines(get_command(app), "toolkit")))


def _lines(command: Any, path: str) -> Iterator[str]:
    children = getattr(command, "commands", {})
    # A group that does nothing by itself has no section of its own.
    if path != "toolkit" and not (children and command.no_args_is_help):
        yield from _section(command, path)
    for name in sorted(children):
        yield from _lines(children[name], f"{path} {name}")


def _section(command: Any, path: str) -> Iterator[str]:
    shown = [each for each in command.params if not getattr(each, "hidden", False)]
    arguments = [each for each in shown if each.param_type_name == "argument"]
    options = [each for each in shown if each.param_type_name == "option" and each.name != "help"]
    usage = " ".join([path, *("[OPTIONS]" for _ in options[:1]), *map(_metavar, arguments)])
    yield from (f"## {path}", "", _text(command.help or ""), "", "```text", usage, "```", "")
    if arguments or options:
        yield from ("| | | default |", "|---|---|---|")
        yield from map(_row, [*arguments, *options])
        yield ""


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{_metavar(parameter)}`"
    else:
        name = "<br>".join(f"`{each}`" for each in _spellings(parameter))
    said = [_text(parameter.help or "").removesuffix(".") + "."]
    if choices := _choices(parameter):
        said.append(f"One of {', '.join(f'`{each}`' for each in choices)}.")
    if parameter.envvar:
        said.append(f"Environment: `{parameter.envvar}`.")
    return f"| {name} | {' '.join(said)} | {_default(parameter)} |"


def _choices(parameter: Any) -> list[str]:
    kind = parameter.type_descriptor.annotation
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [each.value for each in kind] if isinstance(kind, EnumType) else []


def _spellings(option: Any) -> list[str]:
    if option.is_flag:
        return [*option.opts, *option.secondary_opts]
    kind = option.type_descriptor.annotation
    value = option.metavar or {int: "N", float: "X"}.get(kind, option.name.upper())
    return [f"{each} {value}" for each in option.opts]


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    value = getattr(parameter.default, "value", parameter.default)
    return "" if value is None or value is False else f"`{value}`{{ .whole }}"


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _text(help_text: str) -> str:
    # A bar would end the cell of a table, and names in capitals may hold what Markdown reads.
    return " ".join(help_text.split()).replace("|", "\\|").replace("<", "&lt;")
