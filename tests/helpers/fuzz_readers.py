"""Every reader of files that nobody has to trust, with sound files to change, for `fuzz.py`."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from safetensors.numpy import save_file
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.checkpoint.formats.ctranslate2 import CTranslate2File
from tfm.refimpl.checkpoint.formats.gguf import GGUF
from tfm.refimpl.checkpoint.formats.model_directory import Directory
from tfm.refimpl.checkpoint.formats.safetensors import SafeTensors
from tfm.refimpl.checkpoint.formats.sentencepiece_model import read_sentencepiece
from tfm.refimpl.checkpoint.formats.strict_json import parse
from tfm.refimpl.checkpoint.formats.torch_file import TorchFile
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.checkpoint.tokenizer_files import read_tokenizer as read_tokenizer_of
from tfm.refimpl.checkpoint.tokenizers import tokenizer as specified
from tfm.refimpl.checkpoint.tokenizers.training import count_words, train
from tfm.refimpl.errors import CheckpointError, LimitError
from tfm.refimpl.params.tree import flatten
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.hub.download import unpack
from tfm.runtime.sound_files import samples_of
from tfm.runtime.text.chat_template import ChatTemplate
from tfm.runtime.text.tokenizer import Tokenizer
from tfm.runtime.verification import golden

from helpers import ctranslate2_writer, mutators, tiny_models, torch_writer
from helpers.vocabulary_directories import spm

if TYPE_CHECKING:
    from tfm.runtime.ort.engine import OrtEngine

Passed = Callable[[], None]  # called once the outer form of a file was read
TEXTS = ("the quick brown fox", "", "a  b\n\t9 é😀", "<s>x</s>", "zzz" * 20)
LINES = ["the quick brown fox jumps over the lazy dog"] * 3 + ["a man a plan", "12 monkeys, 3 é"]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
# As models have them: a namespace, a macro, tests, filters, and what transformers adds.
TEMPLATES = (
    TEMPLATE,
    "{{ bos_token }}{% set ns = namespace(system='', n=[1, 2]) %}{% for m in messages %}{% if m['role'] == "
    "'system' and not loop.first %}{{ raise_exception('late system') }}{% elif m.role == 'system' %}{% set "
    "ns.system = ns.system ~ m.content|trim %}{% else %}{{ '<|' ~ m.role ~ '|>' }}{{ m.content|upper if "
    "loop.last else m.content }}{% endif %}{% endfor %}{{ ns.system }}{{ strftime_now('%d %b %Y') }}",
    "{%- macro turn(m, n=2) -%}{{ m|tojson(indent=n) }}{{ ('x' * n)|replace('x', 'y') }}{%- endmacro -%}"
    "{% for m in messages[1:] + messages[:1] %}{{ turn(m) }}{{ range(3)|list|join(',') }}"
    "{% if m.content is defined and m.content is string %}{{ m.content.split('o')|length }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant' ~ ':' }}{% endif %}",
)
CHAT = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello, who?"}]
VOCABULARY = 300


@dataclass(frozen=True)
class Reader:
    """One kind of file: sound ones, how they are changed, and what reads one: (folder, data, passed)."""

    sound: Callable[[Path], list[bytes]]
    mutate: mutators.Mutator
    read: Callable[[Path, bytes, Passed], None]


def prepare(folder: Path) -> None:
    """Checkpoints of several kinds, of which mutants are made; `export` adds the bundles of two."""
    config = tiny_models.llama(layers=1, vocabulary=VOCABULARY, width=32, heads=2, kv_heads=1, mlp=48)
    params = tiny_models.weights(config)
    text = specified.dumps(
        train(count_words(LINES, "bpe"), "bpe", VOCABULARY, special_tokens=["<s>", "</s>"])
    )
    stated = {"eos_token_id": 1, "bos_token_id": 0, "do_sample": True, "temperature": 0.7, "top_k": 20}
    save_checkpoint(folder / "checkpoint", config, params, text, TEMPLATE, generation=stated)
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    eos = {"__type": "AddedToken", "content": "</s>", **flags, "special": True}
    about = {"bos_token": "<s>", "eos_token": eos, "model_max_length": 128}
    (folder / "checkpoint" / "tokenizer_config.json").write_text(json.dumps(about))
    sharded = Path(shutil.copytree(folder / "checkpoint", folder / "sharded"))
    weights = (sharded / "model.safetensors").replace(sharded / "a.safetensors")
    names = dict.fromkeys(SafeTensors(weights).names, "a.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    converted = Path(shutil.copytree(folder / "checkpoint", folder / "torch"))
    (converted / "model.safetensors").unlink()
    for zipped in (False, True):
        data = torch_writer.torch_file(dict(flatten(params)), zipped=zipped)
        (converted / f"{'zip' if zipped else 'older'}.bin").write_bytes(data)
    write_gguf(folder / "model.gguf")
    translator = tiny_models.encoder_decoder(layers=1, vocabulary=VOCABULARY, width=16)
    save_checkpoint(folder / "translator", translator, tiny_models.weights(translator), text)
    _write_adapter(folder / "adapter", folder / "base")


def export(folder: Path) -> None:
    """The bundles, by processes of their own: ours stays free of torch, so that it is forked in a moment."""
    for source, bundle in BUNDLES.items():
        command = [sys.executable, "-m", "tfm.cli.main", "export", str(folder / source), str(folder / bundle)]
        subprocess.run([*command, "--no-verify"], check=True, capture_output=True)


def _write_adapter(adapter: Path, base: Path) -> None:
    """A Llama of one layer, and low-rank updates of two of its weights, with a saved norm."""
    rng = np.random.default_rng(0)

    def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}

    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    attention = {"q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 16)}
    mlp = {"gate_proj": (24, 16), "up_proj": (24, 16), "down_proj": (16, 24)}
    layer = {f"self_attn.{name}": shape for name, shape in attention.items()}
    layer |= {f"mlp.{name}": shape for name, shape in mlp.items()}
    layer |= {"input_layernorm": (16,), "post_attention_layernorm": (16,)}
    weights = {f"model.layers.0.{name}.weight": shape for name, shape in layer.items()}
    weights |= {"model.embed_tokens.weight": (20, 16), "model.norm.weight": (16,)}
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "use_rslora": True,
        "target_modules": ["q_proj", "down_proj"], "rank_pattern": {"down_proj": 3},
        "modules_to_save": ["norm"], "bias": "none",
    }  # fmt: skip
    named = "base_model.model.model."
    updates = {f"{named}layers.0.self_attn.q_proj.lora_A.weight": (2, 16)}
    updates |= {f"{named}layers.0.self_attn.q_proj.lora_B.weight": (16, 2)}
    updates |= {f"{named}layers.0.mlp.down_proj.lora_A.weight": (3, 24)}
    updates |= {f"{named}layers.0.mlp.down_proj.lora_B.weight": (16, 3), f"{named}norm.weight": (16,)}
    adapter.mkdir()
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "llama", **sizes, **heads}))
    save_file(drawn(weights), base / "model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    save_file(drawn(updates), adapter / "adapter_model.safetensors")


def write_gguf(path: Path, split_max_tensors: int = 0) -> None:
    """A Llama of one layer with a tokenizer and every kind of value."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split_max_tensors)
    for key, value in {"block_count": 1, "context_length": 64, "embedding_length": 32}.items():
        writer.add_uint32(f"llama.{key}", value)
    for key, value in {
        "feed_forward_length": 32,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
    }.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁a", "b", "▁", "a"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(-i) for i in range(len(tokens))])
    writer.add_token_types([2, 3, 3, *[6] * 256, 1, 1, 1, 1])
    writer.add_bos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    writer.add_bool("general.flag", True)
    writer.add_array("general.tags", ["a", "b"])
    writer.add_array("general.numbers", [1.5, 2.5])
    shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    shapes |= {"ffn_gate": (32, 32), "ffn_up": (32, 32), "ffn_down": (32, 32)}
    tensors = {f"blk.0.{name}.weight": shape for name, shape in shapes.items()}
    tensors |= {"token_embd.weight": (len(tokens), 32), "output_norm.weight": (32,)}
    tensors |= {"blk.0.attn_norm.weight": (32,), "blk.0.ffn_norm.weight": (32,)}
    kinds = ["F32", "F16", "Q8_0", "Q4_1"]
    for i, (name, shape) in enumerate(tensors.items()):
        kind = gguf.GGMLQuantizationType[kinds[i % 4] if len(shape) > 1 else "F32"]
        values = rng.standard_normal(shape).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


