"use strict";
// The page of the server: conversations with its models, kept in this browser.
//
// What a model writes becomes nodes in `markup` alone: marked makes HTML of its Markdown, and DOMPurify leaves
// the few elements that Markdown needs. Everything else is set as text. The policy that comes with the page
// forbids any other script, and any other way from a text to HTML.

const $ = id => document.getElementById(id);
const made = id => $(id).content.firstElementChild.cloneNode(true); // of a template
const KEPT = "tfm.chat."; // each conversation is an item of its own, so that two tabs write two of them
const CHAT = "/v1/chat/completions", HEAR = "/v1/audio/transcriptions";

let chat; // the one that is shown: id, title, changed, model, settings and messages
let running = null; // the answer that comes: its chat, its message, `abort` and `done`
let recorder = null;
let ears = null; // the model that hears
const elements = new WeakMap(); // by message

// ---------------------------------------------------------------------------------------------- the server

async function call(path, body, signal) {
  const headers = $("key").value ? { authorization: `Bearer ${$("key").value}` } : {};
  if (typeof body === "string") headers["content-type"] = "application/json";
  // Relative, so that a proxy may have the page in a folder.
  const response = await fetch(path.slice(1), { method: body ? "POST" : "GET", body, headers, signal });
  if (response.ok) return response;
  if (response.status === 401) $("keys").hidden = false;
  const told = await response.json().catch(() => null);
  throw new Error(told?.error?.message ?? `the server answers ${response.status}`);
}

async function listModels() {
  const { data } = await (await call("/v1/models")).json();
  // A model that wasn't loaded yet doesn't say what it answers.
  const chatting = data.filter(one => !one.endpoints || one.endpoints.includes(CHAT));
  ears = data.find(one => one.endpoints?.includes(HEAR))?.id;
  $("model").replaceChildren(...chatting.map(one => new Option(one.id)));
  chooseModel();
  // Browsers give the microphone to pages of this machine, or of https.
  $("speak").hidden = !ears || !navigator.mediaDevices;
  $("trouble").textContent = chatting.length ? "" : "This server has no model that chats.";
}

function chooseModel() {
  const names = [...$("model").options].map(one => one.value);
  if (names.length && !names.includes(chat.model)) chat.model = names[0];
  $("model").value = chat.model;
}

