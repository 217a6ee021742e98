"use strict";
// The requests as code to copy. The key stays out of it.

const KEY_VARIABLE = "TASKVEC_API_KEY";

/** One curl command for each request. */
function asCurl(requests, keyed) {
  const header = keyed ? ` \\\n  -H "Authorization: Bearer $${KEY_VARIABLE}"` : "";
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  return requests
    .map(({ body }) =>
      `curl ${quoted(address("v1/embeddings"))}${header} \\\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(written(body, "  ", "  "))}\n`)
    .join("\n");
}

/** A Python script that leaves one list of vectors for each request. */
function asPython(requests, keyed) {
  const header = keyed ? `\n        headers={"Authorization": f"Bearer {os.environ['${KEY_VARIABLE}']}"},` : "";
  const calls = requests.map(({ name, body }) => `${name} = embed(${pythonic(written(body, "", "    "))})\n`);
  return `${keyed ? "import os\n\n" : ""}import httpx


def embed(body):
    reply = httpx.post(
        ${JSON.stringify(address("v1/embeddings"))},
        json=body,${header}
        timeout=330,
    )
    reply.raise_for_status()
    return [one["embedding"] for one in reply.json()["data"]]


${calls.join("")}`;
}

/** JSON, a field and a text to a line; outer: what stands before each but the first. */
function written(body, outer, indent) {
  const { input, ...fields } = body;
  const lines = Object.entries(fields).map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  const texts = input.map((text) => `${outer}${indent}${indent}${JSON.stringify(text)}`).join(",\n");
  lines.push(`"input": [\n${texts}\n${outer}${indent}]`);
  return `{\n${lines.map((line) => `${outer}${indent}${line}`).join(",\n")}\n${outer}}`;
}

/** JSON's strings are Python's; of its words a request has `true` alone. */
const pythonic = (json) => json.replace(/^( *"(?:late_chunking|token_counts)": )true/gm, "$1True");