BUNDLES = {"checkpoint": "bundle", "translator": "translator-bundle"}


def _files(*names: str) -> Callable[[Path], list[bytes]]:
    return lambda folder: [(folder / name).read_bytes() for name in names]


def read_config_json(folder: Path, data: bytes, passed: Passed) -> None:
    values = parse(data, "config.json")
    passed()
    read_config(values)


def read_tokenizer(folder: Path, data: bytes, passed: Passed) -> None:
    """The specification's tokenizer, then the library's; what one of them refuses the other may read."""
    text = data.decode("utf-8", "replace")
    parse(text, "tokenizer.json")
    passed()
    failures = []
    for encode in (_specified_encode, _library_encode):
        try:
            encode(text)
        except Exception as error:
            failures.append(error)
    for error in failures:
        raise error


def _specified_encode(text: str) -> None:
    tokenizer = specified.read(text)
    for sample in TEXTS:
        tokenizer.decode(tokenizer.encode(sample, "x").ids)


def _library_encode(text: str) -> None:
    tokenizer = Tokenizer(text, VOCABULARY)
    for sample in TEXTS:
        tokenizer.decode(tokenizer.encode(sample, add_special_tokens=True))


def read_in_checkpoint(
    name: str,
    folder: Path,
    data: bytes,
    passed: Passed,
    kind: str = "checkpoint",
    base: str | None = None,
) -> None:
    """A directory in which one file was changed; with a `base`, it is an adapter for that."""
    path = folder / kind / name
    before = path.read_bytes()
    try:
        path.write_bytes(data)
        if name.endswith(".json"):
            parse(data, name)
            passed()
        elif len(data) > 8:
            parse(data[8 : 8 + int.from_bytes(data[:8], "little")], name)
            passed()
        if base is None:
            dict(flatten(open_checkpoint(folder / kind).params))
        else:
            dict(flatten(open_checkpoint(folder / base, folder / kind).params))
    finally:
        path.write_bytes(before)


