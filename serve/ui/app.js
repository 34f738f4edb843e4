// The page at /ui: ask a collection with a picture, see its nearest neighbours, click one to search on from there.
//
// It speaks the same HTTP API as every other client and holds no state but the trail of queries behind "Back".
// A neighbour's picture is the data URI in its payload's `thumbnail`; no other host is ever asked for one.

const byId = (id) => document.getElementById(id);
const collection = byId("collection");
const limit = byId("limit");
const drop = byId("drop");
const picture = byId("picture");
const status = byId("status");
const hits = byId("hits");

/** Earlier queries, the last one being shown: {query, source, caption}. */
const trail = [];
/** Counts searches, so that a slow answer never replaces a newer one. */
let latest = 0;
let model = null;

async function call(path, body) {
  const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, options);
  const value = await answer.json().catch(() => null);
  if (!answer.ok) {
    const reason = value?.status?.error ?? value?.error?.message ?? `status ${answer.status}`;
    throw new Error(reason);
  }
  return value;
}

function say(text, fault = false) {
  status.textContent = text;
  status.classList.toggle("fault", fault);
}

const points = (tail) => `/collections/${encodeURIComponent(collection.value)}/points/${tail}`;

/** The picture of a stored point, if its payload carries one. */
function thumbnail(payload) {
  const source = payload?.thumbnail;
  return typeof source === "string" && source.startsWith("data:image/") ? source : null;
}

const name = (hit) => String(hit.payload?.file ?? hit.payload?.name ?? `id ${hit.id}`);

async function search(step) {
  const search = ++latest;
  say("Searching …");
  try {
    const started = performance.now();
    const { result } = await call(points("query"), { query: step.query, limit: Number(limit.value), with_payload: true });
    if (search !== latest) return;
    const milliseconds = Math.round(performance.now() - started);
    show(step, result.points);
    say(result.points.length ? `${result.points.length} nearest, in ${milliseconds} ms. Click one to search on from it.` : "The collection holds no other picture.");
  } catch (error) {
    if (search === latest) {
      hits.replaceChildren();
      say(`The search failed: ${error.message}`, true);
    }
  }
}

function show(step, found) {
  const best = Math.max(...found.map((hit) => Math.abs(hit.score)), 1e-9);
  hits.replaceChildren(...found.map((hit) => card(hit, best)));
}

function card(hit, best) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.title = `Search on from ${name(hit)}`;
  const frame = document.createElement("div");
  frame.className = "frame";
  const source = thumbnail(hit.payload);
  if (source) {
    const image = new Image();
    image.src = source;
    image.alt = name(hit);
    frame.append(image);
  } else {
    frame.textContent = "no thumbnail";
    frame.classList.add("quiet");
  }
  const text = document.createElement("div");
  text.className = "text";
  const line = (style, content) => {
    const element = document.createElement("span");
    element.className = style;
    element.textContent = content;
    text.append(element);
    return element;
  };
  line("score", hit.score.toFixed(4));
  line("bar", "").style.width = `${Math.max(0, (100 * hit.score) / best)}%`;
  if (hit.payload?.class !== undefined) line("class", String(hit.payload.class));
  // The end of a path tells more than its start: the cut is made on the left, and <bdi> keeps the text itself in order.
  const path = document.createElement("bdi");
  path.textContent = name(hit);
  line("name", "").append(path);
  button.append(frame, text);
  button.addEventListener("click", () => go({ query: hit.id, source, caption: name(hit) }));
  item.append(button);
  return item;
}

/** Shows a query and asks with it. */
function go(step) {
  trail.push(step);
  present(step);
}

function present(step) {
  picture.hidden = !step.source;
  if (step.source) picture.src = step.source;
  byId("prompt").hidden = Boolean(step.source);
  drop.classList.toggle("filled", Boolean(step.source));
  byId("caption").textContent = step.caption;
  byId("back").disabled = trail.length < 2;
  search(step);
}

function forget() {
  trail.length = 0;
  latest++;
  hits.replaceChildren();
  picture.hidden = true;
  picture.removeAttribute("src");
  byId("prompt").hidden = false;
  byId("caption").textContent = "";
  byId("back").disabled = true;
  drop.classList.remove("filled");
}

function ask(file) {
  if (!file) return;
  if (!collection.value) return say("There is no collection to search in.", true);
  const reader = new FileReader();
  reader.addEventListener("error", () => say(`${file.name} cannot be read.`, true));
  reader.addEventListener("load", () => {
    const image = { image: reader.result, ...(model && { model }) };
    go({ query: { nearest: image }, source: reader.result, caption: file.name });
  });
  reader.readAsDataURL(file);
}

async function describe() {
  const { result } = await call(`/collections/${encodeURIComponent(collection.value)}`);
  byId("about").textContent = `${result.points_count} pictures${model ? `, encoder “${model}”` : ""}`;
}

async function start() {
  try {
    const [models, { result }] = await Promise.all([call("/v1/models"), call("/collections")]);
    model = models.data[0]?.id ?? null;
    const names = result.collections.map((c) => c.name).sort();
    collection.replaceChildren(...names.map((n) => new Option(n)));
    if (!names.length) return say("There is no collection yet: create one and upsert pictures into it first.");
    await describe();
  } catch (error) {
    say(`The server does not answer: ${error.message}`, true);
  }
}

byId("file").addEventListener("change", (event) => {
  ask(event.target.files[0]);
  event.target.value = "";
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  ask(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => ask([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
drop.addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") byId("file").click();
});
byId("back").addEventListener("click", () => {
  trail.pop();
  present(trail.at(-1));
});
limit.addEventListener("change", () => trail.length && search(trail.at(-1)));
collection.addEventListener("change", () => {
  forget();
  say("");
  describe().catch((error) => say(error.message, true));
});

start();
