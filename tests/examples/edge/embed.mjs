// Embed texts with transformers.js, without tfm: `node embed.mjs DIRECTORY TEXT ...` prints a JSON list of vectors.
//
//     tfm-cli export minilm-l6 minilm --layout transformers.js
//     npm install --ignore-scripts @huggingface/transformers      # in the folder that this file lies in
import { AutoModel, AutoTokenizer, env } from "@huggingface/transformers";
import { basename, dirname, resolve } from "node:path";

const [directory, ...texts] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(resolve(directory));
const name = basename(directory);
const tokenizer = await AutoTokenizer.from_pretrained(name);
const model = await AutoModel.from_pretrained(name);
// The graph pools and normalizes as the model wants; last_hidden_state has each token's vector.
const { sentence_embedding } = await model(tokenizer(texts, { padding: true }));
console.log(JSON.stringify(sentence_embedding.tolist()));
