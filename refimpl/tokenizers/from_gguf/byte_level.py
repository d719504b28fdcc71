"""Byte-level BPE (Radford et al. 2019): the file gives its merges, and the name of its cut."""

from __future__ import annotations

from typing import Any

from .post_processors import doubled, ends, flagged, template
from .pre_tokenizers import BYTE_LEVEL, PRE, Cut
from .vocabulary import Vocabulary, tokenizer_json


def byte_level(vocabulary: Vocabulary) -> dict[str, Any]:
    """The tokenizer.json; an error for a cut that isn't known and for a merge of what are no tokens."""
    name = vocabulary.get("pre", str, "default")
    if name not in PRE:
        raise vocabulary.fail(f"pre must be one of {', '.join(PRE)}, got {name!r:.80}")
    cut = PRE[name]
    merges = [merge.split(" ") for merge in vocabulary.listed("merges", str)]
    for merge in merges:
        if len(merge) != 2 or not all(part in vocabulary.ids for part in (*merge, "".join(merge))):
            raise vocabulary.fail(f"merges must join two tokens into a third, got {' '.join(merge)!r:.80}")
    return tokenizer_json(
        vocabulary.tokens, vocabulary.types,
        lstrip=_masks(vocabulary, cut),
        normalizer=None if cut.normalizer is None else {"type": cut.normalizer},
        pre_tokenizer=cut.steps[0] if len(cut.steps) == 1 else {
            "type": "Sequence", "pretokenizers": cut.steps,
        },
        post_processor=_frame(vocabulary, name, cut),
        decoder=BYTE_LEVEL,
        model={
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": cut.whole,
            "vocab": vocabulary.ids, "merges": merges,
        },
    )  # fmt: skip


def _frame(vocabulary: Vocabulary, name: str, cut: Cut) -> dict[str, Any] | None:
    match cut.frame:
        case "flags":
            return flagged(vocabulary, bos=cut.bos, eos=False)
        case "roberta":  # <s> A </s></s> B </s>, and a token's characters are those without its space
            cls, sep = doubled(vocabulary, name)
            return {
                "type": "RobertaProcessing", "sep": [vocabulary.tokens[sep], sep],
                "cls": [vocabulary.tokens[cls], cls], "trim_offsets": True, "add_prefix_space": False,
            }  # fmt: skip
        case "bert":  # [CLS] A [SEP] B [SEP]; some versions of the converter call for one [SEP] more
            cls, sep = ends(vocabulary, name)
            single = [(cls, 0), ("A", 0), (sep, 0)]
            return template(vocabulary, single, [*single, ("B", 1), (sep, 1)])


def _masks(vocabulary: Vocabulary, cut: Cut) -> list[int | None]:
    """The mask of an encoder takes the space before it along; not every file says which token it is."""
    if cut.frame == "flags":
        return []
    usual = vocabulary.ids.get("<mask>" if cut.frame == "roberta" else "[MASK]")
    return [vocabulary.id("mask", usual)]
