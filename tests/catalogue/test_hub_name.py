"""What is a hub's name and what is not."""

import pytest

from alpage.catalogue.hub_name import HubName, hub_name, is_safe_path, require_hub_name
from alpage.core.errors import UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("org/name", HubName("org/name")),
        ("org/name@main", HubName("org/name")),
        ("Meta-Llama.3/Llama_3.2-1B", HubName("Meta-Llama.3/Llama_3.2-1B")),
        ("org/name@v1.0", HubName("org/name", "v1.0")),
        ("org/name@refs/pr/1", HubName("org/name", "refs/pr/1")),
        ("org/name:Q4_K_M", HubName("org/name", selection="Q4_K_M")),
        ("org/name:a/b c.gguf", HubName("org/name", selection="a/b c.gguf")),
        (f"org/name@{COMMIT}:x.gguf", HubName("org/name", COMMIT, "x.gguf")),
    ],
)
def test_names(text: str, name: HubName) -> None:
    assert hub_name(text) == name
    assert hub_name(name.text) == name
    assert name.pinned == (COMMIT in text)


@pytest.mark.parametrize(
    "text",
    ["name", "", "/name", "org/", "org/name/more", "./name", "../name", "org/..", ".org/name",
     "org/-name", "org/name@", "org/name:", "org/name@a:", "org/a--b", "org/a..b", "or g/name",
     "org/name\n", "org/na\0me", "org/name@../x", "org/name:../x.gguf", "org/name:/x.gguf",
     "org/name:a\\x.gguf", "org/name:a:b", "o" * 97 + "/name", "org/" + "n" * 500, "~/name"],
)  # fmt: skip
def test_what_is_no_name(text: str) -> None:
    assert hub_name(text) is None
    with pytest.raises(UsageError, match="look like ORG/NAME, ORG/NAME@REVISION"):
        require_hub_name(text)


def test_each_name_has_a_folder_of_its_own() -> None:
    texts = ["org/name", "Org/name", "org/name:Q4_0", "org/name:q4_0", "org/name@v1"]
    keys = {require_hub_name(text).key for text in texts}
    assert len({key.lower() for key in keys}) == len(texts)
    assert all(key.isascii() and not set(key) & set('/\\:*?"<>|@') for key in keys)


@pytest.mark.parametrize("path", ["a", "a/b.gguf", "a b", ".hidden", "a..b", "é"])
def test_safe_paths(path: str) -> None:
    assert is_safe_path(path)


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", "..", "a/../b", ".", "a/.", "a\\b", "C:a", "a\n", "a.", "a "]
)
def test_unsafe_paths(path: str) -> None:
    assert not is_safe_path(path)
