// One camera stream over WebSocket stmixer.v1: start, ready, frames out, results in, and back again when the line drops.
import { getKey, streamAddress, whyNotReady } from "./api.js";
import { askedS, backoffS } from "./backoff.js";
import { closeWords, noticeWords } from "./words.js";

const BACKOFF_S = [0.5, 1, 2, 4, 8];
const BUSY_WAIT_S = 5;
const SUMMARY_WAIT_MS = 4000;
const JAM_MS = 10_000;

export class LiveStream {
  #options;
  #on;
  #socket = null;
  #ready = null;
  #token = null;
  #tokenUntilMs = 0;
  #session = null;
  #firstUs = null;
  #ended = false;
  #attempt = 0;
  #timer = null;
  #lastError = null;
  #frameBytes = 64 * 1024;
  #jammedSinceMs = null;
  #stopped = null;

  /**
   * `options` are the fields of `start`. Handlers: state(name, text), ready(message, isNew), result(message, captureMs),
   * event(event), notice(text), refused(plain), tooLarge().
   */
  constructor(options, handlers) {
    this.#options = options;
    this.#on = handlers;
  }

  connect() {
    this.#on.state("connecting", this.#attempt ? "Connecting again" : "Connecting");
    this.#lastError = null;
    const socket = new WebSocket(streamAddress(this.#goodToken), "stmixer.v1");
    this.#socket = socket;
    let opened = false;
    socket.addEventListener("open", () => {
      opened = true;
      socket.send(JSON.stringify(this.#startMessage()));
    });
    socket.addEventListener("message", ({ data }) => {
      if (socket === this.#socket) this.#take(JSON.parse(data));
    });
    socket.addEventListener("close", ({ code }) => {
      if (socket === this.#socket) this.#closed(code, opened);
    });
  }

  get ready() {
    return this.#ready !== null && !this.#ended;
  }

  /** Whether a frame sent now would have to wait. It would be old when it left, so it had better not be sent. */
  get jammed() {
    if (!this.#ready || this.#socket.bufferedAmount <= 2 * this.#frameBytes) {
      this.#jammedSinceMs = null;
      return false;
    }
    this.#jammedSinceMs ??= performance.now();
    // A line that stays full is dead, and no close event would ever tell.
    if (performance.now() - this.#jammedSinceMs > JAM_MS) this.#closed(1006, true);
    return true;
  }

  /** Sends one JPEG taken at `captureUs` (µs of performance.now). */
  send(jpeg, captureUs) {
    if (!this.ready) return;
    if (jpeg.size + 8 > (this.#ready.max_frame_bytes ?? Infinity)) {
      this.#on.tooLarge();
      return;
    }
    const prefix = new DataView(new ArrayBuffer(8));
    prefix.setBigUint64(0, BigInt(captureUs), true);
    this.#socket.send(new Blob([prefix, jpeg]));
    this.#frameBytes = jpeg.size;
    this.#firstUs ??= captureUs;
  }

  /** The number by which the service knows it, or null while there is none. */
  get id() {
    return this.#session;
  }

  /** Has it have these, of which the service knows already, where it begins anew. */
  keepRules(rules) {
    this.#options.rules = rules;
  }

  update(fields) {
    Object.assign(this.#options, fields);
    if (this.#ready) this.#socket.send(JSON.stringify({ type: "update", ...fields }));
  }

  /** Ends the stream; resolves to its summary, or null if none came in time. */
  stop() {
    this.#ended = true;
    clearTimeout(this.#timer);
    if (!this.#ready) {
      this.#drop();
      return Promise.resolve(null);
    }
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#stopped(null), SUMMARY_WAIT_MS);
      this.#stopped = (summary) => {
        clearTimeout(timer);
        this.#drop();
        resolve(summary);
      };
      this.#socket.send(JSON.stringify({ type: "stop" }));
    });
  }

  /** What brings us back to our stream; null where it is there no more, and any replica may take us. */
  get #goodToken() {
    return this.#token && Date.now() < this.#tokenUntilMs ? this.#token : null;
  }

  #startMessage() {
    const start = { type: "start", codec: "jpeg", policy: "latest", timestamps: "prefix", lookahead_ms: 0, ...this.#options };
    if (this.#goodToken) start.resume_token = this.#goodToken;
    if (getKey()) start.api_key = getKey();
    return start;
  }

  #take(message) {
    if (this.#ended && message.type !== "summary") return;
    switch (message.type) {
      case "ready": {
        // Another session has another t = 0; a resumed one keeps its first frame's.
        const isNew = message.session_id !== this.#session && message.resume_token !== this.#token;
        if (isNew) this.#firstUs = null;
        this.#ready = message;
        this.#session = message.session_id;
        this.#token = message.resume_token ?? null;
        this.#attempt = 0;
        this.#on.ready(message, isNew);
        this.#on.state("live", "Live");
        break;
      }
      case "result":
        this.#lastError = null; // the stream outlived it, so it will not be why the stream ends
        this.#on.result(message, (this.#firstUs + message.pts_us) / 1000);
        break;
      case "event":
        this.#on.event(message.event);
        break;
      case "summary":
        this.#stopped?.(message.summary ?? message);
        break;
      case "error":
        this.#lastError = message;
        this.#on.notice(noticeWords(message));
        break;
      case "warning":
      case "status":
        if (message.code === "model_changed") this.#token = null; // what it is for ends now
        if (message.code ?? message.detail ?? message.message) this.#on.notice(noticeWords(message));
        break;
      case "goaway":
        this.#on.notice("The server is about to restart; the picture comes back by itself");
        break;
    }
  }

  async #closed(code, opened) {
    if (this.#stopped) {
      this.#stopped(null);
      return;
    }
    const wasReady = this.#ready !== null;
    if (wasReady) this.#tokenUntilMs = Date.now() + (this.#ready.resume_ttl_s ?? 0) * 1000;
    // A server that answered and yet did not make it ready will not know the token better next time.
    else if (opened) this.#token = null;
    this.#drop();
    const plain = closeWords(code, this.#lastError);
    if (!opened && code === 1006) Object.assign(plain, await whyNotReady());
    if (this.#ended) return; // while we asked why
    if (plain.next === "never" || plain.key) this.#on.refused(plain);
    else if (plain.next === "visible") this.#whenVisible(plain);
    else this.#again(plain, plain.retryAfterS ?? (plain.next === "wait" ? (this.#lastError?.retry_after_s ?? BUSY_WAIT_S) : null));
  }

  #again(plain, waitS) {
    const delayS = waitS === null ? backoffS(BACKOFF_S, this.#attempt) : askedS(waitS);
    this.#attempt += 1;
    let leftS = Math.ceil(delayS);
    const tell = () => this.#on.state("reconnecting", `${plain.title}; trying again${leftS > 1 ? ` in ${leftS} s` : ""}`);
    const tick = () => {
      leftS -= 1;
      if (leftS <= 0) this.connect();
      else {
        tell();
        this.#timer = setTimeout(tick, 1000);
      }
    };
    tell();
    this.#timer = setTimeout(tick, (delayS - Math.max(0, leftS - 1)) * 1000);
  }

  // A hidden tab gets no camera frames, so coming back to it is all it takes. In plain sight the camera is at fault.
  #whenVisible(plain) {
    if (!document.hidden) {
      this.#on.refused(plain);
      return;
    }
    this.#on.state("reconnecting", "Paused while this tab is in the background");
    const back = () => {
      document.removeEventListener("visibilitychange", back);
      if (!this.#ended && this.#socket === null) this.connect();
    };
    document.addEventListener("visibilitychange", back);
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.#ready = null;
    this.#jammedSinceMs = null;
    socket?.close();
  }
}
