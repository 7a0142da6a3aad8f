// A strip under the video: a mark per keyframe, taller with more people. A slider to keyboard and screen reader.
import { byId, clock } from "./dom.js";

const INSET = 6; // so that the first and the last mark are whole

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

export class Timeline {
  #canvas = byId("timeline");
  #seek;
  #marks = [];
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

  /** `marks`: [{seconds, people}], ascending. */
  show(marks, durationS) {
    this.#marks = marks;
    this.#durationS = Math.max(durationS, marks.at(-1)?.seconds ?? 0);
    this.#canvas.setAttribute("aria-valuemax", this.#durationS.toFixed(1));
    this.at(this.#nowS);
  }

  at(seconds) {
    this.#nowS = seconds;
    const mark = this.#marks.findLast((each) => each.seconds <= seconds + 0.01);
    const people = mark?.people ?? 0;
    this.#canvas.setAttribute("aria-valuenow", seconds.toFixed(1));
    this.#canvas.setAttribute("aria-valuetext", `${clock(seconds)}, ${people} ${people === 1 ? "person" : "people"}`);
    this.#draw();
  }

  #seekTo(event) {
    if (!this.#durationS) return;
    const { left, width } = this.#canvas.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - left - INSET) / (width - 2 * INSET)));
    this.#seek(share * this.#durationS);
  }

  #key(event) {
    const next = this.#marks.find((mark) => mark.seconds > this.#nowS + 0.01);
    const previous = this.#marks.findLast((mark) => mark.seconds < this.#nowS - 0.01);
    const targets = {
      ArrowRight: next,
      ArrowUp: next,
      ArrowLeft: previous,
      ArrowDown: previous,
      Home: this.#marks[0],
      End: this.#marks.at(-1),
    };
    if (!(event.key in targets)) return;
    event.preventDefault();
    if (targets[event.key]) this.#seek(targets[event.key].seconds);
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
    const x = (seconds) => INSET + (seconds / this.#durationS) * (w - 2 * INSET);
    const most = Math.max(1, ...this.#marks.map((mark) => mark.people));
    const width = Math.max(1, Math.min(6, ((w - 2 * INSET) / Math.max(1, this.#marks.length)) * 0.6));
    const [some, nobody] = [colour("--accent"), colour("--faint")];
    for (const { seconds, people } of this.#marks) {
      const height = people ? 8 + (people / most) * (h - 14) : 3;
      pen.fillStyle = people ? some : nobody;
      pen.fillRect(x(seconds) - width / 2, h - height, width, height);
    }
    pen.fillStyle = colour("--text");
    pen.fillRect(x(Math.min(this.#nowS, this.#durationS)) - 1, 0, 2, h);
  }
}
