"""Folders in Meta's layout: a small checkpoint, and what an attacker would make of it."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.tokenizer_model_input import lines, pieces
from tests.fuzz.torch_archive import (
    M16,
    M32,
    Archive,
    Member,
    named,
    numbers,
    params,
    small_archive,
    text,
)
from tests.fuzz.values import Patch, dump, integer, mutate_json, patch, patched, word

GLOBALS = (
    "os system",
    "posix system",
    "builtins eval",
    "builtins exec",
    "__builtin__ eval",
    "builtins getattr",
    "builtins __import__",
    "subprocess Popen",
    "subprocess check_output",
    "nt system",
    "shutil rmtree",
    "pathlib Path.write_text",
    "sys exit",
    "importlib import_module",
    "torch load",
    "torch.hub load",
    "torch.serialization load",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils nothing",
    "torch FloatStorage",
    "torch HalfStorage",
    "torch LongStorage",
    "torch QInt8Storage",
    "torch.storage _load_from_bytes",
    "torch.storage UntypedStorage",
    "collections OrderedDict",
    "collections defaultdict",
    "collections OrderedDict.fromkeys",
    "numpy.core.multiarray _reconstruct",
    "functools partial",
    "operator attrgetter",
    "tests.fuzz.torch_input trip",
    "torch bfloat16",
    "",
    "a",
    "\u202e x",
    "../x y",
    "torch._utils _rebuild_tensor_v2.__globals__",
)


def trip(*_: Any) -> None:
    """What no checkpoint may call: the audit hook sees the file that it writes."""
    Path("tripped").write_text("a pickle ran code")


@dataclass
class TorchInput:
    """A folder in Meta's layout."""

    archives: dict[str, Archive]
    params: Any
    tokenizer: bytes
    patches: list[Patch] = field(default_factory=list)

    def mutate(self, dice: Random) -> None:
        names, weights = zip(*MUTATORS, strict=True)
        (mutator,) = dice.choices(names, weights)
        mutator(self, dice)

    def write(self, folder: Path) -> Path:
        for at, (name, archive) in enumerate(sorted(self.archives.items())):
            data = archive.to_bytes()
            (folder / name).write_bytes(patched(data, self.patches) if at == 0 else data)
        (folder / "params.json").write_bytes(dump(self.params).encode("utf-8", "surrogatepass"))
        (folder / "tokenizer.model").write_bytes(self.tokenizer)
        return folder


def small_checkpoint(dice: Random) -> TorchInput:
    """A valid folder, of one or two shards."""
    shards = dice.choice((1, 1, 2))
    archives = {f"consolidated.{at:02}.pth": small_archive(shards, at) for at in range(shards)}
    return TorchInput(archives, params(), b"\n".join(lines(pieces(Random(1)))) + b"\n")


def any_archive(made: TorchInput, dice: Random) -> Archive:
    return made.archives[dice.choice(sorted(made.archives))]


def _laughs(count: int) -> bytes:
    """A tuple of two of the same, again and again: small, but its text would fill the memory."""
    return b")q\xf0" + b"h\xf0h\xf0\x86q\xf0" * count


_ODD = (
    b"\x82\1", b"\x83\1\0", b"\x84\1\0\0\0", b"P1\n", b"Q", b"r\xff\xff\xff\xff",
    b"r\xff\xff\xff\x7f", b"p" + b"9" * 30 + b"\n", b"j\xff\xff\xff\xff", b"h\xff",
    b"\x8b\xff\xff\xff\xff", b"\x8b\0\0\0\x40", b"\x8a\xff" + b"\xff" * 255,
    b"\x8a\x08" + b"\xff" * 8, b"I" + b"9" * 5000 + b"\n", b"L" + b"9" * 5000 + b"L\n",
    b"F1e999\n", b"G\x7f\xf0\0\0\0\0\0\0", b"X\xff\xff\xff\xff", b"X\xff\xff\xff\x7fabc",
    b"\x8d" + b"\xff" * 8, b"B\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 8, b"T\xff\xff\xff\xff",
    b"V\\ud800\n", b"X\2\0\0\0\xff\xfe", b"\x95" + b"\xff" * 8, b"\x80\xff", b"0", b"0" * 50,
    b"1", b"t", b"l", b"d", b"a", b"e", b"s", b"u", b"R", b"b", b"(((((ttttt", b"}}Ns",
    b"}" + numbers((1, 2)) + b"Ns", b"\x8f(K\1\x90", b"\x91", b".", b"",
    text("tok_embeddings.weight") + b"N", text("a" * 300) + b"K\1", text("\x1b[31m") + b"}",
    named("collections OrderedDict") + b")R" + text("a") + b"b",
)  # fmt: skip


