// Upload mode: a file goes up, keyframes come back one by one, and the local file plays with their boxes.
import { Refused, detect, draw } from "./api.js";
import { byId, clock, download, make, refill } from "./dom.js";
import { Seen, csv, whoWords } from "./found.js";
import { between, colourOf, shown } from "./overlay.js";
import { settings } from "./settings.js";
import { hideMessage, notice, remember, setActions, setMode, setProgress, setState, showMessage } from "./stage.js";
import { Timeline } from "./timeline.js";
import { nobodyWords, summaryWords } from "./words.js";

// All that the sliders may ask for later comes with the first answer.
const ALL_ACTIONS = { top_k: 10, action_threshold: 0 };
const SPANS_SHOWN = 6;
const DRAWN_ACTIONS = 3; // of a person, in the server's video

const named = (actor) => ({ ...actor, actions: actor.actions.slice(0, DRAWN_ACTIONS) });

export class Upload {
  #overlay;
  #leave;
  #onModel;
  #video = byId("video");
  #timeline = new Timeline((seconds) => this.#seek(seconds));
  #file = null;
  #url = null;
  #abort = null;
  #results = [];
  #end = null;
  #hz = 1;
  #refresh = null;
  // A browser that cannot play the file still lists what was found; the server's own video has its boxes drawn in.
  #playable = true;
  #offered = false;
  #drawnIn = false;
  #plays = false;
  #rows = [];

