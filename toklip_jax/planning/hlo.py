"""Finds the collectives and memory traffic of a compiled program in XLA's text of it.

XLA's own cost analysis takes a loop's body once; here a loop counts times its trip count.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

from toklip_jax.core.errors import UserError

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "iota")
FREE += ("conditional", "after-all", "partition-id", "copy-done", "custom-call")
SLICES = ("dynamic-slice", "slice", "gather", "dynamic-update-slice")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
        kind: one of `KINDS`.
        size: bytes on one device of the result of a gather, or of the input of a reduction.
        group: devices that take part.
        times: how often a step runs it.
        where: the operation it serves, as JAX names it.
    """

    kind: str
    size: int
    group: int
    times: int
    where: str

    @property
    def sent(self) -> float:
        """Bytes a device sends over its links a step, by the best algorithms for a ring."""
        if self.kind == "collective-permute":
            return float(self.times * self.size)
        passes = 2 if self.kind == "all-reduce" else 1
        return self.times * self.size * passes * (self.group - 1) / max(self.group, 1)


def find_collectives(text: str) -> list[Collective]:
    """Returns the collectives of an HLO module's text (`jax.stages.Compiled.as_text`).

    On TPUs a collective may be a chain over the fusions it overlaps with, and is counted once; a
    reduce-scatter is an all-reduce inside a computation named for it.
    """
    module = _parse(text)
    times = _times(module)
    found, chains = [], set()
    for name, instructions in module.items():
        for i in instructions if times[name] else ():
            kind = i.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            if chain := re.search(r'chain_id="\d+"', i.rest):
                if chain[0] in chains:
                    continue
                chains.add(chain[0])
            if "all-reduce-scatter" in name:
                kind = "reduce-scatter"
            found.append(_collective(kind, i, module[name], times[name]))
    return found


def memory_traffic(text: str) -> int:
    """Returns the bytes that a step reads from and writes to memory on a device, estimated.

    Every operation's operands and results, fusions as one; a slice of a stacked array, read or
    updated in place, counts as the slice. Buffers that the compiler keeps on the chip are left out.
    """
    module = _parse(text)
    times, fused = _times(module), _fused(module)
    total = 0
    for name, instructions in module.items():
        if name in fused or not times[name]:
            continue
        shapes = {i.name: i.shape for i in instructions}
        for i in instructions:
            if i.opcode not in FREE and not i.opcode.endswith("-done"):
                total += times[name] * _moved(i, shapes, module)
    return total


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool


def _collective(kind, instruction, siblings, times):
    shapes = {i.name: i.shape for i in siblings}
    given = sum(_bytes(shapes.get(name, "")) for name in instruction.operands)
    got = _bytes(instruction.shape)
    if instruction.opcode.endswith("-start"):  # its result holds the operands too
        got = max(got - given, 0) if kind == "all-gather" else given
    size = got if kind == "all-gather" else (given or got)
    where = re.search(r'op_name="([^"]*)"', instruction.rest)
    return Collective(kind, size, _group(instruction.rest), times, where[1] if where else "")


def _group(rest: str) -> int:
    """Devices in one of the replica groups, in each of the forms they are printed in."""
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return found[1].count(",") + 1
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    return 1


def _moved(instruction: _Instruction, shapes: dict[str, str], module) -> int:
    given = [_bytes(shapes.get(name, ""), in_memory=True) for name in instruction.operands]
    got = _bytes(instruction.shape, in_memory=True)
    if instruction.opcode in ("dynamic-slice", "slice", "gather", "broadcast"):
        return 2 * got
    if instruction.opcode == "dynamic-update-slice":
        return 2 * given[1]
    if instruction.opcode.endswith("-start"):  # its result holds the operands, or a slice of them
        return 2 * min(sum(given), max(_bytes(instruction.shape) - sum(given), 0) or sum(given))
    called = _CALLED.search(instruction.rest)
    if instruction.opcode != "fusion" or not called:
        return sum(given) + got
    body = module.get(called[1], [])
    for number, name in _parameters(body).items():
        if number < len(given):
            given[number] = min(given[number], _read(name, body, module))
    updates = [i for i in body if i.opcode == "dynamic-update-slice"]
    if updates and any(i.is_root for i in updates):
        got = min(got, sum(_slice(i, body) for i in updates))
    return sum(given) + got


