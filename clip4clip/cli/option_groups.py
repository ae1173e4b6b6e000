"""Let a command take a group of options, a frozen dataclass, as one parameter.

Typer turns each parameter of a function into an option; it has no groups. Here each field of a group becomes an option.
Its name, default and help are written once, in the dataclass, and every command that needs the group takes it::

    @dataclass(frozen=True)
    class SamplingOptions:
        frames: Annotated[int, typer.Option("--frames", "-n", help="Number of frames.")] = 12
        seek: Annotated[Seek, typer.Option(help="How to select frames.")] = Seek.exact


    def embed_video(files: Annotated[list[str], typer.Argument()], sampling: SamplingOptions) -> None: ...


    app.command()(expand_option_groups(embed_video))  # embed-video FILES... --frames 12 --seek exact
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints


def expand_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return a function with one parameter for each field of each group, which Typer can read.

    Args:
        command: function whose parameters are options and arguments of Typer, or groups.

    Returns:
        A function that takes each option by keyword, builds the groups, and calls ``command``.

    Raises:
        ValueError: two options have the same name.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if dataclasses.is_dataclass(parameter.annotation):
            group: Any = parameter.annotation
            groups[parameter.name] = group
            parameters += _parameters_of(group)
        else:
            # Typer passes all values by keyword. Keyword-only parameters may be required after optional ones.
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def expanded(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field: values.pop(field) for field in inspect.signature(group).parameters})
        command(**values)

    # Typer reads the options from the signature and their types from the annotations.
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _parameters_of(group: type) -> Iterator[inspect.Parameter]:
    annotations = get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=annotations[field.name],
        )
