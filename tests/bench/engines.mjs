// A worker in Node, with the protocol of engines.py.
//
//     node engines.mjs PACKAGES KIND MODEL THREADS
//
// PACKAGES is a folder with node_modules: @huggingface/transformers and onnxruntime-web. MODEL is a folder of
// layout transformers.js. KIND is "transformers.js", on a processor; "web", its graph over WebAssembly, in
// the loop that is as short as can be; each with " encoder" behind it for a model of embeddings.
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [packages, kind, folder, threads] = process.argv.slice(2);
const from = createRequire(resolve(packages, "here.js"));
const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf-8"));
const seconds = async (run) => {
  const begun = performance.now(), result = await run();
  return [result, (performance.now() - begun) / 1000];
};

// transformers.js writes whole texts: decoding is a long text's time less that of one token.
async function library() {
  const js = await import(pathToFileURL(join(dirname(from.resolve("@huggingface/transformers")), "transformers.node.mjs")));
  js.env.allowRemoteModels = false;
  js.env.localModelPath = dirname(resolve(folder));
  const options = { device: "cpu", session_options: { intraOpNumThreads: Number(threads) } };
  const classes = kind.endsWith("encoder") ? js.AutoModel : config.is_encoder_decoder ? js.AutoModelForSeq2SeqLM : js.AutoModelForCausalLM;
  const model = await classes.from_pretrained(basename(folder), options);
  const tensor = (rows) => new js.Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0].length]);
  async function measure(prompt, count) {
    const inputs = { inputs: tensor([prompt]), attention_mask: tensor([prompt.map(() => 1)]) };
    const choice = { do_sample: false, num_beams: 1, eos_token_id: [], max_new_tokens: count };
    const [rows, spent] = await seconds(() => model.generate({ ...inputs, ...choice }));
    return [rows.tolist()[0].slice(config.is_encoder_decoder ? 1 : prompt.length).map(Number), spent];
  }
  return {
    version: `transformers.js ${js.env.version}`,
    async write(prompt, count) {
      const [, prefill] = await measure(prompt, 1), [tokens, whole] = await measure(prompt, count);
      return { tokens, prefill_s: prefill, decode_s: whole - prefill };
    },
    async encode(ids, mask) {
      const inputs = { input_ids: tensor(ids), attention_mask: tensor(mask), token_type_ids: tensor(ids.map((row) => row.map(() => 0))) };
      return (await model(inputs)).sentence_embedding.tolist();
    },
  };
}

async function web() {
  const dist = dirname(from.resolve("onnxruntime-web/wasm"));
  const ort = await import(pathToFileURL(join(dist, "ort.wasm.min.mjs")));
  ort.env.logLevel = "error";
  ort.env.wasm.wasmBinary = readFileSync(join(dist, "ort-wasm-simd-threaded.wasm"));
  ort.env.wasm.wasmPaths = `${dist}/`;
  ort.env.wasm.numThreads = Number(threads);
  const file = (path) => new Uint8Array(readFileSync(path));
  const graphs = readdirSync(join(folder, "onnx")).filter((name) => name.endsWith(".onnx"));
  async function open(prefix) {
    const name = graphs.find((name) => name.startsWith(prefix)), path = join(folder, "onnx", name);
    const externalData = existsSync(`${path}_data`) ? [{ path: `${name}_data`, data: file(`${path}_data`) }] : [];
    return ort.InferenceSession.create(file(path), { externalData });
  }
  const reads = config.is_encoder_decoder, model = await open(reads ? "decoder_model_merged" : "model"), encoder = reads && (await open("encoder_model"));
  const tensor = (rows) => new ort.Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0].length]);
  const ones = (count) => tensor([Array(count).fill(1)]);
  let cache, past, text;
  async function step(ids) {
    const given = { input_ids: tensor([ids]), ...cache, ...text };
    if (reads) given.use_cache_branch = new ort.Tensor("bool", [past > 0], [1]);
    else given.attention_mask = ones(past + ids.length);
    const results = await model.run(given);
    past += ids.length;
    for (const name in results) if (name !== "logits") cache[name.replace("present", "past_key_values")] = results[name];
    const { data, dims: [, , size] } = results.logits, last = data.subarray(data.length - size);
    let best = 0;
    for (let i = 1; i < size; i++) if (last[i] > last[best]) best = i;
    return best;
  }
  async function start(prompt) {
    [cache, past, text] = [{}, 0, {}];
    for (const { name, shape } of model.inputMetadata)
      if (name.startsWith("past_key_values.")) cache[name] = new ort.Tensor(new Float32Array(0), [1, shape[1], 0, shape[3]]);
    if (!reads) return step(prompt);
    const mask = ones(prompt.length), { last_hidden_state } = await encoder.run({ input_ids: tensor([prompt]), attention_mask: mask });
    text = { encoder_hidden_states: last_hidden_state, encoder_attention_mask: mask };
    return step([config.decoder_start_token_id]);
  }
  return {
    version: `onnxruntime-web ${ort.env.versions.web}`,
    async write(prompt, count) {
      const [first, prefill] = await seconds(() => start(prompt)), tokens = [first];
      const [, decode] = await seconds(async () => { while (tokens.length < count) tokens.push(await step([tokens.at(-1)])); });
      return { tokens, prefill_s: prefill, decode_s: decode };
    },
    async encode(ids, mask) {
      const given = { input_ids: tensor(ids), attention_mask: tensor(mask), token_type_ids: tensor(ids.map((row) => row.map(() => 0))) };
      const { data, dims: [, size] } = (await model.run(given)).sentence_embedding;
      return ids.map((_, i) => [...data.slice(i * size, (i + 1) * size)]);
    },
  };
}

const [engine, loaded] = await seconds(kind.startsWith("web") ? web : library);
async function reply({ prompt, new: count, texts, for_s }) {
  if (!texts) return engine.write(prompt, count);
  const longest = Math.max(...texts.map((ids) => ids.length)), fill = (row) => [...row, ...Array(longest - row.length).fill(0)];
  const ids = texts.map(fill), mask = texts.map((text) => fill(text.map(() => 1)));
  if (for_s === undefined) return { vectors: await engine.encode(ids, mask) };
  const begun = performance.now();
  let times = 0, spent = 0;
  for (; spent < for_s; spent = (performance.now() - begun) / 1000) {
    await engine.encode(ids, mask);
    times++;
  }
  return { seconds: spent / times };
}
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
say({ engine: kind, version: engine.version, load_s: loaded });
let waited = performance.now(), used = process.cpuUsage();
for await (const line of createInterface({ input: process.stdin })) {
  const { user, system } = process.cpuUsage(used), idle = { idle_cpu_s: (user + system) / 1e6, idle_s: (performance.now() - waited) / 1000 };
  say({ ...(await reply(JSON.parse(line))), ...idle });
  [waited, used] = [performance.now(), process.cpuUsage()];
}
process.exit(0); // threads of WebAssembly would wait for more