def read_safetensors(folder: Path, data: bytes, passed: Passed) -> None:
    read_in_checkpoint("model.safetensors", folder, data, passed)


def read_torch_file(folder: Path, data: bytes, passed: Passed) -> None:
    path = folder / "torch" / "pytorch_model.bin"
    path.write_bytes(data)
    if zipfile.is_zipfile(path) or data.startswith(torch_writer.MAGIC):
        passed()
    file = TorchFile(path)
    for name in file.names:
        file.load(name)
    dict(flatten(open_checkpoint(path.parent).params))


def read_ctranslate2(folder: Path, data: bytes, passed: Passed) -> None:
    ctranslate2_writer.write(folder / "ctranslate2", data, 20)
    CTranslate2File(folder / "ctranslate2" / "model.bin")
    passed()
    dict(flatten(open_checkpoint(folder / "ctranslate2").params))


def sounds(_: Path) -> list[bytes]:
    """A tone in each form that libsndfile is asked for, of one channel and of two."""
    import soundfile  # readers of checkpoints do without it

    tone = np.sin(np.arange(3000) / 9)
    forms = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None)]
    found = []
    for format, subtype in forms:
        buffer = io.BytesIO()
        samples = tone if format in ("OGG", "MP3") else np.stack([tone, -tone / 2], axis=1)
        soundfile.write(buffer, samples, 8000, format=format, subtype=subtype)
        found.append(buffer.getvalue())
    return found


def read_sound(folder: Path, data: bytes, passed: Passed) -> None:
    path = folder / "mutant.sound"
    path.write_bytes(data)
    blocks = samples_of(path)
    passed()
    for block in blocks():
        assert np.isfinite(block).all()


def forms(_: Path) -> list[bytes]:
    """A form with a sound, as clients send it, and one with lists, as browsers do."""
    sound = 'name="file"; filename="a \\"b\\".wav"\r\nContent-Type: audio/wav'
    lists = 'name="timestamp_granularities[]"'
    found = [[("name=model", "whisper"), (sound, "RIFF\0\n--xy")], [(lists, "word"), (lists, "é")]]
    field = "--xyz\r\nContent-Disposition: form-data; {}\r\n\r\n{}\r\n"
    return ["".join([*(field.format(*one) for one in form), "--xyz--\r\n"]).encode() for form in found]


def read_form(_: Path, data: bytes, passed: Passed) -> None:
    """Its fields. A server refuses with a status, so it stands for an exit code."""
    from tfm.runtime.serve.errors import RequestError  # readers of checkpoints do without it
    from tfm.runtime.serve.form import parse_form

    if data.startswith(b"--xyz\r\n"):
        passed()
    try:
        parse_form(data, b"xyz")
    except RequestError as error:
        raise LimitError(f"status {error.status}: {error}") from None


def read_sentencepiece_model(folder: Path, data: bytes, passed: Passed) -> None:
    """A SentencePiece model, and the tokenizer.json that is made of it."""
    directory = folder / "sentencepiece"
    directory.mkdir(exist_ok=True)
    (directory / "tokenizer.model").write_bytes(data)
    read_sentencepiece(directory / "tokenizer.model")
    passed()
    applied = read_tokenizer_of(Directory(directory), {}, {"model_type": "mistral"})
    assert applied is not None
    _specified_encode(applied.text)


