// The page of `sana serve`: it uses the native API (docs/server.md) and nothing else.

const NAMES = ["steps", "seed", "count", "guidance_scale", "strength"]; // numbers of the form that have its fields' names
const FILES = ["image", "mask"];
const POLL_MS = 3000; // between looks at what others draw
const $ = (id) => document.getElementById(id);
const form = $("form"), list = $("jobs"), viewer = $("viewer"), door = $("door");

const cards = new Map(); // job id -> its card
const uploads = new Map(); // job id -> the files that this page sent with it
const sent = new Map(); // job id -> the body that this page sent
let chosen = {}; // "image", "mask": {data, name}
let key = sessionStorage.getItem("key") ?? "";
let asking = null; // the promise of a key, while the door is shown

// -- the server --

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    await askForKey();
    return call(path, options);
  }
  if (!response.ok) throw new Error(await problemOf(response));
  return response;
}

async function problemOf(response) {
  try {
    const { error } = await response.json();
    return error.hint ? `${error.message}: ${error.hint}` : error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

function askForKey() {
  asking ??= new Promise((resolve) => {
    door.showModal();
    door.addEventListener("close", () => {
      key = $("key").value.trim();
      sessionStorage.setItem("key", key);
      asking = null;
      resolve();
    }, { once: true });
  });
  return asking;
}

async function* eventsOf(id) {
  const response = await call(`/v1/jobs/${id}/events`);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const found = /^event: (.*)\ndata: (.*)$/s.exec(part);
      if (found) yield [found[1], JSON.parse(found[2])];
    }
  }
}

// -- the form --

function bodyOf() {
  const body = { prompt: $("prompt").value, model: $("model").value, previews: true };
  for (const name of NAMES) {
    const text = $(name).value.trim();
    if (text) body[name] = Number(text);
  }
  const size = /^\s*(\d+)(?:\s*[xX×]\s*(\d+))?\s*$/.exec($("size").value);
  if (size) [body.width, body.height] = [Number(size[1]), Number(size[2] ?? size[1])];
  const negative = $("negative_prompt").value.trim();
  if (negative) body.negative_prompt = negative;
  for (const kind of FILES) if (chosen[kind]) body[kind] = chosen[kind];
  return body;
}

async function draw(body) {
  say("");
  // A seed beyond 2^53 would be rounded by JSON.stringify: it is written as it was typed.
  const text = typeof body.seed === "number" && !Number.isSafeInteger(body.seed)
    ? JSON.stringify({ ...body, seed: 0 }).replace('"seed":0', `"seed":${$("seed").value.trim()}`)
    : JSON.stringify(body);
  const response = await call("/v1/jobs", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: text,
  });
  const job = await response.json();
  sent.set(job.id, body);
  uploads.set(job.id, { ...chosen });
  show(job).scrollIntoView({ block: "nearest" });
}

function say(problem) {
  $("problem").textContent = problem;
  $("problem").hidden = !problem;
}

async function take(kind, file) {
  const data = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`cannot read ${file.name}`));
    reader.readAsDataURL(file);
  });
  choose(kind, { data, name: file.name });
}

function choose(kind, upload) {
  const zone = $(`drop-${kind}`), image = zone.querySelector("img");
  if (upload) chosen[kind] = upload; else delete chosen[kind];
  image.hidden = !upload;
  image.src = upload ? upload.data : "";
  image.alt = upload ? upload.name : "";
  zone.querySelector("span").textContent = upload ? upload.name : "drop it here, or choose";
  zone.querySelector(".clear").hidden = !upload;
  if (!upload) $(kind).value = "";
}

for (const kind of FILES) {
  const zone = $(`drop-${kind}`);
  $(kind).addEventListener("change", (event) => attempt(take(kind, event.target.files[0])));
  zone.querySelector(".clear").addEventListener("click", (event) => {
    event.preventDefault();
    choose(kind, null);
    $(kind).focus();
  });
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const file = event.dataTransfer.files[0];
    if (file) attempt(take(kind, file));
  });
}

// -- cards --

