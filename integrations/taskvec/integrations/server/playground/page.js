"use strict";
// The form, a run at a time, and what is shown of it.

const MOST_TEXTS = 100;  // of a list: a map of more is not legible
const TICK_MS = 100;
const EXAMPLES = {
  Search: {
    task: PAIR,
    queries: ["how do I read a compressed file?", "wie spät ist es in Tokio?", "wait until a thread has ended"],
    texts: [
      "gzip.open() opens a gzip-compressed file in binary or text mode.",
      "ZoneInfo gives the time of another part of the world.",
      "Thread.join() blocks until the thread terminates.",
      "heapq.nlargest() finds the n largest items of a data set.",
      "socket.create_connection() connects to a TCP service.",
    ],
  },
  "Same meaning": {
    task: "text-matching",
    texts: [
      "The train is late again.", "Der Zug hat schon wieder Verspätung.", "Le train est encore en retard.",
      "The train leaves on time.", "El perro duerme en el jardín.", "The dog is sleeping in the garden.",
    ],
  },
  Topics: {
    task: "separation",
    texts: [
      "The striker scored twice in the final.", "The goalkeeper saved a penalty.", "The central bank raised interest rates.",
      "Shares fell after the inflation report.", "The telescope found a new exoplanet.", "The probe entered orbit around Mars.",
    ],
  },
};

const $ = (id) => document.getElementById(id);
const HINT = $("readout").textContent;
let cards = [];
let loading = null;  // the AbortController of the last question for models
let running = null;  // the AbortController of the run in progress
let shown = null;  // what is on the page: {maps, plans, keyed, form}
let language = "curl";
let wanted = "";  // the task of the last example, which may be before the models are known

// --- the form ---

const settingOf = (letter) => ({
  task: $(`task-${letter}`).value,
  dim: Number($(`dim-${letter}`).value),
  late: $(`late-${letter}`).checked,
});
const settings = () => ($("compare").checked ? ["a", "b"] : ["a"]).map(settingOf);
/** What a run would be of, to tell whether the form has changed since. */
const formNow = () => JSON.stringify([$("model").value, settings(), isPair() ? $("queries").value : "", $("texts").value]);
const isPair = () => settings().some(({ task }) => task === PAIR);
const linesOf = (id) => $(id).value.toWellFormed().split("\n").map((line) => line.trim()).filter(Boolean);

function fillModel(card) {
  const pair = Object.values(PAIR_TASKS).every((task) => card.tasks.includes(task));
  const tasks = [...(pair ? [[PAIR, `retrieval: ${PAIR}`]] : []), ...card.tasks.map((task) => [task, task]), ["", "none: the model’s own weights"]];
  for (const letter of ["a", "b"]) {
    refill($(`task-${letter}`), tasks);
    refill($(`dim-${letter}`), card.dimensions.toReversed().map((dim) => [`${dim}`, `${dim}`]));
  }
  $("card").textContent = `${card.id} · up to ${card.dimensions.at(-1)} dimensions · ${counted(card.max_tokens)} tokens of context`;
}

/** Give a select its options, and keep what is chosen where that is still there. */
function refill(select, options) {
  const chosen = select.value;
  const had = select.options.length > 0;
  select.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
  if (had && options.some(([value]) => value === chosen)) select.value = chosen;
}

/** Show the fields that the settings need. */
function arrange() {
  const compared = $("compare").checked;
  const pair = isPair();
  $("setting-b").hidden = !compared;
  document.querySelector("#setting-a .badge").hidden = !compared;
  $("queries-field").hidden = !pair;
  $("texts-label").textContent = pair ? "Passages" : "Texts";
  $("late-note").hidden = !settings().some(({ late }) => late);
  $("late-note").textContent = `Late chunking: the ${pair ? "passages" : "texts"} are consecutive chunks of one document, which is read as a whole.`;
  for (const id of ["queries", "texts"]) $(`${id}-count`).textContent = counted(linesOf(id).length);
  tellAge();
}

/** Say so where what is shown is of another form than the one that is there. */
function tellAge() {
  $("stale").hidden = !shown || running !== null || shown.form === formNow();
}

function chooseWanted() {
  if ([...$("task-a").options].some(({ value }) => value === wanted)) $("task-a").value = wanted;
}

function useExample({ task, queries, texts }) {
  wanted = task;
  chooseWanted();
  if (queries) $("queries").value = queries.join("\n");
  $("texts").value = texts.join("\n");
  arrange();
}

