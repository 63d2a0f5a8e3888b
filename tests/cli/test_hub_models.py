"""Models of a hub and of Ollama, from pull to rm, as programs against a hub on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.catalogue import hub_models
from tests.catalogue.hub_server import HubServer, hub_server
from tests.catalogue.ollama_store import OllamaStore
from tests.cli.conftest import Alpage, Done
from tests.cli.speaker import speaker
from tests.cli.terminal import CTRL_C, terminal

from alpage.cli.serve import names_of

TALKER = speaker().to_bytes()


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server() as server:
        card = hub_models.CARD.encode()
        files = {"README.md": card, "talker-Q8_0.gguf": TALKER, "talker-Q4_K_M.gguf": TALKER}
        server.repo("org/talker-GGUF", files)
        server.repo("org/tiny", hub_models.folder())
        server.repo("org/other", hub_models.folder(model_type="qwen2"))
        yield server


@pytest.fixture
def online(server: HubServer, tmp_path: Path, alpage: Alpage) -> Alpage:
    """`alpage` with that hub, and a login file of its own."""

    def run(*arguments: str, **more: str) -> Done:
        return alpage(*arguments, **(server.environment(tmp_path / "hf") | more))

    return run


def test_from_pull_to_rm(online: Alpage, home: Path) -> None:
    pulled = online("pull", "org/talker-GGUF")
    assert pulled.returncode == 0, pulled.stderr
    path = Path(pulled.stdout.strip())
    assert path.name == "talker-Q4_K_M.gguf" and path.read_bytes() == TALKER
    for words in ("Downloading org/talker-GGUF", "talker-Q4_K_M.gguf", "licence cc0-1.0", "MB",
                  "commit", str(home), "every checksum is right", "(100 %)"):  # fmt: skip
        assert words in pulled.stderr
    assert "\x1b" not in pulled.stderr
    again = online("pull", "org/talker-GGUF", "--offline")
    assert again.stdout == pulled.stdout
    assert "is on this machine at commit" in again.stderr
    (line,) = [line for line in _listed(online) if line["kind"] == "hub"]
    assert (line["name"], line["state"], line["used"]) == ("org/talker-GGUF", "installed", None)
    assert online("run", "org/talker-GGUF", "Hello").stdout == "Hi.\n"
    assert online("run", "org/talker-GGUF:Q4_K_M", "Hello").returncode == 1
    (line,) = [line for line in _listed(online) if line["kind"] == "hub"]
    assert str(line["used"]) > "2026"
    shown = online("show", "org/talker-GGUF").stdout
    for words in ("cc0-1.0", "commit", "/org/talker-GGUF", "last used", str(path)):
        assert words in shown
    assert json.loads(online("show", "org/talker-GGUF", "--json").stdout)["format"] == "gguf"
    removed = online("rm", "org/talker-GGUF", "--json")
    assert json.loads(removed.stdout)["freed_bytes"] > len(TALKER)
    assert not path.exists()
    assert online("rm", "org/talker-GGUF").returncode == 1
    missing = online("run", "org/talker-GGUF", "Hello")
    assert missing.returncode == 1
    assert "alpage pull org/talker-GGUF downloads it from the hub" in missing.stderr


def _listed(alpage: Alpage, *arguments: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(alpage("list", "--json", *arguments).stdout)
    return found


def test_one_argument_that_names_a_pulled_model(online: Alpage, alpage: Alpage) -> None:
    """Then the prompt comes from standard input; before, it is a prompt for the default model."""
    online("pull", "org/talker-GGUF:Q8_0")
    done = alpage("run", "org/talker-GGUF:Q8_0", stdin="Hello")
    assert (done.stdout, done.returncode) == ("Hi.\n", 0)


def test_a_server_calls_it_by_its_whole_name(
    online: Alpage, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online("pull", "org/talker-GGUF:Q8_0")
    monkeypatch.setenv("ALPAGE_HOME", str(home))
    both = ["org/talker-GGUF:Q8_0", "ollama:talker"]
    assert names_of(both) == {name: name for name in both}


def test_the_facade_loads_it_by_name(online: Alpage, home: Path) -> None:
    from alpage import Llama
    from alpage.core.settings import Settings

    online("pull", "org/talker-GGUF")
    with Llama.load("org/talker-GGUF", settings=Settings(home=home)) as llm:
        assert llm.generate("x", max_tokens=9, temperature=0).text == "Hi."


def test_pull_as_json(online: Alpage) -> None:
    facts = json.loads(online("pull", "org/tiny", "--json").stdout)
    assert (facts["name"], facts["licence"]) == ("org/tiny", "cc0-1.0")
    assert len(facts["commit"]) == 40
    assert facts["downloaded_bytes"] > 50_000
    assert {file["path"] for file in facts["files"]} >= {"config.json", "model.safetensors"}
    again = json.loads(online("pull", "org/tiny", "--json").stdout)
    assert again["downloaded_bytes"] == 0
    assert json.loads(online("pull", "org/tiny", "--update", "--json").stdout) == again


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pull", "org/other"], 1, "this is a qwen2 model; Alpage runs llama"),
        (["pull", "org/none"], 1, "has no model org/none, or it is private (you are not logged in"),
        (["pull", "org/talker-GGUF:Q2_K"], 1, "has no GGUF file Q2_K. It has: talker-Q4_K_M.gguf"),
        (["pull", "org/tiny@v9"], 1, "org/tiny has no revision 'v9'"),
        (["pull", "org/tiny", "--offline"], 1, "is not on this machine, and --offline"),
        (["pull", "smollm2", "--offline"], 1, "is not on this machine, and --offline"),
        (["pull", "zzz"], 1, "there is no model named 'zzz'"),
        (["pull", "./tiny"], 2, "'./tiny' is no name of a model: a hub's look like ORG/NAME"),
        (["pull", "org/tiny/more"], 2, "a hub's look like ORG/NAME"),
        (["pull", "smollm2", "--update"], 2, "--update is for models of a hub"),
        (["pull", "ollama:tiny"], 2, "ollama pull tiny gets it"),
        (["rm"], 2, "takes the name of a model, or else --leftovers"),
        (["rm", "org/tiny", "--leftovers"], 2, "takes the name of a model, or else --leftovers"),
        (["rm", "ollama:tiny"], 2, "belongs to Ollama: ollama rm tiny"),
        (["rm", "org/tiny"], 1, "org/tiny is not on this machine; nothing was removed"),
        (["show", "org/tiny"], 1, "alpage pull org/tiny downloads it from the hub"),
        (["show", "ollama:../x"], 2, "is no name of a model in Ollama's store"),
    ],
)
def test_what_goes_wrong(online: Alpage, arguments: list[str], code: int, message: str) -> None:
    done = online(*arguments)
    assert message in done.stderr
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr


def test_the_login_opens_doors_and_is_never_shown(
    online: Alpage, server: HubServer, tmp_path: Path, home: Path
) -> None:
    server.token = "hf_secret_of_the_user"
    server.repos["org/tiny"].gated = True
    refused = online("pull", "org/tiny")
    assert refused.returncode == 1
    for words in ("org/tiny is gated", f"{server.endpoint}/org/tiny in a browser", "hf auth login"):
        assert words in refused.stderr
    told = online("pull", "org/tiny", HF_TOKEN="hf_wrong")
    assert "does not accept your login" in told.stderr and "hf_wrong" not in told.stderr
    (tmp_path / "hf").mkdir(exist_ok=True)
    (tmp_path / "hf" / "token").write_text(server.token)
    for login in ({}, {"HF_TOKEN": server.token}):
        done = online("pull", "org/tiny", ALPAGE_DEBUG="1", HF_DEBUG="1", **login)
        assert done.returncode == 0, done.stderr
        assert server.token not in done.stdout + done.stderr
        online("rm", "org/tiny")
    written = [path for path in home.rglob("*") if path.is_file()]
    assert not [path for path in written if server.token.encode() in path.read_bytes()]


def test_offline_by_the_librarys_own_variable(online: Alpage, server: HubServer) -> None:
    done = online("pull", "org/tiny", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "HF_HUB_OFFLINE is set" in done.stderr
    assert server.asked == []
    online("pull", "org/tiny")
    assert online("pull", "org/tiny", HF_HUB_OFFLINE="1").returncode == 0


def test_a_card_cannot_steer_the_terminal(online: Alpage) -> None:
    online("pull", "org/tiny")
    card = online("show", "org/tiny", "--card").stdout
    assert "# Tiny\n\nA model for tests.[31m red  bell2J" in card
    assert not {"\x1b", "\x07", "\x9b"} & set(card)
    facts = json.loads(online("show", "org/tiny", "--card", "--json").stdout)
    assert "A model for tests." in facts["card"]
    known = online("show", "smollm2", "--card").stdout
    assert "# SmolLM2-135M-Instruct" in known and "Licence: Apache-2.0" in known


def test_doctor_looks_deeper(online: Alpage, home: Path) -> None:
    path = Path(online("pull", "org/tiny").stdout.strip()) / "model.safetensors"
    sound = online("doctor", "--deep")
    assert sound.returncode == 0 and "8 files" in sound.stdout
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    (home / "blobs" / f"sha256-{'0' * 64}").write_bytes(b"orphan")
    assert online("doctor").returncode == 0
    done = online("doctor", "--deep", "--json")
    assert done.returncode == 1
    findings = json.loads(done.stdout)["findings"]
    damaged = [finding for finding in findings if finding["name"] == "cache: damaged"]
    assert damaged and {f["advice"] for f in damaged} == {"alpage pull org/tiny gets it again"}
    (orphan,) = [finding for finding in findings if finding["name"] == "cache: orphaned"]
    assert orphan["state"] == "note" and "alpage rm --leftovers" in orphan["advice"]
    assert "0.0 MB freed" in online("rm", "--leftovers").stdout
    assert online("pull", "org/tiny").returncode == 0
    assert online("doctor", "--deep").returncode == 0


def test_ollamas_models(alpage: Alpage, tmp_path: Path) -> None:
    store = OllamaStore(tmp_path / "ollama")
    store.model("registry.ollama.ai/library/talker/latest", TALKER, license="Free.\n",
                params='{"stop": ["<|im_end|>"]}', template="{{ .Prompt }}")  # fmt: skip
    models = {"OLLAMA_MODELS": str(store.models)}
    assert alpage("run", "ollama:talker", "Hello", **models).stdout == "Hi.\n"
    assert alpage("run", "ollama:talker", stdin="Hello", **models).stdout == "Hi.\n"
    shown = alpage("show", "ollama:talker", **models).stdout
    for words in ("Free.", "'<|im_end|>'", "not run", str(store.models)):
        assert words in shown
    assert "ollama:" not in alpage("list", **models).stdout
    assert "ollama:talker:latest" in alpage("list", "--all", **models).stdout
    missing = alpage("run", "ollama:nobody", "Hello", **models)
    assert missing.returncode == 1 and "it has ollama:talker:latest" in missing.stderr


def test_ctrl_c_in_a_download_and_on_from_there(
    online: Alpage, server: HubServer, home: Path, tmp_path: Path
) -> None:
    import threading

    server.wait_at_half = threading.Event()
    env = server.environment(tmp_path / "hf")
    with terminal("pull", "org/tiny", home=home, env=env) as shell:
        assert server.halfway.wait(60)
        shell.type(CTRL_C)
        shell.wait("alpage: interrupted")
        assert shell.exit_code() == 130
    assert "Traceback" not in shell.text
    server.wait_at_half.set()
    server.wait_at_half = None
    assert online("pull", "org/tiny").returncode == 0


@pytest.mark.parametrize("verb", ["import alpage", "list", "show", "doctor", "rm", "pull"])
def test_who_needs_no_hub_does_not_load_its_library(
    verb: str, home: Path, smollm2_path: Path, alpage_home: Path
) -> None:
    arguments: dict[str, list[str]] = {
        "show": ["show", str(smollm2_path)], "rm": ["rm", "org/tiny"], "pull": ["pull", "smollm2"],
    }  # fmt: skip
    run = "import alpage" if verb == "import alpage" else (
        f"from alpage.cli import main; main({arguments.get(verb, [verb])!r})"
    )  # fmt: skip
    code = f"import sys\n{run}\nprint('huggingface_hub' in sys.modules, file=sys.stderr)"
    where = alpage_home if verb == "pull" else home
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "ALPAGE_HOME": str(where)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == "False"
