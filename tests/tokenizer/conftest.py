"""The two real tokenizers and tiktoken's Llama 3, built once."""

from pathlib import Path
from typing import Any

import pytest
import tiktoken
from tests.tokenizer.cases import llama3_judge, smollm2_metadata

from alpage.tokenizer import Tokenizer, from_gguf, from_tiktoken


@pytest.fixture(scope="session")
def metadata(smollm2_path: Path) -> dict[str, Any]:
    return smollm2_metadata(smollm2_path)


@pytest.fixture(scope="session")
def smollm(metadata: dict[str, Any]) -> Tokenizer:
    return from_gguf(metadata)


@pytest.fixture(scope="session")
def llama3(llama3_tokenizer_path: Path) -> Tokenizer:
    return from_tiktoken(llama3_tokenizer_path)


@pytest.fixture(scope="session")
def judge(llama3_tokenizer_path: Path) -> tiktoken.Encoding:
    return llama3_judge(llama3_tokenizer_path)
