// Short clips from the camera, one after the other, for the action that somebody is teaching.
import { looksAway, openCamera } from "./camera.js";
import { byId } from "./dom.js";
import { settings } from "./settings.js";
import { cameraWords } from "./words.js";

const SECONDS = 4;
const READY_S = 3; // from the press on, to step back and begin
const KINDS = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm", "video/mp4"];

export class Recorder {
  #deliver;
  #label = "";
  #media = null;
  #recording = null;
  #timer = null;
  #run = 0;
  #count = 0;

  /** `deliver(label, file)` takes each clip. */
  constructor(deliver) {
    this.#deliver = deliver;
    byId("record-start").addEventListener("click", () => this.#start());
    byId("record-close").addEventListener("click", () => this.close());
    byId("record").addEventListener("close", () => this.#end());
  }

  /** `name`: of the label, for people. */
  async open(label, name) {
    const run = ++this.#run;
    this.#label = label;
    this.#count = 0;
    byId("record-name").textContent = `Record: ${name}`;
    byId("record-start").disabled = true;
    this.#say("Waiting for the camera");
    byId("record").showModal();
    let media;
    try {
      media = await openCamera();
    } catch (error) {
      const { title, detail } = cameraWords(error);
      if (run === this.#run) this.#say(`${title}. ${detail}`);
      return;
    }
    if (run !== this.#run) {
      for (const track of media.getTracks()) track.stop(); // closed while the browser was asking
      return;
    }
    this.#media = media;
    const video = byId("record-picture");
    video.classList.toggle("mirrored", settings.values.mirror && !looksAway(media));
    video.srcObject = media;
    await video.play().catch(() => {}); // closed meanwhile
    if (run !== this.#run) return;
    byId("record-start").disabled = false;
    this.#say(`Each clip is ${SECONDS} seconds. Do the action all along, and stand a little differently each time.`);
    byId("record-start").focus();
  }

  close() {
    byId("record").close();
  }

  #start() {
    if (!this.#media || this.#recording) return;
    byId("record-start").disabled = true;
    this.#countDown(READY_S, (left) => `Starting in ${left}`, () => this.#record());
  }

  #record() {
    const kind = KINDS.find((each) => MediaRecorder.isTypeSupported(each));
    const recording = new MediaRecorder(this.#media, kind ? { mimeType: kind, videoBitsPerSecond: 2_500_000 } : {});
    const parts = [];
    const run = this.#run;
    recording.addEventListener("dataavailable", ({ data }) => parts.push(data));
    recording.addEventListener("stop", () => {
      this.#recording = null;
      if (run !== this.#run) return; // closed in its middle: half an action teaches nothing
      this.#count += 1;
      this.#deliver(this.#label, new File(parts, `recording ${this.#count}`, { type: recording.mimeType }));
      byId("record-start").disabled = false;
      byId("record-start").focus();
      this.#say(`${this.#count === 1 ? "One clip" : `${this.#count} clips`} recorded. Record another one, or close this.`);
    });
    this.#recording = recording;
    recording.start();
    this.#countDown(SECONDS, (left) => `Recording, ${left} s left`, () => recording.state === "recording" && recording.stop());
  }

  #countDown(seconds, words, then) {
    if (seconds <= 0) {
      then();
      return;
    }
    this.#say(words(seconds));
    this.#timer = setTimeout(() => this.#countDown(seconds - 1, words, then), 1000);
  }

  #say(text) {
    byId("record-said").textContent = text;
  }

  #end() {
    this.#run += 1;
    clearTimeout(this.#timer);
    if (this.#recording?.state === "recording") this.#recording.stop();
    this.#recording = null;
    for (const track of this.#media?.getTracks() ?? []) track.stop();
    this.#media = null;
    byId("record-picture").srcObject = null;
  }
}
