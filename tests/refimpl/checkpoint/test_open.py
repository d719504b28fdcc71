"""Opening checkpoints: directories, shards, links, side files; what may not be opened."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_models, torch_writer
from helpers.refused import refused
from tfm.refimpl.checkpoint.formats.model_directory import LIMITS, Directory
from tfm.refimpl.checkpoint.formats.safetensors import save
from tfm.refimpl.checkpoint.open import Generation, materialize, open_checkpoint, save_checkpoint
from tfm.refimpl.errors import CheckpointError, ConfigError
from tfm.refimpl.params.tree import flatten

TOKENIZERS = {
    "vocab.txt": "BertTokenizer", "vocab.json": "GPT2Tokenizer", "merges.txt": "GPT2Tokenizer",
    "tekken.json": "PreTrainedTokenizerFast",
}  # fmt: skip
CONFIG = tiny_models.llama(plain=True, tied=False, bias=True, qk_norm=True)
TREE = tiny_models.weights(CONFIG)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model", CONFIG, TREE, tokenizer="{}", template="{{ x }}")
    return tmp_path / "model"


@pytest.mark.parametrize("key", ["auto_map", "custom_pipelines"])
@pytest.mark.parametrize(
    ("stated", "family"), [({}, ""), (None, ""), ({"AutoModel": "its_own.Model"}, "tfm")]
)
def test_a_family_stands_for_code_of_the_repositorys_own(model, key, stated, family):
    write(model / "config.json", {**json.loads((model / "config.json").read_text()), key: stated})
    (model / "its_own.py").write_text("raise SystemExit('this file was run')")
    assert open_checkpoint(model).code_replaced_by == family


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def shard(model: Path) -> dict[str, str]:
    """Split the single file into two, with an index."""
    leaves = dict(flatten(TREE))
    names = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(leaves)}
    for file in sorted(set(names.values())):
        save(model / file, {name: leaves[name] for name in leaves if names[name] == file})
    (model / "model.safetensors").unlink()
    write(model / "model.safetensors.index.json", {"metadata": {}, "weight_map": names})
    return names


def equal(checkpoint) -> bool:
    got = dict(flatten(materialize(checkpoint.params)))
    return all(np.array_equal(got[name], leaf) for name, leaf in flatten(TREE))


def test_saved_and_opened(model, tmp_path):
    checkpoint = open_checkpoint(model)
    assert checkpoint.config == CONFIG
    assert equal(checkpoint)
    assert (checkpoint.tokenizer, checkpoint.chat_template) == ("{}", "{{ x }}")
    assert (checkpoint.generation, checkpoint.float_dtype) == (Generation(), "F32")
    assert np.array_equal(checkpoint.leaf("head.table"), TREE["head"]["table"])
    assert checkpoint.native("head.table") is None
    again = tmp_path / "again"
    save_checkpoint(
        again, checkpoint.config, checkpoint.params, checkpoint.tokenizer, checkpoint.chat_template
    )
    for file in model.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name
    assert open_checkpoint(again).source["sha256"] == checkpoint.source["sha256"]
    (again / "tokenizer.json").write_text("[]")
    assert open_checkpoint(again).source["sha256"] != checkpoint.source["sha256"]


def test_keys_that_nobody_knows_may_be_ignored_by_name(model):
    stated = json.loads((model / "config.json").read_text())
    write(model / "config.json", {**stated, "odd": 1, "pad_token_id": 0})
    write(model / "generation_config.json", {"odder": 2, "eos_token_id": 3})
    for given, missing in (((), "odd"), (["odd"], "odder")):
        with refused(ConfigError, f"'{missing}'", f"ignore_keys={missing}"):
            open_checkpoint(model, ignore_keys=given)
    opened = open_checkpoint(model, ignore_keys=["odder", "odd", "pad_token_id"])
    assert (opened.config, opened.generation.eos) == (CONFIG, (3,))
    assert opened.ignored_keys == ("odd", "odder", "pad_token_id")
    for name, why in {
        "config": "'config' .* the model's family uses",
        "eos_token_id": "the model's family uses",
        "nobody": "'nobody' .* the model's files don't have",
    }.items():
        with pytest.raises(ConfigError, match=why):
            open_checkpoint(model, ignore_keys=["odd", "odder", name])


def test_saved_with_how_it_wants_to_be_run(tmp_path):
    rules = {"eos_token_id": [3, 5], "temperature": 0.5, "do_sample": True}
    save_checkpoint(tmp_path, CONFIG, TREE, generation=rules)
    want = Generation(None, (3, 5), {"temperature": 0.5, "top_k": 50})
    assert open_checkpoint(tmp_path).generation == want


READ = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
READ += ["chat_template.jinja", "model.safetensors.index.json"]


@pytest.mark.parametrize("name", READ)
def test_the_source_is_every_file_that_was_read(model, name):
    shard(model)
    write(model / "generation_config.json", {"eos_token_id": 1})
    write(model / "tokenizer_config.json", {"model_max_length": 8})
    before = open_checkpoint(model)
    assert set(before.files) == {file.name for file in model.iterdir()}
    stated = before.source["sha256"]
    (model / name).write_text((model / name).read_text() + "\n")
    assert open_checkpoint(model).source["sha256"] != stated


def test_shards(model):
    shard(model)
    assert equal(open_checkpoint(model))


OUTSIDE = [
    "../secret.safetensors", "a/../../secret.safetensors", "/secret.safetensors", "C:\\secret", "\\\\srv\\x",
    "file:secret", "", ".", "..", "a\0b", "x" * 5000, "sub/secret.safetensors", "-x", "link.safetensors",
    "pipe.safetensors", "sub.safetensors", "absent.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_weight_map_may_not_leave_the_directory(model, name):
    import os

    names = shard(model)
    secret = model.parent / "secret.safetensors"
    moved = next(iter(names))
    save(secret, {moved: dict(flatten(TREE))[moved]})
    (model / "link.safetensors").symlink_to(secret)
    (model / "sub.safetensors").mkdir()
    os.mkfifo(model / "pipe.safetensors")
    write(model / "model.safetensors.index.json", {"weight_map": {**names, moved: name}})
    with pytest.raises(CheckpointError, match=r"folders|links|regular|opened") as caught:
        open_checkpoint(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "generation_config.json"])
def test_a_link_to_itself(model, file):
    (model / file).unlink(missing_ok=True)
    (model / file).symlink_to(file)
    with refused(CheckpointError, file) as caught:
        open_checkpoint(model)
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_searched(model, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.stat", refuse)
    with refused(CheckpointError, "config.json", "Permission"):
        Directory(model).text("config.json")


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"]
)
def test_links_out_are_refused_and_links_into_the_hub_cache_followed(model, tmp_path, file):
    outside = tmp_path / "elsewhere"
    (model / file).rename(outside)
    (model / file).symlink_to(outside)
    with refused(CheckpointError, "directory", "links"):
        open_checkpoint(model)
    entry = tmp_path / "models--x--y"
    (entry / "blobs").mkdir(parents=True)
    (entry / "snapshots").mkdir()
    (model / file).unlink()
    outside.rename(entry / "blobs" / "abc123")
    snapshot = model.rename(entry / "snapshots" / "rev")
    (snapshot / file).symlink_to("../../blobs/abc123")
    assert equal(open_checkpoint(snapshot))


def torch_files(model: Path, *, count: int, zipped: bool = True) -> None:
    """The weights as torch.save writes them, in one file or in several with an index."""
    leaves = dict(flatten(TREE))
    names = dict.fromkeys(leaves, "pytorch_model.bin")
    if count > 1:
        names = {
            name: f"pytorch_model-0000{i % count + 1}-of-0000{count}.bin" for i, name in enumerate(leaves)
        }
        write(model / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": names})
    for file in sorted(set(names.values())):
        arrays = {name: leaves[name] for name in leaves if names[name] == file}
        (model / file).write_bytes(torch_writer.torch_file(arrays, zipped=zipped))


@pytest.mark.parametrize(("count", "zipped"), [(1, True), (1, False), (2, True)])
def test_weights_of_torch(model, count, zipped):
    """They are read where no safetensors are; a file that isn't read isn't hashed either."""
    torch_files(model, count=count, zipped=zipped)
    assert not [name for name in open_checkpoint(model).files if name.endswith(".bin")]
    (model / "model.safetensors").unlink()
    checkpoint = open_checkpoint(model)
    assert equal(checkpoint)
    assert [name for name in checkpoint.files if name.endswith(".bin")] == sorted(
        file.name for file in model.glob("*.bin")
    )
    if count > 1:
        write(
            model / "pytorch_model.bin.index.json", {"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}
        )
        with refused(CheckpointError, "pytorch_model.bin.index.json", "weight_map"):
            open_checkpoint(model)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({}, "weight_map"),
        ({"weight_map": {"a": 1}}, "weight_map"),
        ([], "JSON"),
        (
            {"weight_map": {"ghost": "model-00001-of-00002.safetensors"}},
            "same tensors model-00001-of-00002.safetensors",
        ),
    ],
)
def test_bad_index(model, index, words):
    shard(model)
    write(model / "model.safetensors.index.json", index)
    with refused(CheckpointError, *words.split()):
        open_checkpoint(model)


def test_a_tensor_in_two_shards(model):
    names = shard(model)
    first, second = sorted(set(names.values()))
    leaves = dict(flatten(TREE))
    twice = next(name for name in leaves if names[name] == first)
    save(model / second, {n: leaves[n] for n in leaves if names[n] == second or n == twice})
    with refused(CheckpointError, f"'{twice}'"):
        open_checkpoint(model)


def test_formats_that_run_code(model):
    (model / "model.safetensors").rename(model / "training_args.bin")
    with refused(CheckpointError, "training_args.bin", "from_pretrained(DIR)"):
        open_checkpoint(model)
    with refused(CheckpointError, "pytorch_model.bin"):
        open_checkpoint(model / "pytorch_model.bin")
    for name in ("x.bin", "x.pt", "x.pth", "x.ckpt", "x.pkl", "x.npz"):
        (model / name).touch()
        with refused(CheckpointError, "run", "code"):
            open_checkpoint(model / name)


def test_not_a_checkpoint(model, tmp_path):
    with refused(CheckpointError, "gguf", "directory"):
        open_checkpoint(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with refused(CheckpointError, "empty", "config.json"):
        open_checkpoint(tmp_path / "empty")
    (tmp_path / "empty" / "a.gguf").touch()
    with refused(CheckpointError, "a.gguf"):
        open_checkpoint(tmp_path / "empty")
    (model / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors, .*pytorch_model\.bin\.index\.json$"):
        open_checkpoint(model)


# Those of processors belong to models that hear: `test_ctc_side_files_are_bounded`.
@pytest.mark.parametrize("name", [n for n in LIMITS if "index" not in n and "processor" not in n])
def test_side_files_are_bounded(model, name):
    folder = model / ("additional_chat_templates" if name == "tool_use.jinja" else "")
    folder.mkdir(exist_ok=True)
    with open(folder / name, "wb") as file:
        file.truncate(LIMITS[name] + 1)
    if name in ("tokenizer_config.json", "chat_template.json"):
        (model / "chat_template.jinja").unlink()
    if name in TOKENIZERS:
        (model / "tokenizer.json").unlink()
        (model / "vocab.json").touch() if name == "merges.txt" else None
        write(model / "tokenizer_config.json", {"tokenizer_class": TOKENIZERS[name]})
    if "sentence" in name:
        kinds = {"": "Transformer", "1_Pooling": "Pooling"}
        steps = [{"path": path, "type": f"sentence_transformers.{kind}"} for path, kind in kinds.items()]
        write(model / "modules.json", steps)
    adapter = model if name == "adapter_config.json" else None
    with refused(CheckpointError, name, LIMITS[name]):
        open_checkpoint(model, adapter)


def test_side_files_are_text(model):
    (model / "chat_template.jinja").write_bytes(b"\xff")
    with refused(CheckpointError, "UTF-8"):
        open_checkpoint(model)


@pytest.mark.parametrize("key", ["model_type", "config", "extra"])
@pytest.mark.parametrize("value", [0, -1, 2**31, 2**63, "4", None, [], {}, True])
def test_config_of_any_type(model, key, value):
    raw = json.loads((model / "config.json").read_text())
    write(model / "config.json", {**raw, key: value})
    with pytest.raises(ConfigError) as caught:
        open_checkpoint(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("found", "want"),
    [
        ({}, Generation()),
        ({"bos_token_id": 1, "eos_token_id": 2}, Generation(1, (2,))),
        ({"eos_token_id": [3, 2, 3]}, Generation(None, (3, 2))),
        ({"temperature": 0.5, "top_k": 3}, Generation()),
        ({"do_sample": True}, Generation(defaults={"temperature": 1.0, "top_k": 50})),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 0, "top_p": 0.9, "min_p": None},
            Generation(defaults={"temperature": 0.6, "top_p": 0.9}),
        ),
        (
            {"do_sample": False, "repetition_penalty": 1.1, "top_p": 0.5},
            Generation(defaults={"temperature": None, "repetition_penalty": 1.1}),
        ),
        ({"do_sample": False}, Generation(defaults={"temperature": None})),
        ({"do_sample": None}, Generation()),
    ],
)
def test_generation(model, found, want):
    write(model / "generation_config.json", found)
    assert open_checkpoint(model).generation == want


@pytest.mark.parametrize(
    "found",
    [
        {"eos_token_id": 97},
        {"eos_token_id": -1},
        {"eos_token_id": [1, "2"]},
        {"bos_token_id": True},
        {"do_sample": True, "temperature": -1},
        {"do_sample": True, "temperature": "hot"},
        {"do_sample": True, "top_k": [1]},
        {"repetition_penalty": 0},
    ],
)
def test_bad_generation(model, found):
    write(model / "generation_config.json", found)
    with pytest.raises((CheckpointError, ConfigError), match=r"generation_config.json: "):
        open_checkpoint(model)


def test_generation_config_goes_before_config(model):
    raw = json.loads((model / "config.json").read_text())
    write(model / "config.json", {**raw, "bos_token_id": 5, "eos_token_id": 6})
    assert open_checkpoint(model).generation == Generation(5, (6,))
    write(model / "generation_config.json", {"eos_token_id": [7]})
    assert open_checkpoint(model).generation == Generation(5, (7,))


NAMED = [{"name": name, "template": name[0]} for name in ("tool_use", "default", "rag")]


@pytest.mark.parametrize(
    ("files", "want"),
    [
        ({"tokenizer_config.json": "old"}, ("old", None)),
        ({"tokenizer_config.json": NAMED}, ("d", "t")),
        ({"tokenizer_config.json": NAMED[:1]}, (None, "t")),
        ({"tokenizer_config.json": None}, (None, None)),
        ({"tokenizer_config.json": []}, (None, None)),
        ({"tokenizer_config.json": [], "chat_template.json": "processor"}, ("processor", None)),
        ({"tokenizer_config.json": "old", "chat_template.json": "processor"}, ("old", None)),
        ({"tokenizer_config.json": NAMED, "chat_template.jinja": "new"}, ("new", None)),
        ({"tokenizer_config.json": NAMED, "tool_use.jinja": "tools"}, ("d", "tools")),
        ({"chat_template.jinja": "new", "tool_use.jinja": "tools"}, ("new", "tools")),
        ({"chat_template.json": "processor", "tool_use.jinja": "tools"}, ("processor", "tools")),
    ],
)
def test_where_templates_are(model, files, want):
    (model / "chat_template.jinja").unlink()
    (model / "additional_chat_templates").mkdir()
    for name, stated in files.items():
        if name.endswith(".json"):
            write(model / name, {"chat_template": stated})
        else:
            folder = "additional_chat_templates" if name == "tool_use.jinja" else ""
            (model / folder / name).write_text(stated)
    opened = open_checkpoint(model)
    assert (opened.chat_template, opened.tool_use_template) == want


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.json"])
@pytest.mark.parametrize(
    ("found", "must"),
    [
        (1, "text"),
        ("x" * (LIMITS["chat_template.jinja"] + 1), "text"),
        ([{"name": "default", "template": 1}], "text"),
        ([{"name": [], "template": "x"}], "must have a name.*got"),
        ([{"template": "x"}], "must have a name.*got"),
        (["x"], "must have a name.*got"),
    ],
)
def test_bad_templates(model, found, must, name):
    (model / "chat_template.jinja").unlink()
    write(model / name, {"chat_template": found})
    with pytest.raises(CheckpointError, match=f"chat_template.*{must}"):
        open_checkpoint(model)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_truncated_at_many_offsets(model, name):
    whole = (model / name).read_bytes()
    for size in sorted({*range(40), *range(0, len(whole), max(len(whole) // 100, 1))}):
        (model / name).write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            open_checkpoint(model)


def test_a_config_may_say_infinity(tmp_path):
    """As those of Mamba 2 do of their steps; no other file may."""
    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_text('{"time_step_limit": [0.0, Infinity]}')
    assert Directory(tmp_path).value("config.json") == {"time_step_limit": [0.0, {"__float__": "Infinity"}]}
    with refused(CheckpointError, "numbers", "finite", "Infinity"):
        Directory(tmp_path).value("generation_config.json")
