// Boxes and labels over a <video>, in the place where the picture really is.

const COLOURS = ["#5eead4", "#fbbf24", "#93c5fd", "#f9a8d4", "#bef264", "#fdba74", "#c4b5fd", "#fca5a5"];

/** A track keeps its colour; without tracks everyone shares one, so that no colour claims an identity. */
export const colourOf = (actor) => (actor.track_id == null ? COLOURS[0] : COLOURS[Math.abs(actor.track_id) % COLOURS.length]);

/** The actors and their actions that the settings let through, surest first; of an action what the person has been doing, not one keyframe's word. */
export function shown(actors, { score_threshold, action_threshold, top_k }) {
  return actors
    .filter((actor) => actor.person_score >= score_threshold)
    .sort((a, b) => b.person_score - a.person_score)
    .map((actor) => ({
      ...actor,
      actions: actor.actions
        .map((action) => ({ ...action, score: action.smoothed ?? action.score }))
        .filter((action) => action.score >= action_threshold)
        .sort((a, b) => b.score - a.score)
        .slice(0, top_k),
    }));
}

/** The nearer keyframe's actors; somebody who is on both, by `track_id`, a `share` of the way from the first to the second. */
export function between(first, second, share) {
  const [here, there] = share <= 0.5 ? [first, second] : [second, first];
  return here.map((actor) => {
    const other = actor.track_id == null ? undefined : there.find(({ track_id }) => track_id === actor.track_id);
    if (!other) return { ...actor };
    const [from, to] = share <= 0.5 ? [actor.box, other.box] : [other.box, actor.box];
    return { ...actor, box: from.map((start, side) => start + share * (to[side] - start)) };
  });
}

/** Examples in a label's name help to choose it, not to read it over a picture: "talk to (e.g., self, …)" → "talk to". */
export const short = (name) => name.replace(/ \(e\.g\.[^)]*\)$/, "");

const overlaps = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

export class Overlay {
  #canvas;
  #video;
  #pen;
  #size = { w: 0, h: 0 };

  /** `onResize` is called when what was drawn is gone because the stage changed its size. */
  constructor(canvas, video, onResize) {
    this.#canvas = canvas;
    this.#video = video;
    this.#pen = canvas.getContext("2d");
    new ResizeObserver(() => {
      this.#resize();
      onResize();
    }).observe(canvas);
    video.addEventListener("resize", onResize);
    this.#resize();
  }

  clear() {
    this.#pen.clearRect(0, 0, this.#size.w, this.#size.h);
  }

  /** Draws what `shown` returned, over what was there. `alpha` 0 to 1; `mirror` flips places, never letters. */
  draw(actors, { alpha = 1, mirror = false } = {}) {
    this.clear();
    const picture = this.#picture();
    if (!picture || alpha <= 0) return;
    this.#pen.globalAlpha = alpha;
    const frames = actors.map((actor) => this.#place(actor, picture, mirror));
    frames.forEach((frame, index) => this.#box(frame, colourOf(actors[index])));
    const taken = [];
    actors.forEach((actor, index) => this.#label(actor, frames[index], taken));
    this.#pen.globalAlpha = 1;
  }

  #resize() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: w, clientHeight: h } = this.#canvas;
    this.#size = { w, h };
    this.#canvas.width = Math.round(w * ratio);
    this.#canvas.height = Math.round(h * ratio);
    this.#pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  /** Where object-fit: contain puts the picture, in CSS pixels; null before there is one. */
  #picture() {
    const { videoWidth, videoHeight } = this.#video;
    if (!videoWidth || !this.#size.w) return null;
    const scale = Math.min(this.#size.w / videoWidth, this.#size.h / videoHeight);
    const [w, h] = [videoWidth * scale, videoHeight * scale];
    return { x: (this.#size.w - w) / 2, y: (this.#size.h - h) / 2, w, h };
  }

  #place({ box: [x1, y1, x2, y2] }, picture, mirror) {
    const left = mirror ? 1 - x2 : x1;
    return { x: picture.x + left * picture.w, y: picture.y + y1 * picture.h, w: (x2 - x1) * picture.w, h: (y2 - y1) * picture.h };
  }

  #box({ x, y, w, h }, colour) {
    const pen = this.#pen;
    pen.lineJoin = "round";
    // A dark line under the bright one: readable on snow as at night.
    for (const [width, style] of [[4.5, "rgba(0, 0, 0, 0.55)"], [2, colour]]) {
      pen.lineWidth = width;
      pen.strokeStyle = style;
      pen.strokeRect(x, y, w, h);
    }
  }

  /** Above the box, else inside its top, else below, flush left or right; in a crowd the less sure go without rather than cover others. */
  #label(actor, frame, taken) {
    const pen = this.#pen;
    const narrow = this.#size.w < 480;
    const font = narrow ? 11 : 13;
    const line = font + 5;
    const [padX, padY] = [7, 4];
    const who = actor.track_id == null ? "person" : `person ${actor.track_id}`;
    const rows = [[who, actor.person_score], ...actor.actions.map(({ name, score }) => [short(name), score])];
    pen.textBaseline = "middle";

    for (const count of new Set([rows.length, Math.min(rows.length, 2), 1])) {
      pen.font = `600 ${font}px system-ui, sans-serif`;
      const widest = Math.max(...rows.slice(0, count).map(([name]) => pen.measureText(name).width));
      const scoreWidth = pen.measureText("0.00").width;
      const w = widest + scoreWidth + 3 * padX;
      const h = count * line + 2 * padY;
      const inside = (x) => Math.min(Math.max(x, 0), Math.max(this.#size.w - w, 0));
      const columns = [inside(frame.x - 1), inside(frame.x + frame.w + 1 - w)];
      const places = [frame.y - h - 3, frame.y + 3, frame.y + frame.h + 3].flatMap((y) => columns.map((x) => ({ x, y, w, h })));
      const place = places.find((spot) => spot.y >= 0 && spot.y + h <= this.#size.h && !taken.some((other) => overlaps(spot, other)));
      if (!place) continue;
      taken.push(place);
      this.#writeLabel(place, rows.slice(0, count), { font, line, padX, padY, colour: colourOf(actor) });
      return;
    }
  }

  #writeLabel({ x, y, w, h }, rows, { font, line, padX, padY, colour }) {
    const pen = this.#pen;
    pen.fillStyle = "rgba(10, 13, 15, 0.82)";
    pen.beginPath();
    pen.roundRect(x, y, w, h, 4);
    pen.fill();
    rows.forEach(([name, score], row) => {
      const middle = y + padY + (row + 0.5) * line;
      pen.font = `${row ? 600 : 500} ${font}px system-ui, sans-serif`;
      pen.fillStyle = row ? "#fff" : colour;
      pen.textAlign = "left";
      pen.fillText(name, x + padX, middle);
      pen.textAlign = "right";
      pen.fillText(score.toFixed(2), x + w - padX, middle);
    });
    pen.textAlign = "left";
  }
}