/** Ask for the models; a later question takes the place of one that is not yet answered. */
async function loadModels() {
  loading?.abort();
  const own = new AbortController();
  loading = own;
  try {
    const found = await askModels({ key: $("key").value, signal: own.signal });
    if (own.signal.aborted) return;
    cards = found;
    refill($("model"), cards.map(({ id }) => [id, id]));
    $("model-field").hidden = cards.length < 2;
    fillModel(cards[0]);
    chooseWanted();
    tell(null);
  } catch (error) {
    if (own.signal.aborted) return;
    $("card").textContent = "The server’s models are not known yet.";
    tell(error);
  }
  arrange();
}

// --- a run ---

async function run() {
  if (!cards.length) await loadModels();
  if (!cards.length) return;
  const lists = { queries: isPair() ? linesOf("queries") : null, texts: linesOf("texts") };
  const refused = refusalOf(lists);
  if (refused && running) end();
  tell(refused);
  if (refused) return;
  const form = formNow();
  const plans = settings().map((setting) => requestsOf($("model").value, setting, lists));
  const own = begin(lists);
  const key = $("key").value;
  const options = { key, signal: own.signal };
  try {
    const results = [];
    for (const plan of plans) results.push(await embed(plan, options));
    if (running === own) show(lists, plans, results, { keyed: key !== "", form });
  } catch (error) {
    own.abort();  // the other request of a pair
    if (running === own) tell(error);
  } finally {
    if (running === own) end();
  }
}

function refusalOf({ queries, texts }) {
  for (const [list, word] of [[queries, "queries"], [texts, queries ? "passages" : "texts"]]) {
    if (list && !list.length) return new Problem(`There are no ${word}`, "Write one a line.");
    if (list && list.length > MOST_TEXTS) {
      return new Problem(`${counted(list.length)} ${word} are too many for this page`, `It shows ${MOST_TEXTS} of a list; the API takes more.`);
    }
  }
  return null;
}

function begin({ queries, texts }) {
  running?.abort();
  const own = new AbortController();
  const began = performance.now();
  running = own;
  tellAge();
  $("cancel").hidden = false;
  $("results").setAttribute("aria-busy", "true");
  $("status").textContent = `Embedding ${plural((queries?.length ?? 0) + texts.length, "text")} …`;
  const clock = setInterval(() => {
    $("clock").textContent = `${((performance.now() - began) / 1000).toFixed(1)} s`;
  }, TICK_MS);
  own.signal.addEventListener("abort", () => clearInterval(clock));
  return own;
}

function end() {
  running.abort();  // stops its clock
  running = null;
  tellAge();
  if (document.activeElement === $("cancel")) $("embed").focus();
  $("cancel").hidden = true;
  $("clock").textContent = "";
  $("results").removeAttribute("aria-busy");
}

function cancel() {
  if (!running) return;
  end();
  $("status").textContent = "Cancelled.";
}

/** Say what went wrong, or with null that nothing is. */
function tell(error) {
  $("problem").hidden = !error;
  if (!error) return;
  const known = error instanceof Problem;
  const [title, detail, note] = $("problem").children;
  title.textContent = known ? error.message : "The page failed";
  detail.textContent = known ? error.detail : `${error.message}`;
  note.textContent = known ? error.note : "";
  $("status").textContent = "";
  if (error.status === 401) {
    $("key-field").open = true;
    $("key").focus();
  }
}

// --- what is shown ---

function titleOf({ task, dim, late }) {
  return `${task === PAIR ? "retrieval" : task || "no task"} · ${dim} dims${late ? " · late chunking" : ""}`;
}

/** Show results; origin: {keyed, form} of the run. */
function show(lists, plans, results, origin) {
  const both = results.length > 1;
  const columns = named(lists.texts, lists.queries ? "P" : "T");
  const rows = lists.queries ? named(lists.queries, "Q") : columns;
  const maps = results.map((result, index) => ({
    title: titleOf(settingShown(plans[index])),
    badge: both ? "AB"[index] : "",
    note: both ? `${counted(result.total)} tokens · ${Math.round(result.ms)} ms` : "",
    rows,
    columns,
    same: !lists.queries,
    values: cosines((result.queries ?? result.texts).vectors, result.texts.vectors),
  }));
  shown = { maps, plans, ...origin };
  showSummary(rows, columns, results);
  showMaps(maps);
  $("ranks").hidden = !both;
  if (both) $("ranks-note").textContent = showRanks($("ranks-table"), ...maps, point);
  const sides = [...(lists.queries ? [["queries", rows]] : []), ["texts", columns]];
  showTokens($("tokens"), sides.map(([side, texts]) => ({ texts, counts: results.map((one) => one[side].tokens) })), results.map(({ total }) => total));
  showCode();
  $("readout").textContent = HINT;
  $("empty").hidden = true;
  $("shown").hidden = false;
}

