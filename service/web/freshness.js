// How old the picture behind the boxes is, and where that time went.
import { byId, make } from "./dom.js";

const STAGES = ["decode", "queue", "inference", "postprocess", "lookahead"];
const NAMES = { lookahead: "look-ahead", postprocess: "finish", rest: "network, drawing" };
const RATE_WINDOW_MS = 4000;
const STALE_MS = 2500;

export class Freshness {
  #arrivals = [];
  #readyMs = 0;
  #dropped = 0;
  #unsent = 0;
  #segments = {};
  #values = {};

  constructor() {
    const stages = [...STAGES, "rest"];
    for (const stage of stages) {
      this.#segments[stage] = make("i", { className: `stage-${stage}` });
      this.#values[stage] = make("dd", { textContent: "–" });
    }
    byId("timings").replaceChildren(...stages.map((stage) => this.#segments[stage]));
    byId("timings-legend").replaceChildren(
      ...stages.map((stage) =>
        make("div", {}, make("dt", {}, make("i", { className: `stage-${stage}` }), NAMES[stage] ?? stage), this.#values[stage]),
      ),
    );
    this.reset();
  }

  /** Forgets everything: another stream. */
  reset() {
    this.#dropped = 0;
    this.#unsent = 0;
    byId("dropped").textContent = "0";
    byId("unsent").textContent = "0";
    byId("age").textContent = "–";
    for (const stage of Object.keys(this.#values)) {
      this.#values[stage].textContent = "–";
      this.#segments[stage].style.flexGrow = 0;
    }
    this.ready();
  }

  /** The stream is live, again or for the first time: rates count from here. */
  ready() {
    this.#arrivals = [];
    this.#readyMs = performance.now();
    byId("rate").textContent = "–";
  }

  /** A frame the line had no room for. */
  unsent() {
    this.#unsent += 1;
    byId("unsent").textContent = this.#unsent.toLocaleString("en");
  }

  arrived(result) {
    this.#arrivals.push(performance.now());
    const lost = result.dropped_since_last ?? 0;
    const counts = typeof lost === "object" ? Object.values(lost) : [lost];
    this.#dropped += counts.reduce((sum, count) => sum + count, 0);
    byId("dropped").textContent = this.#dropped.toLocaleString("en");
    this.#rate();
  }

  /** The boxes of `result` have just become visible, `ageMs` after their picture was taken. */
  drawn(result, ageMs) {
    const age = Math.max(0, ageMs);
    byId("age").textContent = Math.round(age).toLocaleString("en");
    const timings = { ...result.timings_ms };
    const known = STAGES.reduce((sum, stage) => sum + (timings[stage] ?? 0), 0);
    timings.rest = Math.max(0, age - known);
    for (const [stage, value] of Object.entries(this.#values)) {
      const ms = timings[stage] ?? 0;
      value.textContent = `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
      this.#segments[stage].style.flexGrow = ms;
    }
  }

  /** Called a few times a second. Returns how long the last answer has been due, in ms, or 0 while all is well. */
  tick() {
    this.#rate();
    const quiet = performance.now() - (this.#arrivals.at(-1) ?? this.#readyMs);
    return quiet > STALE_MS ? quiet : 0;
  }

  #rate() {
    const now = performance.now();
    // The newest stays, to know for how long nothing has come.
    while (this.#arrivals.length > 1 && this.#arrivals[0] < now - RATE_WINDOW_MS) this.#arrivals.shift();
    const seconds = Math.min(RATE_WINDOW_MS, now - this.#readyMs) / 1000;
    const recent = this.#arrivals.filter((at) => at >= now - RATE_WINDOW_MS).length;
    if (seconds >= 1) byId("rate").textContent = `${(recent / seconds).toFixed(1)} a second`;
  }
}
