// What a small model knows, as things to try, and what it did not know of the last prompt.

const MAX_EXAMPLES = 5;
const at = (id) => document.getElementById(id);
const warned = element("p", { id: "warnings", className: "quiet", ariaLive: "polite" });

function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

async function load() {
  const model = at("model").value;
  if (!model) return;
  const key = at("key").value.trim();
  const options = { headers: key ? { "x-key": key } : {} };
  const response = await fetch(`v1/vocabulary?model=${encodeURIComponent(model)}`, options).catch(() => null);
  if (response?.ok) draw(await response.json());
}

function draw(known) {
  at("hints").hidden = !known.is_limited;
  if (!known.is_limited) return;
  const text = `${known.model} knows ${known.objects.length} objects, in ${known.backgrounds.length} background colours. Try:`;
  const all = element("details");
  all.append(element("summary", { textContent: "All that it knows" }), ...lists(known));
  const tried = chips("Prompts to try", known.examples.slice(0, MAX_EXAMPLES), replace);
  at("hints").replaceChildren(element("p", { className: "quiet", textContent: text }), tried, all);
}

function lists(known) {
  return [
    ["Objects", known.objects.map(({ name }) => name)],
    ["Styles", known.styles],
    ["Backgrounds", known.backgrounds.map((color) => `on a ${color} background`)],
    ["Edits of a reference", known.edit_phrases],
  ].flatMap(([title, texts]) => [
    element("p", { className: "quiet", textContent: title }),
    chips(title, texts, append),
  ]);
}

function chips(label, texts, act) {
  const list = element("ul", { className: "chips", ariaLabel: label });
  list.append(...texts.map((text) => {
    const button = element("button", { type: "button", textContent: text });
    button.addEventListener("click", () => act(text));
    const item = element("li");
    item.append(button);
    return item;
  }));
  return list;
}

function replace(text) {
  at("prompt").value = text;
  at("prompt").focus();
}

function append(text) {
  const before = at("prompt").value.trimEnd();
  replace(before ? `${before} ${text}` : text);
}

// the page fills in the models once the server has told them
new MutationObserver(load).observe(at("model"), { childList: true });
at("model").addEventListener("change", load);
addEventListener("warnings", ({ detail }) => {
  warned.textContent = detail.map(({ message }) => message.replace(/: GET \S+$/, ".")).join(" ");
});
at("status").after(warned);
load();
