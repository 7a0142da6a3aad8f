// The stage: one rectangle that never changes its size, and the line under it that says what goes on.
import { setKey } from "./api.js";
import { byId, focusIsLost, make } from "./dom.js";

const NOTICE_MS = 6000;

/** Read by tests and by hand in the console: what came last and what the page thinks it is doing. A debugging aid. */
export const debug = { results: [], state: "idle" };
window.__stmixer = debug;

export function remember(result) {
  debug.results.push(result);
  if (debug.results.length > 50) debug.results.shift();
}

let stateText = "";
let noticeTimer = null;

/** `name` is one of idle, connecting, live, reconnecting, uploading, working, done, error. */
export function setState(name, text) {
  if (name !== debug.state) endNotice(); // what was said about the state before no longer helps
  debug.state = name;
  stateText = text;
  byId("dot").dataset.state = name;
  if (noticeTimer === null) byId("status").textContent = text;
}

/** Says something on the status line for a few seconds. */
export function notice(text) {
  clearTimeout(noticeTimer);
  byId("status").textContent = text;
  noticeTimer = setTimeout(endNotice, NOTICE_MS);
}

function endNotice() {
  clearTimeout(noticeTimer);
  noticeTimer = null;
  byId("status").textContent = stateText;
}

/** "idle", "camera" or "upload": which parts of the page are there. */
export function setMode(mode) {
  document.body.dataset.mode = mode;
  byId("choices").hidden = mode !== "idle";
  byId("video").hidden = mode === "idle";
  endNotice();
  setProgress(null);
  hideMessage();
}

/** A fraction, or null for no bar at all. */
export function setProgress(fraction) {
  const bar = byId("progress");
  bar.hidden = fraction === null;
  if (fraction !== null) bar.value = fraction;
}

function buttons(actions) {
  return actions.map(({ label, run, primary }) =>
    make("button", { type: "button", textContent: label, className: primary ? "primary" : "", onclick: run }),
  );
}

/** The buttons at the end of the status line. */
export function setActions(...actions) {
  const had = byId("bar-actions").contains(document.activeElement);
  byId("bar-actions").replaceChildren(...buttons(actions));
  // Whoever pressed a button that is gone now goes on from here, not from the top of the page.
  if (had || focusIsLost()) (byId("bar-actions").firstElementChild ?? byId("status")).focus({ preventScroll: true });
}

let onKey = null;

/** Puts a plain (words.js) on the stage. `withKey` runs once a key was given, where one would help. */
export function showMessage(plain, { actions = [], withKey = null } = {}) {
  byId("message-title").textContent = plain.title;
  byId("message-detail").textContent = plain.detail;
  byId("message-technical").textContent = plain.technical ? `The server said: ${plain.technical}` : "";
  byId("message-actions").replaceChildren(...buttons(actions));
  onKey = plain.key ? withKey : null;
  byId("key-form").hidden = onKey === null;
  byId("choices").hidden = true;
  byId("message").hidden = false;
  (onKey ? byId("key") : byId("message-actions").firstElementChild)?.focus();
}

export function hideMessage() {
  byId("message").hidden = true;
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key").value.trim());
  byId("key").value = "";
  hideMessage();
  onKey();
});
