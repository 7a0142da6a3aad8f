// What the page asks of the server over HTTP, and the key it asks with.
import { DRAWING_BY_CODE, TEACHING_BY_CODE, UNTAUGHT_BY_CODE, problemWords } from "./words.js";

const KEY = "stmixer.key";
const DRAWN_EVERY_MS = 1000; // a key has a limit of requests a minute

// Session storage: a key should not outlive the tab on a shared computer.
export const getKey = () => sessionStorage.getItem(KEY);
export const setKey = (key) => sessionStorage.setItem(KEY, key);
export const hasKey = () => Boolean(getKey());

// Relative to the page, so that a reverse proxy may serve it under any path.
export const address = (path) => new URL(path, document.baseURI);

let trying = false;

/** Whether what was just taught answers, rather than the model that is served. */
export function tryTaught(on) {
  trying = on;
}

/** A trial's streams have numbers of their own, and neither rules nor events. */
export const isTrial = () => trying;

const ofModel = (path) => (trying ? `v1/teach/trial/${path}` : path);

const socketAddress = (path) => {
  const url = address(path);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url;
};

/** Of several services that stand behind one address a token names the one that it is from. */
export const streamAddress = (token) => {
  const url = socketAddress(ofModel("v1/streams/ws"));
  const [home, secret] = (token ?? "").split(".");
  if (secret) url.searchParams.set("replica", home);
  return url;
};

/** Where a pulled stream says what it sees. */
export const followAddress = (id) => socketAddress(`v1/streams/${id}/ws`);

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

/** The answer of a GET, or of what `options` say, that went well. Raises Refused, in `words` by code where those have it. */
async function got(path, options = {}, words = {}) {
  let response;
  try {
    response = await fetch(address(path), { ...options, headers: { ...authorization(), ...options.headers } });
  } catch {
    throw new Refused(problemWords(0));
  }
  if (response.ok) return response;
  const problem = parseProblem(await response.text().catch(() => ""));
  throw new Refused(problemWords(response.status, problem, retryAfter(response.headers.get("Retry-After")), words));
}

/** What `take(response)` makes of such an answer. Raises Refused too where its body breaks off, or is something else: a proxy's page. */
async function taken(path, take, options, words) {
  const response = await got(path, options, words);
  try {
    return await take(response);
  } catch {
    throw new Refused(problemWords(0));
  }
}

/** What is served, as GET /v1/models has it: {models, teach}. Raises Refused. */
export const served = () => taken(ofModel("v1/models"), (answer) => answer.json());

/** The actions it names: [{id, name}]. Raises Refused. */
export const currentLabels = () => taken(ofModel("v1/labels"), async (answer) => (await answer.json()).labels);

/** The API's description, a Blob of JSON. Raises Refused. */
export const apiDocument = () => taken("openapi.json", async (answer) => new Blob([await answer.text()], { type: "application/json" }));

/** The streams that the server fetches, as GET /v1/streams has them. Raises Refused. */
export const pulledStreams = () => taken("v1/streams", async (answer) => (await answer.json()).streams.filter(({ pulled }) => pulled));

/** Has the server fetch another one, {url, name?}. Raises Refused. */
export const addStream = (order) => got("v1/streams", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(order) });

/** Has it fetch one no longer. Raises Refused. */
export const removeStream = (id) => got(`v1/streams/${id}`, { method: "DELETE" });

/** What one looks like now, boxes drawn, as a Blob. Raises Refused. */
export const snapshot = (id) => taken(`v1/streams/${id}/snapshot.jpg`, (answer) => answer.blob());

/** What an element may fetch by itself: it sends no header, so a cookie of that address alone stands for the key, which no script sees. Raises Refused. */
async function letIn(path) {
  const url = address(path);
  if (hasKey()) await got("v1/tokens", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ path: url.pathname }) });
  return url;
}

/** What an <img> shows as a picture that moves. Raises Refused. */
export const previewAddress = (id) => letIn(`v1/streams/${id}/preview.mjpg`);

/** The newest events, of one stream where its name is given, and whether clips of such are kept: {events, clips} as GET /v1/events has them. Raises Refused. */
export const pastEvents = (limit, stream = null) =>
  taken(`v1/events?limit=${limit}${stream === null ? "" : `&stream=${encodeURIComponent(stream)}`}`, (answer) => answer.json());

/** A Blob; null where there is none. Raises Refused. */
async function ofEvent(id, file, options) {
  try {
    return await taken(`v1/events/${id}/${file}`, (answer) => answer.blob(), options);
  } catch (error) {
    if (error instanceof Refused && error.plain.missing) return null;
    throw error;
  }
}

/** How one began. A Blob; null where there is no picture of it. Raises Refused. */
export const eventPicture = (id) => ofEvent(id, "thumbnail.jpg");

/** Its clip, whole: a token in a <video>'s address would have lapsed when somebody seeks. A Blob, or null. Raises Refused, also once `signal` fired. */
export const eventClip = (id, signal) => ofEvent(id, "clip.mp4", { signal });

/** A stream's own rules, [rule]. Raises Refused. */
export const rulesOf = (id) => taken(`v1/streams/${id}/rules`, async (answer) => (await answer.json()).rules);

/** Has it have these from now on; gives what it has then. Raises Refused. */
export const setRules = (id, rules) =>
  taken(`v1/streams/${id}/rules`, async (answer) => (await answer.json()).rules, {
    method: "PUT",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ rules }),
  });

/** The lesson, as GET /v1/teach has it. Raises Refused. */
export const lesson = () => taken("v1/teach", (answer) => answer.json(), {}, UNTAUGHT_BY_CODE);

const teaching = (path, options) => got(`v1/teach${path}`, options, TEACHING_BY_CODE);

