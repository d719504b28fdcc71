"""Repositories of a hub on this machine: what is fetched of them, and what their failures say."""

import json
import sys

import huggingface_hub
import pytest
from helpers.hub import COMMIT
from helpers.refused import refused
from helpers.wheels import everything
from tfm.refimpl.checkpoint.licence import LARGEST
from tfm.refimpl.errors import CheckpointError, ConfigError
from tfm.runtime.hub.locate import fetch
from tfm.runtime.hub.partial import TransferError
from tfm.runtime.progress import silent

LLAMA = b'{"model_type": "llama"}'


def test_the_hub_needs_its_client(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with refused(CheckpointError, "tfm-cli[hub]"):
        fetch("hf:org/name@v1", silent)


def test_a_hub_repository_is_fetched_by_commit_without_its_code(cache, hub):
    weights = {"model.safetensors": b"1", "pytorch_model.bin": b"2"}
    hub.files = {"config.json": LLAMA, **weights, "modeling.py": b"3"}
    path = fetch("hf:org/name", silent)
    assert everything(path) == ["config.json", "model.safetensors"]
    hub.files = {"config.json": b"{}", "model.bin": b"3", "vocabulary.json": b"[]", "x.bin": b"4"}
    assert everything(fetch("hf:org/third", silent)) == ["config.json", "model.bin", "vocabulary.json"]
    older = {"config.json": LLAMA, "pytorch_model.bin": b"2", "tokenizer.model": b"4", "vocab.txt": b"5"}
    hub.files = {**older, "training_args.bin": b"3", "requirements.txt": b"6"}
    assert everything(fetch("hf:org/older", silent)) == sorted(older)
    assert json.loads((path.parent / "source.json").read_text())["digest"] == COMMIT


def test_a_hub_repository_of_one_gguf(cache, hub):
    hub.files = {"x.gguf": b"1", "readme.md": b"2"}
    path = fetch("hf:org/name@main", silent)
    assert path.name == "x.gguf"
    assert everything(path.parent) == ["readme.md", "x.gguf"]


QUANTIZED = {
    "m-Q8_0.gguf": bytes(3_000_000), "m-Q4_K_M.gguf": b"4", "mmproj-m.gguf": b"5",
    "UD/m-UD-Q4_K_M-00001-of-00002.gguf": b"6", "UD/m-UD-Q4_K_M-00002-of-00002.gguf": b"7",
}  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "files"),
    [
        ("m-Q8_0.gguf", ["m-Q8_0.gguf"]),
        ("q8_0", ["m-Q8_0.gguf"]),
        ("m-Q4_K_M.gguf", ["m-Q4_K_M.gguf"]),
        ("UD-Q4_K_M", ["m-UD-Q4_K_M-00001-of-00002.gguf", "m-UD-Q4_K_M-00002-of-00002.gguf"]),
        ("UD/m-UD-Q4_K_M-00001-of-00002.gguf", None),
    ],
)
def test_one_of_many_models_of_a_hub_repository(cache, hub, choice, files):
    hub.files = QUANTIZED
    path = fetch(f"hf:org/name:{choice}", silent)
    assert files is None or everything(path.parent) == files
    assert path.name.endswith(("00001-of-00002.gguf", choice, "Q8_0.gguf"))
    assert fetch(f"hf:org/name:{choice}", silent) == path


def test_of_several_quantizations_q4_k_m_is_taken_and_said(cache, hub):
    hub.files = {name: data for name, data in QUANTIZED.items() if "/" not in name}
    said = []
    path = fetch("hf:org/name", lambda stage, done, total: said.append(stage))
    assert path.name == "m-Q4_K_M.gguf"
    assert any("2 models" in line and "Q4_K_M" in line and "hf:org/name:m-Q8_0.gguf" in line for line in said)
    assert fetch("hf.co/org/name:q8_0", silent).name == "m-Q8_0.gguf"


@pytest.mark.parametrize("choice", ["", ":Q4_K_M", ":Q5_0", ":K_M"])
def test_a_repository_of_many_models_lists_them(cache, hub, choice):
    hub.files = QUANTIZED
    with pytest.raises(CheckpointError) as error:
        fetch(f"hf:org/name{choice}", silent)
    has, _, listed = str(error.value).partition(": choose one of ")
    count = {"": "3 models", ":Q4_K_M": "2 models"}.get(choice, f"no model {choice[1:]!r}")
    assert has == f"hf:org/name has {count}"
    names = {"UD/m-UD-Q4_K_M-00001-of-00002.gguf (0 MB)", "m-Q4_K_M.gguf (0 MB)"}
    names |= {"m-Q8_0.gguf (3 MB)"} if choice != ":Q4_K_M" else set()
    assert set(listed.split(", ")) == {f"hf:org/name:{name}" for name in names}
    assert hub.asked == []