function show(job) {
  let card = cards.get(job.id);
  if (!card) {
    card = $("job").content.firstElementChild.cloneNode(true);
    card.dataset.id = job.id;
    for (const button of card.querySelectorAll("[data-do]"))
      button.addEventListener("click", () => attempt(ACTIONS[button.dataset.do](card)));
    cards.set(job.id, card);
    const after = [...list.children].find((other) => other.job.created < job.created);
    list.insertBefore(card, after ?? null);
    $("empty").hidden = true;
  }
  const wasOver = card.job && isOver(card.job);
  card.job = job;
  paint(card);
  if (!isOver(job) && !card.watched) watch(card);
  if (isOver(job) && !wasOver) for (const picture of job.pictures) addPicture(card, picture);
  return card;
}

const isOver = (job) => ["done", "failed", "cancelled"].includes(job.status);

function paint(card) {
  const { job } = card, over = isOver(job);
  card.querySelector(".words").textContent = job.prompt;
  card.querySelector(".status").textContent = statusOf(job);
  const bar = card.querySelector("progress");
  bar.hidden = job.status !== "running";
  bar.value = job.steps ? job.step / job.steps : 0;
  bar.setAttribute("aria-label", `step ${job.step} of ${job.steps}`);
  card.querySelector("[data-do=cancel]").hidden = over;
  for (const name of ["again", "vary"]) card.querySelector(`[data-do=${name}]`).hidden = !over;
}

function statusOf(job) {
  if (job.status === "queued") return job.place > 1 ? `waits, place ${job.place}` : "waits, next";
  if (job.status === "running") {
    const which = job.seeds.length > 1 ? `picture ${job.picture + 1} of ${job.seeds.length}, ` : "";
    return `draws: ${which}step ${job.step} of ${job.steps}`;
  }
  if (job.status === "failed") return `failed: ${job.error.message}${job.error.hint ? `: ${job.error.hint}` : ""}`;
  if (job.status === "cancelled") return "cancelled";
  return [job.model, `seed ${job.seeds.join(", ")}`, `${job.width}x${job.height}`, ...job.notices].join(" · ");
}

async function watch(card) {
  card.watched = true;
  try {
    for await (const [name, data] of eventsOf(card.job.id)) {
      const { job } = card;
      if (name === "queued") job.place = data.place;
      else if (name === "started") job.status = "running";
      else if (name === "step") Object.assign(job, { picture: data.picture, step: data.step, steps: data.steps });
      else if (name === "preview") preview(card, `data:image/png;base64,${data.png}`);
      else if (name === "notice") job.notices.push(data.message);
      else if (name === "picture") await addPicture(card, data);
      else if (["done", "failed", "cancelled"].includes(name)) Object.assign(job, { status: name, error: data.error ?? null });
      paint(card);
    }
  } catch {
    card.watched = false; // the next look at the server shows what has become of it
  }
  if (isOver(card.job)) preview(card, null);
}

function preview(card, source) {
  let image = card.querySelector("img.so-far");
  if (!source) return image?.remove();
  if (!image) {
    image = document.createElement("img");
    image.className = "so-far";
    image.alt = "so far";
    card.querySelector(".pictures").append(image);
  }
  image.src = source;
}

async function addPicture(card, picture) {
  const place = card.querySelector(".pictures");
  if (!picture.url || place.querySelector(`[data-index="${picture.index}"]`)) return;
  preview(card, null);
  const button = document.createElement("button"), image = document.createElement("img");
  button.type = "button";
  [button.dataset.index, button.dataset.url] = [picture.index, picture.url];
  image.alt = `${card.job.prompt}, seed ${picture.seed}`;
  [image.width, image.height] = [picture.width, picture.height];
  button.append(image);
  button.addEventListener("click", () => openViewer(button));
  place.append(button);
  tellSettings(card, picture.settings);
  const file = await (await call(picture.url)).blob();
  image.src = URL.createObjectURL(file);
  button.dataset.name = `${slug(card.job.prompt)}-${picture.seed}.png`;
}

const slug = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60).replace(/^-|-$/g, "") || "picture";