/** Has it learn from the clips that there are. Raises Refused. */
export const beginLesson = (name) => teaching("/lesson", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ name }) });

/** Has it learn no more. Raises Refused. */
export const stopLesson = () => teaching("/lesson", { method: "DELETE" });

/** Lets go of a clip. Raises Refused. */
export const removeClip = (id) => teaching(`/clips/${id}`, { method: "DELETE" });

/** Has what was learned kept. Raises Refused. */
export const keepLesson = () => teaching("/kept", { method: "POST" });

/** Deletes the clips, and what was learned from them. Raises Refused. */
export const discardLesson = () => teaching("", { method: "DELETE" });

/** Has what was learned answer below an address of its own. Raises Refused. */
export const beginTrial = () => teaching("/trial", { method: "POST" });

/** Ends that. Raises Refused. */
export const endTrial = () => teaching("/trial", { method: "DELETE" });

/** The page that shows who was taken for the actor of each clip, as text. Raises Refused. */
export const draftPage = () => taken("v1/teach/draft.html", (answer) => answer.text());

/** What stands before `__` in a file's name, as a scene may be called; "" where nothing does. */
export function sceneOf(name) {
  const [scene, mark] = name.normalize("NFC").split(/(__)/);
  if (!mark) return "";
  const letters = scene.replace(/[^\p{L}\p{M}\p{N} _'’&+()-]/gu, "-").replace(/^[^\p{L}\p{N}]+/u, "");
  return [...letters].slice(0, 45).join("").replace(/[ _]+$/, "");
}

/** Posts a clip to learn from, `onUpload(fraction)`. Rejects with Refused. */
export function addClip(label, file, onUpload) {
  const url = address("v1/teach/clips");
  url.searchParams.set("label", label);
  const scene = sceneOf(file.name ?? "");
  if (scene) url.searchParams.set("scene", scene);
  const headers = { "Content-Type": file.type || "application/octet-stream" };
  return posted(url, file, { headers, signal: new AbortController().signal, onUpload, words: TEACHING_BY_CODE });
}

/** The sample clip, a File. Raises Refused. */
export const sampleClip = () => taken("web/sample.mp4", async (answer) => new File([await answer.blob()], "sample.mp4", { type: "video/mp4" }));

/** Why a WebSocket did not open, as a plain: the browser hides the refusal, but /readyz is public. */
export async function whyNotReady() {
  try {
    const response = await fetch(address(ofModel("readyz")), { headers: authorization() });
    if (response.ok) return { title: "The server did not open the stream", detail: "It may not take streams from this address." };
    return problemWords(503, {}, retryAfter(response.headers.get("Retry-After")));
  } catch {
    return problemWords(0);
  }
}

/**
 * Posts a video. XMLHttpRequest, because fetch reports no upload progress.
 * `onUpload(fraction)`, `onLine(object)` for each line of the answer; what it throws ends the request. Rejects with Refused, or with an AbortError once
 * `signal` fired.
 */
export function detect(file, { options, signal, onUpload = () => {}, onLine = () => {} }) {
  const url = address(ofModel("v1/detect"));
  for (const [name, value] of Object.entries(options)) url.searchParams.set(name, value);
  const headers = { Accept: "application/x-ndjson", "Content-Type": file.type || "application/octet-stream" };
  return posted(url, file, { headers, signal, onUpload, onLine });
}

/**
 * Has the server draw results that it gave, [result], into a copy of their video; nothing is inferred again. `onDrawn(fraction)` as it comes on.
 * Resolves to a Blob, rejects as `detect`.
 */
export async function draw(file, results, { signal, onUpload = () => {}, onDrawn = () => {} }) {
  const form = new FormData();
  form.append("results", new Blob(results.map((result) => `${JSON.stringify(result)}\n`), { type: "application/x-ndjson" }));
  form.append("file", file);
  const id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const over = new AbortController();
  const looking = setInterval(() => look(id, onDrawn, over.signal), DRAWN_EVERY_MS);
  try {
    return await posted(address("v1/draw"), form, { headers: { "X-Request-Id": id }, signal, onUpload, wantsBlob: true, words: DRAWING_BY_CODE });
  } finally {
    clearInterval(looking);
    over.abort();
  }
}

async function look(id, onDrawn, signal) {
  try {
    const response = await fetch(address(`v1/drawings/${id}`), { headers: authorization(), signal });
    if (!response.ok) return; // not begun, or done
    const { done_s, duration_s } = await response.json();
    if (done_s && duration_s && !signal.aborted) onDrawn(Math.min(1, done_s / duration_s));
  } catch {
    // the request itself will say so
  }
}

const wentWell = ({ status }) => status >= 200 && status < 300;

function posted(url, body, { headers, signal, onUpload, onLine = () => {}, wantsBlob = false, words }) {
  const request = new XMLHttpRequest();
  request.open("POST", url);
  if (wantsBlob) request.responseType = "blob";
  for (const [name, value] of Object.entries({ ...headers, ...authorization() })) request.setRequestHeader(name, value);

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
      if (!wantsBlob && wentWell(request)) takeLines(request.responseText.lastIndexOf("\n") + 1);
    });
    request.addEventListener("load", async () => {
      if (wentWell(request)) {
        if (!wantsBlob) takeLines(request.responseText.length);
        resolve(request.response);
        return;
      }
      const problem = parseProblem(wantsBlob ? await request.response.text() : request.responseText);
      reject(new Refused(problemWords(request.status, problem, retryAfter(request.getResponseHeader("Retry-After")), words)));
    });
    request.addEventListener("error", () => reject(new Refused(problemWords(0))));
    request.addEventListener("abort", () => reject(new DOMException("cancelled", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}
