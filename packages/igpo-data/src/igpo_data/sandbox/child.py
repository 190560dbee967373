"""The process inside the sandbox: either runs a program and answers calls, or runs tests and makes these calls.

Standard library alone: its text is given to `python -c`. A line of JSON in, a line out; the first line says what to be.
Whatever a program does here, all that leaves is a line of data for the tests, which run in another process.
"""

import builtins
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

LONGEST = 200
# Characters of a message.


class ProgramError(Exception):
    """The program raised something that is no built-in exception."""


def main(seconds: float, memory: int, disk: int) -> None:
    """Limits, a sign of life, then the part that the first line names."""
    lines, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # What is printed is thrown away, so there is no bound to it.
        os.dup2(nothing, descriptor)
    limit(seconds, memory, disk)

    def tell(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message).encode() + b"\n")
        replies.flush()

    tell({"ready": True})
    first = json.loads(lines.readline())
    if "program" in first:
        serve(first["program"], lines, tell)
    else:
        judge(first["tests"], first["calls"], lines, tell)


def limit(seconds: float, memory: int, disk: int) -> None:
    """Of this process; none can be raised again."""
    import resource

    for kind, most in (
        (resource.RLIMIT_AS, memory << 20),
        (resource.RLIMIT_FSIZE, disk << 20),
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


# The program ---------------------------------------------------------------------------------------------------------


def serve(source: str, lines: BinaryIO, tell: Callable[[dict[str, Any]], None]) -> None:
    """Defines what the program defines, then one answer a call."""
    program = types.ModuleType("program")
    sys.modules["program"] = program  # Dataclasses look their module up.
    space = program.__dict__
    tell(attempt(lambda: exec(compile(source, "program.py", "exec", dont_inherit=True), space)))
    for line in lines:
        message = json.loads(line)
        arguments, named = decode(message["arguments"]), decode(message["named"])
        expression = message["call"]
        tell(attempt(lambda: eval(expression, space)(*arguments, **named)))  # noqa: B023


def attempt(act: Callable[[], Any]) -> dict[str, Any]:
    """The encoded value, or what was raised instead."""
    try:
        return {"value": encode(act())}
    except BaseException as error:  # noqa: BLE001 - a program may raise what it likes, SystemExit too
        return {"error": [type(error).__name__, str(error)[:LONGEST]]}


# The tests -----------------------------------------------------------------------------------------------------------


def judge(source: str, calls: list[list[str]], lines: BinaryIO, tell: Callable[[dict[str, Any]], None]) -> None:
    """Runs the tests, in which each name calls the program."""
    count = 0

    def stand_in(expression: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            tell({"call": expression, "arguments": encode(arguments), "named": encode(named)})
            reply = json.loads(lines.readline())
            if "value" in reply:
                return decode(reply["value"])
            raise exception(*reply["error"])

        return call

    tests = types.ModuleType("tests")
    sys.modules["tests"] = tests
    space = tests.__dict__ | {name: stand_in(expression) for name, expression in calls}
    try:
        exec(compile(source, "tests.py", "exec", dont_inherit=True), space)
    except BaseException as error:  # noqa: BLE001 - whatever a failing test raises
        tell({"failed": f"{type(error).__name__}: {error}"[:LONGEST]})
    else:
        tell({"passed": count})


def exception(name: str, message: str) -> Exception:
    """What the program raised, where the tests can know it: an ordinary built-in exception."""
    kind = getattr(builtins, str(name), None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(str(message))
        except TypeError:  # UnicodeDecodeError takes five arguments.
            pass
    return ProgramError(f"{name}: {message}")


# Plain data as JSON --------------------------------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """Plain data, exactly; subclasses lose what they override. TypeError for anything else."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 1 << 53 else {"int": hex(value)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return [encode(each) for each in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(each)] for key, each in dict.items(value)]}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encode(each) for each in value]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, Iterator):
        return {"iter": [encode(each) for each in value]}
    raise TypeError(
        f"a {type(value).__name__} is no plain data: numbers, text, lists, tuples, sets, dicts and iterators"
    )


MAKE: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "dict": lambda pairs: {decode(key): decode(value) for key, value in pairs},
    "tuple": lambda parts: tuple(map(decode, parts)),
    "set": lambda parts: set(map(decode, parts)),
    "frozenset": lambda parts: frozenset(map(decode, parts)),
    "bytes": bytes.fromhex,
    "complex": lambda parts: complex(*parts),
    "range": lambda parts: range(*parts),
    "iter": lambda parts: iter([decode(part) for part in parts]),
}


def decode(value: Any) -> Any:
    """What `encode` was given."""
    if isinstance(value, list):
        return [decode(each) for each in value]
    if isinstance(value, dict):
        ((kind, content),) = value.items()
        return MAKE[kind](content)
    return value


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
