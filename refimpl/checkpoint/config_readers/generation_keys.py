"""List the keys of generation_config.json, which an old config.json may contain too."""

from __future__ import annotations

from typing import Any

from ...decoding.options import SamplerOptions, options
from .keys import ANY, HARMLESS

IDS = ("bos_token_id", "eos_token_id", "decoder_start_token_id")
# Of a sampler, with the values at which they change nothing: what makes it draw, and other options.
_SAMPLER = [option for option in options(SamplerOptions).values() if option.key]
OFF = {option.key: option.off for option in _SAMPLER if option.draws}
PENALTIES = {option.key: option.off for option in _SAMPLER if not option.draws}
IGNORED_GENERATION_KEYS: dict[str, Any] = {
    **dict.fromkeys(
        (
            # Of caching, logging, speed and the format of results.
            "_from_model_config", "_commit_hash", "transformers_version", "trust_remote_code", "pad_token_id",
            "use_cache", "cache_implementation", "cache_config", "max_cache_len", "return_legacy_cache",
            "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores",
            "output_logits", "return_dict_in_generate", "max_time", "compile_config", "disable_compile",
            "continuous_batching_config", "low_memory", "prefill_chunk_size", "chat_format",
            "max_window_size", "user_token_id", "assistant_token_id",
            # Drafts, which change the speed and not the distribution.
            "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule",
            "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind",
            "target_lookbehind", "assistant_ensemble_weight", "speculation_type", "prompt_lookup_num_tokens",
            "max_matching_ngram_size", "use_mtp",
            # Numbers that aren't finite are an error here.
            "remove_invalid_values",
        ),
        ANY,
    ),
}  # fmt: skip
# What tfm doesn't have, with the values at which it changes nothing; transformers hasn't the last two either.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "num_beam_groups": (1, None), "diversity_penalty": (0.0, None), "penalty_alpha": (0.0, None),
    "dola_layers": (None,), "constraints": (None,), "force_words_ids": (None,), "guidance_scale": (1.0, None),
    "watermarking_config": (None,), "token_healing": (False, None),
    "top_h": (None,), "epsilon_cutoff": (0.0, None), "eta_cutoff": (0.0, None),
    "encoder_repetition_penalty": (1.0, None),
    "exponential_decay_length_penalty": (None,), "sequence_bias": (None,),
    "presence_penalty": (0.0, None), "frequency_penalty": (0.0, None),
}  # fmt: skip
# Of a model that hears: what `transcribe` has as options of its own, or hasn't.
HEARING: dict[str, Any] = dict.fromkeys(
    (
        "compression_ratio_threshold", "condition_on_prev_tokens", "is_multilingual",
        "logprob_threshold", "no_speech_threshold", "prompt_condition_type", "prompt_ids", "return_segments",
        "return_timestamps", "return_token_timestamps",
    ),
    ANY,
)  # fmt: skip
# All keys that an old config.json may have; only that has the prefix and the tasks.
KEYS = frozenset(
    (
        *IDS, *OFF, *PENALTIES, *IGNORED_GENERATION_KEYS, *UNSUPPORTED, "do_sample", "num_beams",
        "length_penalty", "early_stopping", "stop_strings",
        "renormalize_logits", "max_length", "max_new_tokens", "min_length", "min_new_tokens",
        "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "forced_bos_token_id",
        "forced_eos_token_id", "force_bos_token_to_be_generated", "prefix", "task_specific_params",
    )
)  # fmt: skip
# What no reader of a Config needs: keys of generation are read by `checkpoint.generation_config`.
UNREAD = dict.fromkeys(KEYS, ANY) | HARMLESS
