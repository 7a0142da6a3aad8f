// What one stream that the server fetches says, over a WebSocket that comes back by itself.
import { followAddress, getKey } from "./api.js";

const BACKOFF_S = [1, 2, 4, 8, 15];
const FOR_GOOD = [4400, 4401, 4404];

export class Follower {
  #id;
  #onResult;
  #socket = null;
  #attempt = 0;
  #timer = null;

  constructor(id, onResult) {
    this.#id = id;
    this.#onResult = onResult;
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
      if (message.type === "ready") this.#attempt = 0;
      if (message.type === "result") this.#onResult(message);
    });
    socket.addEventListener("close", ({ code }) => {
      // What is gone for good is no longer on the list of streams either, which whoever holds this looks at.
      if (socket !== this.#socket || FOR_GOOD.includes(code)) return;
      const waitS = BACKOFF_S[Math.min(this.#attempt, BACKOFF_S.length - 1)];
      this.#attempt += 1;
      this.#timer = setTimeout(() => this.#connect(), waitS * 1000);
    });
  }
}
