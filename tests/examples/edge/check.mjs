// Check a model in transformers.js, without tfm: `node check.mjs DIRECTORY` compares the outputs for the golden tokens with the
// specification's, each path by its own row of the certificate, and ends with 1 if an output is over its row's budget.
//
//     tfm-cli export smollm2-135m smol --layout transformers.js
//     npm install --ignore-scripts @huggingface/transformers      # in the folder that this file lies in
import { AutoModel, AutoModelForCausalLM, env, Tensor } from "@huggingface/transformers";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";

const directory = resolve(process.argv[2]), stated = (name) => JSON.parse(readFileSync(join(directory, "tfm", name), "utf-8"));
const { config: { head, type }, files } = stated("tfm.json"), { rows } = stated("certificate.json");
const decodes = type === "Decoder" && head.type === "LM";
if (!decodes && head.type !== "Pool") throw Error(`this program checks decoders that predict tokens and encoders of vectors, not ${type}, ${head.type}`);
function golden(name) { // the numbers of an .npy
  const bytes = readFileSync(join(directory, "tfm", "golden", `${name}.npy`)), start = 10 + bytes.readUInt16LE(8);
  const numbers = Uint8Array.from(bytes.subarray(start)).buffer;
  return bytes.toString("latin1", 22, 24) === "i8" ? Array.from(new BigInt64Array(numbers), Number) : new Float64Array(numbers);
}
const [tokens, lengths, columns] = ["tokens", "lengths", "columns"].map(golden), time = tokens.length / lengths.length;
const types = "golden/types.npy" in files ? golden("types") : undefined;
env.allowRemoteModels = false;
async function outputs(path) { // a row for each real token, or for each text
  env.localModelPath = dirname(path);
  const model = await (decodes ? AutoModelForCausalLM : AutoModel).from_pretrained(basename(path), { device: "cpu" });
  const ids = (numbers) => new Tensor("int64", BigInt64Array.from(numbers, BigInt), [1, numbers.length]), found = [];
  for (const [row, length] of lengths.entries())
    for (let end = decodes ? 1 : length; end <= length; end++) { // the graph has the logits after a text's last token
      const [input_ids, token_type_ids] = [tokens, types].map((all) => all && ids(all.slice(row * time, row * time + end)));
      const given = { input_ids, attention_mask: ids(Array(end).fill(1)), ...(token_type_ids && { token_type_ids }) };
      const { logits, sentence_embedding } = await model(given);
      found.push((logits ?? sentence_embedding).data);
    }
  await model.dispose();
  return found;
}
function judge(found, kind, name) {
  const expected = golden(`${kind}.logits`), width = expected.length / found.length; // a decoder's last is log Σ exp of all logits
  const error = (output, row) => Array.from(columns, (column, i) => Math.abs(output[column] - expected[row * width + i]));
  const largest = Math.max(...found.flatMap(error)), { figure, budget } = rows.find((row) => row.name === name);
  const of = [largest, figure, budget].map((number) => number.toExponential(2));
  return { right: largest <= budget, said: `${name} ${of[0]}, in the certificate ${of[1]}, budget ${of[2]}` };
}
function withFloats() { // a copy whose products are in float, not of rounded inputs
  const copy = mkdtempSync(join(tmpdir(), "check-")), level = Buffer.from("accuracy_level\x18\x04");
  cpSync(directory, copy, { recursive: true });
  for (const name of readdirSync(join(copy, "onnx")).filter((name) => name.endsWith(".onnx"))) {
    const path = join(copy, "onnx", name), graph = readFileSync(path);
    for (let i = 0; (i = graph.indexOf(level, i)) >= 0; i++) graph[i + level.length - 1] = 0;
    writeFileSync(path, graph);
  }
  return copy;
}
const judged = [], sharp = (found) => judge(found, "plain", "products in float: largest error");
if ("golden/plain.logits.npy" in files) {
  const copy = withFloats();
  judged.push(sharp(await outputs(copy).finally(() => rmSync(copy, { recursive: true }))));
}
const found = await outputs(directory); // as it answers: some processors compute in float then too
if (!judged.length || !sharp(found).right) judged.push(judge(found, "own", "whole: largest error"));
const right = judged.every((one) => one.right);
console.log([...judged.map((one) => one.said), right ? "Right: within each budget above." : "WRONG: above a budget."].join("\n"));
process.exitCode = right ? 0 : 1;
