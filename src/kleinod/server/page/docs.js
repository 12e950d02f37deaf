// The API from the server's own openapi.json, as a page to read. No other server is asked.

const at = (id) => document.getElementById(id);

function element(name, children = [], properties = {}) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...[children].flat());
  return made;
}

// A schema behind its reference; null is said by "optional" already.
function resolved(schema, all) {
  const found = schema?.$ref ? all[schema.$ref.split("/").at(-1)] : schema;
  const kinds = found?.anyOf?.filter((kind) => kind.type !== "null");
  return kinds?.length === 1 ? { ...resolved(kinds[0], all), ...without(found, "anyOf") } : found ?? {};
}

function without(object, name) {
  return Object.fromEntries(Object.entries(object).filter(([key]) => key !== name));
}

function kindOf(schema, all) {
  const found = resolved(schema, all);
  if (found.enum) return found.enum.map((value) => JSON.stringify(value)).join(", ");
  if (found.const !== undefined) return JSON.stringify(found.const);
  if (found.anyOf) return found.anyOf.map((one) => kindOf(one, all)).join(" or ");
  if (found.type === "array") return `list of ${kindOf(found.items ?? {}, all)}`;
  return found.format === "binary" ? "file" : found.type ?? "any";
}

function limitsOf({ minimum, maximum, maxLength, pattern }) {
  const range = minimum === undefined && maximum === undefined ? "" : `${minimum ?? ""} to ${maximum ?? ""}`;
  return [range, maxLength && `at most ${maxLength} characters`, pattern].filter(Boolean).join("; ");
}

function table(rows) {
  const head = element("tr", ["name", "kind", "default", "meaning"].map((name) => element("th", name, { scope: "col" })));
  return element("table", [head, ...rows.map((row) => element("tr", row.map((cell) => element("td", cell))))]);
}

function fields(schema, all) {
  const { properties = {}, required = [] } = resolved(schema, all);
  return table(Object.entries(properties).map(([name, value]) => {
    const facts = resolved(value, all);
    const usual = facts.default === undefined || facts.default === null ? "" : JSON.stringify(facts.default);
    const meaning = [facts.description, limitsOf(facts)].filter(Boolean).join(" ");
    return [name, kindOf(value, all), required.includes(name) ? "required" : usual, meaning];
  }));
}

function operation(method, path, facts, all) {
  const title = element("h3", [element("span", method.toUpperCase(), { className: "method" }), path]);
  const section = element("section", [title, element("p", facts.description ?? facts.summary ?? "")]);
  if (facts.parameters?.length) {
    const rows = facts.parameters.map((one) => [one.name, one.in, one.required ? "required" : "", one.description ?? ""]);
    section.append(element("h4", "Parameters"), table(rows));
  }
  for (const [kind, { schema }] of Object.entries(facts.requestBody?.content ?? {})) {
    section.append(element("h4", `Body, ${kind}`), fields(schema, all));
  }
  const answers = Object.entries(facts.responses).map(([status, { description, content }]) =>
    [status, Object.keys(content ?? {}).join(", "), "", description]);
  section.append(element("h4", "Answers"), table(answers));
  return section;
}

async function begin() {
  const response = await fetch("openapi.json");
  if (!response.ok) throw new Error(`The server answered ${response.status}.`);
  const { info, paths, components } = await response.json();
  at("version").textContent = info.version;
  at("docs").append(element("p", info.description));
  const groups = new Map();
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, facts] of Object.entries(methods)) {
      const name = facts.tags?.[0] ?? "other";
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(operation(method, path, facts, components.schemas));
    }
  }
  for (const [name, sections] of groups) at("docs").append(element("h2", name), ...sections);
}

begin().catch((error) => { at("error").textContent = error.message; });
