// Answer a message with transformers.js, without tfm: `node chat.mjs DIRECTORY MESSAGE`.
//
//     tfm-cli export smollm2-135m smol --layout transformers.js
//     npm install --ignore-scripts @huggingface/transformers      # in the folder that this file lies in
import { basename, dirname, resolve } from "node:path";
import { env, pipeline, TextStreamer } from "@huggingface/transformers";

const [directory, message] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(resolve(directory));
const generate = await pipeline("text-generation", basename(directory), { device: "cpu" });
const streamer = new TextStreamer(generate.tokenizer, { skip_prompt: true, skip_special_tokens: true });
await generate([{ role: "user", content: message }], { max_new_tokens: 64, do_sample: false, streamer });
