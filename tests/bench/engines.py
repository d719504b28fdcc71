"""A worker: one engine with one model loaded, measured on request. It runs in the Python of that engine.

    python engines.py KIND MODEL THREADS

One JSON object a line. Out first: {"engine", "version", "load_s"}. In: {"prompt": ids, "new": N}. Out:
{"tokens": the N greedy ids, "prefill_s": until the first of them is known, "decode_s": for the N − 1
others, "idle_cpu_s": processor time that was used while nobody asked, "idle_s"}. With "rows": B in the
request B texts are written side by side after the same prompt, and "tokens" are those of all steps.
A decoder that reads an encoder reads `prompt` with that, and writes after the token that it begins with.
An encoder is asked {"texts": [ids]} and gives their "vectors"; with "for_s": S it reads them again and
again for S seconds, and gives the "seconds" that it takes each time.

Each engine is driven the leanest way that its Python binding offers, logits and cache staying where
it keeps them. No engine stops at an end-of-text token.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 512  # tokens of a prompt that tfm's own loop reads at a time


class Stepwise:
    """An engine that gives one token at a time: `first` reads the prompt, `next` goes on from a token."""

    def __init__(self, model: str, threads: int) -> None:
        raise NotImplementedError

    def first(self, prompt: list[int]) -> int:
        raise NotImplementedError

    def next(self, token: int) -> int:
        raise NotImplementedError

    def measure(self, prompt: list[int], new: int) -> tuple[list[int], float, float]:
        """(tokens, seconds of the prompt, seconds of the other tokens)."""
        begin = time.perf_counter()
        tokens = [self.first(prompt)]
        middle = time.perf_counter()
        while len(tokens) < new:
            tokens.append(self.next(tokens[-1]))
        return tokens, middle - begin, time.perf_counter() - middle

    def first_of(self, prompts: list[list[int]]) -> list[int]:
        """As `first`, for texts of one length side by side."""
        raise NotImplementedError

    def next_of(self, tokens: list[int]) -> list[int]:
        raise NotImplementedError

    def measure_rows(self, prompt: list[int], new: int, rows: int) -> tuple[list[int], float, float]:
        """As `measure`, for `rows` texts side by side."""
        begin = time.perf_counter()
        steps = [self.first_of([prompt] * rows)]
        middle = time.perf_counter()
        while len(steps) < new:
            steps.append(self.next_of(steps[-1]))
        return [token for step in steps for token in step], middle - begin, time.perf_counter() - middle


class TfmEngine(Stepwise):
    """tfm's own engines: `start` and `step`, as refimpl/engine/protocol.py has them."""

    engine: Any
    start: int | None = None  # the token that a decoder begins with which reads an encoder

    def first(self, prompt: list[int]) -> int:
        if self.start is not None:
            self.cache = self.engine.start(1, np.array([prompt], np.int64))
            return self._step([self.start])
        self.cache = self.engine.start(1)
        return self._step(prompt)

    def next(self, token: int) -> int:
        return self._step([token])

    def _step(self, ids: list[int]) -> int:
        return self._step_of([ids])[0]

    def first_of(self, prompts: list[list[int]]) -> list[int]:
        self.cache = self.engine.start(len(prompts))
        return self._step_of(prompts)

    def next_of(self, tokens: list[int]) -> list[int]:
        return self._step_of([[token] for token in tokens])

    def _step_of(self, ids: list[list[int]]) -> list[int]:
        tokens = np.array(ids, np.int64)
        logits = np.zeros((len(ids), 1, 1))
        for at in range(0, tokens.shape[1], CHUNK):
            logits, self.cache = self.engine.step(tokens[:, at : at + CHUNK], self.cache)
        return logits[:, 0].argmax(axis=1).tolist()


class Onnx(TfmEngine):
    """A bundle on ONNX Runtime."""

    def __init__(self, model: str, threads: int) -> None:
        import onnxruntime
        from tfm import runtime

        loaded: Any = runtime.load(Path(model), threads=threads)
        self.engine, self.start = loaded.engine, loaded.generation.start
        self.version = f"{self.engine.backend}, onnxruntime {onnxruntime.__version__}"


