"""How large things may grow before they must become two."""

import ast

from tests.house.sources import PACKAGES, functions, python_files, relative

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
PARAMETERS_MAX = 8


def test_no_module_is_too_long() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in python_files()}
    assert lengths, "no Python file was found"
    assert not {path: lines for path, lines in lengths.items() if lines > MODULE_LINES_MAX}


def test_no_function_is_too_long() -> None:
    too_long = [
        f"{relative(path)}:{function.lineno} {function.name}"
        for path in python_files()
        for function in functions(path)
        if (function.end_lineno or 0) - function.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert not too_long


def test_no_function_takes_too_many_parameters() -> None:
    # A word of the command line has a parameter for each of its options.
    too_many = [
        f"{relative(path)}:{function.lineno} {function.name}"
        for path in python_files(*PACKAGES)
        for function in functions(path)
        if _parameters(function) > PARAMETERS_MAX and not _is_command(function)
    ]
    assert not too_many


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in named)


def _is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(each).startswith("app.command") for each in function.decorator_list)
