"""Reads a pickle as data: a machine that builds plain values and has no instruction to call.

A pickle is a program for a stack machine. Python's own machine imports names, calls them, sets
attributes and hashes keys, and even a restricted one can be made to hang or to take all memory. The
machine here only knows containers and constants. What a pickle wants imported becomes a `Global`
(two strings), what it wants called becomes a `Call` (a note of function and arguments), and keys
that are no scalars are wrapped, so that no hash of theirs is ever computed. Bytes and instructions
are limited, since an instruction of one byte may make an object of seventy.
"""

import dataclasses
import io
import pickletools
from collections.abc import Callable
from typing import Any

from toklip_jax.core.errors import UserError

SCALARS = (str, bytes, int, float, bool, type(None))
MAX_PICKLE_BYTES = 32 * 2**20  # a state dict of ten thousand tensors takes about 2 MiB
MAX_INSTRUCTIONS = 2_000_000  # about 45 for a tensor
MAX_INDEX = 2**32  # of the memo; pickles count from 0
MAX_KEY = 2**60  # integers below have different hashes: of larger ones, any number may share one


class PickleError(UserError):
    """Not a pickle, or one that uses instructions no checkpoint needs."""


@dataclasses.dataclass(frozen=True)
class Global:
    """A name that the pickle wants imported; it is not."""

    module: str
    name: str

    def __str__(self):
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(eq=False)
class Call:
    """A call of `function` that the pickle asks for; nothing was called.

    Attributes:
        function: nearly always a `Global`.
        args: nearly always a tuple.
        items: items that were then set by key, as on a subclass of dict.
        has_state: attributes were then to be set; they are dropped.
    """

    function: Any
    args: Any
    items: dict[Any, Any] = dataclasses.field(default_factory=dict)
    has_state: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class PersistentId:
    """A reference to something outside the pickle; in torch's files, to a storage."""

    value: Any


@dataclasses.dataclass(frozen=True, eq=False)
class WrappedKey:
    """A key that is no scalar, or a huge integer. Equal to itself only."""

    value: Any


@dataclasses.dataclass(frozen=True)
class PickleData:
    """The value of a pickle, and every name and every outside thing that it mentions."""

    value: Any
    globals: tuple[Global, ...]
    persistent_ids: tuple[PersistentId, ...]


def read_pickle(data: bytes | io.BytesIO, most: int | None = None) -> PickleData:
    """Returns what a pickle describes. Runs nothing, imports nothing, takes no more than it weighs.

    Sets become lists. Containers may share parts or hold themselves. A stream is read from where it
    stands, and stands behind the pickle then.

    Args:
        data: at most `MAX_PICKLE_BYTES`, which the caller sees to.
        most: instructions; by default `MAX_INSTRUCTIONS`.

    Raises:
        PickleError: `data` are no pickle, need an instruction that no checkpoint needs, or have too
            many.
    """
    machine, most = _Machine(), most or MAX_INSTRUCTIONS
    try:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(data)):
            if count >= most:
                raise PickleError(
                    f"expected a pickle of at most {most} instructions, got more: save the weights "
                    f"alone, by torch.save(model.state_dict(), path)"
                )
            machine.run(opcode.name, arg)
    except PickleError:
        raise
    except Exception as error:  # pickletools raises many kinds on damaged bytes
        raise PickleError(f"the pickle is damaged ({type(error).__name__})") from error
    return PickleData(machine.pop(), tuple(machine.globals), tuple(machine.persistent_ids))