class OnnxInFloat(TfmEngine):
    """A bundle on ONNX Runtime where it has no integer products, as on WebAssembly."""

    def __init__(self, model: str, threads: int) -> None:
        from tfm.runtime.bundle.bundle import open_bundle
        from tfm.runtime.ort.engine import OrtEngine

        bundle = open_bundle(Path(model))
        self.engine, self.start = OrtEngine(bundle, threads=threads, plain=True), bundle.generation.start
        self.version = self.engine.backend


class OnCuda(TfmEngine):
    """A bundle for ort-cuda; steps give the best token and not the logits."""

    captures = True

    def __init__(self, model: str, threads: int) -> None:
        import onnxruntime
        from tfm.runtime.bundle.bundle import open_bundle
        from tfm.runtime.ort import engine
        from tfm.runtime.ort.decode_step import AHEAD

        if not self.captures:
            engine.MOST_CAPTURES = 0
        self.engine = engine.OrtEngine(open_bundle(Path(model)), "cuda", threads)
        self.version = f"onnxruntime {onnxruntime.__version__}"
        self.limit, self.chosen = AHEAD, list[int]()

    def first(self, prompt: list[int]) -> int:
        self.chosen = []
        return super().first(prompt)

    def next(self, token: int) -> int:
        if not self.chosen:
            best, self.cache = self.engine.best(np.array([[token]], np.int64), self.cache, self.limit)
            self.chosen = best[0].tolist()
        return self.chosen.pop(0)


class OnCudaUncaptured(OnCuda):
    """The same without captures."""

    captures = False


class Llama(Stepwise):
    """llama.cpp by the C functions that llama-cpp-python wraps: no copy of logits, no sampler objects."""

    def __init__(self, model: str, threads: int) -> None:
        import llama_cpp as c  # pyright: ignore[reportMissingImports]

        @c.llama_log_callback
        def quiet(level: int, text: bytes, data: Any) -> None:
            pass

        self.c, self.quiet = c, quiet
        c.llama_log_set(quiet, ctypes.c_void_p(0))
        c.llama_backend_init()
        opened = c.llama_model_load_from_file(str(model).encode(), c.llama_model_default_params())
        params = c.llama_context_default_params()
        params.n_ubatch, params.n_threads, params.n_threads_batch = 512, threads, threads
        self.opened, self.params, self.context = opened, params, None
        self.size = c.llama_vocab_n_tokens(c.llama_model_get_vocab(opened))
        self.version = f"llama-cpp-python {c.__version__}"

    def measure(self, prompt: list[int], new: int) -> tuple[list[int], float, float]:
        self._open(1, len(prompt) + new)
        return super().measure(prompt, new)

    def measure_rows(self, prompt: list[int], new: int, rows: int) -> tuple[list[int], float, float]:
        self._open(rows, len(prompt) + new)
        return super().measure_rows(prompt, new, rows)

    def _open(self, texts: int, tokens: int) -> None:
        """A context with room for so many texts of so many tokens, if the last one has another."""
        room = -(-tokens // 256) * 256
        if self.context is not None and (self.params.n_seq_max, self.params.n_ctx) == (texts, texts * room):
            return
        if self.context is not None:
            self.c.llama_free(self.context)
        self.params.n_seq_max, self.params.n_ctx, self.params.n_batch = texts, texts * room, max(2048, room)
        self.context = self.c.llama_init_from_model(self.opened, self.params)

    def first(self, prompt: list[int]) -> int:
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), True)
        return self._step(prompt)

    def next(self, token: int) -> int:
        return self._step([token])

    def _step(self, ids: list[int]) -> int:
        tokens = (self.c.llama_token * len(ids))(*ids)
        if self.c.llama_decode(self.context, self.c.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError("llama_decode failed")
        logits = self.c.llama_get_logits_ith(self.context, -1)
        return int(np.ctypeslib.as_array(logits, (self.size,)).argmax())

    def first_of(self, prompts: list[list[int]]) -> list[int]:
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), True)
        self.past = len(prompts[0])
        made = []
        for row, prompt in enumerate(prompts):
            last = len(prompt) - 1
            made += self._decode([(token, i, row, i == last) for i, token in enumerate(prompt)])
        return made

    def next_of(self, tokens: list[int]) -> list[int]:
        made = self._decode([(token, self.past, row, True) for row, token in enumerate(tokens)])
        self.past += 1
        return made

    def _decode(self, entries: list[tuple[int, int, int, bool]]) -> list[int]:
        """Read tokens, each with its position and row; the likeliest ones after those that are wanted."""
        c, count = self.c, len(entries)
        batch = c.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for i, (token, position, row, wanted) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
        failed = c.llama_decode(self.context, batch)
        c.llama_batch_free(batch)
        if failed:
            raise RuntimeError("llama_decode failed")
        found = (c.llama_get_logits_ith(self.context, i) for i, one in enumerate(entries) if one[3])
        return [int(np.ctypeslib.as_array(logits, (self.size,)).argmax()) for logits in found]


