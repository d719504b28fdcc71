"""The tokenizer that transformers' AutoTokenizer makes of a model directory, as the text of a tokenizer.json.

Input: tokenizer.json, or an older vocabulary, and the files beside it. Output: a tokenizer.json that gives
the same ids without these files, and the named special tokens. In reading order: `added_vocabulary`,
`settings` (the files), `class_choice` (which of transformers' classes reads them), `classes` (what each makes
anew), `clean_up`, `apply`; without a tokenizer.json `vocabulary_files` and `sentencepiece_backend`. Source:
transformers 5, `models/auto/tokenization_auto.py`, `tokenization_utils_base.py`,
`tokenization_utils_tokenizers.py` and the `tokenization_*.py` of each class.
"""
