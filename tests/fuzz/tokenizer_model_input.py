"""tokenizer.model files: Llama 3's ranks in tiktoken's form, and what can be wrong with them.

A real one has 128,000 ranks. The reader's number is lowered to `RANKS` while it is fuzzed, so that
an input takes milliseconds; nothing else in the reader changes.
"""

import base64
from random import Random

from tests.fuzz.folder_input import TENSORS, FolderInput, config, shard, tokenizer_config
from tests.fuzz.values import integer, patch, word

RANKS = 300
ROWS = RANKS + 256


def pieces(dice: Random) -> list[bytes]:
    """All bytes, then words made of two earlier ones."""
    found = [bytes([byte]) for byte in range(256)]
    known = set(found)
    while len(found) < RANKS:
        new = dice.choice(found[97:123] + found[256:]) + dice.choice(found[97:123] + found[256:])
        if new not in known:
            known.add(new)
            found.append(new)
    return found


def lines(words: list[bytes]) -> list[bytes]:
    """The file's lines."""
    return [base64.b64encode(text) + b" %d" % rank for rank, text in enumerate(words)]


def tiktoken_folder(dice: Random) -> FolderInput:
    """A valid folder whose tokenizer is a tokenizer.model."""
    settings = {**config(), "vocab_size": ROWS, "bos_token_id": 300, "eos_token_id": 301}
    own = tokenizer_config()
    own["bos_token"] = own["eos_token"] = None
    made = FolderInput(
        TIKTOKEN,
        {"config.json": settings, "tokenizer_config.json": own},
        {"model.safetensors": shard([*TENSORS], "BF16", ROWS)},
    )
    made.texts["tokenizer.model"] = b"\n".join(lines(pieces(dice))) + b"\n"
    return made


def _change_line(made: FolderInput, dice: Random) -> None:
    all_lines = made.texts["tokenizer.model"].split(b"\n")
    at = dice.randrange(len(all_lines))
    what = dice.randrange(8)
    if what == 0:
        del all_lines[at]
    elif what == 1:
        all_lines.insert(at, all_lines[dice.randrange(len(all_lines))])
    elif what == 2:
        all_lines[at] = all_lines[at].split(b" ")[0] + b" " + str(integer(dice)).encode()
    elif what == 3:
        raw = dice.randbytes(dice.choice((0, 1, 2, 3, 30, 1023, 1024, 1025)))
        all_lines[at] = base64.b64encode(raw) + b" %d" % at
    elif what == 4:
        all_lines[at] = word(dice).encode("utf-8", "surrogatepass") + b" %d" % at
    elif what == 5:
        all_lines[at] += dice.choice((b" 1", b"\r", b"\0", b"=", b" \xc2\xb2", b" " * 5000))
    elif what == 6:
        all_lines[at] = dice.choice((b"", b" ", b"=", b"==== 1", b"A 1", b"QQ 1", b"\xff 1"))
    else:
        all_lines[at:] = [b"a" * dice.choice((10, 100_000))]
    made.texts["tokenizer.model"] = b"\n".join(all_lines)


def _change_pieces(made: FolderInput, dice: Random) -> None:
    """Still ranks in order, of other words: every merge that can be recovered."""
    words = pieces(dice)
    letter = dice.choice((b"a", b" ", b"\xe4\xb8\xad", b"\xff"))
    for rank in range(256, RANKS):
        words[rank] = letter * (rank - 254) if dice.random() < 0.9 else dice.randbytes(4)
    made.texts["tokenizer.model"] = b"\n".join(lines(words))


def _change_bytes(made: FolderInput, dice: Random) -> None:
    made.patches.setdefault("tokenizer.model", []).append(patch(dice))


TIKTOKEN = ((_change_line, 3.0), (_change_pieces, 1.0), (_change_bytes, 2.0))
