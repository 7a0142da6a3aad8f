// The camera and its frames: JPEGs with the time they were taken, one at a time, never a queue.
import { Refused } from "./api.js";

const LONG_SIDE = 640;
const MIN_INTERVAL_MS = 30; // about 30 a second, whatever the camera can do

const CHOSEN = "stmixer.camera";
const BACK = "environment", FRONT = "user"; // as browsers call them
const FORBIDDEN = ["NotAllowedError", "SecurityError"];

/**
 * `camera`, of `cameras()`; without one the camera chosen last, where that does not open one that looks the same way, else the one that shows the user.
 * Raises a DOMException, or an Error named InsecureOrigin where the browser gives none at all.
 */
export async function openCamera(camera) {
  if (!navigator.mediaDevices?.getUserMedia) throw Object.assign(new Error("no mediaDevices"), { name: "InsecureOrigin" });
  const wanted = (which) =>
    navigator.mediaDevices.getUserMedia({
      audio: false,
      video: { ...which, width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } },
    });
  const known = camera ?? recall();
  if (known) {
    try {
      return await wanted({ deviceId: { exact: known.id } });
    } catch (error) {
      if (camera || FORBIDDEN.includes(error.name)) throw error;
      // unplugged, in use, or called otherwise: some browsers give new names with every visit
    }
  }
  return wanted({ facingMode: known?.facing ?? FRONT });
}

/** Whether a camera looks away from the user, as a phone's on its back does: what it shows is no mirror image. */
export function looksAway(media) {
  return media.getVideoTracks()[0].getSettings().facingMode === BACK;
}

/** All that there are, [{id, name, facing}]. Browsers name them once one of them was allowed. */
export async function cameras() {
  const devices = await navigator.mediaDevices.enumerateDevices();
  const found = devices.filter(({ kind, deviceId }) => kind === "videoinput" && deviceId);
  const counts = new Map();
  return found.map((device, at) => {
    const facing = facingOf(device);
    const name = nameOf(device.label, facing) || `Camera ${at + 1}`;
    counts.set(name, (counts.get(name) ?? 0) + 1); // a phone may have three on its back
    return { id: device.deviceId, name: counts.get(name) > 1 ? `${name} ${counts.get(name)}` : name, facing };
  });
}

/** Where a camera looks, if anything says so. */
function facingOf(device) {
  const [told] = device.getCapabilities?.().facingMode ?? [];
  if (told) return told;
  const [word] = /\b(?:back|rear|front)\b/i.exec(device.label) ?? [""];
  return word && (word.toLowerCase() === "front" ? FRONT : BACK);
}

/** Phones' own names for programs, like "camera2 0, facing back", in words; others' as they are. */
function nameOf(label, facing) {
  if (label && !/\bfacing\b/i.test(label)) return label;
  return { [BACK]: "Back camera", [FRONT]: "Front camera" }[facing] ?? label;
}

/** `camera`: of `cameras()`. It is what `openCamera` opens from now on. */
export function chooseCamera({ id, facing }) {
  chosenHere = { id, facing: facing || undefined };
  try {
    localStorage.setItem(CHOSEN, JSON.stringify(chosenHere));
  } catch {
    // storage is off: then it lasts as long as the page
  }
}

let chosenHere = null;

function recall() {
  try {
    return JSON.parse(localStorage.getItem(CHOSEN)) ?? chosenHere;
  } catch {
    return chosenHere; // also what a page of before wrote
  }
}

/** What a <video> shows now, a Blob. Raises Refused. */
export async function pictureOf(video) {
  const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d", { alpha: false }).drawImage(video, 0, 0);
  const picture = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg"));
  if (!picture) throw new Refused({ title: "The camera shows nothing yet", detail: "" });
  return picture;
}

export class FramePump {
  #video;
  #wanted;
  #deliver;
  #canvas = document.createElement("canvas");
  // Read back for every JPEG, so the canvas is better off in main memory.
  #pen = this.#canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  #quality = 0.8;
  #lastMs = -Infinity;
  #encoding = false;
  #running = false;

  /** `wanted()` says whether a frame may go now; `deliver(jpeg, captureUs)` takes it. */
  constructor(video, { wanted, deliver }) {
    this.#video = video;
    this.#wanted = wanted;
    this.#deliver = deliver;
  }

  start() {
    this.#running = true;
    this.#next();
  }

  stop() {
    this.#running = false;
  }

  /** The server takes no picture as large as the last one. */
  smaller() {
    this.#quality = Math.max(0.3, this.#quality - 0.1);
  }

  #next() {
    if (this.#video.requestVideoFrameCallback) this.#video.requestVideoFrameCallback((now, about) => this.#frame(now, about));
    else requestAnimationFrame((now) => this.#frame(now, {}));
  }

  #frame(now, { captureTime }) {
    if (!this.#running) return;
    this.#next();
    // captureTime is when the sensor saw it, where the browser knows; one that is not recent is another clock's.
    const takenMs = captureTime > now - 1000 && captureTime <= now ? captureTime : now;
    if (takenMs - this.#lastMs < MIN_INTERVAL_MS || this.#encoding || !this.#wanted()) return;
    this.#lastMs = takenMs;
    const { videoWidth, videoHeight } = this.#video;
    const scale = Math.min(1, LONG_SIDE / Math.max(videoWidth, videoHeight));
    const [width, height] = [Math.round(videoWidth * scale), Math.round(videoHeight * scale)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) Object.assign(this.#canvas, { width, height });
    this.#pen.drawImage(this.#video, 0, 0, width, height);
    this.#encoding = true;
    this.#canvas.toBlob((jpeg) => {
      this.#encoding = false;
      if (jpeg && this.#running) this.#deliver(jpeg, Math.round(takenMs * 1000));
    }, "image/jpeg", this.#quality);
  }
}
