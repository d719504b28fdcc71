"""Tiny drawn Whispers with windows of 0.4 seconds, Moonshines, and models with a CTC head, written by
transformers, and sounds for them."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import transformers
from families import ROWS
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.engine.sound import HOP, RATE
from tfm.runtime.tasks.model import Model
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE, WordLevel

POSITIONS, BANDS, TEXTS = 20, 80, 60
SIZE = 2 * POSITIONS  # frames of a window
END, START, LANGUAGES, TASKS = 60, 61, {"<|en|>": 62, "<|de|>": 63}, {"translate": 64, "transcribe": 65}
PREVIOUS, NO_TIMESTAMPS = 66, 68
# What attention hears counts for more than the last token, or all windows and spans are
# alike.
SCALES = {"proj_out": 2.5, "decoder.embed_tokens": 2.0, "encoder_attn": 3.0, "decoder.embed_positions": 3.0}


def _draw(theirs: Any, seed: int, scales: Mapping[str, float], others: float = 1.0) -> None:
    """Draw all weights; matrices by the scale of a part of their name, or that of the others."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            drawn = torch.randn(weight.shape, generator=noise)
            vector = drawn * 0.3 + (not name.endswith("bias"))
            size = next((value for part, value in scales.items() if part in name), others)
            weight.copy_(vector if weight.ndim == 1 else size * drawn * weight[0].numel() ** -0.5)


def write(
    folder: Path,
    seed: int,
    *,
    multilingual: bool,
    vocabulary: int | None = None,
    positions: int = POSITIONS,
    **rules: Any,
) -> Any:
    """A model in the folder, with generation rules as published ones have them; transformers' model of it."""
    row = ROWS["whisper"]
    sizes = row.sizes | {
        "vocab_size": vocabulary or NO_TIMESTAMPS + positions + 2, "d_model": 24,
        "encoder_layers": 1, "decoder_layers": 2,
        "encoder_attention_heads": 2, "decoder_attention_heads": 3, "num_mel_bins": BANDS,
        "max_source_positions": positions, "max_target_positions": 32, "tie_word_embeddings": False,
        "eos_token_id": END, "pad_token_id": END, "bos_token_id": END, "decoder_start_token_id": START,
    }  # fmt: skip
    theirs = row.models[0](row.config(**sizes, attn_implementation="eager")).eval()
    _draw(theirs, seed, SCALES)
    theirs.proj_out.weight.data[END] *= 1.5
    stated: dict[str, Any] = {
        "eos_token_id": END, "pad_token_id": END, "bos_token_id": END, "decoder_start_token_id": START,
        "max_length": 32, "suppress_tokens": [4, START, 67], "begin_suppress_tokens": [5, END],
        "prev_sot_token_id": PREVIOUS, "no_timestamps_token_id": NO_TIMESTAMPS,
        "is_multilingual": multilingual, "max_initial_timestamp_index": 8,
        "alignment_heads": [[1, 2], [0, 1]],
    }  # fmt: skip
    stated |= {"lang_to_id": LANGUAGES, "task_to_id": TASKS} if multilingual else {}
    theirs.generation_config = transformers.GenerationConfig(**(stated | rules))
    theirs.save_pretrained(folder)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(TEXTS)}, unk_token="w0"))
    (folder / "tokenizer.json").write_text(words.to_str())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return theirs


def model(*, multilingual: bool) -> Model:
    """Such a model on the NumPy engine."""
    return _specified(partial(write, seed=1, multilingual=multilingual))


def moonshine() -> Model:
    """A Moonshine on the NumPy engine."""
    return _specified(partial(write_moonshine, seed=1))


def _specified(written: Callable[[Path], Any]) -> Model:
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder))
        checkpoint = open_checkpoint(folder)
        return Model(NumpyEngine(checkpoint.config, checkpoint.params), checkpoint)


LETTERS = "|ABCDE'"
STRIDE = 320  # samples of a letter of `write_ctc`'s model


def write_ctc(folder: Path, seed: int, name: str = "wav2vec2", **settings: Any) -> Any:
    """A model in the folder that says letters, with the files that its processor has; transformers' model."""
    row = ROWS[name]
    sizes = row.sizes | {
        "vocab_size": len(LETTERS) + 2, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 40, "conv_dim": [6, 8, 10], "conv_kernel": [40, 9, 3],
        "conv_stride": [20, 8, 2], "num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 2,
    }  # fmt: skip
    if name == "hubert":
        sizes |= {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
    theirs = row.models[0](row.config(**sizes, attn_implementation="eager")).eval()
    # What is heard at a place counts for more than what is around it.
    _draw(theirs, seed, {"encoder.layers": 0.3}, others=3.0)
    theirs.lm_head.bias.data.zero_()
    theirs.lm_head.weight.data -= theirs.lm_head.weight.data.mean(1, keepdim=True)
    theirs.save_pretrained(folder)
    tokens = {token: id for id, token in enumerate(["<pad>", "<unk>", *LETTERS])}
    (folder / "vocab.json").write_text(json.dumps(tokens))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **settings)
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    return theirs


PIECES = ["▁the", "▁sea", "▁a", "s", "ing", "▁ship", "er", ",", ".", "▁rain"]


def write_moonshine(folder: Path, seed: int, **rules: Any) -> Any:
    """A Moonshine in the folder, with the files that its processor has; transformers' model of it in float64.

    Its numbers of layers and widths all differ. Its tokens are pieces of words, or bytes, as published ones
    are.
    """
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    row = ROWS["moonshine"]
    sizes = row.sizes | {
        "vocab_size": len(tokens), "hidden_size": 30, "intermediate_size": 40, "encoder_num_hidden_layers": 1,
        "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 3, "decoder_num_attention_heads": 3,
        "max_position_embeddings": 90, "tie_word_embeddings": False,
    }  # fmt: skip
    theirs = row.models[0](row.config(**sizes, attn_implementation="eager")).eval()
    _draw(theirs, seed, SCALES)
    theirs.proj_out.weight.data[2] *= 1.5
    stated = {"bos_token_id": 1, "decoder_start_token_id": 1, "eos_token_id": 2, "max_length": 90}
    theirs.generation_config = transformers.GenerationConfig(**(stated | rules))
    theirs.save_pretrained(folder)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ids = {token: id for id, token in enumerate(tokens)}
    own = Tokenizer(BPE(ids, [], unk_token="<unk>", byte_fallback=True))
    own.decoder = decoders.Sequence(steps)
    own.add_special_tokens([AddedToken(token, special=True) for token in tokens[:3]])
    own.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    form = {"do_normalize": False, "return_attention_mask": True}
    transformers.Wav2Vec2FeatureExtractor(**form).save_pretrained(folder)
    return theirs.double()


def wav(samples: np.ndarray) -> bytes:
    """A file of the samples as they are."""
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="DOUBLE")
    return file.getvalue()


def sound(seed: int, frames: int) -> np.ndarray:
    """Noise that swells, with tones and a silence."""
    rng, count = np.random.default_rng(seed), frames * HOP + int(seed % HOP)
    at = np.arange(count) / RATE
    tones = sum(np.sin(2 * np.pi * rng.uniform(80, 4000) * at + 6 * np.sin(9 * at)) for _ in range(3))
    found = (rng.normal(size=count) * rng.uniform(0, 0.3) + tones * 0.2) * np.abs(np.sin(at * 7 + seed))
    found[count // 3 : count // 3 + int(seed % 3) * 2000] = 0
    return np.clip(found, -1, 1)