class Genai(Stepwise):
    """onnxruntime-genai; it keeps the last token itself."""

    provider: Any = None

    def __init__(self, model: str, threads: int) -> None:
        import onnxruntime_genai as og  # pyright: ignore[reportMissingImports]

        config = og.Config(model)
        options: dict[str, Any] = {"intra_op_num_threads": threads}
        if self.provider is not None:
            options["provider_options"] = [self.provider]
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self.og, self.model = og, og.Model(config)
        self.version = f"onnxruntime-genai {og.__version__}"

    def measure(self, prompt: list[int], new: int) -> tuple[list[int], float, float]:
        # Its key-value cache is allocated for max_length, and end-of-text would end the text.
        self.length = len(prompt) + new
        return super().measure(prompt, new)

    def first(self, prompt: list[int]) -> int:
        params = self.og.GeneratorParams(self.model)
        params.set_search_options(max_length=self.length, min_length=self.length, do_sample=False)
        self.generator = self.og.Generator(self.model, params)
        self.generator.append_tokens(np.array(prompt, np.int32))
        return self.next(0)

    def next(self, token: int) -> int:
        self.generator.generate_next_token()
        return int(self.generator.get_next_tokens()[0])


class GenaiOnCuda(Genai):
    """The same on a GPU, its steps captured."""

    provider: Any = {"cuda": {"enable_cuda_graph": "1"}}  # noqa: RUF012


class WholeTexts:
    """An engine that generates whole texts: decoding is a long text's time less a one-token text's."""

    def generate(self, prompt: list[int], length: int) -> list[int]:
        raise NotImplementedError

    def measure(self, prompt: list[int], new: int) -> tuple[list[int], float, float]:
        def timed(length: int) -> tuple[list[int], float]:
            begin = time.perf_counter()
            tokens = self.generate(prompt, length)
            return tokens, time.perf_counter() - begin

        _, prefill = timed(1)
        tokens, long_seconds = timed(new)
        return tokens, prefill, long_seconds - prefill


class Optimum(WholeTexts):
    """optimum's ORTModel classes."""

    def __init__(self, model: str, threads: int) -> None:
        import onnxruntime as ort
        import optimum.version  # pyright: ignore[reportMissingImports]
        import torch
        from optimum import onnxruntime as classes  # pyright: ignore[reportMissingImports]

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        torch.set_num_threads(threads)
        reads = json.loads((Path(model) / "config.json").read_bytes()).get("is_encoder_decoder", False)
        kind = classes.ORTModelForSeq2SeqLM if reads else classes.ORTModelForCausalLM
        self.torch, self.reads = torch, reads
        self.model = kind.from_pretrained(model, session_options=options)
        self.model.generation_config.eos_token_id = None
        self.version = f"optimum {optimum.version.__version__}, onnxruntime {ort.__version__}"

    def generate(self, prompt: list[int], length: int) -> list[int]:
        ids = self.torch.tensor([prompt])
        rows = self.model.generate(
            input_ids=ids,
            attention_mask=self.torch.ones_like(ids),
            max_new_tokens=length,
            do_sample=False,
            num_beams=1,
        )
        return rows[0, 1 if self.reads else len(prompt) :].tolist()


