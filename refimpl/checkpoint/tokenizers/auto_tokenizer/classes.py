"""transformers' tokenizer classes that make parts of a tokenizer from their own options.

Such a class takes only the vocabulary, the merges, the post-processor and a charsmap from tokenizer.json. The
class makes its own normalizer, pre-tokenizer and decoder, so the file's normalizer, pre-tokenizer and decoder
have no effect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeAlias

from ....errors import CheckpointError
from .added_vocabulary import AddedVocabulary, NewToken
from .clean_up import SPACES_BETWEEN
from .settings import ADDITIONAL, Settings, Special

Component: TypeAlias = dict[str, Any]  # of a tokenizer.json
Pieces: TypeAlias = list[tuple[str, float]]  # a SentencePiece model's, with their scores
UNDERSCORE = "\u2581"
SPACES = {"Regex": " {2,}"}
STRIP_RIGHT = {"type": "Strip", "strip_left": False, "strip_right": True}
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Marks belong to the letter before them.
QWEN3_5 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MBART_LANGUAGES = (
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT",
    "ja_XX", "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK",
    "tr_TR", "vi_VN", "zh_CN",
)  # fmt: skip
MBART50_LANGUAGES = (
    *MBART_LANGUAGES,
    "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN",
    "mn_MN", "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX",
    "uk_UA", "ur_PK", "xh_ZA", "gl_ES", "sl_SI",
)  # fmt: skip

NLLB_LANGUAGES = (
    "ace_Arab", "ace_Latn", "acm_Arab", "acq_Arab", "aeb_Arab", "afr_Latn", "ajp_Arab", "aka_Latn",
    "amh_Ethi", "apc_Arab", "arb_Arab", "ars_Arab", "ary_Arab", "arz_Arab", "asm_Beng", "ast_Latn",
    "awa_Deva", "ayr_Latn", "azb_Arab", "azj_Latn", "bak_Cyrl", "bam_Latn", "ban_Latn", "bel_Cyrl",
    "bem_Latn", "ben_Beng", "bho_Deva", "bjn_Arab", "bjn_Latn", "bod_Tibt", "bos_Latn", "bug_Latn",
    "bul_Cyrl", "cat_Latn", "ceb_Latn", "ces_Latn", "cjk_Latn", "ckb_Arab", "crh_Latn", "cym_Latn",
    "dan_Latn", "deu_Latn", "dik_Latn", "dyu_Latn", "dzo_Tibt", "ell_Grek", "eng_Latn", "epo_Latn",
    "est_Latn", "eus_Latn", "ewe_Latn", "fao_Latn", "pes_Arab", "fij_Latn", "fin_Latn", "fon_Latn",
    "fra_Latn", "fur_Latn", "fuv_Latn", "gla_Latn", "gle_Latn", "glg_Latn", "grn_Latn", "guj_Gujr",
    "hat_Latn", "hau_Latn", "heb_Hebr", "hin_Deva", "hne_Deva", "hrv_Latn", "hun_Latn", "hye_Armn",
    "ibo_Latn", "ilo_Latn", "ind_Latn", "isl_Latn", "ita_Latn", "jav_Latn", "jpn_Jpan", "kab_Latn",
    "kac_Latn", "kam_Latn", "kan_Knda", "kas_Arab", "kas_Deva", "kat_Geor", "knc_Arab", "knc_Latn",
    "kaz_Cyrl", "kbp_Latn", "kea_Latn", "khm_Khmr", "kik_Latn", "kin_Latn", "kir_Cyrl", "kmb_Latn",
    "kon_Latn", "kor_Hang", "kmr_Latn", "lao_Laoo", "lvs_Latn", "lij_Latn", "lim_Latn", "lin_Latn",
    "lit_Latn", "lmo_Latn", "ltg_Latn", "ltz_Latn", "lua_Latn", "lug_Latn", "luo_Latn", "lus_Latn",
    "mag_Deva", "mai_Deva", "mal_Mlym", "mar_Deva", "min_Latn", "mkd_Cyrl", "plt_Latn", "mlt_Latn",
    "mni_Beng", "khk_Cyrl", "mos_Latn", "mri_Latn", "zsm_Latn", "mya_Mymr", "nld_Latn", "nno_Latn",
    "nob_Latn", "npi_Deva", "nso_Latn", "nus_Latn", "nya_Latn", "oci_Latn", "gaz_Latn", "ory_Orya",
    "pag_Latn", "pan_Guru", "pap_Latn", "pol_Latn", "por_Latn", "prs_Arab", "pbt_Arab", "quy_Latn",
    "ron_Latn", "run_Latn", "rus_Cyrl", "sag_Latn", "san_Deva", "sat_Beng", "scn_Latn", "shn_Mymr",
    "sin_Sinh", "slk_Latn", "slv_Latn", "smo_Latn", "sna_Latn", "snd_Arab", "som_Latn", "sot_Latn",
    "spa_Latn", "als_Latn", "srd_Latn", "srp_Cyrl", "ssw_Latn", "sun_Latn", "swe_Latn", "swh_Latn",
    "szl_Latn", "tam_Taml", "tat_Cyrl", "tel_Telu", "tgk_Cyrl", "tgl_Latn", "tha_Thai", "tir_Ethi",
    "taq_Latn", "taq_Tfng", "tpi_Latn", "tsn_Latn", "tso_Latn", "tuk_Latn", "tum_Latn", "tur_Latn",
    "twi_Latn", "tzm_Tfng", "uig_Arab", "ukr_Cyrl", "umb_Latn", "urd_Arab", "uzn_Latn", "vec_Latn",
    "vie_Latn", "war_Latn", "wol_Latn", "xho_Latn", "ydd_Hebr", "yor_Latn", "yue_Hant", "zho_Hans",
    "zho_Hant", "zul_Latn",
)  # fmt: skip
# Whisper's languages in the order of their tokens, and further names of some.
WHISPER_LANGUAGES = (
    "en english, zh chinese, de german, es spanish, ru russian, ko korean, fr french, ja japanese, pt "
    "portuguese, tr turkish, pl polish, ca catalan, nl dutch, ar arabic, sv swedish, it italian, id "
    "indonesian, hi hindi, fi finnish, vi vietnamese, he hebrew, uk ukrainian, el greek, ms malay, cs "
    "czech, ro romanian, da danish, hu hungarian, ta tamil, no norwegian, th thai, ur urdu, hr croatian, bg "
    "bulgarian, lt lithuanian, la latin, mi maori, ml malayalam, cy welsh, sk slovak, te telugu, fa "
    "persian, lv latvian, bn bengali, sr serbian, az azerbaijani, sl slovenian, kn kannada, et estonian, mk "
    "macedonian, br breton, eu basque, is icelandic, hy armenian, ne nepali, mn mongolian, bs bosnian, kk "
    "kazakh, sq albanian, sw swahili, gl galician, mr marathi, pa punjabi, si sinhala, km khmer, sn shona, "
    "yo yoruba, so somali, af afrikaans, oc occitan, ka georgian, be belarusian, tg tajik, sd sindhi, gu "
    "gujarati, am amharic, yi yiddish, lo lao, uz uzbek, fo faroese, ht haitian creole, ps pashto, tk "
    "turkmen, nn nynorsk, mt maltese, sa sanskrit, lb luxembourgish, my myanmar, bo tibetan, tl tagalog, mg "
    "malagasy, as assamese, tt tatar, haw hawaiian, ln lingala, ha hausa, ba bashkir, jw javanese, su "
    "sundanese, yue cantonese"
)
WHISPER_NAMES = (
    "my burmese, ca valencian, nl flemish, ht haitian, lb letzeburgesch, ps pushto, pa panjabi, ro "
    "moldavian, ro moldovan, si sinhalese, es castilian, zh mandarin"
)


@dataclass(frozen=True)
class SourceFile:
    """The parts that a tokenizer class takes from tokenizer.json: the vocabulary, the merges and the
    normalizer's charsmap.
    """

    where: str
    vocabulary: Any
    merges: Any
    charsmap: str | None


@dataclass(frozen=True)
class Pipeline:
    """The components of a tokenizer.json that a tokenizer class makes."""

    model: Component
    normalizer: Component | None
    pre_tokenizer: Component
    decoder: Component


class Tokens:
    """The special tokens of a tokenizer, by name, after all of them have got ids."""

    def __init__(self, where: str, named: Mapping[str, Special], vocabulary: AddedVocabulary) -> None:
        self._where = where
        self._named = named
        self._vocabulary = vocabulary

    def has(self, name: str) -> bool:
        """Return whether there is a special token with this name."""
        return name in self._named

    def content(self, name: str) -> str:
        """Return the text of the special token with this name. Raises CheckpointError if there is none."""
        return _required(self._where, self._named, name)

    def known(self, content: str) -> str:
        """Return `content` if the vocabulary has this token, otherwise the unknown token."""
        return self.content("unk_token") if self._vocabulary.id(content) is None else content

    def id(self, content: str) -> int:
        """Return the id of a token, or the id of the unknown token if the vocabulary doesn't have the
        token.
        """
        id = self._vocabulary.id(self.known(content))
        if id is None:
            raise CheckpointError(f"{self._where}: unk_token must not be empty")
        return id

    def model_id(self, content: str) -> int:
        """Return the id of a token in the model's vocabulary. Raises CheckpointError if the model doesn't
        have the token.
        """
        id = self._vocabulary.model_id(content)
        if id is None:
            raise CheckpointError(f"{self._where}: model.vocab must have the token {content!r:.60}")
        return id

    def around(self, flags: Mapping[str, bool]) -> Component:
        """Return a template with bos before each text and eos after it. `flags` say for `bos_token` and
        `eos_token` whether they are used. Tokens that don't exist are left out.
        """

        def of(text: str, segment: int) -> list[tuple[str, int]]:
            bos, eos = ([self.content(name)] if flags[name] and self.has(name) else [] for name in flags)
            return [(token, segment) for token in (*bos, text, *eos)]

        return self.template(of("$A", 0), [*of("$A", 0), *of("$B", 1)])

    def template(
        self, single: Sequence[tuple[str, int]], pair: Sequence[tuple[str, int]], *, spaces: bool = False
    ) -> Component:
        """Return a template for a single text and for a pair of texts, each a list of (token, segment). `$A`
        and `$B` are the texts.

        Raises CheckpointError for a token that the `tokenizers` library would read as something else. A token
        may contain spaces only if `spaces` is true, for a class that writes the template as a list.
        """
        special = dict.fromkeys(token for token, _ in (*single, *pair) if token not in ("$A", "$B"))
        for token in special:
            if not token or token.startswith("$") or ":" in token or (" " in token and not spaces):
                raise CheckpointError(
                    f"{self._where}: a token around texts may have no space, no colon and no leading $, "
                    f"got {token!r:.60}"
                )
        return {
            "type": "TemplateProcessing",
            "single": [_template_part(*part) for part in single],
            "pair": [_template_part(*part) for part in pair],
            "special_tokens": {t: {"id": t, "ids": [self.id(t)], "tokens": [t]} for t in special},
        }


def _required(where: str, named: Mapping[str, Special], name: str) -> str:
    if name not in named:
        raise CheckpointError(f"{where}: {name} must be a token, got null")
    return str(named[name])


def _template_part(token: str, type_id: int) -> Component:
    if token in ("$A", "$B"):
        return {"Sequence": {"id": token[1], "type_id": type_id}}
    return {"SpecialToken": {"id": token, "type_id": type_id}}


def _same_segment(*tokens: str) -> list[tuple[str, int]]:
    return [(token, 0) for token in tokens]


def _file_says(settings: Settings, tokens: Tokens, stated: Component | None) -> Component | None:
    return stated


def _no_more(settings: Settings) -> list[Special] | None:
    """Return only the additional special tokens that the settings state."""
    return settings.values.get(ADDITIONAL)


def _as_they_are(settings: Settings, pieces: Pieces) -> Pieces:
    return pieces


def _added_as_they_are(named: Sequence[Special], extra: Sequence[Special]) -> list[NewToken]:
    return []


@dataclass(frozen=True)
class TokenizerClass:
    """A tokenizer class of transformers, and how it makes the parts of a tokenizer.

    `model` is the type of model that the class makes. `defaults` are the class's special tokens, which are
    used if the settings name none (null means no token). `additional` returns further tokens that the class
    adds. `added_again` returns tokens that the class adds once more at the end, with other flags.
    `mask_flags` are the flags of a mask that is named without flags. With `names_have_flags`, a special token
    that is named without flags gets the usual flags.

    Without a tokenizer.json, the vocabulary is in `file`, and `reorder` puts a SentencePiece model's pieces
    in the class's order. The tokens around a text then follow the flags add_bos_token and add_eos_token.
    `adds_bos` is the default of add_bos_token. `own_template` says when the class's own template is used
    instead of the flags: always, only with a tokenizer.json, or only if no flag is stated. With `keeps_file`,
    all parts of a tokenizer.json stay except the tokens around a text. transformers rebuilds these parts only
    for classes that have an `__init__` of their own.
    """

    name: str
    model: str
    defaults: Mapping[str, Special | None]
    build: Callable[[Settings, Mapping[str, Special], SourceFile], Pipeline]
    post_processor: Callable[[Settings, Tokens, Component | None], Component | None] = _file_says
    additional: Callable[[Settings], list[Special] | None] = _no_more
    added_again: Callable[[Sequence[Special], Sequence[Special]], list[NewToken]] = _added_as_they_are
    mask_flags: Mapping[str, bool] = field(default_factory=dict)
    names_have_flags: bool = False
    file: str = "tokenizer.model"
    own_template: Literal["always", "with a file", "without flags"] = "always"
    adds_bos: bool = False
    reorder: Callable[[Settings, Pieces], Pieces] = _as_they_are
    keeps_file: bool = False


def _bpe(file: SourceFile, **options: Any) -> Component:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **options,
        "vocab": file.vocabulary,
        "merges": file.merges,
    }


def _affixed_bpe(file: SourceFile) -> Component:
    """Return the BPE model of a byte-level class. The model states empty affixes, which mean the same as no
    affixes.
    """
    return _bpe(file, continuing_subword_prefix="", end_of_word_suffix="")


def _unigram(file: SourceFile, unk_id: int) -> Component:
    if unk_id >= len(file.vocabulary):
        raise CheckpointError(
            f"{file.where}: model.vocab must have piece {unk_id} for unknown characters, got "
            f"{len(file.vocabulary)} pieces"
        )
    return {"type": "Unigram", "unk_id": unk_id, "vocab": file.vocabulary, "byte_fallback": False}


def _byte_level(add_prefix_space: bool = True, use_regex: bool = True) -> Component:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _metaspace(prepend_scheme: str, split: bool = True) -> Component:
    return {"type": "Metaspace", "replacement": UNDERSCORE, "prepend_scheme": prepend_scheme, "split": split}


def _replace(pattern: Component, content: str) -> Component:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _pre_tokenizers(*steps: Component) -> Component:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def _words(scheme: Component) -> Component:
    """Return a pre-tokenizer that splits a text at white space and then applies `scheme`, which marks the
    beginning of each word.
    """
    return _pre_tokenizers({"type": "WhitespaceSplit"}, scheme)


def _normalizers(*steps: Component) -> Component:
    return {"type": "Sequence", "normalizers": list(steps)}


def _precompiled(file: SourceFile) -> Component | None:
    return None if file.charsmap is None else {"type": "Precompiled", "precompiled_charsmap": file.charsmap}


def _stripped(file: SourceFile, space: str) -> Component:
    """Return normalizers that strip a text on the right and replace each run of spaces by `space`, after the
    file's own normalization.
    """
    charsmap = _precompiled(file)
    steps = [] if charsmap is None else [charsmap]
    return _normalizers(*steps, STRIP_RIGHT, _replace(SPACES, space))


def _sentencepiece_decoder(strip: bool) -> Component:
    steps: list[Component] = [
        _replace({"String": UNDERSCORE}, " "),
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    steps += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if strip else []
    return {"type": "Sequence", "decoders": steps}


def _bert(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    return Pipeline(
        {
            "type": "WordPiece",
            "unk_token": _required(settings.where, named, "unk_token"),
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": file.vocabulary,
        },
        {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": settings.flag("tokenize_chinese_chars", True),
            "strip_accents": settings.nullable_flag("strip_accents", None),
            "lowercase": settings.flag("do_lower_case", True),
        },
        {"type": "BertPreTokenizer"},
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
    )


def _bert_template(settings: Settings, tokens: Tokens, stated: Component | None) -> Component:
    cls, sep = tokens.content("cls_token"), tokens.content("sep_token")
    single = [(cls, 0), ("$A", 0), (sep, 0)]
    return tokens.template(single, [*single, ("$B", 1), (sep, 1)])


def _esm(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    """Make ESM's components, which split a text into the longest tokens of the vocabulary at any place. Other
    words are unknown.
    """
    letters = "|".join(re.escape(token) for token in sorted(file.vocabulary, key=len, reverse=True) if token)
    split = {"type": "Split", "pattern": {"Regex": letters}, "behavior": "Isolated", "invert": False}
    return replace(
        _bert(settings, named, file),
        normalizer=None,
        pre_tokenizer=_pre_tokenizers(split, {"type": "WhitespaceSplit"}),
        decoder=SPACES_BETWEEN,
    )


def _esm_template(settings: Settings, tokens: Tokens, stated: Component | None) -> Component:
    cls, eos = tokens.content("cls_token"), tokens.content("eos_token")
    return tokens.template(_same_segment(cls, "$A", eos), _same_segment(cls, "$A", eos, "$B", eos))


def _gpt2(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    prefix = settings.flag("add_prefix_space", False)
    return Pipeline(_affixed_bpe(file), None, _byte_level(prefix), _byte_level())


def _roberta_template(settings: Settings, tokens: Tokens, stated: Component | None) -> Component:
    cls, sep = tokens.content("cls_token"), tokens.content("sep_token")
    return {
        "type": "RobertaProcessing",
        "sep": [sep, tokens.id(sep)],
        "cls": [cls, tokens.id(cls)],
        "trim_offsets": settings.flag("trim_offsets", True),
        "add_prefix_space": settings.flag("add_prefix_space", False),
    }


def _mpnet_template(settings: Settings, tokens: Tokens, stated: Component | None) -> Component:
    cls, sep = tokens.content("cls_token"), tokens.content("sep_token")
    return {
        "type": "RobertaProcessing",
        "sep": [sep, tokens.id(sep)],
        "cls": [cls, tokens.id(cls)],
        "trim_offsets": True,
        "add_prefix_space": False,
    }


def whisper_language(name: str) -> str:
    """Return the code of a language, such as "de", by its name in English. Any other text is returned in
    lower case.
    """
    pairs = [pair.partition(" ") for pair in f"{WHISPER_LANGUAGES}, {WHISPER_NAMES}".split(", ")]
    return {name: code for code, _, name in pairs}.get(name.lower(), name.lower())


def _whisper_template(settings: Settings, tokens: Tokens, stated: Component | None) -> Component:
    """Return Whisper's template, which begins as the decoder's output begins.

    The first token is the start. The language and the task follow if the settings state them. Unless the
    settings ask for timestamps, the last token before the text says that no timestamps follow."""
    start = "<|startoftranscript|>"
    before = [start]
    if language := settings.text("language", "").lower():
        codes = [pair.split()[0] for pair in WHISPER_LANGUAGES.split(", ")]
        code = whisper_language(language)
        if code not in codes or tokens.id(f"<|{code}|>") != tokens.id(start) + 1 + codes.index(code):
            raise CheckpointError(
                f"{settings.where}: language must be a language of Whisper, such as "
                f"english or de, got {language!r:.40}"
            )
        before.append(f"<|{code}|>")
    if task := settings.text("task", ""):
        if task not in ("transcribe", "translate"):
            raise CheckpointError(f"{settings.where}: task must be transcribe or translate, got {task!r:.40}")
        before.append(f"<|{task}|>")
    before += [] if settings.nullable_flag("predict_timestamps", False) else ["<|notimestamps|>"]
    front, end = _same_segment(*map(tokens.known, before), "$A"), tokens.content("eos_token")
    return tokens.template([*front, (end, 0)], [*front, ("$B", 1), (end, 1)])


def _gpt_neox(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    prefix = settings.flag("add_prefix_space", False)
    pre_tokenizer = {**_byte_level(prefix), "trim_offsets": settings.flag("trim_offsets", True)}
    return Pipeline(_affixed_bpe(file), {"type": "NFC"}, pre_tokenizer, _byte_level())


def _no_template(settings: Settings, tokens: Tokens, stated: Component | None) -> None:
    """Return None, so that no token is put around a text, whatever the file says."""


def _qwen(settings: Settings, named: Mapping[str, Special], file: SourceFile, *, pattern: str) -> Pipeline:
    prefix = settings.nullable_flag("add_prefix_space", False) or False
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return Pipeline(
        _affixed_bpe(file),
        {"type": "NFC"},
        _pre_tokenizers(split, _byte_level(prefix, use_regex=False)),
        _byte_level(),
    )


def _plain_special(named: Sequence[Special], extra: Sequence[Special]) -> list[NewToken]:
    """Return all special tokens, without the flags that the settings give them."""
    return [NewToken(str(token), special=True) for token in (*named, *extra)]


def _cohere(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    prefix = settings.flag("add_prefix_space", False)
    digits = {"type": "Digits", "individual_digits": True}
    return Pipeline(
        _affixed_bpe(file),
        {"type": "NFC"},
        _pre_tokenizers(digits, _byte_level(prefix)),
        _byte_level(),
    )


def _all_special(named: Sequence[Special], extra: Sequence[Special]) -> list[NewToken]:
    """Return all tokens with the flag `special`, and with their other flags unchanged."""
    return [
        NewToken(token, normalized=False, special=True)
        if isinstance(token, str)
        else NewToken(token.content, token.single_word, token.lstrip, token.rstrip, token.normalized, True)
        for token in (*named, *extra)
    ]


def _llama(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    prefix = settings.nullable_flag("add_prefix_space", None) is not False
    first = not settings.nullable_flag("legacy", False)
    return _of_pieces(file, ("first" if first else "always") if prefix else "never", prefix)


CODE_LLAMA = {
    "prefix_token": f"{UNDERSCORE}<PRE>",
    "middle_token": f"{UNDERSCORE}<MID>",
    "suffix_token": f"{UNDERSCORE}<SUF>",
    "eot_token": f"{UNDERSCORE}<EOT>",
    "fill_token": "<FILL_ME>",
}


def _code_llama(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    prefix = settings.nullable_flag("add_prefix_space", True) is not False
    unknown = _required(settings.where, named, "unk_token")
    return _of_pieces(file, "first" if prefix else "never", True, unk_token=unknown)


def _of_pieces(file: SourceFile, scheme: str, strips: bool, **unknown: str) -> Pipeline:
    """Make the components of SentencePiece's BPE with byte fallback. With `strips`, the decoder removes the
    space that was added before a text.
    """
    model = _bpe(file, fuse_unk=True, byte_fallback=True, **unknown)
    return Pipeline(model, None, _metaspace(scheme, split=False), _sentencepiece_decoder(strips))


def _code_llama_additional(settings: Settings) -> list[Special]:
    infilling = (settings.values.get(name, default) for name, default in CODE_LLAMA.items())
    return [*(settings.values.get(ADDITIONAL) or []), *(token for token in infilling if token is not None)]


def _begin_template(settings: Settings, tokens: Tokens, stated: Component | None) -> Component | None:
    if not tokens.has("bos_token"):
        return None
    begin = tokens.content("bos_token")
    single = [(begin, 0), ("$A", 0)]
    return tokens.template(single, [*single, (begin, 1), ("$B", 1)])


def _gemma(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    unknown = _required(settings.where, named, "unk_token")
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    return Pipeline(
        _bpe(file, fuse_unk=True, byte_fallback=True, unk_token=unknown),
        _replace({"String": " "}, UNDERSCORE),
        split,
        _sentencepiece_decoder(False),
    )


def _t5(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    scheme = _metaspace("always")
    return Pipeline(_unigram(file, 2), _precompiled(file), _words(scheme), scheme)


def _t5_additional(settings: Settings) -> list[Special]:
    number = settings.count("extra_ids", 100)
    sentinels: list[Special] = [f"<extra_id_{i}>" for i in range(number)]
    stated = settings.values.get(ADDITIONAL)
    if stated is None:
        return sentinels
    named = [token for token in stated if "<extra_id_" in str(token)]
    if named and number not in (0, len(named)):
        raise CheckpointError(
            f"{settings.where}: additional_special_tokens must list all extra_ids ({number}) or none, but it "
            f"lists {len(named)}"
        )
    return [*stated, *([] if named else sentinels)]


def _t5_template(settings: Settings, tokens: Tokens, stated: Component | None) -> Component:
    end = {"id": "</s>", "ids": [tokens.id(tokens.content("eos_token"))], "tokens": ["</s>"]}
    single, pair = _same_segment("$A", "</s>"), _same_segment("$A", "</s>", "$B", "</s>")
    return {**tokens.template(single, pair), "special_tokens": {"</s>": end}}


def _xlm_roberta(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    scheme = _metaspace("always" if settings.flag("add_prefix_space", True) else "never")
    return Pipeline(_unigram(file, 3), _precompiled(file), _words(scheme), scheme)


def _xlm_roberta_template(settings: Settings, tokens: Tokens, stated: Component | None) -> Component:
    begin, end = tokens.content("bos_token"), tokens.content("eos_token")
    pair = _same_segment(begin, "$A", end, end, "$B", end)
    return tokens.template(_same_segment(begin, "$A", end), pair, spaces=True)


def _albert(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    scheme = _metaspace("always" if settings.flag("add_prefix_space", True) else "never")
    steps = [_replace({"String": quotes}, '"') for quotes in ("``", "''")]
    if not settings.flag("keep_accents", False):
        steps += [{"type": "NFKD"}, {"type": "StripAccents"}]
    if settings.flag("do_lower_case", True):
        steps.append({"type": "Lowercase"})
    charsmap = _precompiled(file)
    steps += [] if charsmap is None else [charsmap]
    return Pipeline(_unigram(file, 1), _normalizers(*steps), _words(scheme), scheme)


def _albert_template(settings: Settings, tokens: Tokens, stated: Component | None) -> Component:
    """Return ALBERT's template. In the template the tokens are named [CLS] and [SEP], whatever the cls and
    sep tokens are.
    """
    ids = {"[CLS]": tokens.model_id(tokens.content("cls_token"))}
    ids["[SEP]"] = tokens.model_id(tokens.content("sep_token"))
    single = [("[CLS]", 0), ("$A", 0), ("[SEP]", 0)]
    return {
        "type": "TemplateProcessing",
        "single": [_template_part(*part) for part in single],
        "pair": [_template_part(*part) for part in (*single, ("$B", 1), ("[SEP]", 1))],
        "special_tokens": {t: {"id": t, "ids": [id], "tokens": [t]} for t, id in ids.items()},
    }


def _deberta_template(settings: Settings, tokens: Tokens, stated: Component | None) -> Component:
    cls, sep = tokens.content("cls_token"), tokens.content("sep_token")
    pair = _same_segment(cls, "$A", sep, sep, "$B", sep)
    return tokens.template(_same_segment(cls, "$A", sep), pair)


def _deberta_v2(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    unknown = _required(settings.where, named, "unk_token")
    unk_id = next(
        (i for i, piece in enumerate(file.vocabulary) if tuple(piece) == (unknown, 0.0)),
        settings.count("unk_id", 1),
    )
    steps: list[Component] = [{"type": "Lowercase"}] if settings.flag("do_lower_case", False) else []
    charsmap = _precompiled(file)
    if charsmap is not None:
        steps += [charsmap, STRIP_RIGHT, _replace(SPACES, " ")]
    else:
        steps += [_replace({"Regex": r"\s{2,}|[\n\r\t]"}, " "), {"type": "NFC"}, STRIP_RIGHT]
    scheme = _metaspace("always" if settings.flag("add_prefix_space", True) else "first")
    words = (
        [{"type": "Punctuation", "behavior": "Isolated"}] if settings.flag("split_by_punct", False) else []
    )
    return Pipeline(_unigram(file, unk_id), _normalizers(*steps), _pre_tokenizers(*words, scheme), scheme)


def _big_bird(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    unknown = _required(settings.where, named, "unk_token")
    pieces = enumerate(file.vocabulary)
    unk_id = next((i for i, piece in pieces if tuple(piece) == (unknown, 0.0)), 100)
    scheme = _metaspace("always" if settings.flag("add_prefix_space", True) else "never")
    steps = _normalizers(_replace({"Regex": r" +\z"}, ""), _replace(SPACES, UNDERSCORE))
    return Pipeline(_unigram(file, unk_id), steps, scheme, scheme)


def _camembert(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    scheme = _metaspace("always" if settings.flag("add_prefix_space", True) else "never")
    unknown = _required(settings.where, named, "unk_token")
    unk_id = next((i for i, piece in enumerate(file.vocabulary) if piece[0] == unknown), 0)
    return Pipeline(_unigram(file, unk_id), _precompiled(file), _words(scheme), scheme)


def _camembert_additional(settings: Settings) -> list[Special]:
    stated = settings.values.get(ADDITIONAL)
    return [f"{token}NOTUSED" for token in ("<s>", "</s>", "<unk>")] if stated is None else stated


def _camembert_template(settings: Settings, tokens: Tokens, stated: Component | None) -> Component:
    begin, end = tokens.content("bos_token"), tokens.content("eos_token")
    return tokens.template(_same_segment(begin, "$A", end), _same_segment(begin, "$A", end, end, "$B", end))


def _pegasus(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    unknown = _required(settings.where, named, "unk_token")
    ids = [i for i, piece in enumerate(file.vocabulary) if i and piece[0] == unknown and piece[1] == 0]
    if not ids:
        raise CheckpointError(
            f"{file.where}: the unknown piece {unknown!r:.60} must have the score 0 and an id from 1"
        )
    charsmap = _precompiled(file)
    first = charsmap if charsmap is not None else _replace({"Regex": r"\n"}, " ")
    return Pipeline(
        _unigram(file, ids[0]),
        _normalizers(first, _replace(SPACES, " ")),
        _metaspace("always"),
        _metaspace("always"),
    )


def _pegasus_additional(settings: Settings) -> list[Special]:
    sentence_mask = settings.values.get("mask_token_sent", "<mask_1>")
    stated = settings.values.get(ADDITIONAL)
    first = [sentence_mask] if sentence_mask is not None else []
    if stated is not None and sentence_mask in stated:
        first = []
    return [*first, *(f"<unk_{i}>" for i in range(2, settings.count("offset", 103)))]


def _pegasus_template(settings: Settings, tokens: Tokens, stated: Component | None) -> Component:
    end = tokens.content("eos_token")
    return tokens.template(_same_segment("$A", end), _same_segment("$A", "$B", end))


def _mbart(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    scheme = _metaspace("always")
    return Pipeline(_unigram(file, 3), _stripped(file, UNDERSCORE), _words(scheme), scheme)


def _mbart_additional(settings: Settings) -> list[Special]:
    stated = settings.values.get(ADDITIONAL) or []
    return [*MBART_LANGUAGES, *(token for token in stated if token not in MBART_LANGUAGES)]


def _mbart_template(
    settings: Settings, tokens: Tokens, stated: Component | None, *, before: bool = False
) -> Component:
    """Return mBART's template, with the token of the language after the end token. With `before`, this token
    is before the text instead.
    """
    language, end = _language(settings), tokens.content("eos_token")
    single, pair = (
        _same_segment(language, *texts, end) if before else _same_segment(*texts, end, language)
        for texts in (("$A",), ("$A", "$B"))
    )
    return tokens.template(single, pair, spaces=True)


def _mbart50(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    if not {piece[0] for piece in file.vocabulary}.intersection(MBART50_LANGUAGES):
        raise CheckpointError(f"{file.where}: model.vocab must have pieces for languages, such as en_XX")
    scheme = _metaspace("always")
    return Pipeline(_unigram(file, 3), _stripped(file, " "), scheme, scheme)


def _mbart50_additional(settings: Settings) -> list[Special]:
    return [*(settings.values.get(ADDITIONAL) or []), *MBART50_LANGUAGES]


def _nllb(settings: Settings, named: Mapping[str, Special], file: SourceFile) -> Pipeline:
    unknown = _required(settings.where, named, "unk_token")
    charsmap = _precompiled(file)
    return Pipeline(
        _bpe(file, fuse_unk=True, unk_token=unknown),
        None if charsmap is None else _normalizers(charsmap, _replace(SPACES, " ")),
        _metaspace("always"),
        _metaspace("always"),
    )


def _nllb_additional(settings: Settings) -> list[Special]:
    stated = settings.values.get(ADDITIONAL)
    return [*NLLB_LANGUAGES] if stated is None else stated


def _nllb_template(settings: Settings, tokens: Tokens, stated: Component | None) -> Component:
    """Return NLLB's template, with the token of the language before the text. With `legacy_behaviour`, this
    token is after the end token, as older models were trained.

    As in transformers' class, the unknown token stands for a language that has no token.
    """
    language, end = settings.text("src_lang", "eng_Latn"), tokens.content("eos_token")
    before, after = ([], [end, language]) if settings.flag("legacy_behaviour", False) else ([language], [end])
    return tokens.template(
        _same_segment(*before, "$A", *after), _same_segment(*before, "$A", "$B", *after), spaces=True
    )


def _language(settings: Settings) -> str:
    """Return the language of the text, `src_lang`, which is also the language's token. Raises CheckpointError
    for a language that mBART doesn't have.
    """
    language = settings.text("src_lang", "en_XX")
    if language not in MBART50_LANGUAGES:
        raise CheckpointError(
            f"{settings.where}: src_lang must be a language such as en_XX, got {language!r:.40}"
        )
    return language


def _fairseq_pieces(first: str, languages: Sequence[str] = ()) -> Callable[[Settings, Pieces], Pieces]:
    """Return a function that puts pieces in fairseq's order.

    Four special tokens replace the model's first three pieces. The tokens of the languages and a mask are
    added at the end.
    """
    front = ((first, "<s>"), ("pad_token", "<pad>"), ("eos_token", "</s>"), ("unk_token", "<unk>"))

    def pieces_of(settings: Settings, pieces: Pieces) -> Pieces:
        special = [
            str(settings.values.get(name, default)) for name, default in (*front, ("mask_token", "<mask>"))
        ]
        new = [(token, 0.0) for token in (*special[:4], *languages, special[4])]
        return [*new[:4], *pieces[3:], *new[4:]]

    return pieces_of


def _camembert_pieces(settings: Settings, pieces: Pieces) -> Pieces:
    """Put pieces in CamemBERT's order. The name of the model's own unknown piece is `<unk>NOTUSED`, and its
    score is so low that the piece is never chosen.
    """
    pad, unknown, mask = (
        str(settings.values.get(name, default))
        for name, default in (("pad_token", "<pad>"), ("unk_token", "<unk>"), ("mask_token", "<mask>"))
    )
    front = [("<s>NOTUSED", 0.0), (pad, 0.0), ("</s>NOTUSED", 0.0), (unknown, 0.0), ("<unk>NOTUSED", -100.0)]
    return [*front, *pieces[1:], (mask, 0.0)]


def _t5_pieces(settings: Settings, pieces: Pieces) -> Pieces:
    """Add T5's sentinels, `<extra_id_0>` and so on, after the pieces. The last sentinel comes first."""
    return [*pieces, *((f"<extra_id_{i}>", 0.0) for i in reversed(range(settings.count("extra_ids", 100))))]