/** The setting that a plan was made of. */
function settingShown(plan) {
  const { task = "", dimensions: dim, late_chunking: late = false } = plan.at(-1).body;
  const pair = plan.length > 1 && plan[0].body.task !== plan[1].body.task;
  return { task: pair ? PAIR : task, dim, late };
}

function showSummary(rows, columns, results) {
  const count = columns.length + (rows === columns ? 0 : rows.length);
  const [tokens, ms] = ["total", "ms"].map((name) => counted(Math.round(results.reduce((sum, one) => sum + one[name], 0))));
  const facts = [["Texts", counted(count)], ["Tokens", tokens], ["Time", `${ms} ms`]];
  $("summary").replaceChildren(...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  $("status").textContent = `Done: ${plural(count, "text")}, ${tokens} tokens, ${ms} ms.`;
}

function showMaps(maps) {
  const scale = scaleOf(maps);
  const [low, high] = [fixed(scale.low, 1), fixed(scale.high, 1)];
  $("legend-low").textContent = low;
  $("legend-high").textContent = high;
  $("legend").setAttribute("aria-label", `Colours from cosine ${low} to ${high}; a ring marks a row’s nearest`);
  $("maps").classList.toggle("both", maps.length > 1);
  $("maps").replaceChildren(...maps.map((map) => mapFigure(map, scale, point)));
}

/** Mark a pair in all maps, and spell it out. */
function point(i, j) {
  for (const cell of document.querySelectorAll(".map .pointed")) cell.classList.remove("pointed");
  for (const cell of document.querySelectorAll(`.map [data-row="${i}"][data-column="${j}"]`)) cell.classList.add("pointed");
  const [{ rows, columns }] = shown.maps;
  const values = shown.maps.map(({ badge, values }) => `${badge} ${fixed(values[i][j], 4)}`.trim()).join(" · ");
  $("readout").replaceChildren(el("b", {}, values), ` ${rows[i].id} “`, words(rows[i].text), `” with ${columns[j].id} “`, words(columns[j].text), "”");
}

function showCode() {
  const both = shown.plans.length > 1;
  const requests = shown.plans.flatMap((plan, index) =>
    plan.map((request) => (both ? { ...request, name: `${request.name}_${"ab"[index]}` } : request)));
  $("code").textContent = (language === "curl" ? asCurl : asPython)(requests, shown.keyed);
  for (const name of ["curl", "python"]) $(`as-${name}`).setAttribute("aria-pressed", `${name === language}`);
  $("copied").textContent = "";
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("code").textContent);
    $("copied").textContent = "Copied.";
  } catch {  // by a name without TLS pages have no clipboard
    getSelection().selectAllChildren($("code"));
    $("copied").textContent = document.execCommand("copy") ? "Copied." : "Selected: copy it with Ctrl + C.";
  }
}

// --- events ---

function start() {
  for (const [name, example] of Object.entries(EXAMPLES)) {
    const button = el("button", { type: "button" }, name);
    button.addEventListener("click", () => { useExample(example); run(); });
    document.querySelector(".examples").append(button);
  }
  $("form").addEventListener("submit", (event) => { event.preventDefault(); run(); });
  $("form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
    if (event.key === "Escape") cancel();
  });
  $("form").addEventListener("change", ({ target }) => {
    if (target.id === "key") { if (!cards.length) loadModels(); return; }
    if (target.id === "model") fillModel(cards.find(({ id }) => id === target.value));
    arrange();
    if (shown && target.tagName !== "TEXTAREA") run();
  });
  for (const id of ["queries", "texts"]) {
    $(id).addEventListener("input", arrange);
  }
  $("cancel").addEventListener("click", cancel);
  $("copy").addEventListener("click", copy);
  for (const name of ["curl", "python"]) {
    $(`as-${name}`).addEventListener("click", () => { language = name; showCode(); });
  }
  useExample(EXAMPLES.Search);
  loadModels();
}

start();