class CTranslate2(WholeTexts):
    """CTranslate2, whose prompts are words of the vocabulary."""

    def __init__(self, model: str, threads: int) -> None:
        import ctranslate2  # pyright: ignore[reportMissingImports]

        self.words = json.loads((Path(model) / "vocabulary.json").read_text())
        self.generator = ctranslate2.Generator(
            model, device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
        )
        self.version = f"ctranslate2 {ctranslate2.__version__}"

    def generate(self, prompt: list[int], length: int) -> list[int]:
        words = [self.words[i] for i in prompt]
        results = self.generator.generate_batch(
            [words], max_length=length, min_length=length, sampling_topk=1, include_prompt_in_result=False
        )
        return results[0].sequences_ids[0]


class OpenVino(WholeTexts):
    """OpenVINO GenAI, which reads a GGUF file."""

    def __init__(self, model: str, threads: int) -> None:
        import openvino  # pyright: ignore[reportMissingImports]
        import openvino_genai  # pyright: ignore[reportMissingImports]

        self.tensor, self.genai = openvino.Tensor, openvino_genai
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False  # the same prompt is read again and again
        self.pipeline = openvino_genai.LLMPipeline(
            model, "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=threads
        )
        self.version = f"openvino-genai {openvino_genai.__version__.split('-')[0]}"

    def generate(self, prompt: list[int], length: int) -> list[int]:
        config = self.genai.GenerationConfig(max_new_tokens=length, ignore_eos=True, do_sample=False)
        ids = np.array([prompt], np.int64)
        inputs = self.genai.TokenizedInputs(self.tensor(ids), self.tensor(np.ones_like(ids)))
        return self.pipeline.generate(inputs, config).tokens[0]