def test_a_folder_of_a_repository_beside_gguf_files(cache, hub):
    hub.files = {"config.json": LLAMA, "model.safetensors": b"1", "m-Q8_0.gguf": b"2", "m-Q4_K_M.gguf": b"3"}
    assert everything(fetch("hf:org/name:config.json", silent)) == ["config.json", "model.safetensors"]
    assert fetch("hf:org/name:Q8_0", silent).name == "m-Q8_0.gguf"
    with pytest.raises(CheckpointError) as error:
        fetch("hf:org/name", silent)
    listed = str(error.value).partition("choose one of ")[2].replace(" (0 MB)", "").split(", ")
    assert {fetch(name, silent).name for name in listed} == {"files", "m-Q8_0.gguf", "m-Q4_K_M.gguf"}


def test_a_hub_repositorys_licence_and_card_come_along(cache, hub):
    notices = {
        "README.md": b"card",
        "LICENSE.txt": b"text",
        "NOTICE": bytes(LARGEST + 1),
        "docs/LICENSE": b"no",
    }
    hub.files = {"x.gguf": b"1", **notices}
    assert everything(fetch("hf:org/name", silent).parent) == ["LICENSE.txt", "README.md", "x.gguf"]
    hub.files = {"m/config.json": LLAMA, "m/model.safetensors": b"1", **notices}
    assert everything(fetch("hf:org/other", silent)) == [
        "LICENSE.txt", "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (b'{"model_type": "gpt9"}', "hf:org/name/m/config.json model_type"),
        (
            b'{"model_type": "llama", "quantization_config": {"quant_method": "hqq"}}',
            "quant_method",
        ),
    ],
)
def test_a_hub_models_config_is_read_before_its_weights_come(cache, hub, config, words):
    hub.files = {"m/config.json": config, "m/model.safetensors": b"1"}
    with refused(ConfigError, *words.split()):
        fetch("hf:org/name", silent)
    assert hub.asked == [("m/config.json", 0)]
    assert everything(cache) == []


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (OSError("no\nroute"), "no route"),
        # What the client's HTTP library raises without a network is no OSError.
        (type("ConnectError", (Exception,), {})("[Errno -2] Name or service not known"), "service not known"),
        (type("ConnectError", (Exception,), {})(), "ConnectError"),
    ],
)
def test_the_hubs_failure_is_one_line(cache, monkeypatch, failure, words):
    def fails(*_, **__):
        raise failure

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fails)
    with refused(TransferError, "hf:org/name", words):
        fetch("hf:org/name", silent)


@pytest.mark.parametrize(
    ("code", "of_files", "words"),
    [
        ("RepoNotFound", "", ["doesn't exist or is private", "HF_TOKEN"]),
        ("RevisionNotFound", "", ["no revision 'v9'"]),
        (
            "",
            "GatedRepo",
            ["is gated", "at http", "/org/name, ", "HF_TOKEN", "hf auth login"],
        ),
    ],
)
def test_what_may_not_be_fetched_says_what_to_do(cache, hub, code, of_files, words):
    hub.files = {"config.json": LLAMA, "model.safetensors": b"1"}
    hub.code, hub.code_of_files = code, of_files
    with pytest.raises(TransferError) as error:
        fetch("hf:org/name@v9", silent)
    assert [word for word in words if word not in str(error.value)] == []
    assert everything(cache) == []


@pytest.mark.parametrize("links", [True, False])
def test_what_the_clients_own_cache_has_is_taken_from_there(cache, hub, monkeypatch, tmp_path, links):
    """By a second name on one disk, else as a copy."""

    def fails(*_):
        raise OSError

    if not links:
        monkeypatch.setattr("os.link", fails)
    weights = bytes(range(99))
    hub.files = {"config.json": LLAMA, "model.safetensors": weights}
    (tmp_path / "blob").write_bytes(weights)
    (tmp_path / "own").symlink_to("blob")
    own = {"model.safetensors": str(tmp_path / "own")}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda _, name, **__: own.get(name))
    path = fetch("hf:org/name", silent)
    assert (path / "model.safetensors").read_bytes() == weights
    assert hub.asked == [("config.json", 0)]
    assert (path / "model.safetensors").samefile(tmp_path / "blob") is links
    assert not (path / "model.safetensors").is_symlink()
    (tmp_path / "own").unlink()
    (tmp_path / "own").write_bytes(weights[::-1])
    assert (fetch("hf:org/other", silent) / "model.safetensors").read_bytes() == weights


def test_what_another_revision_or_choice_brought_is_not_fetched_again(cache, hub):
    hub.files = QUANTIZED
    first = fetch("hf:org/name:Q8_0", silent)
    asked = list(hub.asked)
    again = fetch("hf:org/name@v1:m-Q8_0.gguf", silent)
    assert hub.asked == asked
    assert again != first
    assert again.samefile(first)
    fetch("hf:org/names:Q8_0", silent)  # another repository
    assert len(hub.asked) == len(asked) + 1


def test_a_path_out_of_the_folder_is_refused(cache, hub):
    for name in ("../x.gguf", "/etc/x.gguf", "a\\x.gguf"):
        hub.files = {name: b"1"}
        with refused(CheckpointError, "leads", "out", "folder"):
            fetch("hf:org/name", silent)
    assert hub.asked == []