def _pegasus_pieces(settings: Settings, pieces: Pieces) -> Pieces:
    """Put Pegasus' special tokens in place of the model's first two pieces: padding, end and masks, then
    tokens that only pretraining used.
    """
    tokens = [
        str(settings.values.get(name, default))
        for name, default in (("pad_token", "<pad>"), ("eos_token", "</s>"))
    ]
    # transformers' converter takes these two defaults the other way round than its class.
    masks = {
        name: str(settings.values.get(name, default))
        for name, default in (("mask_token", "<mask_1>"), ("mask_token_sent", "<mask_2>"))
    }
    tokens += [mask for mask in dict.fromkeys(masks.values()) if mask != "None"]
    unused = [(f"<unk_{i}>", -100.0) for i in range(2, settings.count("offset", 103))]
    return [*((token, 0.0) for token in tokens), *unused, *pieces[2:]]


_LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
_PADDED = {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
_FAIRSEQ = {**_LLAMA, **_PADDED, "sep_token": "</s>", "cls_token": "<s>"}
_BERT = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
_DEBERTA = {**_BERT, "bos_token": "[CLS]", "eos_token": "[SEP]"}
_ALBERT = {**_DEBERTA, "unk_token": "<unk>", "pad_token": "<pad>"}
_END = "<|endoftext|>"
_COHERE = {
    "unk_token": "<UNK>",
    "bos_token": "<BOS_TOKEN>",
    "eos_token": "<|END_OF_TURN_TOKEN|>",
    "pad_token": "<PAD>",
    "cls_token": "<CLS>",
    "sep_token": "<SEP>",
    "mask_token": "<MASK_TOKEN>",
}
_GEMMA = {**_PADDED, "bos_token": "<bos>", "eos_token": "<eos>"}
_ALL = (
    TokenizerClass("BertTokenizer", "WordPiece", _BERT, _bert, _bert_template, file="vocab.txt"),
    TokenizerClass(
        "ConvBertTokenizer", "WordPiece", _BERT, _bert, _bert_template, file="vocab.txt", keeps_file=True
    ),
    TokenizerClass(
        "EsmTokenizer",
        "WordPiece",
        {**_PADDED, "cls_token": "<cls>", "eos_token": "<eos>"},
        _esm,
        _esm_template,
        file="vocab.txt",
    ),
    TokenizerClass(
        "MPNetTokenizer",
        "WordPiece",
        {**_FAIRSEQ, "unk_token": "[UNK]"},
        _bert,
        _mpnet_template,
        mask_flags={"lstrip": True},
        names_have_flags=True,
        file="vocab.txt",
    ),
    TokenizerClass(
        "AlbertTokenizer",
        "Unigram",
        _ALBERT,
        _albert,
        _albert_template,
        file="spiece.model",
        own_template="without flags",
    ),
    TokenizerClass(
        "CamembertTokenizer",
        "Unigram",
        _FAIRSEQ,
        _camembert,
        _camembert_template,
        _camembert_additional,
        mask_flags={"lstrip": True},
        file="sentencepiece.bpe.model",
        reorder=_camembert_pieces,
    ),
    TokenizerClass("RobertaTokenizer", "BPE", _FAIRSEQ, _gpt2, _roberta_template, file="vocab.json"),
    TokenizerClass(
        "GPT2Tokenizer",
        "BPE",
        {"unk_token": _END, "bos_token": _END, "eos_token": _END, "pad_token": None},
        _gpt2,
        file="vocab.json",
    ),
    TokenizerClass(
        "WhisperTokenizer",
        "BPE",
        dict.fromkeys(("unk_token", "bos_token", "eos_token"), _END),
        _gpt2,
        _whisper_template,
        file="vocab.json",
    ),
    TokenizerClass(
        "GPTNeoXTokenizer",
        "BPE",
        {"unk_token": _END, "bos_token": _END, "eos_token": _END, "pad_token": "<|padding|>"},
        _gpt_neox,
        _no_template,
        file="vocab.json",
        own_template="with a file",
    ),
    TokenizerClass(
        "Qwen2Tokenizer",
        "BPE",
        dict.fromkeys(("unk_token", "eos_token", "pad_token"), _END),
        partial(_qwen, pattern=QWEN2),
        added_again=_plain_special,
        file="vocab.json",
    ),
    TokenizerClass(
        "Qwen3_5Tokenizer",
        "BPE",
        dict.fromkeys(("unk_token", "eos_token", "pad_token"), _END),
        partial(_qwen, pattern=QWEN3_5),
    ),
    TokenizerClass("CohereTokenizer", "BPE", _COHERE, _cohere, added_again=_all_special, file="vocab.json"),
    TokenizerClass("LlamaTokenizer", "BPE", _LLAMA, _llama),
    TokenizerClass(
        "CodeLlamaTokenizer",
        "BPE",
        {**_LLAMA, **CODE_LLAMA},
        _code_llama,
        _begin_template,
        _code_llama_additional,
        own_template="with a file",
        adds_bos=True,
    ),
    TokenizerClass("GemmaTokenizer", "BPE", _GEMMA, _gemma),
    TokenizerClass(
        "T5Tokenizer",
        "Unigram",
        {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        _t5,
        _t5_template,
        _t5_additional,
        file="spiece.model",
        reorder=_t5_pieces,
    ),
    TokenizerClass(
        "XLMRobertaTokenizer",
        "Unigram",
        _FAIRSEQ,
        _xlm_roberta,
        _xlm_roberta_template,
        file="sentencepiece.bpe.model",
        reorder=_fairseq_pieces("bos_token"),
    ),
    TokenizerClass(
        "PegasusTokenizer",
        "Unigram",
        {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask_2>"},
        _pegasus,
        _pegasus_template,
        _pegasus_additional,
        file="spiece.model",
        reorder=_pegasus_pieces,
    ),
    TokenizerClass(
        "MBartTokenizer",
        "Unigram",
        _FAIRSEQ,
        _mbart,
        _mbart_template,
        _mbart_additional,
        mask_flags={"lstrip": True},
        file="sentencepiece.bpe.model",
        reorder=_fairseq_pieces("bos_token", MBART_LANGUAGES),
    ),
    TokenizerClass(
        "NllbTokenizer",
        "BPE",
        _FAIRSEQ,
        _nllb,
        _nllb_template,
        _nllb_additional,
        mask_flags={"lstrip": True, "normalized": True},
        file="sentencepiece.bpe.model",
    ),
    TokenizerClass(
        "MBart50Tokenizer",
        "Unigram",
        {name: token for name, token in _FAIRSEQ.items() if name != "bos_token"},
        _mbart50,
        partial(_mbart_template, before=True),
        _mbart50_additional,
        mask_flags={"lstrip": True},
        file="sentencepiece.bpe.model",
        reorder=_fairseq_pieces("cls_token", MBART50_LANGUAGES),
    ),
    TokenizerClass(
        "DebertaTokenizer",
        "BPE",
        _DEBERTA,
        _gpt2,
        _deberta_template,
        file="vocab.json",
    ),
    TokenizerClass("DebertaV2Tokenizer", "Unigram", _DEBERTA, _deberta_v2, _bert_template, file="spm.model"),
    TokenizerClass(
        "BigBirdTokenizer",
        "Unigram",
        {**_FAIRSEQ, "sep_token": "[SEP]", "cls_token": "[CLS]", "mask_token": "[MASK]"},
        _big_bird,
        _bert_template,
        mask_flags={"lstrip": True},
        names_have_flags=True,
        file="spiece.model",
    ),
)
CLASSES: Mapping[str, TokenizerClass] = {made.name: made for made in _ALL}
