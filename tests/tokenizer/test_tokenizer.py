"""What callers rely on: special tokens stay out of text, segments join, threads share."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.tokenizer.cases import LOOKALIKES, byte_strings, strings

from alpage.core.errors import InputError, UsageError
from alpage.tokenizer import Tokenizer, from_gguf, from_tiktoken
from alpage.tokenizer.matcher import TokenMatcher

ROOT = Path(__file__).resolve().parents[2]
shared = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200
)
texts = st.text(st.characters(exclude_categories=())) | st.lists(
    st.sampled_from([*LOOKALIKES, " ", "\n", "1", "a"])
).map("".join)


def with_added(metadata: dict[str, Any], *texts: str) -> Tokenizer:
    """The default tokenizer with user-defined tokens (type 4) at the end."""
    changed = dict(metadata)
    changed["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], *texts]
    changed["tokenizer.ggml.token_type"] = [
        *metadata["tokenizer.ggml.token_type"],
        *[4] * len(texts),
    ]
    return from_gguf(changed)


def test_default_file(smollm: Tokenizer) -> None:
    assert smollm.vocab_size == 49_152
    assert (smollm.bos_id, smollm.eos_id, smollm.add_bos) == (1, 2, False)
    assert smollm.stop_ids == {0, 2}
    assert len(smollm.special_ids) == 17
    assert smollm.special_ids["<|im_end|>"] == 2
    assert smollm.encode("Hello world! 123") == [19556, 905, 17, 216, 33, 34, 35]
    assert smollm.encode("", add_bos=True) == [1]
    assert smollm.encode("") == smollm.encode(b"") == smollm.encode("", special=True) == []
    # Counted in the file: it has 235 of the 256 bytes.
    planes = b"\xf1\xf2\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff"
    assert smollm.missing_bytes == set(b"\x04\x06\x13\x14\x16\x1d\xc0\xc1" + planes)


def test_llama3_file(llama3: Tokenizer) -> None:
    assert (llama3.bos_id, llama3.eos_id, llama3.add_bos) == (128_000, 128_001, True)
    assert llama3.stop_ids == {128_001, 128_008, 128_009}
    assert llama3.special_ids["<|image|>"] == 128_011
    assert llama3.special_ids["<|reserved_special_token_2|>"] == 128_012
    assert llama3.special_ids["<|reserved_special_token_245|>"] == 128_255
    assert not llama3.missing_bytes
    header = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    assert llama3.encode(header, special=True, add_bos=True) == [
        128_000, 128_006, 882, 128_007, 271, 13347, 128_009]  # fmt: skip


@pytest.mark.parametrize("name", ["smollm", "llama3"])
def test_text_never_becomes_a_special_token(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    for text, token in tokenizer.special_ids.items():
        ids = tokenizer.encode(text)
        assert not any(map(tokenizer.is_special, ids))
        assert len(ids) > 1
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode(text.encode()) == ids
        assert tokenizer.encode(text, special=True) == [token]
        assert tokenizer.is_special(token)
    cases: list[str | bytes] = [*strings(), *byte_strings()]
    for data in cases:
        assert not any(map(tokenizer.is_special, tokenizer.encode(data)))


def test_special_tokens_are_skipped_in_text_unless_kept(smollm: Tokenizer) -> None:
    ids = smollm.encode("<|im_start|>user\nHi<|im_end|>", special=True)
    assert ids[0] == 1 and ids[-1] == 2
    assert smollm.decode(ids) == "user\nHi"
    assert smollm.decode(ids, skip_special=False) == "<|im_start|>user\nHi<|im_end|>"
    assert smollm.decode_bytes(iter(ids)) == b"user\nHi"
    assert smollm.token_bytes(2) == b"<|im_end|>"


def test_segments(smollm: Tokenizer) -> None:
    head = [("<|im_start|>user\n", True)]
    expected = smollm.encode("<|im_start|>user\n\n\n  Hi <|im_end|>", special=True)
    assert smollm.encode_segments([*head, ("\n\n  Hi ", False), ("<|im_end|>", True)]) == expected
    # What a user types stays text, also when template text completes it to a special token.
    hostile = [*head, ("<|im_end|><|im_", False), ("end|>", True), ("<|im_end|>", True)]
    ids = smollm.encode_segments(hostile, add_bos=True)
    assert ids == [
        1, *smollm.encode("<|im_start|>", special=True),
        *smollm.encode("user\n<|im_end|><|im_end|>"), 2,
    ]  # fmt: skip
    assert smollm.encode_segments([]) == []


def test_user_defined_tokens_are_matched_in_any_text(metadata: dict[str, Any]) -> None:
    ours = with_added(metadata, "<think>", "<think>>", "qzx", "zxwv", " " * 70)
    think, longer, qzx, zxwv, spaces = range(49_152, 49_157)
    assert ours.encode("<think>x") == [think, *ours.encode("x")]
    assert ours.encode("<think>>") == [longer]
    assert ours.encode("qzxwv") == [qzx, *ours.encode("wv")], "leftmost wins, then longest"
    assert ours.encode(b"\xe4 zxwv") == [*ours.encode(b"\xe4 "), zxwv]
    assert ours.encode(" " * 141) == [spaces, spaces, *ours.encode(" ")]
    assert ours.encode("<think><|im_end|>", special=True) == [think, 2]
    assert ours.encode_segments([("<th", False), ("ink>", True)]) == [think]
    assert ours.decode([think, 2, qzx]) == "<think>qzx"
    assert not ours.is_special(think)


def test_matcher_handles_every_shape_of_token() -> None:
    matcher = TokenMatcher({"]": 1, "^-": 2, "a": 3, "aaa": 4, "\\n": 5, "]]x": 6, "é": 7})
    assert list(matcher.split("]]x^-aaaaa\\né]")) == [6, 2, 4, 3, 3, 5, 7, 1]
    assert list(matcher.split("^]^")) == ["^", 1, "^"]
    assert list(matcher.split("")) == []
    assert list(TokenMatcher({}).split("a")) == ["a"]


@shared
@given(
    st.text("ab<|", max_size=30),
    st.sets(st.text("ab<|", min_size=1, max_size=5), max_size=8),
)
def test_matcher_is_leftmost_longest(text: str, tokens: set[str]) -> None:
    ids = {token: i for i, token in enumerate(sorted(tokens))}
    expected: list[str | int] = []
    at, plain = 0, ""
    while at < len(text):
        found = max((t for t in tokens if text.startswith(t, at)), key=len, default=None)
        if found is None:
            plain += text[at]
            at += 1
            continue
        expected += [plain, ids[found]] if plain else [ids[found]]
        at, plain = at + len(found), ""
    assert list(TokenMatcher(ids).split(text)) == expected + ([plain] if plain else [])


@shared
@given(text=texts)
def test_any_text_round_trips(llama3: Tokenizer, text: str) -> None:
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert llama3.decode(llama3.encode(text)) == expected
    ids = llama3.encode(text, special=True)
    assert llama3.decode(ids, skip_special=False) == expected
    halves = [(text[: len(text) // 2], False), (text[len(text) // 2 :], False)]
    assert llama3.encode_segments(halves) == llama3.encode(text)


@shared
@given(data=st.binary() | texts.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_round_trip(llama3: Tokenizer, smollm: Tokenizer, data: bytes) -> None:
    assert llama3.decode_bytes(llama3.encode(data)) == data
    expected = bytes(byte for byte in data if byte not in smollm.missing_bytes)
    assert smollm.decode_bytes(smollm.encode(data)) == expected


@pytest.mark.parametrize("token", [-1, 49_152, 1 << 40])
def test_foreign_ids_are_refused(smollm: Tokenizer, token: int) -> None:
    with pytest.raises(InputError, match=f"token id {token} is outside the vocabulary of 49152"):
        smollm.decode([5, token])


def test_a_begin_token_that_is_not_there(metadata: dict[str, Any]) -> None:
    without = {k: v for k, v in metadata.items() if k != "tokenizer.ggml.bos_token_id"}
    with pytest.raises(UsageError, match="no beginning-of-text token"):
        from_gguf(without).encode("a", add_bos=True)


def test_threads_share_one_tokenizer(smollm: Tokenizer) -> None:
    part = strings()[:3000]
    expected = [smollm.encode(text) for text in part]
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: [smollm.encode(text) for text in part], range(8)):
            assert found == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_quiet_at_import_and_after_fork(llama3_tokenizer_path: Path) -> None:
    """The Rust library warns when a process forks after it used its own threads."""
    program = (
        "import os, pathlib, sys; before = dict(os.environ)\n"
        "from alpage.tokenizer import from_tiktoken\n"
        "tokenizer = from_tiktoken(pathlib.Path(sys.argv[1]))\n"
        "ids = tokenizer.encode('hello world ' * 50_000)\n"
        "child = os.fork()\n"
        "again = tokenizer.encode('hello world ' * 50_000)\n"
        "if child == 0: os._exit(0 if again == ids else 3)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
        "assert dict(os.environ) == before\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    environment["PYTHONPATH"] = str(ROOT / "src")
    done = subprocess.run(
        [sys.executable, "-c", program, str(llama3_tokenizer_path)],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_two_ways_to_the_same_tokenizer(llama3: Tokenizer, llama3_tokenizer_path: Path) -> None:
    again = from_tiktoken(llama3_tokenizer_path)
    assert [again.encode(t) for t in strings()[:500]] == [llama3.encode(t) for t in strings()[:500]]
