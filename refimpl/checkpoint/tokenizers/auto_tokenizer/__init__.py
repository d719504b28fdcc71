"""The tokenizer that transformers' AutoTokenizer makes from a model directory, as the text of a
tokenizer.json.

The input is tokenizer.json, or an older vocabulary, and the files beside it. The output is a tokenizer.json
that gives the same ids without these files, and the named special tokens. The modules, in reading order, are
`added_vocabulary`, `settings` (the files), `class_choice` (which of transformers' classes reads them),
`classes` (which parts each class replaces), `clean_up`, `apply`; without a tokenizer.json `vocabulary_files`
and `sentencepiece_backend`. Source: transformers 5, `models/auto/tokenization_auto.py`,
`tokenization_utils_base.py`, `tokenization_utils_tokenizers.py` and the `tokenization_*.py` of each class.
"""
