// The page: one form, one picture. It asks the same API that it shows how to call.

const MAX_REFERENCES = 8;
const MAX_HISTORY = 12;
const RATIOS = [[1, 1], [4, 3], [3, 4], [3, 2], [2, 3], [16, 9], [9, 16]];
const OWN = "own";
const READABLE = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/avif"];
const READABLE_ENDINGS = ["png", "jpg", "jpeg", "webp", "gif", "avif"];
const UNREADABLE = {
  ...{ heic: "HEIC (an iPhone's format)", heif: "HEIF (a phone's format)", jxl: "JPEG XL", tif: "TIFF" },
  ...{ tiff: "TIFF", svg: "SVG", "svg+xml": "SVG", bmp: "BMP", psd: "Photoshop's format", pdf: "PDF" },
};

const at = (id) => document.getElementById(id);
const references = []; // {name, url}: url is a data URL
const pictures = []; // what was painted, newest first
let models = [];
let running = null; // {id, leave}
let shown = null;

// --- the server ---------------------------------------------------------------------------------

function headers(more = {}) {
  const key = at("key").value.trim();
  return key ? { "x-key": key, ...more } : more;
}

async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers(options.headers) });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  if (response.status === 401 || body.detail === "Not authenticated") at("key-field").hidden = false;
  throw new Error(reason(body) || `The server answered ${response.status}.`);
}

function reason(body) {
  if (body.error?.message) return body.error.message;
  if (!Array.isArray(body.detail)) return body.detail;
  return body.detail.map((one) => {
    const field = one.loc.at(-1);
    return one.msg.startsWith(String(field)) || field === "body" ? one.msg : `${field}: ${one.msg}`;
  }).join("; ");
}

async function* eventsOf(response) {
  const decoder = new TextDecoder();
  let waiting = "";
  for await (const part of chunksOf(response.body.getReader())) {
    waiting += decoder.decode(part, { stream: true });
    const blocks = waiting.split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s)));
      if (fields.event) yield { kind: fields.event, data: JSON.parse(fields.data) };
    }
  }
}

async function* chunksOf(reader) {
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
}

// --- painting -----------------------------------------------------------------------------------

async function paint() {
  if (running) return;
  const wish = wanted();
  running = { id: null, leave: new AbortController() };
  busy(true);
  say("waiting for its turn …");
  try {
    const body = JSON.stringify({ ...wish.body, previews: true });
    const options = { method: "POST", body, headers: { "Content-Type": "application/json" } };
    const task = await (await ask(`v1/${encodeURIComponent(wish.model)}`, options)).json();
    running.id = task.id;
    const result = await followed(task.id);
    if (result.status === "Ready") await finish(wish, result.result);
    else await failed(ending(result));
  } catch (error) {
    await failed(error.name === "AbortError" ? "" : error.message);
  } finally {
    running = null;
    busy(false);
  }
}