function tellSettings(card, settings) {
  const facts = card.querySelector("details"), table = facts.querySelector("dl");
  card.settings ??= settings;
  facts.hidden = false;
  table.replaceChildren(...Object.entries(card.settings).flatMap(([name, value]) => {
    const term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = name;
    text.textContent = typeof value === "object" ? JSON.stringify(value) : value;
    return [term, text];
  }));
}

// -- what the buttons do --

const ACTIONS = {
  async cancel(card) {
    await call(`/v1/jobs/${card.job.id}`, { method: "DELETE" });
    card.querySelector("[data-do=cancel]").hidden = true;
  },
  async again(card) {
    fill(card, { seed: card.job.seeds[0] });
    await draw(bodyOf());
  },
  async vary(card) {
    fill(card, {});
    await draw(bodyOf());
    $("seed").value = "";
  },
};

function fill(card, { seed }) {
  const { job, settings = {} } = card, own = sent.get(job.id) ?? {};
  $("prompt").value = job.prompt;
  if ([...$("model").options].some((option) => option.value === job.model)) $("model").value = job.model;
  $("size").value = `${job.width}x${job.height}`;
  $("steps").value = settings.steps ?? own.steps ?? "";
  $("guidance_scale").value = settings.guidance ?? own.guidance_scale ?? "";
  $("negative_prompt").value = settings.negative_prompt ?? own.negative_prompt ?? "";
  $("strength").value = settings.strength ?? own.strength ?? "";
  $("count").value = job.seeds.length;
  $("seed").value = seed ?? "";
  const files = uploads.get(job.id) ?? {};
  for (const kind of FILES) choose(kind, files[kind] ?? null);
  const lost = FILES.filter((kind) => settings[kind] && !files[kind]);
  if (lost.length) throw new Error(`choose its ${lost.join(" and ")} again (${lost.map((kind) => settings[kind]).join(", ")}), then draw`);
}

function openViewer(button) {
  viewer.shown = button;
  const image = viewer.querySelector("img"), shown = button.querySelector("img");
  [image.src, image.alt] = [shown.src, shown.alt];
  const save = viewer.querySelector("a");
  [save.href, save.download] = [shown.src, button.dataset.name ?? "picture.png"];
  if (!viewer.open) viewer.showModal();
}

function go(by) {
  const all = [...document.querySelectorAll(".pictures button")];
  const next = all[all.indexOf(viewer.shown) + by];
  if (next) openViewer(next);
}

viewer.addEventListener("click", (event) => {
  const { go: by, close } = event.target.dataset;
  if (by) go(Number(by));
  if (close !== undefined || event.target === viewer) viewer.close();
});
viewer.addEventListener("close", () => viewer.shown?.focus());
viewer.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") go(-1);
  if (event.key === "ArrowRight") go(1);
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(draw(bodyOf()));
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !viewer.open) form.requestSubmit();
  if (event.key === "Escape" && !viewer.open && !door.open) {
    const card = [...cards.values()].find((one) => one.job.status === "running") ?? [...cards.values()].find((one) => one.job.status === "queued");
    if (card) attempt(ACTIONS.cancel(card));
  }
});

async function attempt(work) {
  $("draw").disabled = true;
  try {
    await work;
  } catch (error) {
    say(error.message);
  } finally {
    $("draw").disabled = false;
  }
}

// -- what others draw --

async function look() {
  try {
    const [status, jobs] = await Promise.all([
      call("/v1/status").then((r) => r.json()), call("/v1/jobs").then((r) => r.json()),
    ]);
    const names = [...$("model").options].map((option) => option.value);
    if (String(names) !== String(status.models)) {
      const before = $("model").value;
      $("model").replaceChildren(...status.models.map((name) => new Option(name, name)));
      if (status.models.includes(before)) $("model").value = before;
    }
    const waits = status.jobs.filter((job) => job.status === "queued").length;
    $("state").textContent = status.jobs.length ? `draws; ${waits} wait` : "ready";
    for (const job of jobs.jobs.toReversed()) {
      const card = cards.get(job.id);
      if (!card || (!card.watched && !isOver(card.job))) show(job);
    }
  } catch {
    $("state").textContent = "the server does not answer";
  }
  setTimeout(look, POLL_MS);
}

look();
$("prompt").focus();