def hostile_opcodes(dice: Random) -> bytes:
    """What a checkpoint has no business to hold."""
    makers = (_call, _deep, _laughing, lambda dice: dice.choice(_ODD))
    return dice.choices(makers, (2, 1, 1, 3))[0](dice)


def _call(dice: Random) -> bytes:
    """A function that is called, in one of the ways that pickles have for it."""
    target = dice.choice(GLOBALS)
    module, _, name = target.partition(" ")
    argument = text("touch tripped")
    by_stack = text(module) + text(name) + b"\x93"
    return dice.choice(
        (
            named(target) + b"(" + argument + b"tR0",
            by_stack + b"(" + argument + b"tR0",
            by_stack + b"(" + argument + b"t\x81",
            by_stack + b"(" + argument + b"t}b0",
            b"(" + named(target) + argument + b"o",
            b"(" + argument + b"i" + target.replace(" ", "\n").encode() + b"\n",
            named(target),
        )
    )


def _deep(dice: Random) -> bytes:
    """Very much of one thing, or one in the other."""
    count = dice.choice((3, 60, 1000, 1000, 20_000))
    start, more = dice.choice(
        ((b"", b"("), (b"", b"]"), (b"", b"}"), (b")", b"\x85"), (b"", b"N"), (b"", b"\x94"),
         (b"N", b"2"), (b"]" * count, b"a"))
    )  # fmt: skip
    return start + more * count


def _laughing(dice: Random) -> bytes:
    """A value that would be endless as text or when it is compared, where one is wanted."""
    laughs = _laughs(dice.choice((2, 30, 64)))
    return dice.choice(
        (laughs + text("x") + b"\x93", laughs + b"Q", text("x") + laughs + b"\x93", laughs + b")R",
         laughs + b"s", laughs + b"}b", laughs + b"R")
    )  # fmt: skip


def _opcodes(made: TorchInput, dice: Random) -> None:
    archive = any_archive(made, dice)
    if dice.random() < 0.25:
        archive.dropped.append(dice.random())
    else:
        archive.opcodes.append((dice.random(), hostile_opcodes(dice)))


def _value(made: TorchInput, dice: Random) -> None:
    """An entry that is no tensor."""
    archive = any_archive(made, dice)
    tensor = dice.choice(archive.tensors)
    tensor.raw = dice.choice(
        (b"N", b"K\1", b"}", b"]", b")", text(word(dice)), hostile_opcodes(dice))
    )


