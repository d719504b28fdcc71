"""Sentence encoders: pooling and normalizing from their own files, against transformers and plain torch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from helpers import tiny_models
from helpers.float64 import Float64, randomize
from helpers.refused import refused
from safetensors.torch import save_file
from tfm.refimpl.checkpoint.formats.tensor_source import SINGLE
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.components import from_json
from tfm.refimpl.config import Pool, to_json
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import TfmError
from tfm.refimpl.params.tree import map_leaves

KIND = "sentence_transformers.models."
NEW = "sentence_transformers.base.modules."
STEPS = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
FLAGS = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
WIDTH = 24
IDS = torch.tensor([[5, 9, 2, 31, 7], [8, 30, 11, 3, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def modules(steps=tuple(STEPS), prefix: str = KIND) -> list[dict]:
    return [
        {"idx": i, "name": str(i), "path": path, "type": prefix + name}
        for i, (name, path) in enumerate(steps)
    ]


def put(folder: Path, name: str, value: object) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(value))


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    """A tiny BERT with a language model's head in float64, and its files."""
    folder = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=30,
        max_position_embeddings=32,
        attn_implementation="eager",
    )
    model = randomize(transformers.BertForMaskedLM(config), seed=3).float()
    model.save_pretrained(folder)
    return folder, model.double()


