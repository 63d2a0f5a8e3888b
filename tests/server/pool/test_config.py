"""Configurations: the documented one is read, every key is documented, mistakes are named."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest

from alpage.cli.serve import completed
from alpage.core.errors import UsageError
from alpage.core.settings import Settings, secret_from_environment
from alpage.server.accounts.caller import ANYONE
from alpage.server.config import (
    AdapterConfig,
    Config,
    ModelConfig,
    ServerConfig,
    UpstreamConfig,
    keep_of,
    seconds_of,
    size_of,
)
from alpage.server.stock import LocalModels, pool_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "serve-config.md"


def sample() -> str:
    found = re.search(r"```toml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_documented_configuration(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(sample(), "utf-8")
    config = Config.read(file)
    assert config.server == ServerConfig(
        origins=("https://app.example",), memory=8_000_000_000, timeout=600.0
    )
    small, large = config.models
    assert (small.model, small.pin, small.preload) == ("smollm2", True, None)
    assert small.keep_alive is not None and math.isnan(small.keep_alive)
    assert large.model == str(tmp_path / "models/Llama-3.1-8B-Instruct-Q4_K_M.gguf")
    assert (large.context, large.kv_type, large.keep_alive) == (16384, "int8", 300)
    assert config.adapters == (
        AdapterConfig(name="legal", folder=tmp_path / "adapters/legal", base="large"),
    )
    (huge,) = config.upstreams
    assert huge.urls == ("https://one.example/v1", "https://two.example/v1")
    assert (huge.key_file, huge.extensions) == (
        tmp_path / "secrets/huge.key",
        ("top_k", "min_p"),
    )
    assert config.names == ["small", "large", "legal", "huge"]


@pytest.mark.parametrize("kind", [ServerConfig, ModelConfig, AdapterConfig, UpstreamConfig])
def test_every_key_is_documented(kind: Any) -> None:
    text = PAGE.read_text("utf-8")
    for field in dataclasses.fields(kind):
        assert re.search(rf"^\|.*`{field.name}`.*\|.*\|.*\|$", text, re.MULTILINE), field.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sever = 1", "there is no key 'sever'; did you mean server?"),
        ("[server]\nprot = 1", "no key 'prot' in [server]; did you mean port?"),
        ("[server]\nxyz = 1", "no key 'xyz' in [server]; known are: host, port"),
        ("[server]\nport = 'x'", "[server]: port is a whole number, not 'x'"),
        ("[server]\nport = true", "[server]: port is a whole number, not True"),
        ("[server]\nany = 1", "[server]: any is true or false, not 1"),
        ("[server]\nhost = 1", "[server]: host is a text, not 1"),
        ("[server]\norigins = 'x'", "[server]: origins is a list of texts"),
        ("[server]\norigins = [1]", "[server]: origins is a list of texts"),
        ("[server]\ntls_key = 1", "[server]: tls_key is a path, not 1"),
        ("[server]\npolicy = 'magic'", "policy is one of 'first-come', 'priority', 'fair', not"),
        ("[server]\nmemory = '8 sheep'", "memory: a size is written as 8GB"),
        ("[server]\ngrace = -1", "grace: a time is written as 30s"),
        ("[server]\ntimeout = 0", "[server]: timeout must be above 0 seconds"),
        ("server = 1", "[server] is no table"),
        ("[model]\nmodel = 'x'", "model is written as [[model]], once for each"),
        ("[[model]]\nname = 'x'", "[[model]] number 1 needs model"),
        ("[[model]]\nmodel = 'x'\n[[model]]\nmodell = 'y'", "[[model]] number 2; did you mean"),
        ("[[model]]\nmodel = 'x'\nkv_type = 'fp8'", "kv_type is one of 'bf16', 'int8'"),
        ("[[upstream]]\nname = 'x'", "[[upstream]] number 1 needs urls"),
        ("[[upstream]]\nname = 'x'\nurls = []\nkey_file = 'a'\nkey_variable = 'b'",
         "x: give key_file or key_variable, not both"),
        ("[[upstream]]\nname = 'x'\nurls = []\nkey = 'sk-secret'", "no key 'key' in [[upstream]]"),
        ("[[[", "cannot read the configuration"),
        ("\ufffe", "cannot read the configuration"),
        ("#" * (1 << 20) + "#", "larger than 1 MiB"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=re.escape(message)) as told:
        Config.read(file)
    assert "sk-secret" not in str(told.value)


def test_sizes_and_times() -> None:
    sizes = [size_of(text) for text in (5, "5", "8GB", "8 gb", "1.5GiB", "2K", "3MB")]
    assert sizes == [5, 5, 8 * 10**9, 8 * 10**9, 3 << 29, 2000, 3_000_000]
    times = [seconds_of(text) for text in (0, 1.5, "2", "30s", "10m", "1.5h", "1d", "250ms")]
    assert times == [0, 1.5, 2, 30, 600, 5400, 86_400, 0.25]
    assert keep_of("forever") is None and keep_of("0") == 0
    for wrong in (0, -1, "", "GB", "1e9", "-5", True, None, 1.5):
        with pytest.raises(UsageError, match="a size is written as"):
            size_of(wrong)
    for wrong in (-1, "", "m", "1y", "-5s", True, None, math.inf, math.nan):
        with pytest.raises(UsageError, match="a time is written as"):
            seconds_of(wrong)


def test_options_win(tmp_path: Path) -> None:
    told = Config(
        server=ServerConfig(port=1, keep_alive=60.0, queue=7),
        models=(ModelConfig(model="smollm2", name="a", context=100),),
        upstreams=(UpstreamConfig(name="far", urls=("http://x/v1",)),),
    )
    same = completed(told, [], [], {"port": None}, {"context": None})
    assert same == told
    found = completed(told, [], ["legal=b@c/d@a"], {"port": 2, "keep_alive": None}, {"context": 50})
    assert (found.server.port, found.server.keep_alive, found.server.queue) == (2, None, 7)
    assert found.models == (ModelConfig(model="smollm2", name="a", context=50),)
    assert found.adapters == (AdapterConfig(name="legal", folder=Path("b@c/d"), base="a"),)
    other = completed(told, ["x/y.gguf"], [], {}, {})
    assert [model.name for model in other.models] == ["y"]
    assert completed(Config(), [], [], {}, {}).names == ["smollm2"]
    assert completed(Config(upstreams=told.upstreams), [], [], {}, {}).names == ["far"]


def test_a_pool_of_a_configuration(
    smollm2_path: Path, alpage_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_KEY", "sk-1")
    (tmp_path / "key").write_text("sk-2\n")
    path = str(smollm2_path)
    config = Config(
        server=ServerConfig(memory=2 * 10**9, any=True),
        models=(ModelConfig(model=path, name="first"), ModelConfig(model=path, name="second")),
        upstreams=(
            UpstreamConfig(name="far", urls=("http://x/v1",), key_variable="FAR_KEY"),
            UpstreamConfig(name="farther", urls=("http://y/v1",), key_file=tmp_path / "key"),
        ),
    )
    pool = pool_of(config, {path: smollm2_path}, alpage_home, Settings(home=alpage_home))
    cards = {card.name: card for card in pool.cards(ANYONE)}
    assert {"far", "farther", "first", "second", "smollm2"} <= set(cards)
    assert (cards["second"].context, cards["second"].licence) == (8192, "apache-2.0")
    assert (cards["smollm2"].context, cards["smollm2"].loaded) == (8192, False)
    assert pool.card("smollm2", ANYONE) == cards["smollm2"]
    keys = [model.fleet.options.key for model in pool if hasattr(model, "fleet")]
    assert keys == ["sk-1", "sk-2"]
    pool.preload()
    assert pool.card("first", ANYONE).loaded and not pool.card("second", ANYONE).loaded
    assert 96_000_000 < pool.bytes_of("first") < 2 * 10**9
    pool.close()


def test_models_of_this_machine_by_name_alone(
    smollm2_path: Path, alpage_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(smollm2_path.parent)
    here = LocalModels(ServerConfig(), alpage_home, Settings(home=alpage_home))
    offer = here.find("smollm2")
    assert offer is not None
    assert (offer.card.name, offer.card.licence, offer.preload) == (
        "smollm2", "Apache-2.0", False,
    )  # fmt: skip
    planned = offer.plan(10**9)
    assert smollm2_path.stat().st_size < planned.bytes <= 10**9
    # Files are no names, and nothing is downloaded.
    for name in (smollm2_path.name, str(smollm2_path), "./x", "no/such", "ollama:none", "", "\0"):
        assert here.find(name) is None
    assert not [card for card in here.cards() if card.name.endswith(".gguf")]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"upstreams": (UpstreamConfig(name="a", urls=("http://x",)),) * 2}, "both be called 'a'"),
        ({"upstreams": (UpstreamConfig(name="a\n", urls=("http://x",)),)}, "printable characters"),
        ({"upstreams": (UpstreamConfig(name="a", urls=("ftp://x",)),)}, "an upstream's url is"),
        ({"upstreams": (UpstreamConfig(name="a", urls=("http://x",), attempts=0),)}, "at least 1"),
        ({"upstreams": (UpstreamConfig(name="a", urls=("http://x",), idle=0),)}, "above 0 seconds"),
        (
            {"upstreams": (UpstreamConfig(name="a", urls=("http://x",), key_variable="NONE"),)},
            "environment variable 'NONE' should hold a secret",
        ),
        (
            {"upstreams": (UpstreamConfig(name="a", urls=("http://x",), key_file=Path("/none")),)},
            "cannot read the key of a",
        ),
        (
            {"upstreams": (UpstreamConfig(name="a", urls=("http://x",), extensions=("top",)),)},
            "no extension 'top'",
        ),
        ({"adapters": (AdapterConfig(name="a", folder=Path()),)}, "the adapter a needs a base"),
    ],
)
def test_what_cannot_be_offered(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        pool_of(Config(**config), {}, tmp_path, Settings(home=tmp_path))


def test_secrets_of_the_environment() -> None:
    assert secret_from_environment("A", {"A": " x "}) == "x"
    for environment in ({}, {"A": " "}):
        with pytest.raises(UsageError, match="'A' should hold a secret"):
            secret_from_environment("A", environment)
    with pytest.raises(UsageError, match="may not begin with ALPAGE_"):
        secret_from_environment("ALPAGE_HOME", {"ALPAGE_HOME": "x"})
