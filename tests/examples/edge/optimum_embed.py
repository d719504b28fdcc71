"""Embed texts with optimum, without tfm: `python optimum_embed.py DIRECTORY TEXT ...` prints JSON.

tfm-cli export minilm-l6 minilm --layout optimum
pip install 'optimum-onnx[onnxruntime]'      # in an environment of its own: it brings an onnxruntime
"""

# ruff: noqa: T201  (a script: what it prints is its result)

import json
import sys

from optimum.onnxruntime import ORTModelForFeatureExtraction  # pyright: ignore[reportMissingImports]
from torch.nn.functional import normalize
from transformers import AutoTokenizer

directory, *texts = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(directory)
model = ORTModelForFeatureExtraction.from_pretrained(directory)
inputs = tokenizer(texts, padding=True, return_tensors="pt")
states, real = model(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
vectors = normalize((states * real).sum(1) / real.sum(1))  # MiniLM's pooling; others have theirs
print(json.dumps(vectors.tolist()))
