"""Find the tokenizer class with which transformers reads a model directory
(`AutoTokenizer.from_pretrained`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import CheckpointError
from .classes import CLASSES, TokenizerClass
from .settings import SettingFiles

# The class that transformers registers for a model_type. None is the class that uses tokenizer.json
# unchanged. For a type that isn't listed, such as llama, the directory names the class.
AS_IS = None
REGISTERED: Mapping[str, str | None] = {
    "albert": "AlbertTokenizer",
    "aya_vision": "CohereTokenizer",
    "bart": "RobertaTokenizer",
    "bert": "BertTokenizer",
    "big_bird": "BigBirdTokenizer",
    "biogpt": "BioGptTokenizer",
    "blenderbot": "BlenderbotTokenizer",
    "blenderbot-small": "BlenderbotSmallTokenizer",
    "camembert": "CamembertTokenizer",
    "codegen": "GPT2Tokenizer",
    "cohere": "CohereTokenizer",
    "cohere2": "CohereTokenizer",
    "convbert": "BertTokenizer",
    "data2vec-text": "RobertaTokenizer",
    "deberta": "DebertaTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "ernie": "BertTokenizer",
    "ernie4_5": AS_IS,
    "ernie4_5_moe": AS_IS,
    "esm": "EsmTokenizer",
    "falcon_mamba": "GPTNeoXTokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "gemma3n": "GemmaTokenizer",
    "gemma3n_text": "GemmaTokenizer",
    "glm": AS_IS,
    "glm4": AS_IS,
    "glm4_moe": AS_IS,
    "glm4_moe_lite": AS_IS,
    "glm4v": AS_IS,
    "glm4v_moe": AS_IS,
    "gpt2": "GPT2Tokenizer",
    "gpt_bigcode": AS_IS,
    "gpt_neo": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "gptj": "GPT2Tokenizer",
    "granite": AS_IS,
    "granitemoe": AS_IS,
    "granitemoehybrid": AS_IS,
    "granitemoeshared": AS_IS,
    "gte": "XLMRobertaTokenizer",
    "internlm2": AS_IS,
    "internlm3": AS_IS,
    "internvl": "Qwen2Tokenizer",
    "iquestcoder": AS_IS,
    "jais2": "GPT2Tokenizer",
    "jamba": AS_IS,
    "jina_embeddings_v3": "XLMRobertaTokenizer",
    "kimi_k25": AS_IS,
    "kimi_linear": AS_IS,
    "led": "LEDTokenizer",
    "llava": AS_IS,
    "llava_next": AS_IS,
    "longformer": "RobertaTokenizer",
    "m2m_100": "M2M100Tokenizer",
    "mamba": "GPTNeoXTokenizer",
    "mamba2": "GPTNeoXTokenizer",
    "mbart": "MBartTokenizer",
    "megatron-bert": "BertTokenizer",
    "mimo_v2_flash": AS_IS,
    "minimax_m2": AS_IS,
    "ministral": AS_IS,
    "ministral3": AS_IS,
    "mistral": AS_IS,
    "mistral3": AS_IS,
    "mistral_large4": AS_IS,
    "mixtral": AS_IS,
    "mobilebert": "MobileBertTokenizer",
    "modernbert": AS_IS,
    "modernbert-decoder": AS_IS,
    "mpnet": "MPNetTokenizer",
    "mpt": "GPTNeoXTokenizer",
    "mt5": "T5Tokenizer",
    "nemotron": AS_IS,
    "nllb-moe": "NllbTokenizer",
    "nomic_bert": "BertTokenizer",
    "olmo": "GPTNeoXTokenizer",
    "olmo2": AS_IS,
    "olmo3": AS_IS,
    "olmo_hybrid": AS_IS,
    "olmoe": "GPTNeoXTokenizer",
    "openai-gpt": "OpenAIGPTTokenizer",
    "opt": "GPT2Tokenizer",
    "pegasus": "PegasusTokenizer",
    "phi": "GPT2Tokenizer",
    "phi3": AS_IS,
    "phimoe": AS_IS,
    "qwen2": "Qwen2Tokenizer",
    "qwen2_5_omni": "Qwen2Tokenizer",
    "qwen2_5_vl": "Qwen2Tokenizer",
    "qwen2_moe": "Qwen2Tokenizer",
    "qwen2_vl": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "qwen3_5": "Qwen3_5Tokenizer",
    "qwen3_5_moe": "Qwen3_5Tokenizer",
    "qwen3_5_moe_text": "Qwen3_5Tokenizer",
    "qwen3_5_text": "Qwen3_5Tokenizer",
    "qwen3_moe": "Qwen2Tokenizer",
    "qwen3_next": "Qwen2Tokenizer",
    "qwen3_omni_moe": "Qwen2Tokenizer",
    "qwen3_vl": "Qwen2Tokenizer",
    "qwen3_vl_moe": "Qwen2Tokenizer",
    "qwen4_exp": "Qwen3_5Tokenizer",
    "recurrent_gemma": "GemmaTokenizer",
    "roberta": "RobertaTokenizer",
    "roberta-prelayernorm": "RobertaTokenizer",
    "roformer": "RoFormerTokenizer",
    "rwkv": "GPTNeoXTokenizer",
    "smolvlm": AS_IS,
    "squeezebert": "BertTokenizer",
    "stablelm": AS_IS,
    "starcoder2": "GPT2Tokenizer",
    "t5gemma": "GemmaTokenizer",
    "t5": "T5Tokenizer",
    "umt5": AS_IS,
    "whisper": "WhisperTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "xlm-roberta-xl": AS_IS,
    "xlnet": "XLNetTokenizer",
}
# Many directories of these types name a wrong class, so transformers always takes the registered class.
ANYWAY = (
    "ernie4_5",
    "ernie4_5_moe",
    "internlm2",
    "internlm3",
    "iquestcoder",
    "jamba",
    "llava",
    "llava_next",
    "minimax_m2",
    "modernbert",
    "modernbert-decoder",
    "nemotron",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "qwen4_exp",
    "smolvlm",
)
GENERIC = ("TokenizersBackend", "PreTrainedTokenizer", "PythonBackend", "BloomTokenizer")
# Names for which transformers uses the class of another name.
ALIASES = {
    **dict.fromkeys(
        (
            "DistilBertTokenizer",
            "ElectraTokenizer",
            "LayoutLMTokenizer",
            "LxmertTokenizer",
            "MobileBertTokenizer",
            "SqueezeBertTokenizer",
        ),
        "BertTokenizer",
    ),
    **dict.fromkeys(
        ("BartTokenizer", "LEDTokenizer", "LongformerTokenizer", "MvpTokenizer"), "RobertaTokenizer"
    ),
    "Phi3Tokenizer": "LlamaTokenizer",
}
# Classes that also make parts of their own, and that tfm doesn't have. Their names end in Tokenizer.
OTHERS = (
    "Barthez", "Bartpho", "BertGeneration", "BertJapanese", "Bertweet", "BioGpt",
    "BlenderbotSmall", "Blenderbot", "ByT5", "CLIP", "CTRL", "Canine", "Clvp", "CodeGen",
    "CpmAnt", "Cpm", "DPRContextEncoder", "DPRQuestionEncoder", "DPRReader",
    "Dia", "Ergo", "Esmc", "FNet", "FSMT", "Flaubert", "Funnel", "GPTNeoXJapanese", "GPTSw3",
    "Herbert", "Lasr", "LayoutLMv2", "LayoutLMv3", "LayoutXLM", "Luke", "M2M100", "MLuke",
    "Marian", "MarkupLM", "Mgpstr", "MyT5", "Nougat", "OpenAIGPT", "PLBart", "Parakeet",
    "Perceiver", "Phobert", "ProphetNet", "Rag", "Reformer", "RemBert", "RoCBert", "RoFormer",
    "SeamlessM4T", "Siglip2", "Siglip", "Speech2Text", "SpeechT5", "Splinter", "Tapas", "Tipsv2", "Udop",
    "VideoPrism", "Vits", "Wav2Vec2CTC", "Wav2Vec2PhonemeCTC", "XGLM", "XLM", "XLNet",
)  # fmt: skip


def _has_own_code(config: Mapping[str, Any]) -> bool:
    code = config.get("auto_map")
    return isinstance(code, list) or (isinstance(code, dict) and code.get("AutoTokenizer") is not None)


def choose_class(files: SettingFiles, model_type: str, tokenizer_json: str) -> TokenizerClass | None:
    """Return the tokenizer class with which transformers reads a directory, or None for the class that uses
    tokenizer.json unchanged.

    None is also returned for names that transformers doesn't know. Raises CheckpointError for a class with
    components of its own that tfm doesn't have, and for an unknown class with its code in the repository.
    """
    config = files.tokenizer_config or {}
    stated = config.get("tokenizer_class") or files.config_class
    if stated is not None and not isinstance(stated, str):
        raise CheckpointError(f"{files.config_path}: tokenizer_class must be a name, got {stated!r:.60}")
    name = None if stated is None else stated.removesuffix("Fast")
    is_other = name is not None and name.removesuffix("Tokenizer") in OTHERS
    if _has_own_code(config):
        if model_type not in REGISTERED and not is_other and name not in (*CLASSES, *ALIASES, *GENERIC):
            raise CheckpointError(
                f"{files.config_path}: tfm doesn't run the repository's own tokenizer code (auto_map): "
                "remove auto_map to use tokenizer.json unchanged"
            )
        name = REGISTERED.get(model_type) if name is None else name
    elif name == "LlamaTokenizer" and model_type not in ANYWAY and '"ByteLevel"' in tokenizer_json:
        return None  # a tokenizer of Llama 3, which this class would read as one of Llama 2
    elif model_type in REGISTERED:
        registered = REGISTERED[model_type]
        if registered is None:
            return None
        if name is None or model_type in ANYWAY:
            name, is_other = registered, ALIASES.get(registered, registered) not in CLASSES
    if is_other:
        raise CheckpointError(
            f"{files.config_path}: tokenizer_class must be one of {', '.join(sorted(CLASSES))}, got "
            f"{name!r:.60}; PreTrainedTokenizerFast uses tokenizer.json unchanged"
        )
    return None if name is None else CLASSES.get(ALIASES.get(name, name))