class _Machine:
    """The stack, the marks on it, and the memo."""

    def __init__(self):
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}
        self.globals: dict[Global, None] = {}  # a dict keeps their order
        self.persistent_ids: list[PersistentId] = []

    def run(self, name: str, arg: Any) -> None:
        if name in CONSTANTS:
            self.stack.append(arg)
        elif name in INSTRUCTIONS:
            INSTRUCTIONS[name](self, arg)
        elif name not in IGNORED:
            raise PickleError(f"the pickle uses {name}, which no checkpoint needs")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        self._expect(1)
        return self.stack.pop()

    def top(self) -> Any:
        self._expect(1)
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise PickleError("the pickle is damaged: a mark is missing")
        height = self.marks.pop()
        items = self.stack[height:]
        del self.stack[height:]
        return items

    def name(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("the pickle is damaged: a name that is no text")
        found = Global(module, name)
        self.globals[found] = None
        return found

    def _expect(self, count):
        floor = self.marks[-1] if self.marks else 0
        if len(self.stack) - floor < count:
            raise PickleError("the pickle is damaged: its stack is empty")


def _set_items(machine, items):
    target = machine.top()
    target = target.items if isinstance(target, Call) else target
    if not isinstance(target, dict) or len(items) % 2:
        raise PickleError("the pickle is damaged: items set on what has no keys")
    target.update(_pairs(items))


def _append(machine, values):
    target = machine.top()
    if isinstance(target, list):
        target.extend(values)
    elif not isinstance(target, Call):  # of a list's subclass: its entries are dropped
        raise PickleError("the pickle is damaged: values appended to what is no list")


def _pairs(items):
    return dict(zip(map(_key, items[::2]), items[1::2], strict=True))


def _key(key):
    is_huge = isinstance(key, int) and abs(key) >= MAX_KEY
    return key if isinstance(key, SCALARS) and not is_huge else WrappedKey(key)


def _refer(machine, value):
    machine.persistent_ids.append(PersistentId(value))
    machine.push(machine.persistent_ids[-1])


def _build(machine, _):
    machine.pop()
    if not isinstance(target := machine.top(), Call):
        raise PickleError("the pickle is damaged: attributes set on what has none")
    target.has_state = True


def _call(machine, has_keywords=False):
    if has_keywords:
        machine.pop()
    args, function = machine.pop(), machine.pop()
    machine.push(Call(function, args))


def _object(machine, _):
    items = machine.pop_mark()
    if not items:
        raise PickleError("the pickle is damaged: an object without class")
    machine.push(Call(items[0], tuple(items[1:])))


def _instance(machine, arg):
    machine.push(Call(_split_name(machine, arg), tuple(machine.pop_mark())))


def _split_name(machine, arg):
    module, _, name = arg.partition(" ")  # pickletools joins the two by a space
    return machine.name(module, name)


def _stack_global(machine, _):
    name, module = machine.pop(), machine.pop()
    machine.push(machine.name(module, name))


def _pop_one(machine, _):
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.pop()


def _get(machine, index):
    if index not in machine.memo:
        raise PickleError("the pickle is damaged: it recalls what it never stored")
    machine.push(machine.memo[index])


def _put(machine, index):
    index = len(machine.memo) if index is None else index
    if not 0 <= index < MAX_INDEX:
        raise PickleError("the pickle is damaged: it stores something at no proper place")
    machine.memo[index] = machine.top()


def _tuple_of(count):
    def run(machine, _):
        values = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(values)))

    return run


CONSTANTS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)
IGNORED = frozenset(["PROTO", "FRAME", "STOP"])
INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "LIST": lambda machine, _: machine.push(machine.pop_mark()),
    "FROZENSET": lambda machine, _: machine.push(machine.pop_mark()),
    "DICT": lambda machine, _: machine.push(_pairs(machine.pop_mark())),
    "SETITEM": lambda machine, _: _set_items(machine, [machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.pop_mark()),
    "APPEND": lambda machine, _: _append(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _append(machine, machine.pop_mark()),
    "ADDITEMS": lambda machine, _: _append(machine, machine.pop_mark()),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": _pop_one,
    "POP_MARK": lambda machine, _: machine.pop_mark() and None,
    "DUP": lambda machine, _: machine.push(machine.top()),
    "GET": _get,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _put,
    "GLOBAL": lambda machine, arg: machine.push(_split_name(machine, arg)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda machine, _: _call(machine),
    "NEWOBJ": lambda machine, _: _call(machine),
    "NEWOBJ_EX": lambda machine, _: _call(machine, has_keywords=True),
    "INST": _instance,
    "OBJ": _object,
    "BUILD": _build,
    "PERSID": lambda machine, arg: _refer(machine, arg),
    "BINPERSID": lambda machine, _: _refer(machine, machine.pop()),
}
