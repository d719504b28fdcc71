// Speed of decoders over ONNX Runtime's WebAssembly, in Node, beside the last one: medians, and of ratios.
//
//     npm install --ignore-scripts onnxruntime-web
//     node tests/bench/web.mjs ROUNDS THREADS MODEL.onnx ... MODEL.onnx
//
// The models are those of layout transformers.js, and of that library's own conversion (web_recipe.py), which
// have the same ports. One step of each in turn, after a prompt of 16 tokens. What each takes for the best
// token at each step is printed too, as the numbers of the first eight.
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";

const [rounds, threads, ...paths] = process.argv.slice(2);
const dist = dirname(createRequire(resolve("here")).resolve("onnxruntime-web/wasm"));
const ort = await import(join(dist, "ort.wasm.min.mjs"));
ort.env.logLevel = "error";
ort.env.wasm.wasmBinary = readFileSync(join(dist, "ort-wasm-simd-threaded.wasm"));
ort.env.wasm.wasmPaths = `${dist}/`;
ort.env.wasm.numThreads = Number(threads);
const PROMPT = Array.from({ length: 16 }, (_, i) => 500 + i);

async function open(path) {
  const file = (name) => new Uint8Array(readFileSync(name)), weights = `${path}_data`;
  const externalData = existsSync(weights) ? [{ path: basename(weights), data: file(weights) }] : [];
  const session = await ort.InferenceSession.create(file(path), { externalData });
  const cache = {}, others = {};
  for (const { name, shape } of session.inputMetadata)
    if (name.startsWith("past_key_values.")) cache[name] = new ort.Tensor(new Float32Array(0), [1, shape[1], 0, shape[3]]);
    else others[name] = true;
  return { path, session, cache, others, past: 0, times: [], tokens: [] };
}

const row = (numbers) => new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), [1, numbers.length]);
const places = (from, to) => Array.from({ length: to - from }, (_, i) => from + i);
async function step(model, tokens) {
  const end = model.past + tokens.length, begun = performance.now();
  const given = { input_ids: row(tokens), attention_mask: row(places(0, end).fill(1)) };
  if (model.others.position_ids) given.position_ids = row(places(model.past, end));
  const results = await model.session.run({ ...given, ...model.cache });
  for (const name in results) if (name !== "logits") model.cache[name.replace("present", "past_key_values")] = results[name];
  const { data, dims: [, , size] } = results.logits, logits = data.subarray(data.length - size);
  model.tokens.push(logits.reduce((best, value, i) => (value > logits[best] ? i : best), 0));
  model.times.push(performance.now() - begun);
  model.past = end;
}

const models = [];
for (const path of paths) models.push(await open(path));
for (let round = 0; round <= rounds; round++)
  for (const model of models) await step(model, round ? [model.tokens.at(-1)] : PROMPT);
const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1], beside = models.at(-1);
for (const { path, tokens, times: [prompt, ...times] } of models) {
  const ratio = median(times.map((time, i) => time / beside.times[i + 1]));
  const name = path.split("/").slice(-3).join("/");
  console.log(`${name}: prompt ${prompt.toFixed(0)} ms, token ${median(times).toFixed(0)} ms, ratio ${ratio.toFixed(2)}, ${tokens.slice(0, 8)}`);
}
process.exit(0); // its threads would wait for more
