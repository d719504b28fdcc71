"""Answer a message with optimum, without tfm: `python optimum_chat.py DIRECTORY MESSAGE`.

tfm-cli export smollm2-135m smol --layout optimum
pip install 'optimum-onnx[onnxruntime]'      # in an environment of its own: it brings an onnxruntime
"""

# ruff: noqa: T201  (a script: what it prints is its result)

import sys

from optimum.onnxruntime import ORTModelForCausalLM  # pyright: ignore[reportMissingImports]
from transformers import AutoTokenizer

directory, message = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(directory)
model = ORTModelForCausalLM.from_pretrained(directory)
messages = [{"role": "user", "content": message}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(tokens, skip_special_tokens=True))
