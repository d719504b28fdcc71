"""Make the tokenizer that transformers' AutoTokenizer makes from a model directory, as the text of a
tokenizer.json.

The input is tokenizer.json, or an older vocabulary, and the files beside it. The output is the named special
tokens, and a tokenizer.json that gives the same ids without these files. The modules, in reading order, are
`added_vocabulary`, `settings` (the files), `class_choice` (which of transformers' classes reads the files),
`classes` (which parts each class replaces), `clean_up` and `apply`. `vocabulary_files` and
`sentencepiece_backend` are for directories without a tokenizer.json. Source: transformers 5,
`models/auto/tokenization_auto.py`, `tokenization_utils_base.py`, `tokenization_utils_tokenizers.py` and the
`tokenization_*.py` of each class.
"""
