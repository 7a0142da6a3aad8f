// What one stream that the server fetches says, over a WebSocket that comes back by itself.
import { followAddress, getKey } from "./api.js";
import { backoffS } from "./backoff.js";

const BACKOFF_S = [1, 2, 4, 8, 15];
const OVER = ["ended", "failed"];

export class Follower {
  #id;
  #onResult;
  #onBack;
  #socket = null;
  #attempt = 0;
  #timer = null;

  /** `onResult(message)` for each; `onBack()` when it hears again of a stream that goes on, after it was cut off, or that has begun anew. */
  constructor(id, { onResult, onBack }) {
    this.#id = id;
    this.#onResult = onResult;
    this.#onBack = onBack;
    this.#connect();
  }

  close() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #connect() {
    const socket = new WebSocket(followAddress(this.#id), "stmixer.v1");
    this.#socket = socket;
    socket.addEventListener("open", () => socket.send(JSON.stringify(getKey() ? { type: "start", api_key: getKey() } : { type: "start" })));
    socket.addEventListener("message", ({ data }) => {
      const message = JSON.parse(data);
      if (socket !== this.#socket) return;
      if (message.type === "ready" && this.#attempt && !OVER.includes(message.pulled.state)) this.#onBack();
      if (message.type === "restarted") this.#onBack(); // with another model, and new numbers for everybody
      if (message.type !== "result") return;
      this.#attempt = 0;
      this.#onResult(message);
    });
    socket.addEventListener("close", () => {
      // Whatever the code: a key may be typed anew, a server come back. What is gone for good leaves the list of streams, at which whoever holds this looks.
      if (socket !== this.#socket) return;
      const waitS = backoffS(BACKOFF_S, this.#attempt);
      this.#attempt += 1;
      this.#timer = setTimeout(() => this.#connect(), waitS * 1000);
    });
  }
}
