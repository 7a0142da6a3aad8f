// A page for node, in which a test says when time passes, what the server answers and what a socket hears. Imported before the page's own files.

/** Elements do what the wall needs of them, and show nothing. */
class Element extends EventTarget {
  children = [];
  classList = { toggle() {} };
  dataset = {};
  hidden = false;
  src = "";
  style = {};
  textContent = "";
  value = "";

  append(...children) {
    this.children.push(...children);
  }
  replaceChildren(...children) {
    this.children = children;
  }
  removeAttribute(name) {
    this[name] = "";
  }
  close() {
    this.dispatchEvent(new Event("close"));
  }
  contains() {}
  focus() {}
  load() {}
  async play() {}
  prepend(...children) {
    this.children.unshift(...children);
  }
  querySelector() {}
  querySelectorAll() {
    return [];
  }
  remove() {}
  reset() {}
  setAttribute() {}
  showModal() {}
}

const named = new Map();

/** The element of this id; there is one. */
export function element(id) {
  if (!named.has(id)) named.set(id, new Element());
  return named.get(id);
}

/** The first element within `root` for which `is(element)`. */
export const within = (root, is) => [root, ...root.children].find(is) ?? root.children.map((child) => child.children && within(child, is)).find(Boolean);

globalThis.window = globalThis;
globalThis.document = {
  baseURI: "http://cameras/",
  body: element("body"),
  createElement: () => new Element(),
  getElementById: element,
  hidden: false,
  querySelectorAll: () => [],
};
globalThis.location = { hash: "" };
const kept = new Map();
globalThis.sessionStorage = globalThis.localStorage = { getItem: (name) => kept.get(name) ?? null, setItem: (name, value) => kept.set(name, value) };
globalThis.IntersectionObserver = class {
  constructor(call) {
    this.observe = () => call([{ isIntersecting: true }]);
  }
  disconnect() {}
};

// -- time

let now = 0;
let timers = [];
const begun = (call, ms, every) => {
  const timer = { call, at: now + ms, every };
  timers.push(timer);
  return timer;
};
const ended = (timer) => {
  timers = timers.filter((other) => other !== timer);
};
globalThis.setTimeout = (call, ms) => begun(call, ms, null);
globalThis.setInterval = (call, ms) => begun(call, ms, ms);
globalThis.clearTimeout = globalThis.clearInterval = ended;
Object.defineProperty(globalThis, "performance", { value: { now: () => now } });

/** Until nothing that was promised waits for anything but time, the server or a socket. */
async function settled() {
  for (let turn = 0; turn < 20; turn += 1) await new Promise(setImmediate);
}

/** Let `ms` go by, with all that happens in them. */
export async function pass(ms) {
  const end = now + ms;
  for (;;) {
    await settled();
    const [next] = timers.filter(({ at }) => at <= end).sort((one, other) => one.at - other.at);
    if (!next) break;
    now = next.at;
    if (next.every === null) ended(next);
    else next.at += next.every;
    next.call();
  }
  now = end;
}

// -- the server

/** By "GET v1/streams", what answers: a function of the body that was sent, which gives a Response, or a promise of one. */
export const answers = {};
/** What was asked for, in turn. */
export const asked = [];

globalThis.fetch = async (url, { method = "GET", body } = {}) => {
  const what = `${method} ${new URL(url).pathname.slice(1)}`;
  asked.push(what);
  return answers[what] ? answers[what](body) : new Response(null, { status: 404 });
};

/** How often that was asked for. */
export const times = (what) => asked.filter((other) => other === what).length;

/** An answer that breaks off. */
export const broken = () => new Response(new ReadableStream({ start: (control) => control.error(new TypeError("network error")) }));

/** [promise of an answer, what has it come]. */
export function later(answer) {
  let come;
  const promise = new Promise((resolve) => {
    come = () => resolve(answer());
  });
  return [promise, come];
}

/** Sockets in the order in which they were opened; each has `atMs` and what was `sent` on it. */
export const sockets = [];

globalThis.WebSocket = class extends EventTarget {
  atMs = now;
  sent = [];
  constructor() {
    super();
    sockets.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close() {}
  opened() {
    this.dispatchEvent(new Event("open"));
  }
  hears(message) {
    this.dispatchEvent(Object.assign(new Event("message"), { data: JSON.stringify(message) }));
  }
  ends(code) {
    this.dispatchEvent(Object.assign(new Event("close"), { code }));
  }
};

// -- addresses of pictures

/** Those that were made and not yet revoked. */
export const blobs = new Set();
const made = URL.createObjectURL;
URL.createObjectURL = (blob) => {
  const url = made(blob);
  blobs.add(url);
  return url;
};
URL.revokeObjectURL = (url) => blobs.delete(url);