// The stream may be cut off on the way; the task goes on, and so does the looking.
async function followed(id) {
  for (;;) {
    try {
      const response = await ask(`v1/jobs/${id}/events`, { signal: running.leave.signal });
      for await (const { kind, data } of eventsOf(response)) {
        if (kind === "end") return data;
        progress(data);
      }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

function ending(result) {
  const details = result.details ?? {};
  if (details.error === "cancelled") return "";
  const reasons = details["Moderation Reasons"];
  if (!reasons) return details.error || result.status;
  const report = details["Report a mistake to"];
  return `${result.status}: ${reasons.join(", ")}${report ? `. Report a mistake to ${report}` : ""}`;
}

function wanted() {
  const [width, height] = sides();
  const body = { prompt: at("prompt").value, width, height, output_format: "png" };
  if (at("seed").value) body.seed = Number(at("seed").value);
  references.forEach(({ url }, index) => { body[index ? `input_image_${index + 1}` : "input_image"] = url; });
  return { model: at("model").value, body, names: references.map(({ name }) => name) };
}

function sides() {
  const size = at("size").value;
  if (size === OWN) return [Number(at("width").value), Number(at("height").value)];
  return size ? size.split("x").map(Number) : [0, 0];
}

async function finish(wish, result) {
  const url = new URL(result.sample); // the server's name for itself may not be the browser's
  const file = await (await ask(url.pathname.replace(/^.*?\/pictures\//, "pictures/") + url.search)).blob();
  const made = { wish, seed: result.seed, duration: result.duration, file, url: URL.createObjectURL(file) };
  pictures.unshift(made);
  pictures.splice(MAX_HISTORY).forEach((old) => URL.revokeObjectURL(old.url));
  await show(made);
}

async function cancel() {
  if (!running) return;
  at("cancel").disabled = true;
  say("cancelling …");
  const { id, leave } = running;
  try {
    if (id) await ask(`v1/jobs/${id}`, { method: "DELETE" });
    else leave.abort();
  } catch (error) {
    await failed(error.message);
  }
}

// --- what is seen -------------------------------------------------------------------------------

function busy(is) {
  at("paint").disabled = is || !models.length;
  at("cancel").hidden = !is;
  at("cancel").disabled = false;
  at("progress-line").hidden = !is;
  at("progress").value = 0;
  at("stage").setAttribute("aria-busy", is);
  if (is) at("error").textContent = "";
}

function say(text) { at("status").textContent = text; }

async function failed(message) {
  at("error").textContent = message;
  if (shown) await show(shown);
  else if (at("picture").classList.contains("preview")) at("picture").hidden = !(at("empty").hidden = false);
  if (!message) say("Cancelled.");
  else if (!shown) say("");
}

function progress({ step, steps, preview }) {
  at("progress").value = step / steps;
  say(step ? `step ${step} of ${steps}` : "painting …");
  if (preview) place(`data:image/jpeg;base64,${preview}`, "The picture so far", true);
}

function place(url, words, isPreview = false) {
  const picture = at("picture");
  picture.src = url;
  picture.alt = words;
  picture.hidden = false;
  picture.classList.toggle("preview", isPreview);
  at("empty").hidden = true;
}

async function show(made) {
  shown = made;
  place(made.url, made.wish.body.prompt);
  await at("picture").decode().catch(() => {});
  const { naturalWidth: width, naturalHeight: height } = at("picture");
  made.size = `${width}x${height}`;
  say(`${width} × ${height}, seed ${made.seed}, ${made.duration.toFixed(1)} s`);
  at("download").href = made.url;
  at("download").download = `kleinod-${made.seed}.png`;
  at("picture-actions").hidden = at("call").hidden = false;
  at("history").replaceChildren(...(pictures.length > 1 ? pictures.map(thumbnail) : []));
  code();
}

function thumbnail(made) {
  const button = element("button", { type: "button", ariaCurrent: String(made === shown) });
  button.append(element("img", { src: made.url, alt: `${made.wish.body.prompt}, seed ${made.seed}` }));
  button.addEventListener("click", () => show(made));
  const item = element("li");
  item.append(button);
  return item;
}

function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

// --- references ---------------------------------------------------------------------------------

async function add(files) {
  const refused = [];
  for (const file of files) {
    const reason = references.length >= MAX_REFERENCES ? `at most ${MAX_REFERENCES} references` : unreadable(file);
    if (reason) refused.push(`${file.name || "The file"}: ${reason}.`);
    else references.push({ name: file.name, url: await dataUrl(file) });
  }
  at("refused").textContent = refused.join(" ");
  drawReferences();
}

// Why the server would refuse a file; "" where it may take it. Browsers know few types by name.
function unreadable({ type, name }) {
  const ending = name.split(".").at(-1).toLowerCase();
  if (READABLE.includes(type) || (!type && READABLE_ENDINGS.includes(ending))) return "";
  const known = UNREADABLE[ending] ?? UNREADABLE[type.replace(/^image\/(x-)?/, "")];
  if (known) return `${known} is not read here; save it as JPEG or PNG`;
  if (type.startsWith("image/")) return `${type.slice(6).toUpperCase()} is not read here; save it as JPEG or PNG`;
  return "no picture; PNG, JPEG, WebP, GIF and AVIF are read";
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

function drawReferences() {
  at("references").replaceChildren(...references.map((reference, index) => {
    const remove = element("button", { type: "button", textContent: "×", ariaLabel: `Remove reference ${index + 1}` });
    remove.addEventListener("click", () => { references.splice(index, 1); drawReferences(); });
    const item = element("li");
    item.append(element("img", { src: reference.url, alt: `Reference ${index + 1}: ${reference.name}` }));
    item.append(element("span", { className: "number", textContent: index + 1 }), remove);
    return item;
  }));
}

// --- how to call the API ------------------------------------------------------------------------

const base = new URL(".", location.href).href.replace(/\/$/, "");
const shell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const python = (value) => JSON.stringify(value);
const fileName = (name, index) => name.replace(/[^\w.-]+/g, "_") || `reference-${index + 1}.png`;

function code() {
  const kind = document.querySelector('[role="tab"][aria-selected="true"]').id;
  const { wish, seed, size } = shown;
  const facts = {
    ...{ prompt: wish.body.prompt, model: wish.model, seed, size },
    ...{ files: wish.names.map(fileName), key: at("key").value ? "YOUR_KEY" : "" },
  };
  const texts = { "tab-curl": curl, "tab-openai": openai, "tab-bfl": bfl };
  at("code").textContent = texts[kind](facts);
  at("code").setAttribute("aria-labelledby", kind);
}

function curl({ prompt, model, seed, size, files, key }) {
  const lines = [`curl ${base}/v1/images/${files.length ? "edits" : "generations"}`];
  if (key) lines.push(`-H 'Authorization: Bearer ${key}'`);
  lines.push("-H 'Accept: image/png'");
  if (files.length) {
    lines.push(...files.map((file) => `-F 'image[]=@${file}'`));
    lines.push(...Object.entries({ model, size, seed }).map(([name, value]) => `-F ${shell(`${name}=${value}`)}`));
    lines.push(`--form-string ${shell(`prompt=${prompt}`)}`);
  } else {
    lines.push("-H 'Content-Type: application/json'");
    lines.push(`-d ${shell(JSON.stringify({ prompt, model, size, seed }))}`);
  }
  return [...lines, `-o kleinod-${seed}.png`].join(" \\\n  ");
}

function openai({ prompt, model, seed, size, files, key }) {
  const opened = files.map((file) => `open(${python(file)}, "rb")`).join(", ");
  const lines = [
    ...["import base64", "from openai import OpenAI", ""],
    `client = OpenAI(base_url=${python(`${base}/v1`)}, api_key=${python(key || "none")})`,
    `result = client.images.${files.length ? "edit" : "generate"}(`,
    ...(files.length ? [`    image=[${opened}],`] : []),
    `    model=${python(model)},`,
    `    prompt=${python(prompt)},`,
    `    size=${python(size)},`,
    `    extra_body={"seed": ${seed}},`,
    ")",
    `open("kleinod-${seed}.png", "wb").write(base64.b64decode(result.data[0].b64_json))`,
  ];
  return lines.join("\n");
}

function bfl({ prompt, model, seed, size, files, key }) {
  const [width, height] = size.split("x");
  const name = (index) => (index ? `input_image_${index + 1}` : "input_image");
  const encoded = (file) => `base64.b64encode(open(${python(file)}, "rb").read()).decode()`;
  const lines = [
    ...["import base64, json, time, urllib.request", ""],
    "def call(url, body=None):",
    `    headers = {"Content-Type": "application/json"${key ? `, "x-key": ${python(key)}` : ""}}`,
    "    data = json.dumps(body).encode() if body else None",
    "    return json.load(urllib.request.urlopen(urllib.request.Request(url, data, headers)))",
    "",
    `task = call(${python(`${base}/v1/${encodeURIComponent(model)}`)}, {`,
    `    "prompt": ${python(prompt)},`,
    `    "width": ${width}, "height": ${height}, "seed": ${seed}, "output_format": "png",`,
    ...files.map((file, index) => `    ${python(name(index))}: ${encoded(file)},`),
    "})",
    'while (found := call(task["polling_url"]))["status"] == "Pending":',
    "    time.sleep(0.5)",
    `urllib.request.urlretrieve(found["result"]["sample"], "kleinod-${seed}.png")`,
  ];
  return lines.join("\n");
}

// --- begin --------------------------------------------------------------------------------------

async function begin() {
  try {
    const listed = (await (await ask("v1/models")).json()).data;
    models = listed.filter(({ id, root }) => id === root); // the others are names of these
  } catch (error) {
    at("served").textContent = error instanceof TypeError ? "the server does not answer" : error.message;
    setTimeout(begin, 2000);
    return;
  }
  at("key-field").hidden = !at("key").value;
  at("served").textContent = models.map(({ id, license }) => `${id} (${license})`).join(", ");
  at("model").replaceChildren(...models.map(({ id }) => element("option", { value: id, textContent: id })));
  at("model-field").hidden = models.length < 2;
  drawSizes();
  busy(false);
}

function drawSizes() {
  const side = models.find(({ id }) => id === at("model").value).default_size;
  const round = (value) => Math.max(64, Math.round(value / 16) * 16);
  const sized = RATIOS.map(([across, down]) => {
    const [width, height] = [round(side * Math.sqrt(across / down)), round(side * Math.sqrt(down / across))];
    return [`${width}x${height}`, `${across}:${down}  (${width} × ${height})`];
  });
  const options = [["", "automatic"], ...sized, [OWN, "own …"]];
  at("size").replaceChildren(...options.map(([value, textContent]) => element("option", { value, textContent })));
  at("width").value = at("height").value = side;
}

function listen() {
  at("form").addEventListener("submit", (event) => { event.preventDefault(); paint(); });
  at("cancel").addEventListener("click", cancel);
  at("clear-seed").addEventListener("click", () => { at("seed").value = ""; });
  at("keep-seed").addEventListener("click", () => { at("seed").value = shown.seed; });
  at("reuse").addEventListener("click", () => add([new File([shown.file], `kleinod-${shown.seed}.png`, { type: "image/png" })]));
  at("model").addEventListener("change", drawSizes);
  at("size").addEventListener("change", () => { at("own-size").hidden = at("size").value !== OWN; });
  at("key").addEventListener("change", () => { sessionStorage.setItem("key", at("key").value.trim()); begin(); });
  at("files").addEventListener("change", () => { add([...at("files").files]).then(() => { at("files").value = ""; }); });
  at("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
  });
  for (const tab of document.querySelectorAll('[role="tab"]')) {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const next = { ArrowRight: tab.nextElementSibling, ArrowLeft: tab.previousElementSibling }[event.key];
      if (next) { choose(next); next.focus(); }
    });
  }
  at("copy").addEventListener("click", copy);
  listenForPictures();
}

function choose(chosen) {
  for (const tab of document.querySelectorAll('[role="tab"]')) {
    tab.setAttribute("aria-selected", tab === chosen);
    tab.tabIndex = tab === chosen ? 0 : -1;
  }
  code();
}

async function copy() {
  try {
    await navigator.clipboard.writeText(at("code").textContent);
    at("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(at("code"));
    at("copy").textContent = "Selected";
  }
  setTimeout(() => { at("copy").textContent = "Copy"; }, 1500);
}

// Pictures may be dropped anywhere on the page, and pasted.
function listenForPictures() {
  const isPictures = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!isPictures(event)) return;
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
  addEventListener("drop", (event) => {
    document.body.classList.remove("dragging");
    if (!isPictures(event)) return;
    event.preventDefault();
    add([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) { event.preventDefault(); add(files); }
  });
}

at("key").value = sessionStorage.getItem("key") ?? "";
at("paint").disabled = true;
listen();
begin();
