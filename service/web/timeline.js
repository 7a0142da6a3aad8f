// A strip under the video: a lane for each thing that somebody does, a bar for each time. A slider to keyboard and screen reader.
import { byId, clock } from "./dom.js";

const INSET = 8;
const LANE = 22;
const MOST_LANES = 8;
const FONT = "12px system-ui, sans-serif";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

export class Timeline {
  #canvas = byId("timeline");
  #seek;
  #moments = [];
  #lanes = [];
  #durationS = 0;
  #nowS = 0;

  /** `seek(seconds)` is called for clicks, drags and arrow keys. */
  constructor(seek) {
    this.#seek = seek;
    new ResizeObserver(() => this.#draw()).observe(this.#canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    this.#canvas.addEventListener("pointerdown", (event) => {
      this.#canvas.setPointerCapture(event.pointerId);
      this.#seekTo(event);
    });
    this.#canvas.addEventListener("pointermove", (event) => event.buttons && this.#seekTo(event));
    this.#canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  /** `moments`: seconds that were looked at, ascending. `lanes`: [{who, what, colour, spans: [{from, to}]}], of which the first few are shown. */
  show(moments, lanes, durationS) {
    this.#moments = moments;
    this.#lanes = lanes.slice(0, MOST_LANES);
    this.#durationS = Math.max(durationS, moments.at(-1) ?? 0);
    this.#canvas.style.height = `${Math.max(2, this.#lanes.length) * LANE + 12}px`;
    this.#canvas.setAttribute("aria-valuemax", this.#durationS.toFixed(1));
    this.at(this.#nowS);
  }

  at(seconds) {
    this.#nowS = seconds;
    const now = this.#lanes.filter(({ spans }) => spans.some(({ from, to }) => from <= seconds + 0.01 && seconds <= to + 0.01));
    const text = now.map(({ who, what }) => (what ? `${who} ${what}` : who)).join(", ");
    this.#canvas.setAttribute("aria-valuenow", seconds.toFixed(1));
    this.#canvas.setAttribute("aria-valuetext", `${clock(seconds)}, ${text || "nobody"}`);
    this.#draw();
  }

  #seekTo(event) {
    if (!this.#durationS) return;
    const { left, width } = this.#canvas.getBoundingClientRect();
    const start = this.#labelWidth(width);
    const share = Math.min(1, Math.max(0, (event.clientX - left - start) / (width - start - INSET)));
    this.#seek(share * this.#durationS);
  }

  #key(event) {
    const next = this.#moments.find((seconds) => seconds > this.#nowS + 0.01);
    const previous = this.#moments.findLast((seconds) => seconds < this.#nowS - 0.01);
    const targets = {
      ArrowRight: next,
      ArrowUp: next,
      ArrowLeft: previous,
      ArrowDown: previous,
      Home: this.#moments[0],
      End: this.#moments.at(-1),
    };
    if (!(event.key in targets)) return;
    event.preventDefault();
    if (targets[event.key] !== undefined) this.#seek(targets[event.key]);
  }

  /** Where time begins, px: right of the names. */
  #labelWidth(width) {
    const pen = this.#canvas.getContext("2d");
    pen.font = FONT;
    const widest = Math.max(0, ...this.#lanes.map((lane) => pen.measureText(words(lane)).width));
    return Math.min(INSET + widest + 12, width * 0.4);
  }

  #draw() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: w, clientHeight: h } = this.#canvas;
    if (!w) return;
    this.#canvas.width = Math.round(w * ratio);
    this.#canvas.height = Math.round(h * ratio);
    const pen = this.#canvas.getContext("2d");
    pen.scale(ratio, ratio);
    if (!this.#durationS) return;
    const start = this.#labelWidth(w);
    const x = (seconds) => start + (seconds / this.#durationS) * (w - start - INSET);
    pen.font = FONT;
    pen.textBaseline = "middle";
    this.#lanes.forEach((lane, at) => {
      const middle = 6 + (at + 0.5) * LANE;
      pen.fillStyle = colour("--track");
      pen.fillRect(x(0), middle - 6, x(this.#durationS) - x(0), 12);
      pen.save();
      pen.beginPath();
      pen.rect(0, middle - LANE / 2, start - 8, LANE);
      pen.clip();
      pen.fillStyle = colour("--text");
      pen.fillText(words(lane), INSET, middle);
      pen.restore();
      for (const { from, to } of lane.spans) {
        pen.fillStyle = lane.colour;
        pen.strokeStyle = colour("--edge");
        pen.beginPath();
        pen.roundRect(x(from), middle - 6, Math.max(4, x(to) - x(from)), 12, 3);
        pen.fill();
        pen.stroke();
      }
    });
    pen.fillStyle = colour("--text");
    pen.fillRect(x(Math.min(this.#nowS, this.#durationS)) - 1, 0, 2, h);
  }
}

const words = ({ who, what }) => (what ? `${who} · ${what}` : who);