@pytest.fixture
def folder(bert, tmp_path) -> Path:
    """A copy of it that pools by the mean and normalizes."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((bert[0] / name).read_bytes())
    put(tmp_path, "modules.json", modules())
    put(
        tmp_path,
        "1_Pooling/config.json",
        {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True},
    )
    return tmp_path


def vectors(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """The usual few lines of torch after transformers, in float64."""
    with Float64(), torch.no_grad():
        states = model(ids, attention_mask=mask).last_hidden_state
    real = mask[:, :, None]
    match pooling:
        case "cls":
            return states[:, 0]
        case "mean":
            return (states * real).sum(1) / real.sum(1)
        case "max":
            return states.masked_fill(real == 0, -torch.inf).amax(1)
        case _:
            return states[torch.arange(len(ids)), mask.sum(1) - 1]


@pytest.mark.parametrize(
    ("stated", "cuts"),
    [
        ({}, ()),
        ({"matryoshka_dimensions": None}, ()),
        ({"matryoshka_dimensions": [8, 16, WIDTH]}, (8, 16, WIDTH)),
        ({"is_matryoshka": True}, None),
        ({"is_matryoshka": True, "matryoshka_dimensions": [8]}, (8,)),
        ({"is_matryoshka": False}, ()),
        ({"matryoshka_dimensions": [8, WIDTH + 1]}, "cut"),
        ({"matryoshka_dimensions": ["8"]}, "matryoshka_dimensions"),
    ],
)
def test_widths_that_vectors_may_be_cut_to(folder, stated, cuts):
    config = json.loads((folder / "config.json").read_text())
    put(folder, "config.json", config | {"architectures": ["BertModel"]} | stated)
    if isinstance(cuts, str):
        with refused(TfmError, cuts):
            open_checkpoint(folder)
    else:
        read = open_checkpoint(folder).config
        assert read.head.cuts == cuts
        assert from_json(json.loads(json.dumps(to_json(read)))) == read


@pytest.mark.parametrize("spelling", ["old", "new"])
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("pooling", FLAGS)
def test_vectors_are_those_of_torch(bert, folder, pooling, unit, spelling):
    put(folder, "modules.json", modules(STEPS[: 3 if unit else 2], KIND if spelling == "old" else NEW + "x."))
    if spelling == "old":
        said = {"word_embedding_dimension": WIDTH, "include_prompt": True}
        said |= {f"pooling_mode_{flag}": name == pooling for name, flag in FLAGS.items()}
        put(folder, "sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": False})
    else:
        said = {"embedding_dimension": WIDTH, "pooling_mode": pooling, "include_prompt": True}
        put(folder, "2_Normalize/config.json", {"module_input_name": "sentence_embedding"})
        put(folder, "config_sentence_transformers.json", {"prompts": {"query": "q: "}, "__version__": {}})
    put(folder, "1_Pooling/config.json", said)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config.context == (9 if spelling == "old" else 32)
    assert any(name.startswith("cls.predictions") for name in checkpoint.leaves.unused)
    params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    got = NumpyEngine(checkpoint.config, params).predict(IDS.numpy(), MASK.numpy().sum(1))
    exact = bert[1].bert
    want = vectors(exact, IDS, MASK, pooling)
    want = (torch.nn.functional.normalize(want) if unit else want).numpy()
    assert np.abs(got - want).max() <= 1e-9 * np.abs(want).max()


@pytest.mark.parametrize("kind", ["Model", "ForCausalLM"])
def test_a_decoder_may_be_the_encoder(tmp_path, kind):
    """Of a checkpoint that could write, too: its output table is left aside."""
    config = transformers.Qwen3Config(
        vocab_size=40, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, head_dim=6,
        num_key_value_heads=2, intermediate_size=30, max_position_embeddings=32, tie_word_embeddings=False,
        attn_implementation="eager",
    )  # fmt: skip
    model = randomize(getattr(transformers, f"Qwen3{kind}")(config), seed=3).float()
    model.save_pretrained(tmp_path)
    put(tmp_path, "modules.json", modules())
    put(tmp_path, POOL, {"embedding_dimension": WIDTH, "pooling_mode": "lasttoken"})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.leaves.unused == (() if kind == "Model" else ("lm_head.weight",))
    params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    got = NumpyEngine(checkpoint.config, params).predict(IDS.numpy(), MASK.numpy().sum(1))
    with Float64():  # the frequencies of its rotations too
        exact = type(model)(config).double()
    exact.load_state_dict(model.state_dict())
    trunk = exact if kind == "Model" else exact.model
    want = torch.nn.functional.normalize(vectors(trunk, IDS, MASK, "lasttoken")).numpy()
    assert np.abs(got - want).max() <= 1e-9


FUNCTIONS: dict[str, torch.nn.Module] = {
    "linear.Identity": torch.nn.Identity(), "activation.Tanh": torch.nn.Tanh(),
    "activation.ReLU": torch.nn.ReLU(), "activation.GELU": torch.nn.GELU(),
    "activation.SiLU": torch.nn.SiLU(), "activation.Sigmoid": torch.nn.Sigmoid(),
    "activation.Mish": torch.nn.Mish(),
}  # fmt: skip


def put_dense(folder: Path, place: str, inputs: int, outputs: int, **more: object) -> torch.nn.Linear:
    """A Dense module with random weights, written as the library does; its linear map in float64."""
    stated = {"in_features": inputs, "out_features": outputs, "bias": True, **more}
    linear = torch.nn.Linear(inputs, outputs, bias=stated["bias"] is True)
    randomize(linear, seed=outputs).float()
    put(folder, f"{place}/config.json", {"activation_function": "torch.nn.modules.activation.Tanh", **stated})
    save_file({f"linear.{k}": v for k, v in linear.state_dict().items()}, folder / place / SINGLE)
    return linear.double()


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("unit", [False, True])
def test_dense_modules_are_torchs_linear_maps(bert, folder, unit, function):
    """Two of them, the first with a bias and an activation, as they stand in the library."""
    steps = [*STEPS[:2], ("Dense", "2_Dense"), ("Dense", "3_Dense"), ("Normalize", "4_Normalize")]
    put(folder, "modules.json", modules(steps[: 5 if unit else 4]))
    name = f"torch.nn.modules.{function}"
    first = put_dense(folder, "2_Dense", WIDTH, 40, activation_function=name)
    last = put_dense(folder, "3_Dense", 40, 9, bias=False, module_input_name="sentence_embedding")
    checkpoint = open_checkpoint(folder)
    assert {"2_Dense/config.json", f"3_Dense/{SINGLE}"} <= set(checkpoint.files)
    params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    got = NumpyEngine(checkpoint.config, params).predict(IDS.numpy(), MASK.numpy().sum(1))
    with torch.no_grad(), Float64():
        want = torch.tanh(last(FUNCTIONS[function](first(vectors(bert[1].bert, IDS, MASK, "mean")))))
    want = (torch.nn.functional.normalize(want) if unit else want).numpy()
    assert got.shape == (2, 9)
    assert np.abs(got - want).max() <= 1e-9 * np.abs(want).max()


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"in_features": 25}, "in_features 24 25"),
        ({"out_features": 0}, "out_features 1"),
        ({"out_features": 11}, "'Dense.0.linear.weight' 11 24 10 24"),
        ({"bias": False}, "tensors 'Dense.0.linear.bias'"),
        ({"activation_function": "os.system"}, "activation_function torch.nn.modules.linear"),
        ({"module_input_name": "token_embeddings"}, "module_input_name sentence_embedding"),
        ({"use_residual": True}, "'use_residual'"),
    ],
)
def test_dense_modules_that_are_refused(folder, stated, words):
    put(folder, "modules.json", modules([*STEPS[:2], ("Dense", "2_Dense")]))
    put_dense(folder, "2_Dense", WIDTH, 10)
    config = folder / "2_Dense" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | stated))
    with refused(TfmError, *words.split()):
        open_checkpoint(folder)


@pytest.mark.parametrize("readable", [True, False])
def test_a_dense_modules_weights_in_other_files(folder, readable):
    put(folder, "modules.json", modules([*STEPS[:2], ("Dense", "2_Dense")]))
    linear = put_dense(folder, "2_Dense", WIDTH, 10)
    (folder / "2_Dense" / SINGLE).unlink()
    name = "pytorch_model.bin" if readable else "weights.pkl"
    torch.save({f"linear.{k}": v.float() for k, v in linear.state_dict().items()}, folder / "2_Dense" / name)
    if readable:
        leaf = open_checkpoint(folder).leaf("head.projections.0.weight")
        np.testing.assert_array_equal(leaf, linear.weight.detach().float().numpy().T)
    else:
        with refused(TfmError, "2_Dense", "weights.pkl"):
            open_checkpoint(folder)


# In the order in which the library looks for them.
NAMES = ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"]


def test_the_longest_text_stands_in_a_file_of_seven_names(folder):
    for i, name in reversed(list(enumerate(NAMES))):
        put(folder, f"sentence_{name}_config.json", {"max_seq_length": 9 + i})
        assert open_checkpoint(folder).config.context == 9 + i
        assert sum("sentence_" in name for name in open_checkpoint(folder).files) == 1


def test_what_says_how_to_pool_is_part_of_the_source(folder):
    before = open_checkpoint(folder)
    assert set(before.files) == {"config.json", "model.safetensors", "modules.json", "1_Pooling/config.json"}
    stated = before.source
    put(folder, "modules.json", modules(STEPS[:2]))
    after = open_checkpoint(folder)
    assert (before.config.head, after.config.head) == (Pool("mean", unit=True), Pool("mean"))
    assert stated["sha256"] != after.source["sha256"]


POOL, WHOLE = "1_Pooling/config.json", "config_sentence_transformers.json"
MEAN = {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("modules.json", {}, "objects"),
        ("modules.json", [1], "objects"),
        ("modules.json", [], "steps Transformer Pooling Dense []"),
        ("modules.json", modules([*STEPS[:2], ("CNN", "2_CNN")]), "type Transformer models.CNN'"),
        ("modules.json", modules(STEPS[:1]), "steps ['Transformer']"),
        ("modules.json", modules(STEPS[1:]), "steps"),
        ("modules.json", modules(STEPS[::-1]), "steps"),
        ("modules.json", modules([*STEPS, ("Normalize", "3")]), "steps"),
        ("modules.json", modules([*STEPS, ("Dense", "3_Dense")]), "steps"),
        ("modules.json", modules([*STEPS[:2], ("Dense", "1_Pooling")]), "folder"),
        ("modules.json", modules(prefix="os."), "type Transformer"),
        ("modules.json", modules([("Transformer", "0_BERT"), *STEPS[1:]]), "Transformer"),
        ("modules.json", modules([STEPS[0], ("Pooling", "")]), "folder"),
        ("modules.json", [{**module, "kwargs": ["task"]} for module in modules()], "kwargs"),
        ("modules.json", [{**module, "code": "x"} for module in modules()], "'code'"),
        ("modules.json", modules([STEPS[0], ("Pooling", "../else")]), "folders"),
        ("modules.json", modules([STEPS[0], ("Pooling", "..")]), "folders"),
        ("modules.json", modules([STEPS[0], ("Pooling", "/etc")]), "folders"),
        ("modules.json", modules([STEPS[0], ("Pooling", "a/b")]), "folders"),
        ("modules.json", modules([*STEPS[:2], ("Normalize", "../x")]), "folders"),
        ("modules.json", modules([STEPS[0], ("Pooling", "gone")]), "config.json modules.json"),
        (POOL, [], "JSON"),
        (POOL, {"pooling_mode_mean_tokens": True}, "word_embedding_dimension missing"),
        (POOL, {**MEAN, "word_embedding_dimension": 25}, "width 24 25"),
        (POOL, {**MEAN, "pooling_mode_max_tokens": True}, "true, 'pooling_mode_max_tokens'"),
        (POOL, {**MEAN, "pooling_mode_mean_tokens": False}, "none"),
        (
            POOL,
            {**MEAN, "pooling_mode_mean_tokens": False, "pooling_mode_mean_sqrt_len_tokens": True},
            "['pooling_mode_mean_sqrt_len_tokens']",
        ),
        (POOL, {"embedding_dimension": WIDTH, "pooling_mode": "weightedmean"}, "cls"),
        (
            POOL,
            {"word_embedding_dimension": WIDTH, "pooling_mode_cls_token": True},
            "['pooling_mode_cls_token', 'pooling_mode_mean_tokens']",
        ),
        (POOL, {**MEAN, "pooling_mode": "mean"}, "pooling_mode"),
        (POOL, {**MEAN, "pooling_mode_median": True}, "'pooling_mode_median'"),
        (POOL, {**MEAN, "pooling_mode_cls_token": 1}, "pooling_mode_cls_token bool 1"),
        ("2_Normalize/config.json", {"module_input_name": "token_embeddings"}, "module_input_name"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case false"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length 1"),
        ("sentence_bert_config.json", {"query_expansion": {}}, "'query_expansion'"),
        ("sentence_bert_config.json", {"modality_config": {"image": {}}}, "modality_config"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task"),
        (WHOLE, {"default_prompt_name": "query"}, "default_prompt_name null"),
        (WHOLE, {"model_type": "SparseEncoder"}, "model_type SentenceTransformer"),
    ],
)  # fmt: skip
def test_refused(folder, name, value, words):
    put(folder, name, value)
    with refused(TfmError, *words.split()) as caught:
        open_checkpoint(folder)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("link", ["1_Pooling", POOL, "modules.json"])
def test_links_out_of_the_directory_are_refused(folder, tmp_path_factory, link):
    outside = tmp_path_factory.mktemp("outside") / "there"
    (folder / link).rename(outside)
    (folder / link).symlink_to(outside)
    with refused(TfmError, "directory", "links"):
        open_checkpoint(folder)


def test_links_into_the_hub_cache_are_followed(folder, tmp_path):
    home = tmp_path / "hub" / "snapshots" / "0123"
    (home / "1_Pooling").mkdir(parents=True)
    (tmp_path / "hub" / "blobs").mkdir()
    for i, name in enumerate(["config.json", "model.safetensors", "modules.json", "1_Pooling/config.json"]):
        blob = tmp_path / "hub" / "blobs" / str(i)
        (folder / name).rename(blob)
        (home / name).symlink_to(blob)
    assert open_checkpoint(home).config.head == Pool("mean", unit=True)


def test_a_decoder_is_no_sentence_encoder(folder):
    config = tiny_models.llama(layers=1)
    save_checkpoint(folder, config, tiny_models.weights(config))
    with refused(TfmError, "model_type", "'tfm'"):
        open_checkpoint(folder)


@pytest.mark.real
def test_minilm_embeds_as_transformers_does(minilm):
    """The real model in float64, of ids that the library gives without truncation and padding."""
    from tokenizers import Tokenizer

    checkpoint = open_checkpoint(minilm)
    assert checkpoint.config.head == Pool("mean", unit=True)
    assert checkpoint.config.context == 256
    library = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    library.no_truncation()
    library.no_padding()
    texts = ["A man is eating food.", "The quick brown fox jumps over a lazy dog, again and again.", "Hi"]
    rows = [library.encode(text).ids for text in texts]
    lengths = np.array([len(row) for row in rows])
    ids = np.array([row + [0] * (lengths.max() - len(row)) for row in rows])
    params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    got = NumpyEngine(checkpoint.config, params).predict(ids, lengths)
    model = transformers.BertModel.from_pretrained(minilm, attn_implementation="eager").double().eval()
    mask = torch.from_numpy((np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64))
    want = torch.nn.functional.normalize(vectors(model, torch.from_numpy(ids), mask, "mean")).numpy()
    assert np.abs(got - want).max() <= 1e-9


def test_the_mean_is_what_a_pooling_without_a_word_means(folder):
    put(folder, POOL, {"word_embedding_dimension": WIDTH})
    assert open_checkpoint(folder).config.head.pooling == "mean"
