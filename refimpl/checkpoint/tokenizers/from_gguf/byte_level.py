"""Read byte-level BPE (Radford et al. 2019) from GGUF. The file contains the merges and the name of the
pre-tokenizer."""

from __future__ import annotations

from typing import Any

from .post_processors import bos_eos_template, cls_sep_ids, roberta_ids, template
from .pre_tokenizers import BYTE_LEVEL, PRE_TOKENIZERS, PreTokenizer
from .vocabulary import Vocabulary, tokenizer_json


def byte_level(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the tokenizer.json of a byte-level BPE in a GGUF file.

    Raises CheckpointError for an unknown pre-tokenizer, and for a merge of anything other than tokens.
    """
    name = vocabulary.get("pre", str, "default")
    if name not in PRE_TOKENIZERS:
        raise vocabulary.fail(f"pre must be one of {', '.join(PRE_TOKENIZERS)}, got {name!r:.80}")
    pre_tokenizer = PRE_TOKENIZERS[name]
    return tokenizer_json(
        vocabulary.tokens, vocabulary.types,
        lstrip=_mask_ids(vocabulary, pre_tokenizer),
        normalizer=None if pre_tokenizer.normalizer is None else {"type": pre_tokenizer.normalizer},
        pre_tokenizer=pre_tokenizer.steps[0] if len(pre_tokenizer.steps) == 1 else {
            "type": "Sequence", "pretokenizers": pre_tokenizer.steps,
        },
        post_processor=_post_processor(vocabulary, name, pre_tokenizer),
        decoder=BYTE_LEVEL,
        model={
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": pre_tokenizer.ignore_merges, "vocab": vocabulary.ids,
            "merges": vocabulary.merges(),
        },
    )  # fmt: skip


def _post_processor(vocabulary: Vocabulary, name: str, pre_tokenizer: PreTokenizer) -> dict[str, Any] | None:
    match pre_tokenizer.template:
        case "bos_eos":
            return bos_eos_template(vocabulary, bos=pre_tokenizer.add_bos, eos=False)
        case "roberta":  # <s> A </s></s> B </s>; offsets are without the space before a token
            cls, sep = roberta_ids(vocabulary, name)
            return {
                "type": "RobertaProcessing", "sep": [vocabulary.tokens[sep], sep],
                "cls": [vocabulary.tokens[cls], cls], "trim_offsets": True, "add_prefix_space": False,
            }  # fmt: skip
        case "bert":  # [CLS] A [SEP] B [SEP]; some versions of the converter ask for one more [SEP]
            cls, sep = cls_sep_ids(vocabulary, name)
            single = [(cls, 0), ("A", 0), (sep, 0)]
            return template(vocabulary, single, [*single, ("B", 1), (sep, 1)])


def _mask_ids(vocabulary: Vocabulary, pre_tokenizer: PreTokenizer) -> list[int | None]:
    """Return the id of an encoder's mask, which includes the space before it. If the file doesn't say which
    token is the mask, it is the token with the usual name.
    """
    if pre_tokenizer.template == "bos_eos":
        return []
    usual = vocabulary.ids.get("<mask>" if pre_tokenizer.template == "roberta" else "[MASK]")
    return [vocabulary.token_id("mask", usual)]