def read_template(folder: Path, data: bytes, passed: Passed) -> None:
    """A chat template, in the child process that renders it."""
    vocabulary = Tokenizer((folder / "checkpoint" / "tokenizer.json").read_text(), VOCABULARY)
    try:
        ChatTemplate(data.decode("utf-8", "replace"), vocabulary, bos=0, eos=[1]).render(CHAT)
    except CheckpointError as error:
        if "syntax error" not in str(error):
            passed()
        raise
    passed()


class _CountingGguf(GGUF):
    passed: Passed

    def _tensor(self, cursor: Any, name: str, at: int) -> tuple[str, tuple[int, ...], int, int]:
        self.passed()
        return super()._tensor(cursor, name, at)


def read_gguf(folder: Path, data: bytes, passed: Passed) -> None:
    path = folder / "mutant.gguf"
    path.write_bytes(data)
    _CountingGguf.passed = staticmethod(passed)
    file = _CountingGguf(path)
    for name in file.names:
        file.load(name)
        file.native(name)
    checkpoint = open_checkpoint(path)
    dict(flatten(checkpoint.params))
    if checkpoint.tokenizer is not None:
        _library_encode(checkpoint.tokenizer)


def read_in_bundle(name: str, folder: Path, data: bytes, passed: Passed, bundle: str = "bundle") -> None:
    """A bundle in which one file was changed, and its hash in the manifest, as an attacker would."""
    path, manifest = folder / bundle / name, folder / bundle / "tfm.json"
    before, stated = path.read_bytes(), manifest.read_bytes()
    try:
        path.write_bytes(data)
        if name != "tfm.json":
            value = json.loads(stated)
            value["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            manifest.write_text(json.dumps(value))
        _use_bundle(name, folder / bundle, data, passed)
    finally:
        path.write_bytes(before)
        manifest.write_bytes(stated)


def _use_bundle(name: str, path: Path, data: bytes, passed: Passed) -> None:
    if name == "tfm.json":
        parse(data, name)
        passed()
        opened = open_bundle(path, check_hashes=True)
        dict(flatten(opened.params()))
        return
    opened = open_bundle(path, check_hashes=True)
    if name.startswith("golden/"):
        if data.startswith(b"\x93NUMPY"):
            passed()
        golden.load(opened)
    elif name.endswith(".onnx"):
        from tfm.runtime.ort.engine import OrtEngine

        opened.check_graphs()
        passed()
        engine = OrtEngine(opened, threads=1)
        source = np.array([[3, 2, 1, 4]]) if name == "encoder.onnx" else None
        engine.step(np.array([[1, 2, 3]]), engine.start(encoder_ids=source))
    else:
        passed()
        dict(flatten(opened.params()))


@cache
def _engine(path: Path) -> OrtEngine:
    from tfm.runtime.ort.engine import OrtEngine

    return OrtEngine(open_bundle(path), threads=1)


def prefixes(folder: Path) -> list[bytes]:
    """What `--prefix` writes."""
    from tfm.runtime.ort import prefix_file

    engine, tokens = _engine(folder / "bundle"), [1, 2, 3, 4, 5]
    _, kept = engine.step(np.array([tokens]), engine.start())
    prefix_file.write(folder / "prefix", engine, tokens, kept)
    return [(folder / "prefix").read_bytes()]


def read_prefix(folder: Path, data: bytes, passed: Passed) -> None:
    """A prefix, and a token after it."""
    from tfm.runtime.ort import prefix_file

    engine, path = _engine(folder / "bundle"), folder / "prefix"
    path.write_bytes(data)
    length = int.from_bytes(data[8:12], "little")
    parse(data[12 : 12 + length], "prefix")
    passed()
    _, kept = prefix_file.read(path, engine)
    engine.step(np.array([[1]]), kept)


def wheels(folder: Path) -> list[bytes]:
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as file:
            for path in sorted((folder / "checkpoint").iterdir()):
                file.write(path, f"pkg/model/{path.name}")
            file.writestr("pkg/__init__.py", "x = 1\n" * 20)
        found.append(buffer.getvalue())
    return found


def read_wheel(folder: Path, data: bytes, passed: Passed) -> None:
    path = folder / "mutant.whl"
    path.write_bytes(data)
    if zipfile.is_zipfile(path):
        passed()
    with tempfile.TemporaryDirectory(dir=folder) as into:
        unpack(path, Path(into))


def tokenizers(folder: Path) -> list[bytes]:
    unigram = specified.dumps(train(count_words(LINES, "unigram"), "unigram", 60, special_tokens=["<s>"]))
    return [(folder / "checkpoint" / "tokenizer.json").read_bytes(), unigram.encode(), _wordpiece().encode()]


def _wordpiece() -> str:
    """BERT's parts."""
    tokens = [
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{c}" for c in "abcdefghijklmno"),
    ]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": i, "content": token, **flags, "special": True} for i, token in enumerate(tokens[:3])]
    single = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}}
    return json.dumps(
        {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                           "strip_accents": None, "lowercase": True},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "\\d+|[a-z]+(?!x)"}, "behavior": "Isolated",
                 "invert": False},
                {"type": "BertPreTokenizer"}]},
            "post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair,
                               "special_tokens": special},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": {token: i for i, token in enumerate(tokens)}},
        }
    )  # fmt: skip


