// Speed of decoder bundles over ONNX Runtime's WebAssembly, in Node, beside the last one: medians, and of ratios.
//
//     npm install onnxruntime-web
//     node tests/bench/web.mjs ROUNDS THREADS BUNDLE ... BUNDLE
//
// One step of each in turn, after a prompt of 16 tokens.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";

const [rounds, threads, ...folders] = process.argv.slice(2);
const dist = dirname(createRequire(resolve("here")).resolve("onnxruntime-web/wasm"));
const ort = await import(join(dist, "ort.wasm.min.mjs"));
ort.env.logLevel = "error";
ort.env.wasm.wasmBinary = readFileSync(join(dist, "ort-wasm-simd-threaded.wasm"));
ort.env.wasm.wasmPaths = `${dist}/`;
ort.env.wasm.numThreads = Number(threads);
const PROMPT = Array.from({ length: 16 }, (_, i) => 500 + i), CAPACITY = PROMPT.length + Number(rounds) + 1;

async function open(folder) {
  const file = (name) => new Uint8Array(readFileSync(join(folder, name)));
  const externalData = [{ path: "model.onnx.data", data: file("model.onnx.data") }];
  const session = await ort.InferenceSession.create(file("model.onnx"), { externalData });
  const ports = {};
  for (const { name, shape: [, width, , head] } of session.inputMetadata) {
    const size = /^[kv]\./.test(name) ? [1, width, CAPACITY, head] : /^(cos|sin)\./.test(name) ? [CAPACITY, width] : null;
    // Tables of zeros: how long a step takes doesn't depend on numbers.
    if (size) ports[name] = new ort.Tensor(new Float32Array(size.reduce((a, b) => a * b)), size);
  }
  return { folder, session, ports, past: 0, times: [] };
}

const int64 = (numbers, shape) => new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), shape);
async function step(model, tokens) {
  const count = tokens.length, begun = performance.now();
  const given = { tokens: int64(tokens, [1, count]), past: int64([model.past], [1]), at: int64([count - 1], [1, 1]) };
  const results = await model.session.run({ ...model.ports, ...given });
  model.times.push(performance.now() - begun);
  for (const name in results) if (name !== "logits") model.ports[name.replace("_out", "")] = results[name];
  model.past += count;
}

const models = [];
for (const folder of folders) models.push(await open(folder));
for (let round = 0; round <= rounds; round++) for (const model of models) await step(model, round ? [504] : PROMPT);
const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1], beside = models.at(-1);
for (const { folder, times: [prompt, ...times] } of models) {
  const ratio = median(times.map((time, i) => time / beside.times[i + 1]));
  console.log(`${basename(folder)}: prompt ${prompt.toFixed(0)} ms, token ${median(times).toFixed(0)} ms, ratio ${ratio.toFixed(2)}`);
}
process.exit(0); // its threads would wait for more
