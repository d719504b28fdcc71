"""Names: what each says of its model follows from the model's public config.json; no hub is asked."""

import math

import pytest
from helpers.configs import PUBLIC
from helpers.refused import refused
from tfm.refimpl.checkpoint.families import read_config, with_model_type
from tfm.refimpl.errors import CheckpointError
from tfm.runtime.analysis import sizes
from tfm.runtime.bundle import schemes, targets
from tfm.runtime.hub.aliases import ALIASES
from tfm.runtime.hub.cache_dir import remove
from tfm.runtime.hub.locate import fetch, is_stored
from tfm.runtime.hub.model_names import CATALOGUE, HUB
from tfm.runtime.progress import silent
from tfm.runtime.tasks.base import head_of

LLAMA = b'{"model_type": "llama"}'

# Of these a model that was trained further is known, or one that was saved anew: its shape is the same.
SAME_SHAPE = {
    "meta-llama/Llama-3.2-1B-Instruct": "carsenk/llama3.2_1b_2025_uncensored",
    "meta-llama/Llama-3.2-3B-Instruct": "zenai-org/Llama-3.2-3B-Instruct-GPTQ",
    "google/gemma-3-270m-it": "Codingstark/gemma3-270m-leetcode",
    "google/gemma-3-4b-it": "YFolla/gemma-3-dnd",
    "HuggingFaceTB/SmolLM2-360M-Instruct": "eduardoworrel/SmolLM2-360M-Instruct",
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": "puettmann/SmolMaestra-1.7b-Translation"
    "@4c7688724a0ce6c86e1dee0e4a3d5930935e100f",
    "allenai/OLMo-2-0425-1B-Instruct": "CodeAtCMU/OLMo-2-0425-1B_full_sft_code_data_120K_remove_comments"
    "@c6680f4de4e31053621101e683811f3e8ce9f879",
    "BAAI/bge-small-en-v1.5": "Neokun004/Testbge@04fa5fa5f30c3f6cf1b1b2c3d5f3082d4e1aebf5",
    "intfloat/multilingual-e5-base": "seniichev/me5-wb",
    "google/embeddinggemma-300m": "google/embeddinggemma-300m, saved anew",
    "dslim/bert-base-NER": "huantd/bert-base-NER",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"
    "@eba0825ddc7730d24a88685a6c0a078cf919b383",
    "sentence-transformers/all-MiniLM-L6-v2": "LightEmbed/sbert-all-MiniLM-L6-v2-onnx",
}
# Parameters as their makers count them, where a table of shapes could be wrong without a test noticing.
PARAMETERS = {
    "qwen3-4b": 4.02e9, "gemma-3-1b": 999_885_952, "smollm3-3b": 3_075_098_624, "lfm2-1.2b": 1_170_340_608,
    "lfm2-350m": 354_483_968, "t5-small": 60_506_624,
}  # fmt: skip


NAMED = {name: (alias.repository, alias.task, alias.megabytes) for name, alias in ALIASES.items()}
NAMED |= {name: (m.origin, m.task, m.megabytes) for name, m in CATALOGUE.items() if m.megabytes is not None}


@pytest.mark.parametrize("name", NAMED)
def test_a_name_says_what_its_config_does(name):
    repository, task, megabytes = NAMED[name]
    config, _ = read_config(with_model_type(PUBLIC[SAME_SHAPE.get(repository, repository)]))
    assert isinstance(config.head, head_of(task))
    scheme = schemes.default(config, targets.for_device("cpu")).name
    cache = sizes.cache_bytes(config, min(4096, config.context), 4)
    needs = sizes.weight_bytes(config)[scheme] + cache + sizes.RUNNER_BYTES
    assert megabytes == math.ceil(needs / 1e6)
    if name in PARAMETERS:
        assert sum(sizes.parameters(config).values()) == pytest.approx(PARAMETERS[name], rel=1e-3)


def test_each_wheel_of_the_catalogue_says_what_memory_it_needs():
    """Except for those that transcribe: their memory depends on the sound."""
    wheels = {name: model for name, model in CATALOGUE.items() if model.wheel}
    assert {name for name, model in wheels.items() if model.megabytes is None} == {
        name for name, model in wheels.items() if model.task == "transcribe"
    }


def test_aliases_are_names_of_their_own():
    assert not ALIASES.keys() & CATALOGUE.keys()
    assert len({alias.repository for alias in ALIASES.values()}) == len(ALIASES)
    assert all(HUB.fullmatch(alias.address) for alias in ALIASES.values())


def files(**more):
    return {
        "config.json": LLAMA,
        "model.safetensors": b"1",
        "tokenizer.json": b"{}",
        "README.md": b"x",
        **more,
    }


def test_an_alias_is_fetched_from_the_hub_once(cache, hub):
    hub.files = files()
    path = fetch("qwen3-0.6b", silent)
    assert path == fetch("hf:Qwen/Qwen3-0.6B", silent) == fetch("Qwen/Qwen3-0.6B", silent)
    assert len(hub.asked) == len(hub.files)


def test_a_later_fetch_must_bring_the_same_files(cache, hub):
    """The card may change; an --update takes what is there."""
    hub.files = files()
    path = fetch("qwen3-0.6b", silent)
    hub.files = files(**{"README.md": b"y", "model.safetensors": b"2"})
    assert fetch("qwen3-0.6b", silent) == path
    remove("qwen3-0.6b")
    with pytest.raises(CheckpointError) as error:
        fetch("qwen3-0.6b", silent)
    assert "model.safetensors" in str(error.value)
    assert "README.md" not in str(error.value)
    assert "pull qwen3-0.6b --update" in str(error.value)
    assert not is_stored("qwen3-0.6b")
    fetch("hf:Qwen/Qwen3-0.6B", silent)  # nothing is compared for who names the place
    hub.files = files(**{"README.md": b"z", "model.safetensors": b"3"})
    hub.code_of_files = "500"
    with refused(CheckpointError, "500"):
        fetch("qwen3-0.6b", silent, update=True)
    hub.code_of_files = ""
    remove("qwen3-0.6b")
    with refused(CheckpointError, "--update"):  # one that failed took nothing
        fetch("qwen3-0.6b", silent)
    assert (fetch("qwen3-0.6b", silent, update=True) / "model.safetensors").read_bytes() == b"3"
    remove("qwen3-0.6b")
    hub.files = files(**{"model.safetensors": b"3"})
    fetch("qwen3-0.6b", silent)
    (cache / "aliases" / "qwen3-0.6b.json").write_text("[]")
    remove("qwen3-0.6b")
    with refused(CheckpointError, "aliases/qwen3-0.6b.json"):
        fetch("qwen3-0.6b", silent)


@pytest.mark.parametrize("more", [{"special_tokens_map.json": b"{}"}, {"tokenizer.json": None}])
def test_a_file_more_or_less_is_another_model(cache, hub, more):
    hub.files = files()
    fetch("bge-small", silent)
    hub.files = {name: data for name, data in files(**more).items() if data is not None}
    remove("bge-small")
    with refused(CheckpointError, next(iter(more))):
        fetch("bge-small", silent)
