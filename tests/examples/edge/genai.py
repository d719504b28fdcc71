"""Answer a message with onnxruntime-genai, without tfm: `python genai.py DIRECTORY MESSAGE`.

tfm-cli export smollm2-135m smol --layout genai
pip install onnxruntime-genai      # in an environment of its own: it brings an onnxruntime
"""

# ruff: noqa: T201  (a script: what it prints is its result)

import json
import sys

import onnxruntime_genai as og  # pyright: ignore[reportMissingImports]

directory, message = sys.argv[1:]
model = og.Model(directory)
tokenizer = og.Tokenizer(model)
messages = json.dumps([{"role": "user", "content": message}])
prompt = tokenizer.encode(tokenizer.apply_chat_template(messages, add_generation_prompt=True))

options = og.GeneratorParams(model)
options.set_search_options(max_length=len(prompt) + 64, do_sample=False)
generator = og.Generator(model, options)
generator.append_tokens(prompt)
stream = tokenizer.create_stream()
while not generator.is_done():
    generator.generate_next_token()
    print(stream.decode(generator.get_next_tokens()[0]), end="", flush=True)
print()
