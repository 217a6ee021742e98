"use strict";
// What the page asks of the server, and what it says where it gets no answer.

const PAIR = "queries × passages";
const PAIR_TASKS = { queries: "retrieval.query", passages: "retrieval.passage" };

const TITLES = {
  400: "The server cannot read this",
  401: "The server wants an API key",
  404: "The server does not have this",
  408: "The request stopped half way",
  413: "Too much for one request",
  421: "The server does not answer to this name",
  422: "The server does not take this",
  429: "The server is busy",
  503: "The server is about to end",
  504: "It took too long",
};

class Problem extends Error {
  /** detail: the server's own words. note: what else helps. */
  constructor(title, detail, { status = 0, note = "" } = {}) {
    super(title);
    Object.assign(this, { detail, status, note });
  }
}

/** An address of this server, wherever the page is mounted. */
const address = (path) => new URL(path, document.baseURI).href;

/** The JSON that the server answers; body: what to POST, if anything. Throws Problem. */
async function ask(path, { key, body, signal }) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  if (key) {
    if (!/^[!-~]+$/.test(key)) {
      throw new Problem(TITLES[401], "A key has ASCII characters alone, and no space.", { status: 401 });
    }
    headers.Authorization = `Bearer ${key}`;
  }
  const method = body ? "POST" : "GET";
  const options = { method, headers, signal, body: body && JSON.stringify(body), credentials: "omit", redirect: "error" };
  let reply, content;
  try {
    reply = await fetch(address(path), options);
    content = await reply.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("No answer", "The server cannot be reached, or closed the connection.");
  }
  const known = parsed(content);
  if (reply.ok && known) return known;
  throw problemOf(reply, known);
}

function parsed(content) {
  try {
    return JSON.parse(content);
  } catch {
    return null;
  }
}

function problemOf(reply, known) {
  const { status } = reply;
  const title = TITLES[status] ?? (status >= 500 ? "The server failed" : "No usable answer");
  const detail = typeof known?.detail === "string" ? known.detail : `It answered with status ${status}.`;
  const wait = reply.headers.get("Retry-After");
  const id = reply.headers.get("x-request-id");
  const notes = [`status ${status}`];
  if (wait) notes.push(`it asks to come again ${/^\d+$/.test(wait) ? `in ${wait} s` : `after ${wait}`}`);
  if (id && status >= 500) notes.push(`x-request-id ${id}`);
  return new Problem(title, detail, { status, note: notes.join(", ") });
}

/** Models without a task in their name. */
async function askModels(options) {
  return listed(await ask("v1/models", options)).data.filter((card) => card.task === null);
}

/** A reply that has a list of so many, if it matters. Throws Problem, as for what a proxy answers by itself. */
function listed(reply, count = reply.data?.length) {
  if (Array.isArray(reply.data) && reply.data.length === count) return reply;
  throw new Problem("No usable answer", "It came as JSON, but not with the list that this server answers.");
}

/**
 * The requests of one setting, each {name, side, body}.
 *
 * setting: {task, dim, late}; lists: {queries, texts}, with queries null where there is one list.
 * Late chunking is for what is stored: the chunks of one document.
 */
function requestsOf(model, setting, lists) {
  const task = (side) => (setting.task === PAIR ? PAIR_TASKS[side] : setting.task);
  const body = (input, side, late) => ({
    model,
    ...(task(side) ? { task: task(side) } : {}),
    dimensions: setting.dim,
    ...(late ? { late_chunking: true } : { token_counts: true }),
    input,
  });
  const passages = body(lists.texts, "passages", setting.late);
  if (!lists.queries) return [{ name: "vectors", side: "texts", body: passages }];
  return [
    { name: "queries", side: "queries", body: body(lists.queries, "queries", false) },
    { name: "passages", side: "texts", body: passages },
  ];
}

/** Vectors, tokens and time of a setting: {queries, texts, ms, total}, each {vectors, tokens}. */
async function embed(requests, options) {
  const began = performance.now();
  const replies = await Promise.all(
    requests.map(async ({ body }) => listed(await ask("v1/embeddings", { ...options, body }), body.input.length)),
  );
  const ms = performance.now() - began;
  const result = { ms, total: 0 };
  replies.forEach(({ data, usage }, number) => {
    result.total += usage.total_tokens;
    result[requests[number].side] = {
      vectors: data.map((one) => one.embedding),
      tokens: data.map((one) => one.tokens ?? null),
    };
  });
  return result;
}

/** Cosines of all rows with all columns. */
function cosines(rows, columns) {
  const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);
  const length = (a) => Math.sqrt(dot(a, a)) || 1;
  const lengths = columns.map(length);
  return rows.map((row) => {
    const own = length(row);
    return columns.map((column, index) => dot(row, column) / (own * lengths[index]));
  });
}
