// The page: two ways in, one stage. What each way does is in live.js and upload.js.
import { Refused, sampleClip, served, tryTaught } from "./api.js";
import { byId } from "./dom.js";
import { Live } from "./live.js";
import { attachModel, nameModel } from "./model.js";
import { Overlay } from "./overlay.js";
import { settings } from "./settings.js";
import { Report } from "./report.js";
import { Rules } from "./rules.js";
import { notice, setActions, setMode, setState, showMessage } from "./stage.js";
import { TEACH, TRIAL, Teach } from "./teach.js";
import { Upload } from "./upload.js";
import { WALL, Wall } from "./wall.js";

const REVEAL_MS = 500;

const SAMPLE_CREDIT = "Sample: a clip of the GMDCSA24 data set (subject 3), MIT licence, cut to size.";

settings.attach();
attachModel();
const report = new Report();

const overlay = new Overlay(byId("overlay"), byId("video"), () => {
  live.redraw();
  upload.redraw();
});
const rules = new Rules();
const live = new Live(overlay, { leave: (session) => idle(session), onModel: showModel, rules });
const upload = new Upload(overlay, { leave: () => idle(null), onModel: showModel });

const wall = new Wall({ leave: () => idle(null), withKey: () => greet(), rules });

const teach = new Teach({ leave: () => idle(null), withKey: () => greet() });

/** The address says what is shown, so that it can be kept and come back to. */
async function route() {
  if (location.hash !== WALL) wall.close();
  if (location.hash !== TEACH) teach.close();
  await changeModel();
  if (location.hash !== WALL && location.hash !== TEACH) return;
  if (document.body.dataset.mode === "camera") await live.stop();
  upload.close();
  // it may be another by now
  if (location.hash === WALL) wall.open();
  if (location.hash === TEACH) teach.open();
}

/** The model of a trial, or that of everybody, by the address. */
async function changeModel() {
  const trying = location.hash === TRIAL;
  if (trying === !byId("trial").hidden) return;
  byId("trial").hidden = !trying;
  if (document.body.dataset.mode === "camera") await live.stop();
  tryTaught(trying);
  idle(null);
  await greet();
}
addEventListener("hashchange", route);

/** Back to the choices. `session`: what a camera session saw, or null. */
function idle(session) {
  upload.close();
  setMode("idle");
  setState("idle", "Ready when you are");
  setActions();
  report.show(session);
  byId("about").hidden = Boolean(session);
  byId("camera-start").focus({ preventScroll: true });
}

function showModel({ trained, ...model }) {
  nameModel({ trained, ...model });
  if (trained !== undefined) byId("untrained").hidden = trained !== false;
}

async function look(file, options = {}) {
  wall.close(); // now: the event of the address comes when the file is on its way
  if (location.hash === WALL) location.hash = "";
  if (document.body.dataset.mode === "camera") await live.stop();
  await upload.start(file, options);
}

async function trySample() {
  try {
    await look(await sampleClip(), { credit: SAMPLE_CREDIT, plays: true });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    notice(`${error.plain.title}. ${error.plain.detail}`);
  }
}

byId("camera-start").addEventListener("click", () => live.start());
byId("sample").addEventListener("click", trySample);
byId("file-pick").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = ""; // so that the same file can be chosen again
  if (file) look(file);
});

// dragenter and dragleave come in pairs per element crossed, so the page is left when they cancel out.
let crossed = 0;
const holdsFile = (event) => event.dataTransfer?.types.includes("Files");
const hint = (depth) => {
  crossed = depth;
  byId("drop-hint").hidden = depth <= 0;
};
addEventListener("dragenter", (event) => holdsFile(event) && hint(crossed + 1));
addEventListener("dragleave", (event) => holdsFile(event) && hint(crossed - 1));
addEventListener("dragover", (event) => holdsFile(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!holdsFile(event)) return;
  event.preventDefault();
  hint(0);
  if (document.body.dataset.mode === "teach") teach.drop(event);
  else look(event.dataTransfer.files[0]);
});

async function greet() {
  try {
    const { models, teach: mayBeTaught } = await served();
    showModel(models?.[0] ?? {});
    if (mayBeTaught) byId("to-teach").hidden = false;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    showMessage(error.plain, {
      actions: [{ label: "Go on", run: () => idle(null) }],
      withKey: () => {
        idle(null);
        greet();
      },
    });
  }
}

// The badge changes the header's height, so the page waits for the model's answer; not for long, though.
const reveal = () => {
  document.body.dataset.loaded = "";
};
setTimeout(reveal, REVEAL_MS);
idle(null);
(location.hash === TRIAL ? route() : greet()).finally(reveal);
if (location.hash !== TRIAL) route();