// The events of a stream; a chunk of bytes may end inside of one.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader(); // Safari's streams aren't iterable
  let rest = "";
  for (let part; !(part = await reader.read()).done; ) {
    const lines = (rest + part.value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.slice("data: ".length);
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

// ------------------------------------------------------------------------------------------- conversations

function newChat() {
  const id = Date.now().toString(36) + Math.random().toString(36).slice(2);
  return { id, title: "", changed: 0, model: $("model").value, settings: chat?.settings ?? {}, messages: [] };
}

function kept() {
  const names = Object.keys(localStorage).filter(name => name.startsWith(KEPT));
  return names.map(name => JSON.parse(localStorage[name])).sort((a, b) => b.changed - a.changed);
}

function keep(one) {
  if (!one.messages.length) return;
  try {
    localStorage[KEPT + one.id] = JSON.stringify(one);
  } catch {
    $("trouble").textContent = "This browser's room is full: export conversations, and delete them.";
  }
  list();
}

function list() {
  $("list").replaceChildren(...kept().map(one => {
    const button = document.createElement("button"), item = document.createElement("li");
    button.type = "button";
    button.textContent = one.title;
    if (one.id === chat.id) button.ariaCurrent = "true";
    // A conversation whose answer comes is the one in memory.
    button.onclick = () => show(one.id === running?.chat.id ? running.chat : one);
    item.append(button);
    return item;
  }));
  for (const id of ["rename", "export", "delete"]) $(id).disabled = !chat.messages.length;
  document.title = chat.title ? `${chat.title} – tfm` : "tfm";
}

function show(one) {
  chat = one;
  $("messages").replaceChildren(...chat.messages.map(elementOf));
  if (!chat.messages.length) $("messages").append(made("a-greeting"));
  for (const input of $("options").elements) input.value = chat.settings[input.name] ?? "";
  checkTools();
  chooseModel();
  openMenu(false);
  follow(true);
  refresh();
}

// What depends on which message is the last one, and on whether an answer comes.
function refresh() {
  const last = chat.messages.at(-1), [waits] = unanswered();
  for (const message of chat.messages) {
    const answered = message === last && message.role === "assistant" && !isComing(message);
    const button = name => elements.get(message).querySelector(`[data-do=${name}]`);
    button("again").hidden = !answered;
    button("goOn").hidden = !answered || !message.content || !message.unfinished;
    button("edit").hidden = isComing(message) || message.role === "tool" || Boolean(message.tool_calls);
    button("copy").hidden = !message.content;
    elements.get(message).ariaBusy = isComing(message);
  }
  $("send").textContent = running ? "Stop" : "Send";
  $("text").placeholder = $("text").ariaLabel = waits ? `Result of ${waits.function.name}` : "Message";
  list();
}

const isComing = message => running?.message === message;

// The calls of the last answer whose results aren't there yet.
function unanswered() {
  const at = chat.messages.findLastIndex(one => one.role !== "tool");
  const told = chat.messages.slice(at + 1).map(one => one.tool_call_id);
  return (chat.messages[at]?.tool_calls ?? []).filter(one => !told.includes(one.id));
}

// The conversation as a request. What was stopped before it said something isn't part of it, and questions
// that then follow each other are one: many templates take turns alone.
function requested(one) {
  const { system, tools, ...numbers } = one.settings;
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const { role, content, reasoning_content, tool_calls, tool_call_id, name } of one.messages) {
    const last = messages.at(-1);
    if (role === "assistant" && !content && !tool_calls) continue;
    if (role === "user" && last?.role === "user") last.content += `\n\n${content}`;
    else messages.push({ role, content, reasoning_content, tool_calls, tool_call_id, name });
  }
  const request = { model: one.model, messages };
  for (const [name, value] of Object.entries(numbers)) if (value) request[name] = Number(value);
  if (tools) request.tools = JSON.parse(tools);
  return request;
}

// ---------------------------------------------------------------------------------------------- messages

marked.use({
  breaks: true,
  tokenizer: { html() {}, tag() {} }, // HTML in a text is text, and is seen as it was written
  renderer: {
    image: ({ raw }) => raw.replace(/[&<>"']/g, one => `&#${one.charCodeAt()};`), // fetched from nowhere
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});
const ALLOWED = {
  ALLOWED_TAGS: ["p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "em", "del", "a", "code", "pre",
    "blockquote", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td"],
  ALLOWED_ATTR: ["href", "class", "start", "align"], // a class is the language of code
  ALLOWED_URI_REGEXP: /^(https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["start", "align"], // which aren't addresses
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

// A text of a model as nodes.
function markup(text) {
  const fragment = DOMPurify.sanitize(marked.parse(text), ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const wide of fragment.querySelectorAll("pre, table")) {
    // It scrolls by itself, and by keys.
    const isCode = wide.matches("pre"), frame = isCode ? made("a-code-block") : document.createElement("div");
    wide.replaceWith(frame);
    frame.append(wide);
    (isCode ? wide : frame).tabIndex = 0;
    if (isCode) frame.querySelector("span").textContent = wide.firstElementChild.className.replace("language-", "");
    else frame.className = "table";
  }
  return fragment;
}

// Only what changed is replaced, so that a selection in what was there before stays.
function replace(element, fragment) {
  const old = [...element.childNodes], next = [...fragment.childNodes];
  next.forEach((node, i) => {
    if (!old[i]) element.append(node);
    else if (!old[i].isEqualNode(node)) old[i].replaceWith(node);
  });
  old.slice(next.length).forEach(node => node.remove());
}

function elementOf(message) {
  const element = made("a-message");
  element.classList.add(message.role);
  element.message = message;
  elements.set(message, element);
  draw(message);
  return element;
}

function draw(message) {
  const element = elements.get(message), part = name => element.querySelector(name);
  const { role, content, reasoning_content, tool_calls, note } = message;
  const names = { user: "You", tool: `Result of ${message.name}`, assistant: message.model };
  part("h2").textContent = names[role];
  part(".thoughts").hidden = !reasoning_content;
  part(".thoughts p").textContent = reasoning_content ?? "";
  if (role === "assistant") replace(part(".content"), markup(content));
  else part(".content").textContent = content;
  part(".calls").replaceChildren(...(tool_calls ?? []).map(one => {
    const shown = made("a-call");
    shown.querySelector("b").textContent = one.function.name;
    shown.querySelector("pre").textContent = one.function.arguments;
    return shown;
  }));
  part(".note").textContent = note ?? "";
}

// Scroll to the end, unless somebody reads further up.
function follow(always) {
  const box = $("messages");
  if (always || box.scrollHeight - box.scrollTop - box.clientHeight < 120) box.scrollTop = box.scrollHeight;
}

function add(one, message) {
  one.messages.push(message);
  one.changed = Date.now();
  one.title ||= message.content.trim().replace(/\s+/g, " ").slice(0, 60);
  if (one === chat) {
    $("messages").querySelector(".greeting")?.remove();
    $("messages").append(elementOf(message));
    follow(true);
  }
  keep(one);
}

// The answer to a conversation, or the rest of its last message.
async function answer(one, message) {
  await stop();
  const isNew = !message, abort = new AbortController();
  let finish, drawing = null, first = null, usage = null;
  message ??= { role: "assistant", content: "", model: one.model };
  message.note = "";
  message.unfinished = true; // also where the tab is closed
  running = { chat: one, message, abort, done: new Promise(resolve => (finish = resolve)) };
  if (isNew) add(one, message);
  refresh();
  $("trouble").textContent = "";
  $("status").textContent = "The answer is being written.";
  try {
    const body = JSON.stringify({ ...requested(one), stream: true, stream_options: { include_usage: true } });
    for await (const event of events(await call(CHAT, body, abort.signal))) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      const [choice] = event.choices;
      if (!choice) continue;
      take(message, choice.delta);
      const { content, reasoning_content, tool_calls } = choice.delta;
      if (content || reasoning_content || tool_calls) first ??= performance.now();
      if (choice.finish_reason) message.unfinished = choice.finish_reason === "length";
      drawing ??= setTimeout(() => {
        drawing = null;
        draw(message);
        follow();
      }, 50);
    }
    const count = usage?.completion_tokens ?? 0, seconds = (performance.now() - first) / 1000;
    if (message.unfinished) message.note = "Cut by max tokens, the model's own limit, or the end of the context. ";
    if (count > 1) message.note += `${count} tokens, ${((count - 1) / seconds).toPrecision(3)} a second.`;
  } catch (error) {
    message.note = error.name === "AbortError" ? "Stopped." : `Failed: ${error.message}`;
    if (error.name !== "AbortError") listModels().catch(() => {}); // what a model answers may be known now
  } finally {
    clearTimeout(drawing);
    running = null;
    // A call in which the answer ended isn't one.
    message.tool_calls = message.tool_calls?.filter(one => !flaw(one.function.arguments));
    if (!message.tool_calls?.length) delete message.tool_calls;
    one.changed = Date.now();
    keep(one);
    draw(message);
    refresh();
    follow();
    const text = elements.get(message).querySelector(".content").textContent;
    $("status").textContent = [text, message.unfinished ? message.note : ""].join(" ");
    finish();
  }
}

// Add what an event brings to the message.
function take(message, delta) {
  message.content += delta.content ?? "";
  if (delta.reasoning_content) message.reasoning_content = (message.reasoning_content ?? "") + delta.reasoning_content;
  for (const { index, id, function: part } of delta.tool_calls ?? []) {
    message.tool_calls ??= [];
    message.tool_calls[index] ??= { id, type: "function", function: { name: part.name, arguments: "" } };
    message.tool_calls[index].function.arguments += part.arguments;
  }
}

async function stop() {
  running?.abort.abort();
  await running?.done;
}

async function say(text) {
  // What is wrong in a field would be left out.
  if (!$("options").checkValidity()) {
    $("settings").open = true;
    $("options").reportValidity();
    return;
  }
  const [waits] = unanswered();
  $("text").value = "";
  if (waits) add(chat, { role: "tool", content: text, tool_call_id: waits.id, name: waits.function.name });
  else add(chat, { role: "user", content: text });
  if (unanswered().length) refresh();
  else await answer(chat);
}

// ---------------------------------------------------------------------------------------- what buttons do

const actions = {
  copy: (button, message) => copy(button, message.content),
  copyCode: button => copy(button, button.closest(".code").querySelector("pre").textContent),
  edit: (_, message) => edit(message),
  goOn: (_, message) => {
    $("messages").focus();
    answer(chat, message);
  },
  again: () => {
    removeFrom(chat.messages.length - 1);
    $("messages").focus(); // as the button is gone
    answer(chat);
  },
  keep: (_, message) => closeEditor(message),
};

async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers have the clipboard for pages of this machine, or of https; elsewhere what is selected is copied.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.textContent = $("status").textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

function removeFrom(index) {
  for (const message of chat.messages.splice(index)) elements.get(message).remove();
}

async function edit(message) {
  await stop();
  const editor = made("an-editor"), element = elements.get(message), area = editor.querySelector("textarea");
  if (element.querySelector(".editor")) return;
  element.classList.add("edited");
  element.append(editor);
  area.value = message.content;
  area.focus();
  editor.onsubmit = event => {
    event.preventDefault();
    const text = area.value.trim();
    if (!text) return;
    removeFrom(chat.messages.indexOf(message) + 1);
    message.content = text;
    closeEditor(message);
    draw(message);
    if (message.role === "user") return answer(chat);
    message.unfinished = true; // the model may go on from what it is made to say
    keep(chat);
    refresh();
  };
}

function closeEditor(message) {
  const element = elements.get(message);
  element.querySelector(".editor")?.remove();
  element.classList.remove("edited");
  element.querySelector("[data-do=edit]").focus();
}

// Tools that aren't JSON are wrong in the form's own way, as a number out of its range is.
function checkTools() {
  const { tools } = $("options").elements, wrong = flaw(tools.value || "[]");
  tools.setCustomValidity(wrong ? `Tools must be JSON: ${wrong}` : "");
}

// Why a text isn't JSON.
function flaw(text) {
  try {
    JSON.parse(text);
  } catch (error) {
    return error.message;
  }
}

function openMenu(open) {
  $("side").classList.toggle("open", open);
  $("menu").ariaExpanded = open;
}

function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// ------------------------------------------------------------------------------------------- the microphone

const RATE = 16000;

async function listen() {
  if (recorder) return recorder.stop();
  $("trouble").textContent = "";
  $("speak").disabled = true;
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const parts = [];
  recorder = new MediaRecorder(stream);
  recorder.ondataavailable = event => parts.push(event.data);
  recorder.onstop = async () => {
    stream.getTracks().forEach(track => track.stop());
    recorder = null;
    $("speak").ariaPressed = false;
    $("speak").textContent = "Speak";
    $("status").textContent = "What you said is being written down.";
    $("speak").disabled = true;
    await hear(new Blob(parts)).catch(trouble);
    $("speak").disabled = false;
    $("text").focus();
  };
  recorder.start();
  $("speak").ariaPressed = true;
  $("speak").textContent = "Done";
  $("status").textContent = "Recording.";
}

async function hear(recorded) {
  // A context of this rate resamples what it decodes.
  const context = new OfflineAudioContext(1, 1, RATE);
  const sound = await context.decodeAudioData(await recorded.arrayBuffer());
  const form = new FormData();
  form.append("model", ears);
  form.append("file", wav(sound), "speech.wav");
  const { text } = await (await call(HEAR, form)).json();
  const area = $("text");
  area.setRangeText(text, area.selectionStart, area.selectionEnd, "end");
  $("status").textContent = text;
}

// Sound as a file: the mean of its channels in 16 bits.
function wav(sound) {
  const bytes = new DataView(new ArrayBuffer(44 + 2 * sound.length));
  const text = (at, letters) => [...letters].forEach((one, i) => bytes.setUint8(at + i, one.charCodeAt()));
  text(0, "RIFF");
  bytes.setUint32(4, 36 + 2 * sound.length, true);
  text(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true); // bytes of the format
  bytes.setUint16(20, 1, true); // integers
  bytes.setUint16(22, 1, true); // one channel
  bytes.setUint32(24, RATE, true);
  bytes.setUint32(28, 2 * RATE, true); // bytes a second
  bytes.setUint16(32, 2, true); // bytes a sample
  bytes.setUint16(34, 16, true); // bits a sample
  text(36, "data");
  bytes.setUint32(40, 2 * sound.length, true);
  const channels = Array.from({ length: sound.numberOfChannels }, (_, i) => sound.getChannelData(i));
  for (let i = 0; i < sound.length; i++) {
    const mean = channels.reduce((sum, one) => sum + one[i], 0) / channels.length;
    bytes.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, mean)) * 32767, true);
  }
  return new Blob([bytes], { type: "audio/wav" });
}

// ---------------------------------------------------------------------------------------------- the page

function trouble(error) {
  $("trouble").textContent = error.message;
}

$("form").onsubmit = event => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (running) stop();
  else if (text) say(text);
};
$("text").onkeydown = event => {
  // Enter while letters are being composed, as in Japanese, ends that.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!running) $("form").requestSubmit();
};
document.onkeydown = event => {
  if (event.key !== "Escape" || event.isComposing) return;
  const editor = event.target.closest(".editor");
  if (editor) closeEditor(editor.closest(".message").message);
  else if ($("side").classList.contains("open")) {
    openMenu(false);
    $("menu").focus();
  } else if (recorder) recorder.stop();
  else stop();
};
$("messages").onclick = event => {
  const button = event.target.closest("[data-do]");
  if (button) actions[button.dataset.do](button, button.closest(".message").message);
};
$("menu").onclick = () => openMenu(!$("side").classList.contains("open"));
$("new").onclick = () => {
  show(newChat());
  $("text").focus();
};
$("rename").onclick = () => {
  chat.title = prompt("A name for this conversation", chat.title)?.trim() || chat.title;
  keep(chat);
};
$("export").onclick = () => {
  const name = chat.title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
  save(`${name || "conversation"}.json`, JSON.stringify(requested(chat), null, 2));
};
$("delete").onclick = async () => {
  if (!confirm(`Delete “${chat.title}”?`)) return;
  if (running?.chat === chat) await stop();
  localStorage.removeItem(KEPT + chat.id);
  show(newChat());
};
$("model").onchange = () => {
  chat.model = $("model").value;
  keep(chat);
};
$("options").oninput = () => {
  checkTools();
  chat.settings = Object.fromEntries(new FormData($("options")));
  keep(chat);
};
$("options").onsubmit = event => event.preventDefault();
$("keys").onsubmit = event => event.preventDefault();
$("key").onchange = () => listModels().catch(trouble);
$("speak").onclick = () => listen().catch(trouble).finally(() => ($("speak").disabled = false));
addEventListener("storage", list); // another tab keeps or deletes one
addEventListener("pagehide", () => running && keep(running.chat));

show(kept()[0] ?? newChat());
listModels().catch(trouble);