def _read(name, body, module) -> int | float:
    """Bytes of `name` that a fusion reads: slices, where all its uses are slices."""
    total = 0
    for user in (i for i in body if name in i.operands):
        called = _CALLED.search(user.rest)
        if user.opcode in SLICES and user.operands[0] == name:
            total += _slice(user, body)
        elif user.opcode == "bitcast":
            total += _read(user.name, body, module)
        elif user.opcode == "fusion" and called:
            inner = module.get(called[1], [])
            names = _parameters(inner)
            places = [n for n, operand in enumerate(user.operands) if operand == name]
            total += sum(_read(names[n], inner, module) for n in places)
        else:
            return math.inf
    return total


def _parameters(body) -> dict[int, str]:
    numbers = {i.name: re.match(r"parameter\((\d+)\)", i.rest) for i in body}
    return {int(number[1]): name for name, number in numbers.items() if number}


def _slice(instruction, body):
    if instruction.opcode != "dynamic-update-slice":
        return _bytes(instruction.shape)
    return next((_bytes(i.shape) for i in body if i.name == instruction.operands[1]), 0)


def _bytes(shape: str, in_memory: bool = False) -> int:
    """Bytes of a shape or a tuple; `in_memory` leaves out what is in other memory spaces."""
    total = 0
    for dtype, dims, layout in _SHAPE.findall(shape):
        if in_memory and re.search(r"S\([1-9]\)", layout):
            continue
        digits = re.search(r"\d+", dtype)
        bits = BITS.get(dtype, int(digits[0]) if digits else 0)
        total += math.prod(int(n) for n in dims.split(",") if n) * bits // 8
    return total


def _parse(text: str) -> dict[str, list[_Instruction]]:
    """Computations by name, the entry's last; their instructions."""
    module, entry, current = {}, None, None
    for line in text.splitlines():
        if line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.\-]+) \(", line)):
            current = module.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (instruction := _instruction(line)):
            current.append(instruction)
    if entry is None:
        raise UserError("expected the text of an HLO module with an entry, found none")
    module[entry] = module.pop(entry)
    return module


def _instruction(line: str) -> _Instruction | None:
    found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not found:
        return None
    rest = line[found.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].strip()
    opcode = rest.split("(", 1)[0]
    inside = rest[len(opcode) : len(opcode) + _closing(rest[len(opcode) :])]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return _Instruction(found[2], shape, opcode, operands, rest, bool(found[1]))


def _closing(text: str) -> int:
    """Index of the parenthesis that closes the first one."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return index
    return len(text)


def _calls(module, name) -> Iterator[tuple[str, int]]:
    """The computations that `name` runs, and how often."""
    for i in module[name]:
        count = _trips(i, module) if i.opcode == "while" else 1
        for called in _CALLED.findall(i.rest):
            yield called, count
        for branches in _BRANCHES.findall(i.rest):
            for called in re.findall(r"%?([\w.\-]+)", branches):
                yield called, 1


def _times(module) -> dict[str, int]:
    """Returns how often a step runs each computation."""
    times = collections.Counter()
    pending = [(next(reversed(module)), 1)]
    while pending:
        name, count = pending.pop()
        times[name] += count
        pending += [(n, count * c) for n, c in _calls(module, name) if n in module]
    return times


def _trips(loop: _Instruction, module) -> int:
    """A loop's trip count: as the compiler noted it, or the constant that its condition has."""
    if found := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(found[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)[1]
    bounds = [re.match(r"constant\((\d+)\)", i.rest) for i in module.get(condition, ())]
    return max((int(bound[1]) for bound in bounds if bound), default=1)


def _fused(module) -> set[str]:
    """Computations inside fusions and reductions: they touch no memory themselves."""
    names = set()
    for instructions in module.values():
        for i in instructions:
            if i.opcode not in ("while", "call", "conditional"):
                names |= set(_CALLED.findall(i.rest))
    return names