def configs(folder: Path) -> list[bytes]:
    from tfm.cli.commands.inspect import EXAMPLES

    return [path.read_bytes() for path in sorted(EXAMPLES.iterdir())]


def _either(first: mutators.Mutator, second: mutators.Mutator) -> mutators.Mutator:
    def mutate(data: bytes, rng: random.Random) -> bytes:
        return (first if rng.random() < 0.6 else second)(data, rng)

    return mutate


def _in_checkpoint(name: str) -> Reader:
    return Reader(_files(f"checkpoint/{name}"), mutators.json_text, partial(read_in_checkpoint, name))


def _in_adapter(name: str, mutate: mutators.Mutator) -> Reader:
    return Reader(
        _files(f"adapter/{name}"), mutate, partial(read_in_checkpoint, name, kind="adapter", base="base")
    )


READERS: dict[str, Reader] = {
    "config.json": Reader(configs, mutators.json_text, read_config_json),
    "config.json of tfm": _in_checkpoint("config.json"),
    "generation_config.json": _in_checkpoint("generation_config.json"),
    "tokenizer_config.json": _in_checkpoint("tokenizer_config.json"),
    "tokenizer.json": Reader(tokenizers, mutators.json_text, read_tokenizer),
    "index": Reader(
        _files("sharded/model.safetensors.index.json"),
        mutators.json_text,
        partial(read_in_checkpoint, "model.safetensors.index.json", kind="sharded"),
    ),
    "safetensors": Reader(
        _files("checkpoint/model.safetensors"),
        _either(mutators.safetensors_header, mutators.any_bytes),
        read_safetensors,
    ),
    "pytorch_model.bin": Reader(
        _files("torch/zip.bin", "torch/older.bin"),
        _either(mutators.torch_pickle, mutators.any_bytes),
        read_torch_file,
    ),
    "model.bin": Reader(lambda _: [ctranslate2_writer.drawn()], mutators.any_bytes, read_ctranslate2),
    "sound": Reader(sounds, mutators.any_bytes, read_sound),
    "form": Reader(forms, mutators.any_bytes, read_form),
    "tokenizer.model": Reader(
        lambda _: [spm("bpe"), spm("bpe of its own"), spm("t5")],
        mutators.any_bytes,
        read_sentencepiece_model,
    ),
    "gguf": Reader(_files("model.gguf"), _either(mutators.gguf_field, mutators.any_bytes), read_gguf),
    "adapter_config.json": _in_adapter("adapter_config.json", mutators.json_text),
    "adapter": _in_adapter(
        "adapter_model.safetensors", _either(mutators.safetensors_header, mutators.any_bytes)
    ),
    "chat template": Reader(
        lambda _: [template.encode() for template in TEMPLATES], mutators.template_parts, read_template
    ),
    "tfm.json": Reader(_files("bundle/tfm.json"), mutators.json_text, partial(read_in_bundle, "tfm.json")),
    "model.onnx": Reader(
        _files("bundle/model.onnx"), mutators.graph_field, partial(read_in_bundle, "model.onnx")
    ),
    "encoder.onnx": Reader(
        _files("translator-bundle/encoder.onnx"),
        mutators.graph_field,
        partial(read_in_bundle, "encoder.onnx", bundle="translator-bundle"),
    ),
    "model.onnx.data": Reader(
        _files("bundle/model.onnx.data"), mutators.any_bytes, partial(read_in_bundle, "model.onnx.data")
    ),
    "golden.npy": Reader(
        _files("bundle/golden/tokens.npy"), mutators.any_bytes, partial(read_in_bundle, "golden/tokens.npy")
    ),
    "prefix": Reader(prefixes, mutators.prefix_header, read_prefix),
    "wheel": Reader(wheels, _either(mutators.zip_entry, mutators.any_bytes), read_wheel),
}
