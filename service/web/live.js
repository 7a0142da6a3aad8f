// Camera mode: picture in, boxes over it, and the numbers beside it.
import { isTrial } from "./api.js";
import { FramePump, cameras, chooseCamera, looksAway, openCamera, pictureOf } from "./camera.js";
import { byId, make } from "./dom.js";
import { EventList } from "./events.js";
import { Seen, whoWords } from "./found.js";
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
const HERE = "this camera";

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
  #changes = 0;
  #cameras = [];
  #seen = null;
  #startedMs = 0;
  // Another stream of the same session numbers its people anew; here they go on.
  #people = 0;
  #peopleBefore = 0;
  #rules;
  #ownRules = null; // as they were set here; another stream of the same session begins with them
  #offersRules = false;
  #events = new EventList({ section: "camera-happened", list: "camera-events" });

  /**
   * `leave(session)` is called at the end with {seen, seconds, summary}, or null where there was no session; `onModel({name, trained})` when the server
   * names its model; `rules`: where those of a stream are shown.
   */
  constructor(overlay, { leave, onModel, rules }) {
    this.#rules = rules;
    this.#overlay = overlay;
    this.#leave = leave;
    this.#onModel = onModel;
    settings.addEventListener("change", ({ detail }) => this.#setting(detail));
    byId("camera").addEventListener("change", ({ target }) => this.#change(target.value));
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.#media && this.#offerCameras());
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
    this.#seen = new Seen(1 / settings.values.keyframe_hz);
    this.#startedMs = performance.now();
    this.#people = this.#peopleBefore = 0;
    this.#ownRules = null;
    this.#offersRules = false;
    await this.#show(media);
    if (run === this.#run) this.#connect();
  }

  async #show(media) {
    this.#media = media;
    const [track] = media.getVideoTracks();
    track.addEventListener("ended", () => this.#fail(cameraWords({ name: "CameraEnded" })));
    this.#video.controls = false;
    this.#video.srcObject = media;
    this.#mirror();
    await Promise.all([this.#video.play(), this.#offerCameras()]);
  }

  /** A list of cameras, where there is something to choose. */
  async #offerCameras() {
    const run = this.#run;
    const found = await cameras();
    if (run !== this.#run) return;
    this.#cameras = found;
    const used = this.#media.getVideoTracks()[0].getSettings().deviceId;
    byId("camera").replaceChildren(...found.map(({ id, name }) => make("option", { value: id, textContent: name, selected: id === used })));
    byId("camera").hidden = found.length < 2;
  }

  /** Another camera, in the same stream. The old one first: phones open one at a time. */
  async #change(id) {
    const change = ++this.#changes;
    const current = () => change === this.#changes; // also where another rate is another run meanwhile
    const camera = this.#cameras.find((each) => each.id === id);
    for (const track of this.#media.getTracks()) track.stop();
    let media;
    try {
      media = await openCamera(camera);
    } catch (error) {
      if (current()) this.#fail(cameraWords(error));
      return;
    }
    if (current()) {
      chooseCamera(camera);
      await this.#show(media);
    } else for (const track of media.getTracks()) track.stop();
  }

  /** Ends the stream and the camera, and hands over what was seen. */
  async stop() {
    this.#run += 1;
    setState("working", "Stopping");
    setActions();
    const stream = this.#stream;
    const session = this.#seen && { seen: this.#seen, seconds: (performance.now() - this.#startedMs) / 1000 };
    this.#release();
    const summary = stream ? await stream.stop() : null;
    this.#leave(session && { ...session, summary });
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
      { keyframe_hz, score_threshold, top_k: TOP_K, ...(this.#ownRules ? { rules: this.#ownRules } : {}) },
      {
        state: setState,
        notice,
        ready: (message, isNew) => this.#ready(message, isNew),
        result: (message, captureMs) => this.#result(message, captureMs),
        event: (event) => this.#happened(event),
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

  #ready(message, isNew) {
    if (isNew) this.#peopleBefore = this.#people;
    if (!this.#offersRules && !isTrial())
      setActions({ label: "Stop", run: () => this.stop() }, { label: "Rules", run: () => this.#openRules() });
    this.#offersRules = true; // once: whoever is on a button when the line comes back stays there
    this.#periodMs = 1000 / (message.keyframe_hz || settings.values.keyframe_hz);
    this.#seen?.period(this.#periodMs / 1000);
    this.#trained = message.trained !== false;
    this.#freshness.ready();
    this.#onModel({ name: message.model?.name ?? message.model, trained: message.trained });
  }

  #openRules() {
    const keep = (rules) => {
      this.#ownRules = rules;
      this.#stream?.keepRules(rules);
    };
    if (!this.#stream.ready) return; // there is nothing yet that could have some
    this.#rules.open({ id: this.#stream.id, name: HERE }, { picture: pictureOf(this.#video), mirrored: this.#mirrored, changed: keep });
  }

  /** Said at once; its picture, and how long it lasted, come with the list. */
  #happened({ state, rule }) {
    if (state !== "update") notice(`${rule}: ${state === "start" ? "begins" : "is over"}`);
    this.#events.follow({ id: this.#stream.id, name: HERE });
  }

  #result(answer, captureMs) {
    const mine = ({ track_id }) => (track_id == null ? null : track_id + this.#peopleBefore);
    const result = { ...answer, actors: answer.actors.map((actor) => ({ ...actor, track_id: mine(actor) })) };
    this.#people = Math.max(this.#people, ...result.actors.map(({ track_id }) => track_id ?? 0));
    this.#seen?.add(Math.max(0, captureMs - this.#startedMs) / 1000, shown(result.actors, settings.values));
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
    this.#overlay.draw(actors, { alpha, mirror: this.#mirrored });
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
        return make("li", {}, make("p", {}, swatch, whoWords(actor.track_id), make("b", { textContent: actor.person_score.toFixed(2) })), make("ul", {}, ...actions));
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

  /** A camera that looks away from the user shows no mirror image. */
  get #mirrored() {
    return settings.values.mirror && !(this.#media && looksAway(this.#media));
  }

  #mirror() {
    this.#video.classList.toggle("mirrored", this.#mirrored);
    this.redraw();
  }

  #release() {
    this.#changes += 1;
    this.#pump?.stop();
    clearInterval(this.#timer);
    for (const track of this.#media?.getTracks() ?? []) track.stop();
    this.#events.close();
    this.#rules.close();
    Object.assign(this.#video, { srcObject: null });
    this.#video.classList.remove("mirrored");
    this.#overlay.clear();
    byId("people").replaceChildren();
    byId("people-hint").textContent = "";
    this.#media = this.#pump = this.#stream = this.#latest = this.#seen = null;
    byId("camera").hidden = true;
  }

  #fail(plain) {
    this.#run += 1;
    const session = this.#seen && { seen: this.#seen, seconds: (performance.now() - this.#startedMs) / 1000, summary: null };
    this.#stream?.stop();
    this.#release();
    setState("error", plain.title);
    setActions();
    const again = () => {
      hideMessage();
      this.start();
    };
    showMessage(plain, {
      actions: [...(plain.key ? [] : [{ label: "Try again", run: again, primary: true }]), { label: "Back", run: () => this.#leave(session) }],
      withKey: again,
    });
  }
}
