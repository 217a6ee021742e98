"use strict";
// The requests as code to copy. The key stays out of it.

const KEY_VARIABLE = "TASKVEC_API_KEY";
const MOST_ARGUMENT_BYTES = 100_000;  // Linux takes 128 KiB
const UNSEEN = /[\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** One curl command for each request. */
function asCurl(requests, keyed) {
  const header = keyed ? ` \\\n  -H "Authorization: Bearer $${KEY_VARIABLE}"` : "";
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const curl = (data) =>
    `curl ${quoted(address("v1/embeddings"))}${header} \\\n  -H 'Content-Type: application/json' \\\n  -d ${data}\n`;
  const command = ({ body }) => {
    const data = quoted(written(body, "  ", "  "));
    const long = new TextEncoder().encode(data).length > MOST_ARGUMENT_BYTES;
    return long ? `printf %s ${data} |\n${curl("@-")}` : curl(data);
  };
  return requests.map(command).join("\n");
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

/** A value as JSON, with nothing in it that is not seen, or turns around what is. */
const json = (value) =>
  JSON.stringify(value).replace(UNSEEN, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** JSON, a field and a text to a line; outer: what stands before each but the first. */
function written(body, outer, indent) {
  const { input, ...fields } = body;
  const lines = Object.entries(fields).map(([name, value]) => `${json(name)}: ${json(value)}`);
  const texts = input.map((text) => `${outer}${indent}${indent}${json(text)}`).join(",\n");
  lines.push(`"input": [\n${texts}\n${outer}${indent}]`);
  return `{\n${lines.map((line) => `${outer}${indent}${line}`).join(",\n")}\n${outer}}`;
}

/** JSON's strings are Python's; of its words a request has `true` alone. */
const pythonic = (text) => text.replace(/^( *"(?:late_chunking|token_counts)": )true/gm, "$1True");
