// What the page asks of the server over HTTP, and the key it asks with.
import { problemWords } from "./words.js";

const KEY = "stmixer.key";

// Session storage: a key should not outlive the tab on a shared computer.
export const getKey = () => sessionStorage.getItem(KEY);
export const setKey = (key) => sessionStorage.setItem(KEY, key);

// Relative to the page, so that a reverse proxy may serve it under any path.
export const address = (path) => new URL(path, document.baseURI);

export function streamAddress() {
  const url = address("v1/streams/ws");
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url;
}

const authorization = () => (getKey() ? { Authorization: `Bearer ${getKey()}` } : {});

/** An answer in words; `plain` goes on the stage as it is. */
export class Refused extends Error {
  constructor(plain) {
    super(plain.title);
    this.plain = plain;
  }
}

/** Seconds from a Retry-After header in either of its two forms, or null. */
function retryAfter(header) {
  if (!header) return null;
  const seconds = Number(header);
  const wait = Number.isNaN(seconds) ? (Date.parse(header) - Date.now()) / 1000 : seconds;
  return Number.isFinite(wait) ? Math.max(1, Math.ceil(wait)) : null;
}

function parseProblem(text) {
  try {
    const problem = JSON.parse(text);
    return problem && typeof problem === "object" ? problem : {};
  } catch {
    return {}; // a proxy's page, or nothing
  }
}

/** The model that answers: {name, trained}. Raises Refused. */
export async function currentModel() {
  let response;
  try {
    response = await fetch(address("v1/models"), { headers: authorization() });
  } catch {
    throw new Refused(problemWords(0));
  }
  const body = parseProblem(await response.text());
  if (!response.ok) throw new Refused(problemWords(response.status, body, retryAfter(response.headers.get("Retry-After"))));
  return body.models?.[0] ?? null;
}

/** Why a WebSocket did not open, as a plain: the browser hides the refusal, but /readyz is public. */
export async function whyNotReady() {
  try {
    const response = await fetch(address("readyz"));
    if (response.ok) return { title: "The server did not open the stream", detail: "It may not take streams from this address." };
    return problemWords(503, {}, retryAfter(response.headers.get("Retry-After")));
  } catch {
    return problemWords(0);
  }
}

/**
 * Posts a video. XMLHttpRequest, because fetch reports no upload progress.
 * `onUpload(fraction)`, `onLine(object)` for NDJSON; what it throws ends the request. Resolves to the body (a Blob for video/mp4), rejects with Refused,
 * or with an AbortError once `signal` fired.
 */
export function detect(file, { accept, options, signal, onUpload = () => {}, onLine = () => {} }) {
  const url = address("v1/detect");
  for (const [name, value] of Object.entries(options)) url.searchParams.set(name, value);
  const request = new XMLHttpRequest();
  const wantsBlob = accept === "video/mp4";
  request.open("POST", url);
  if (wantsBlob) request.responseType = "blob";
  const headers = { Accept: accept, "Content-Type": file.type || "application/octet-stream", ...authorization() };
  for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);

  return new Promise((resolve, reject) => {
    let read = 0;
    const takeLines = (end) => {
      const lines = request.responseText.slice(read, end).split("\n");
      read = end;
      try {
        for (const line of lines) if (line.trim()) onLine(JSON.parse(line));
      } catch (error) {
        reject(error);
        request.abort();
      }
    };
    request.upload.addEventListener("progress", (event) => event.lengthComputable && onUpload(event.loaded / event.total));
    request.upload.addEventListener("load", () => onUpload(1));
    request.addEventListener("progress", () => {
      if (!wantsBlob && request.status === 200) takeLines(request.responseText.lastIndexOf("\n") + 1);
    });
    request.addEventListener("load", async () => {
      if (request.status === 200) {
        if (!wantsBlob) takeLines(request.responseText.length);
        resolve(request.response);
        return;
      }
      const problem = parseProblem(wantsBlob ? await request.response.text() : request.responseText);
      reject(new Refused(problemWords(request.status, problem, retryAfter(request.getResponseHeader("Retry-After")))));
    });
    request.addEventListener("error", () => reject(new Refused(problemWords(0))));
    request.addEventListener("abort", () => reject(new DOMException("cancelled", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}
