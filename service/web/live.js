// Camera mode: picture in, boxes over it, and the numbers beside it.
import { FramePump, openCamera } from "./camera.js";
import { byId, make } from "./dom.js";
import { Freshness } from "./freshness.js";
import { colourOf, shown } from "./overlay.js";
import { settings } from "./settings.js";
import { hideMessage, notice, remember, setActions, setMode, setState, showMessage } from "./stage.js";
import { LiveStream } from "./stream.js";
import { cameraWords, nobodyWords } from "./words.js";

const FADE_MS = 500;
const SETTLE_MS = 400; // a slider on its way passes values that nobody wants
// Filtered on this page instead, so that moving the slider needs no answer from the server.
const TOP_K = 10;

export class Live {
  #overlay;
  #leave;
  #onModel;
  #video = byId("video");
  #freshness = new Freshness();
  #media = null;
  #pump = null;
  #stream = null;
  #periodMs = 250;
  #trained = true;
  #latest = null;
  #painted = "";
  #timer = null;
  #run = 0;
  #unsettled = new Set();
  #settling = null;

  /** `leave(summary)` is called at the end; `onModel({name, trained})` when the server names its model. */
  constructor(overlay, { leave, onModel }) {
    this.#overlay = overlay;
    this.#leave = leave;
    this.#onModel = onModel;
    settings.addEventListener("change", ({ detail }) => this.#setting(detail));
  }

  async start() {
    const run = ++this.#run;
    setMode("camera");
    setState("connecting", "Waiting for the camera");
    setActions({ label: "Stop", run: () => this.stop() });
    this.#freshness.reset();
    this.#mirror();
    let media;
    try {
      media = await openCamera();
    } catch (error) {
      if (run === this.#run) this.#fail(cameraWords(error));
      return;
    }
    if (run !== this.#run) {
      for (const track of media.getTracks()) track.stop(); // stopped while the browser was asking
      return;
    }
    this.#media = media;
    media.getVideoTracks()[0].addEventListener("ended", () => this.#fail(cameraWords({ name: "CameraEnded" })));
    this.#video.controls = false;
    this.#video.srcObject = media;
    await this.#video.play();
    if (run === this.#run) this.#connect();
  }

  /** Ends the stream and the camera, and hands over what the server counted. */
  async stop() {
    this.#run += 1;
    setState("working", "Stopping");
    setActions();
    const stream = this.#stream;
    this.#release();
    const summary = stream ? await stream.stop() : null;
    this.#leave(summary);
  }

  /** Draws again: the stage changed its size. */
  redraw() {
    this.#painted = "";
  }

  #connect() {
    const { keyframe_hz, score_threshold } = settings.values;
    this.#pump = new FramePump(this.#video, {
      wanted: () => this.#stream.ready && !this.#skips(),
      deliver: (jpeg, captureUs) => this.#stream.send(jpeg, captureUs),
    });
    this.#stream = new LiveStream(
      { keyframe_hz, score_threshold, top_k: TOP_K },
      {
        state: setState,
        notice,
        ready: (message) => this.#ready(message),
        result: (message, captureMs) => this.#result(message, captureMs),
        refused: (plain) => this.#fail(plain),
        tooLarge: () => this.#pump.smaller(),
      },
    );
    this.#stream.connect();
    this.#pump.start();
    this.#timer = setInterval(() => this.#tick(), 500);
    this.#animate(this.#run);
  }

  #skips() {
    const { jammed } = this.#stream;
    if (jammed) this.#freshness.unsent();
    return jammed;
  }

  #ready(message) {
    this.#periodMs = 1000 / (message.keyframe_hz || settings.values.keyframe_hz);
    this.#trained = message.trained !== false;
    this.#freshness.ready();
    this.#onModel({ name: message.model?.name ?? message.model, trained: message.trained });
  }

  #result(result, captureMs) {
    remember(result);
    this.#freshness.arrived(result);
    this.#latest = { result, captureMs, arrivedMs: performance.now(), isNew: true };
  }

  #animate(run) {
    requestAnimationFrame(() => {
      if (run !== this.#run) return;
      this.#paint();
      this.#animate(run);
    });
  }

  #paint() {
    if (!this.#latest) return;
    const { result, captureMs, arrivedMs, isNew } = this.#latest;
    const overdue = performance.now() - arrivedMs - 2 * this.#periodMs;
    const alpha = Math.min(1, Math.max(0, 1 - overdue / FADE_MS));
    // Most animation frames bring nothing new; those cost no drawing.
    const picture = `${result.seq} ${alpha.toFixed(2)} ${JSON.stringify(settings.values)}`;
    if (picture === this.#painted && !isNew) return;
    this.#painted = picture;
    const actors = shown(result.actors, settings.values);
    this.#overlay.draw(actors, { alpha, mirror: settings.values.mirror });
    this.#list(actors, alpha > 0);
    if (isNew) {
      this.#latest.isNew = false;
      this.#freshness.drawn(result, performance.now() - captureMs);
    }
  }

  #list(actors, current) {
    const people = current ? actors : [];
    byId("people").replaceChildren(
      ...people.map((actor) => {
        const swatch = make("i", { className: "swatch" });
        swatch.style.background = colourOf(actor);
        const actions = actor.actions.map(({ name, score }) => make("li", {}, name, make("b", { textContent: score.toFixed(2) })));
        return make("li", {}, make("p", {}, swatch, "person", make("b", { textContent: actor.person_score.toFixed(2) })), make("ul", {}, ...actions));
      }),
    );
    byId("people-hint").textContent = people.length ? "" : nobodyWords(settings.values.score_threshold, this.#trained);
  }

  #tick() {
    const quietMs = this.#freshness.tick();
    if (this.#stream?.ready) {
      setState("live", quietMs ? `Live, but no answer for ${Math.round(quietMs / 1000)} s` : this.#latest?.result.warming ? "Live, warming up" : "Live");
    }
  }

  #setting(name) {
    if (name === "mirror") this.#mirror();
    if (!this.#stream) return;
    if (name !== "score_threshold" && name !== "keyframe_hz") return;
    this.#unsettled.add(name);
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => this.#settle(), SETTLE_MS);
  }

  #settle() {
    const names = [...this.#unsettled];
    this.#unsettled.clear();
    if (!this.#stream) return;
    if (names.includes("keyframe_hz")) this.#restart();
    else this.#stream.update({ score_threshold: settings.values.score_threshold });
  }

  /** Keyframes lie on a grid that belongs to the stream, so another rate is another stream. */
  #restart() {
    this.#stream.stop();
    this.#pump.stop();
    clearInterval(this.#timer);
    this.#run += 1;
    this.#connect();
  }

  #mirror() {
    this.#video.classList.toggle("mirrored", settings.values.mirror);
  }

  #release() {
    this.#pump?.stop();
    clearInterval(this.#timer);
    for (const track of this.#media?.getTracks() ?? []) track.stop();
    Object.assign(this.#video, { srcObject: null });
    this.#video.classList.remove("mirrored");
    this.#overlay.clear();
    byId("people").replaceChildren();
    byId("people-hint").textContent = "";
    this.#media = this.#pump = this.#stream = this.#latest = null;
  }

  #fail(plain) {
    this.#run += 1;
    this.#stream?.stop();
    this.#release();
    setState("error", plain.title);
    setActions();
    const again = () => {
      hideMessage();
      this.start();
    };
    showMessage(plain, {
      actions: [...(plain.key ? [] : [{ label: "Try again", run: again, primary: true }]), { label: "Back", run: () => this.#leave(null) }],
      withKey: again,
    });
  }
}