class Encoder:
    """An engine that makes a vector of each text."""

    def encode(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Vectors [B, D] of ids [B, T], whose rows are filled up behind their lengths [B]."""
        raise NotImplementedError

    def reply(self, request: dict[str, Any]) -> dict[str, Any]:
        texts = request["texts"]
        lengths = np.array([len(text) for text in texts])
        ids = np.zeros((len(texts), lengths.max()), np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = text
        vectors = self.encode(ids, lengths)
        if "for_s" not in request:
            return {"vectors": vectors.tolist()}
        count, begin = 0, time.perf_counter()
        while (spent := time.perf_counter() - begin) < request["for_s"]:
            self.encode(ids, lengths)
            count += 1
        return {"seconds": spent / count}


class OnnxEncoder(Encoder):
    """A bundle on ONNX Runtime."""

    def __init__(self, model: str, threads: int) -> None:
        from tfm import runtime

        self.engine: Any = runtime.load(Path(model), threads=threads).engine
        self.version = self.engine.backend

    def encode(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return self.engine.predict(ids, lengths)


class OnnxEncoderInFloat(OnnxEncoder):
    """The same where ONNX Runtime has no integer products, as on WebAssembly."""

    def __init__(self, model: str, threads: int) -> None:
        from tfm.runtime.bundle.bundle import open_bundle
        from tfm.runtime.ort.engine import OrtEngine

        self.engine = OrtEngine(open_bundle(Path(model)), threads=threads, plain=True)
        self.version = self.engine.backend


class OptimumEncoder(Encoder):
    """optimum's model of embeddings; the mean over the real tokens, of length 1, is its user's."""

    def __init__(self, model: str, threads: int) -> None:
        import onnxruntime as ort
        import optimum.version  # pyright: ignore[reportMissingImports]
        import torch
        from optimum import onnxruntime as classes  # pyright: ignore[reportMissingImports]

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        torch.set_num_threads(threads)
        self.torch = torch
        self.model = classes.ORTModelForFeatureExtraction.from_pretrained(model, session_options=options)
        self.version = f"optimum {optimum.version.__version__}, onnxruntime {ort.__version__}"

    def encode(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        mask = self.torch.from_numpy((np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64))
        tokens = self.torch.from_numpy(ids)
        inputs = {"input_ids": tokens, "token_type_ids": self.torch.zeros_like(tokens)}
        states = self.model(**inputs, attention_mask=mask).last_hidden_state
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.torch.nn.functional.normalize(pooled, dim=-1).numpy()


class GraphEncoder(Encoder):
    """A graph that ONNX Runtime's own `quantize_dynamic` made of a bundle's."""

    def __init__(self, model: str, threads: int) -> None:
        import onnxruntime as ort
        from tfm.runtime.ort.session import options

        self.session = ort.InferenceSession(model, options(threads), providers=["CPUExecutionProvider"])
        self.names = {i.name for i in self.session.get_inputs()}
        self.version = f"onnxruntime {ort.__version__}"

    def encode(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        inputs = {"tokens": ids, "lengths": lengths, "token_types": np.zeros_like(ids)}
        return np.asarray(self.session.run(None, {name: inputs[name] for name in self.names})[0])


class TransformersEncoder(Encoder):
    """transformers on torch in float32: the mean over the real tokens, of length 1."""

    def __init__(self, model: str, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.model = transformers.AutoModel.from_pretrained(model, dtype=torch.float32).eval()
        self.torch = torch
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def encode(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        tokens, counts = self.torch.from_numpy(ids), self.torch.from_numpy(lengths)[:, None]
        mask = (self.torch.arange(ids.shape[1])[None] < counts).long()
        states = self.model(tokens, attention_mask=mask).last_hidden_state
        pooled = (states * mask[..., None]).sum(1) / counts
        return self.torch.nn.functional.normalize(pooled, dim=-1).numpy()


KINDS = {
    "onnx": Onnx,
    "onnx-in-float": OnnxInFloat,
    "onnx-cuda": OnCuda,
    "onnx-cuda-uncaptured": OnCudaUncaptured,
    "llama": Llama,
    "genai": Genai,
    "genai-cuda": GenaiOnCuda,
    "ct2": CTranslate2,
    "openvino": OpenVino,
    "optimum": Optimum,
    "onnx encoder": OnnxEncoder,
    "onnx-in-float encoder": OnnxEncoderInFloat,
    "optimum encoder": OptimumEncoder,
    "graph encoder": GraphEncoder,
    "transformers encoder": TransformersEncoder,
}


def reply(engine: Any, request: dict[str, Any]) -> dict[str, Any]:
    """What the engine measured, or computed."""
    if isinstance(engine, Encoder):
        return engine.reply(request)
    prompt, new, rows = request["prompt"], request["new"], request.get("rows")
    if rows is None:
        tokens, prefill, decode = engine.measure(prompt, new)
    else:
        tokens, prefill, decode = engine.measure_rows(prompt, new, rows)
    return {"tokens": tokens, "prefill_s": prefill, "decode_s": decode}


def main(kind: str, model: str, threads: int) -> None:
    # Libraries print to standard output as they like: it becomes standard error, replies have their own.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    begin = time.perf_counter()
    engine = KINDS[kind](model, threads)
    load = time.perf_counter() - begin
    replies.write(json.dumps({"engine": kind, "version": engine.version, "load_s": load}) + "\n")
    cpu, wall = time.process_time(), time.perf_counter()
    for line in sys.stdin:
        idle = {"idle_cpu_s": time.process_time() - cpu, "idle_s": time.perf_counter() - wall}
        replies.write(json.dumps(reply(engine, json.loads(line)) | idle) + "\n")
        cpu, wall = time.process_time(), time.perf_counter()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
