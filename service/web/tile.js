// One stream on the wall: its picture, who is in it, how it is.
import { Refused, removeStream, snapshot } from "./api.js";
import { make } from "./dom.js";
import { whoWords } from "./found.js";
import { Follower } from "./follower.js";
import { short, shown } from "./overlay.js";
import { settings } from "./settings.js";
import { freshnessWords, pulledWords } from "./words.js";

// Those of media/draw.py, by which somebody on the list is found in the picture that the server has drawn.
const DRAWN = ["#56b4e9", "#f0be28", "#50c878", "#ff825a", "#d796e6", "#bedc50", "#64dcd7", "#ffa0b9"];
const MOST_PEOPLE = 3;
const LATER_MS = 2000; // until a picture that was refused is asked for again
const SURE_MS = 4000; // for so long a second press removes it

/** The lines of who is in a picture, the surest first; `most` of them. */
export function peopleLines(actors, most = Infinity) {
  const lines = actors.slice(0, most).map((actor) => {
    const swatch = make("i", { className: "swatch" });
    swatch.style.background = DRAWN[(actor.track_id ?? 0) % DRAWN.length];
    return make("li", {}, swatch, make("b", { textContent: whoWords(actor.track_id) }), ` ${actor.actions.map(({ name }) => short(name)).join(", ")}`);
  });
  if (actors.length > most) lines.push(make("li", { className: "hint", textContent: `and ${actors.length - most} more` }));
  return lines;
}

export class Tile {
  element;
  id;
  /** Called when its server is back, by which moving pictures were cut off too; who looks at it large has one. */
  onBack = null;
  #picture = make("img", { alt: "", hidden: true });
  #name = make("h3");
  #dot = make("span", { className: "dot" });
  #state = make("span");
  #fresh = make("span", { className: "fresh" });
  #why = make("p", { className: "why" });
  #people = make("ul", { className: "in-picture" });
  #open;
  #remove;
  #follower;
  #stream;
  #result = null;
  #resultMs = null;
  #visible = false;
  #stale = true;
  #laterMs = 0;
  #watched;
  #sure = null;
  #closed = false;
  #onChange = () => {};

  /** `stream` of GET /v1/streams; `open(tile)` shows it large, `removed()` once it was taken away, `failed(plain)` where that did not work. */
  constructor(stream, { open, removed, failed }) {
    this.id = stream.id;
    this.#open = make("button", { type: "button", className: "look", onclick: () => open(this) }, this.#picture);
    this.#remove = make("button", { type: "button", className: "quiet", textContent: "Remove", onclick: () => this.#pressed(removed, failed) });
    this.element = make(
      "li",
      { className: "tile" },
      this.#open,
      make("div", { className: "tile-head" }, this.#name, this.#remove),
      make("p", { className: "how" }, this.#dot, this.#state, this.#fresh),
      this.#why,
      this.#people,
    );
    this.element.dataset.id = stream.id;
    this.update(stream);
    this.#follower = new Follower(stream.id, { onResult: (result) => this.#arrived(result), onBack: () => this.onBack?.() });
    this.#watched = new IntersectionObserver(([{ isIntersecting }]) => {
      this.#visible = isIntersecting;
    });
    this.#watched.observe(this.element);
  }

  /** What it is called. */
  get name() {
    return this.#stream.pulled.name ?? this.#stream.pulled.url;
  }

  /** The surest people of the newest result, by the thresholds of the settings. */
  get people() {
    return this.#result ? shown(this.#result.actors, settings.values) : [];
  }

  /** [state in words, why or nothing, freshness in words]. */
  get words() {
    const quiet = this.#resultMs === null ? 0 : performance.now() - this.#resultMs;
    const freshness = this.#result ? (this.#result.sent_at_us - this.#result.received_at_us) / 1000 : this.#stream.pulled.freshness_ms;
    return [...pulledWords(this.#stream.pulled), this.#stream.pulled.state === "live" ? freshnessWords(freshness, quiet) : ""];
  }

  /** Called when there is something new of it, with whether that is its people; who looks at it large has one. */
  set onChange(call) {
    this.#onChange = call ?? (() => {});
  }

  /** What the list of streams says of it now. */
  update(stream) {
    // Of a live one now and then without a result too: where those are far apart, or a proxy lets no WebSocket through.
    if (this.#stream?.pulled.state !== stream.pulled.state || stream.pulled.state === "live") this.#stale = true;
    this.#stream = stream;
    this.element.dataset.state = stream.pulled.state;
    this.#name.textContent = this.name;
    this.#name.title = stream.pulled.url;
    this.#open.setAttribute("aria-label", `Open ${this.name} large`);
    if (!this.#sure) this.#remove.setAttribute("aria-label", `Remove ${this.name}`);
    if (stream.pulled.state !== "live" && this.#result) this.#found(null);
    this.tell();
  }

  /** Say how it is, and how old that is. */
  tell() {
    const [state, why, fresh] = this.words;
    this.#dot.dataset.state = { live: "live", ended: "", failed: "error" }[this.#stream.pulled.state] ?? "reconnecting";
    this.#state.textContent = state;
    this.#fresh.textContent = fresh;
    this.#why.textContent = why;
    this.#onChange(false);
  }

  /** `result`, or null where what was found before is of no use any more. */
  #found(result) {
    this.#result = result;
    const lines = peopleLines(this.people, MOST_PEOPLE);
    this.#people.replaceChildren(...(lines.length || !result ? lines : [make("li", { className: "hint", textContent: "Nobody" })]));
    this.#onChange(true);
  }

  /** Whether a newer picture could be had that somebody would see. */
  get wantsPicture() {
    return this.#stale && this.#visible && this.#stream.pulled.frame !== null && performance.now() >= this.#laterMs;
  }

  /** Fetch it. Raises nothing: the list of streams says what is wrong. */
  async refresh() {
    this.#stale = false;
    try {
      const picture = await snapshot(this.id);
      if (this.#closed) return; // nobody would revoke it
      const before = this.#picture.src;
      this.#picture.src = URL.createObjectURL(picture);
      this.#picture.hidden = false;
      if (before) URL.revokeObjectURL(before);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.#stale = true;
      this.#laterMs = performance.now() + LATER_MS;
    }
  }

  /** The picture that it shows, or an empty address. */
  get picture() {
    return this.#picture.src;
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#sure);
    this.#follower.close();
    this.#watched.disconnect();
    if (this.#picture.src) URL.revokeObjectURL(this.#picture.src);
    this.element.remove();
  }

  #arrived(result) {
    this.#resultMs = performance.now();
    this.#stale = true;
    this.#found(result);
  }

  async #pressed(removed, failed) {
    if (!this.#sure) {
      this.#remove.textContent = "Really remove?";
      this.#remove.setAttribute("aria-label", `Really remove ${this.name}?`);
      this.#sure = setTimeout(() => this.#unsure(), SURE_MS);
      return;
    }
    this.#unsure();
    this.#remove.disabled = true;
    try {
      await removeStream(this.id);
      removed();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.#remove.disabled = false;
      failed(error.plain);
    }
  }

  #unsure() {
    clearTimeout(this.#sure);
    this.#sure = null;
    this.#remove.textContent = "Remove";
    this.#remove.setAttribute("aria-label", `Remove ${this.name}`);
  }
}