  /** `leave()` goes back to the choices; `onModel({name, trained})` when the server names its model. */
  constructor(overlay, { leave, onModel }) {
    this.#overlay = overlay;
    this.#leave = leave;
    this.#onModel = onModel;
    settings.addEventListener("change", () => this.#file && this.#show());
    for (const event of ["seeked", "pause", "loadeddata"]) this.#video.addEventListener(event, () => this.redraw());
    this.#video.addEventListener("durationchange", () => this.#file && this.#show());
    this.#video.addEventListener("play", () => this.#follow());
    this.#video.addEventListener("error", () => this.#file && this.#unplayable());
    byId("download-json").addEventListener("click", () => this.#downloadJson());
    byId("download-table").addEventListener("click", () => download(new Blob([csv(this.#rows)], { type: "text/csv" }), this.#name("csv")));
    byId("download-mp4").addEventListener("click", () => this.#annotated((video) => download(video, this.#name("boxes.mp4"))));
  }

  /** `credit`: whose video it is, in words; `plays`: by itself, once the answer is there. */
  async start(file, { credit = "", plays = false } = {}) {
    this.close();
    setMode("upload");
    byId("credit").textContent = credit;
    this.#plays = plays;
    this.#file = file;
    this.#hz = settings.values.keyframe_hz;
    this.#results = [];
    this.#end = null;
    this.#playable = true;
    this.#offered = false;
    this.#play(URL.createObjectURL(file));
    this.#show();
    byId("downloads").hidden = byId("upload-counts").hidden = true;
    byId("upload-notes").replaceChildren();
    await this.#detect();
  }

  /** Cancels what runs and lets go of the file. */
  close() {
    this.#abort?.abort();
    this.#abort = this.#file = null;
    this.#drawnIn = false;
    if (!this.#url) return;
    this.#video.removeAttribute("src");
    this.#video.controls = false;
    this.#video.load();
    URL.revokeObjectURL(this.#url);
    this.#url = null;
    this.#overlay.clear();
  }

  /** Draws who is where in what the video shows. */
  redraw() {
    if (!this.#file) return;
    const now = this.#video.currentTime;
    this.#timeline.at(now);
    const actors = this.#drawnIn ? null : this.#actorsAt(now);
    if (actors) this.#overlay.draw(actors);
    else this.#overlay.clear();
  }

  /** Who is where at a moment, on their way between two keyframes; null where there is no answer (yet). */
  #actorsAt(seconds) {
    const periodS = 1.01 / this.#hz;
    const after = this.#results.findIndex((result) => result.pts_us / 1e6 > seconds);
    const before = after < 0 ? this.#results.length - 1 : after - 1;
    const [one, other] = [this.#results[before], after < 0 ? undefined : this.#results[after]];
    const actors = (result) => shown(result.actors, settings.values);
    const isNear = (result) => result && Math.abs(result.pts_us / 1e6 - seconds) <= periodS;
    const alike = one && other && one.frame.width === other.frame.width && one.frame.height === other.frame.height;
    if (alike && isNear(one) && isNear(other)) {
      const share = (seconds * 1e6 - one.pts_us) / (other.pts_us - one.pts_us);
      return between(actors(one), actors(other), share);
    }
    const near = [one, other].filter(isNear);
    const distance = (result) => Math.abs(result.pts_us / 1e6 - seconds);
    return near.length ? actors(near.reduce((best, result) => (distance(best) <= distance(result) ? best : result))) : null;
  }

  async #detect() {
    const file = this.#file;
    const abort = (this.#abort = new AbortController());
    const { keyframe_hz, score_threshold } = settings.values;
    setState("uploading", "Sending the video");
    setProgress(0);
    setActions({ label: "Cancel", run: () => this.#leave() });
    try {
      await detect(file, {
        options: { keyframe_hz, score_threshold, ...ALL_ACTIONS },
        signal: abort.signal,
        onUpload: (share) => this.#sent(share),
        onLine: (line) => this.#line(line),
      });
      if (!this.#end) throw new Refused({ title: "The answer ended early", detail: "What it found until then is listed." });
      this.#finish();
    } catch (error) {
      if (error.name !== "AbortError") this.#fail(error);
    }
  }

  #sent(share) {
    setProgress(share);
    if (share < 1) setState("uploading", `Sending the video, ${Math.floor(share * 100)} %`);
    else setState("working", "Looking at the first pictures");
  }

  #line(line) {
    if (line.actors) {
      this.#results.push(line);
      remember(line);
      this.#progress();
      // Keyframes can come faster than the page should be laid out.
      this.#refresh ??= setTimeout(() => this.#show(), 150);
    } else if (line.summary) {
      this.#end = line;
      this.#onModel({ name: line.model?.name ?? line.model, trained: line.trained });
    } else if (line.code) {
      throw new Refused({ title: "The server could not finish this video", detail: "What it found until then is listed.", technical: `${line.title ?? line.code}` });
    }
  }

  #progress() {
    const lookedS = this.#results.at(-1).pts_us / 1e6;
    const durationS = this.#durationS();
    if (durationS) setProgress(Math.min(1, lookedS / durationS));
    setState("working", `Looked at ${clock(lookedS)}${durationS ? ` of ${clock(durationS)}` : ""}`);
  }

  #finish() {
    setProgress(null);
    setState("done", "Done");
    this.#show();
    const warnings = (this.#end.warnings ?? []).map((each) => each.detail ?? each.message ?? each.title ?? each);
    const items = (lines) => lines.map((text) => make("li", { textContent: text }));
    byId("upload-notes").replaceChildren(...items(warnings.map((text) => `Note: ${text}`)));
    byId("upload-summary").replaceChildren(...items(summaryWords(this.#end.summary)));
    byId("downloads").hidden = byId("upload-counts").hidden = false;
    byId("download-mp4").hidden = !this.#results.length; // nothing to draw
    this.#idleActions();
    if (this.#plays && this.#playable) this.#video.play().catch(() => {}); // a browser may want a click first
  }

  #idleActions() {
    setActions({ label: "Look again", run: () => this.#again() }, { label: "Close", run: () => this.#leave() });
  }

  #fail(error) {
    const plain = error instanceof Refused ? error.plain : { title: "Something on this page went wrong", detail: "Try again.", technical: String(error) };
    setProgress(null);
    setState("error", plain.title);
    setActions();
    this.#show();
    const again = () => this.#again();
    showMessage(plain, {
      actions: [
        ...(plain.key ? [] : [{ label: "Try again", run: again, primary: true }]),
        ...(this.#results.length ? [{ label: "Show what was found", run: () => this.#keep() }] : []),
        { label: "Back", run: () => this.#leave() },
      ],
      withKey: again,
    });
  }

  #again() {
    return this.start(this.#file, { credit: byId("credit").textContent, plays: this.#plays });
  }

  /** An answer that broke off is still worth looking at; it only cannot be downloaded as if it were whole. */
  #keep() {
    hideMessage();
    this.#idleActions();
  }

  #unplayable() {
    if (this.#drawnIn) {
      notice("Your browser cannot play the server's copy either; download it instead");
      return;
    }
    this.#playable = false;
    this.#show();
  }

  #play(url) {
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = url;
    this.#video.controls = true;
    this.#video.src = url;
  }

  #show() {
    clearTimeout(this.#refresh);
    this.#refresh = null;
    const frames = this.#results.map((result) => ({ seconds: result.pts_us / 1e6, actors: shown(result.actors, settings.values) }));
    const seen = new Seen(1 / this.#hz);
    for (const { seconds, actors } of frames) seen.add(seconds, actors);
    this.#rows = seen.rows();
    const lanes = seen.people().flatMap(({ id, from, to, actions }) =>
      (actions.length ? actions : [{ name: "", spans: [{ from, to }] }]).map(({ name, spans }) => ({
        who: whoWords(id),
        what: name,
        colour: colourOf({ track_id: id }),
        spans,
      })),
    );
    this.#timeline.show(frames.map(({ seconds }) => seconds), lanes, this.#durationS());
    this.#list(seen.people(), frames);
    this.redraw();
    // Not before the server has read it: a file that neither can is the server's to explain.
    if (!this.#playable && !this.#offered && this.#end && frames.length) this.#offer();
  }

  #list(people, frames) {
    refill(byId("found"), ...people.map((person) => this.#person(person)));
    byId("found-hint").textContent = people.some(({ actions }) => actions.length) ? "" : this.#nothingWords(frames);
  }

  #person({ id, from, to, best, actions }) {
    const swatch = make("i", { className: "swatch" });
    swatch.style.background = colourOf({ track_id: id });
    const head = make("p", { className: "who" }, swatch, whoWords(id), make("b", { textContent: best.toFixed(2) }));
    const done = actions.map(({ name, best, spans }) => {
      const more = spans.length - SPANS_SHOWN;
      const times = spans.slice(0, SPANS_SHOWN).map((span) => this.#time(`${id} ${name}`, span));
      return make("li", {}, make("p", {}, name, make("b", { textContent: best.toFixed(2) })), ...times, more > 0 ? ` and ${more} more` : "");
    });
    const there = make("li", {}, make("p", { textContent: "was there" }), this.#time(`${id}`, { from, to }));
    return make("li", {}, head, make("ul", {}, ...(done.length ? done : [there])));
  }

  #time(what, { from, to }) {
    const text = clock(from) === clock(to) ? clock(from) : `${clock(from)}–${clock(to)}`;
    const button = make("button", { type: "button", className: "time", textContent: text, title: "Go there", onclick: () => this.#seek(from) });
    button.dataset.key = `${what} ${from}`;
    return button;
  }

  #nothingWords(frames) {
    if (!frames.length) return "Actions appear here as they are found.";
    const { score_threshold, action_threshold } = settings.values;
    if (!frames.some(({ actors }) => actors.length)) return nobodyWords(score_threshold, this.#end?.trained !== false);
    return `People, but no action above the action threshold of ${action_threshold.toFixed(2)}.`;
  }

  #offer() {
    this.#offered = true;
    const run = () => this.#annotated((video) => {
      hideMessage();
      this.#drawnIn = true;
      this.#play(URL.createObjectURL(video));
    });
    showMessage(
      {
        title: "Your browser cannot play this format",
        detail: "The server can: what it finds is listed, and it can make a copy with the boxes drawn in.",
      },
      { actions: [{ label: "Play the server's copy", run, primary: true }] },
    );
  }

  /** Has the server draw the boxes that it found, as the sliders have them, into a copy, and hands the copy to `use`. */
  async #annotated(use) {
    const file = this.#file;
    const abort = (this.#abort = new AbortController());
    const percent = (share) => `${Math.floor(share * 100)} %`;
    const tell = (text, share) => {
      setState("working", `${text}, ${percent(share)}`);
      setProgress(share);
    };
    const onDrawn = (share) => tell("Drawing the boxes", share);
    const onUpload = (share) => (share < 1 ? tell("Sending the video", share) : onDrawn(0));
    const done = () => {
      setProgress(null);
      setState("done", "Done");
      this.#idleActions();
    };
    onUpload(0);
    setActions({ label: "Cancel", run: () => abort.abort() });
    try {
      const results = this.#results.map((result) => ({ ...result, actors: shown(result.actors, settings.values).map(named) }));
      const video = await draw(file, results, { signal: abort.signal, onUpload, onDrawn });
      if (this.#file !== file) return;
      done();
      use(video);
    } catch (error) {
      if (this.#file !== file) return;
      done();
      if (error.name !== "AbortError") notice(error instanceof Refused ? `${error.plain.title}. ${error.plain.detail}` : String(error));
    }
  }

  #downloadJson() {
    const { model, trained, summary, warnings = [], frame = this.#results[0]?.frame } = this.#end;
    const answer = { model, trained, frame, keyframes: this.#results, summary, warnings };
    download(new Blob([JSON.stringify(answer, null, 1)], { type: "application/json" }), this.#name("json"));
  }

  #name(ending) {
    return `${this.#file.name.replace(/\.[^.]*$/, "")}.${ending}`;
  }

  #seek(seconds) {
    this.#video.currentTime = seconds;
    this.redraw();
  }

  /** Follows the playing video picture by picture. */
  #follow() {
    const step = () => {
      this.redraw();
      if (!this.#video.paused && !this.#video.ended && this.#file) requestAnimationFrame(step);
    };
    step();
  }

  #durationS() {
    // MediaRecorder's files do not know how long they are.
    return Number.isFinite(this.#video.duration) ? this.#video.duration : 0;
  }
}
