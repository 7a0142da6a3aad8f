// The page: two ways in, one stage. What each way does is in live.js and upload.js.
import { Refused, currentModel } from "./api.js";
import { byId, make } from "./dom.js";
import { Live } from "./live.js";
import { Overlay } from "./overlay.js";
import { settings } from "./settings.js";
import { setActions, setMode, setState, showMessage } from "./stage.js";
import { Upload } from "./upload.js";
import { summaryWords } from "./words.js";

const REVEAL_MS = 500;

settings.attach();

const overlay = new Overlay(byId("overlay"), byId("video"), () => {
  live.redraw();
  upload.redraw();
});
const live = new Live(overlay, { leave: (summary) => idle(summary), onModel: showModel });
const upload = new Upload(overlay, { leave: () => idle(null), onModel: showModel });

function idle(summary) {
  upload.close();
  setMode("idle");
  setState("idle", "Ready when you are");
  setActions();
  const lines = summary ? summaryWords(summary) : [];
  byId("summary").hidden = !lines.length;
  byId("about").hidden = Boolean(lines.length);
  byId("summary-lines").replaceChildren(...lines.map((text) => make("li", { textContent: text })));
  byId("camera-start").focus({ preventScroll: true });
}

function showModel({ name, trained }) {
  if (name) byId("model").textContent = name;
  if (trained !== undefined) byId("untrained").hidden = trained !== false;
}

async function look(file) {
  if (document.body.dataset.mode === "camera") await live.stop();
  await upload.start(file);
}

byId("camera-start").addEventListener("click", () => live.start());
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
  look(event.dataTransfer.files[0]);
});

async function greet() {
  try {
    showModel((await currentModel()) ?? {});
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
greet().finally(reveal);