def _tensor(made: TorchInput, dice: Random) -> None:
    archive = any_archive(made, dice)
    at = dice.randrange(len(archive.tensors))
    old = archive.tensors[at]
    what = dice.randrange(11)
    big = integer(dice)
    if what == 0:
        old.size = dice.choice(
            ((), (0,), (big,), (32, big), (1,) * 9, old.size[::-1], (-1, 32), (1, 1))
        )
    elif what == 1:
        old.stride = dice.choice(
            ((), (0, 0), (1,), (1, 32), (big, 1), (32, 0), (-32, 1), (32, 1, 1), (33, 1))
        )
    elif what == 2:
        old.offset = dice.choice((1, -1, big, -big, old.count))
    elif what == 3:
        old.count = dice.choice((0, 1, -1, big, old.count * 2, old.count // 2))
    elif what == 4:
        old.storage = dice.choice(
            (
                "torch FloatStorage",
                "torch HalfStorage",
                "torch BFloat16Storage",
                "torch CharStorage",
                *GLOBALS,
            )
        )
    elif what == 5:
        old.rebuild = dice.choice(GLOBALS)
    elif what == 6:
        old.key = dice.choice(
            ("0", "99", "../0", "-1", "\u0661", "0/../1", "", word(dice), "1" * 400)
        )
    elif what == 7:
        other = dice.choice(archive.tensors)
        old.name = dice.choice((other.name, "rope.freqs", "layers.1.ffn_norm.weight", word(dice)))
    elif what == 8:
        del archive.tensors[at]
        archive.tensors = archive.tensors or [old]
    elif what == 9:
        old.device = dice.choice(("cuda:0", "meta", word(dice)))
    else:
        archive.tensors.insert(dice.randrange(len(archive.tensors)), replace(old))


def _storage(made: TorchInput, dice: Random) -> None:
    archive = any_archive(made, dice)
    if not archive.storages:
        return
    key = dice.choice(sorted(archive.storages))
    data = archive.storages[key]
    what = dice.randrange(4)
    if what == 0:
        del archive.storages[key]
    elif what == 1:
        archive.storages[key] = data[: dice.randrange(len(data) + 1)]
    elif what == 2:
        archive.storages[key] = dice.randbytes(len(data))
    else:
        at = dice.randrange(len(data) // 2 + 1) * 2
        odd = dice.choice((b"\x80\x7f", b"\xc0\x7f", b"\x80\xff", b"\x7f\x7f"))
        archive.storages[key] = data[:at] + odd + data[at + 2 :]


BOMBS = bytes(1 << 18), bytes(1 << 22)


def _change_member(members: list[Member], dice: Random) -> None:
    at = dice.randrange(len(members))
    member = members[at]
    big = dice.choice((0, 1, M16, M32, M32 - 1, 1 << 31, len(member.data) * 1000))
    what = dice.randrange(13)
    if what == 0:
        member.method = dice.choice((8, 8, 12, 14, 93, 99, 1))
    elif what == 1:
        member.flags = dice.choice((1, 8, 0x40, 0x800, 0x2000, 0xFFFF))
    elif what == 2:
        member.crc = big
    elif what == 3:
        member.size = big
    elif what == 4:
        member.packed = big
    elif what == 5:
        member.offset = dice.choice((0, 1, big, 64))
    elif what == 6:  # zip64: sizes in the extra field
        values = [dice.choice((0, 64, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)) for _ in range(4)]
        body = struct.pack("<QQQI", *values[:3], values[3] & M32)[: dice.choice((0, 8, 16, 24, 28))]
        member.extra = struct.pack("<HH", 1, dice.choice((len(body), 99))) + body
        member.size, member.packed, member.offset = dice.choice(
            ((M32, M32, M32), (M32, None, None))
        )
    elif what == 7:
        member.name = dice.choice(
            (
                b"../../evil",
                b"/etc/passwd",
                b"consolidated/../data.pkl",
                b"",
                b"x/data.pkl",
                b"\xff\xfe",
                b"a" * 65535,
                b"C:\\x",
                b"a\0b",
                b"consolidated/data/0",
                b"consolidated/data/",
            )
        )
    elif what == 8:
        member.local_name = dice.choice((b"", b"other", b"a" * 5000))
    elif what == 9:
        members.insert(dice.randrange(len(members) + 1), replace(member))
    elif what == 10:
        member.hidden = True
    elif what == 11:
        del members[at]
    else:  # a bomb: what is stored is small, what it unpacks to is not
        bomb = BOMBS[dice.randrange(2)]
        members[at] = Member(member.name, bomb, method=8)


def _archive(made: TorchInput, dice: Random) -> None:
    archive = any_archive(made, dice)
    what = dice.randrange(8)
    if what == 0:
        key = dice.choice(("disk", "count", "size", "offset"))
        archive.lies[key] = dice.choice((0, 1, 2, M16, M32, 1 << 20))
    elif what == 1:
        archive.comment = dice.choice(
            (b"x" * M16, b"PK\5\6" + bytes(18), b"PK\6\7" + bytes(16), b"PK\5\6")
        )
    elif what == 2:
        archive.root = dice.choice(
            ("archive", "", "a/b", "..", "consolidated\0", "\u00e9", "x" * 300)
        )
    elif what == 3:
        name = dice.choice(
            (
                "consolidated.01.pth",
                "consolidated.00.pth",
                "consolidated.7.pth",
                "consolidated.x.pth",
                "consolidated.99999999999.pth",
            )
        )
        made.archives[name] = archive
    else:
        archive.changes.append((_change_member, dice.getrandbits(32)))


def _params(made: TorchInput, dice: Random) -> None:
    mutate_json(dice, made.params)


def _bytes(made: TorchInput, dice: Random) -> None:
    made.patches.append(patch(dice))


MUTATORS: tuple[tuple[Callable[[TorchInput, Random], None], float], ...] = (
    (_opcodes, 4),
    (_value, 1),
    (_tensor, 3),
    (_storage, 1),
    (_archive, 4),
    (_params, 2),
    (_bytes, 1),
)
