// Teaching: clips for each action, what the training does with them, and what came of it, to try, keep or discard.
import { Refused, addClip, beginLesson, beginTrial, discardLesson, draftPage, endTrial, keepLesson, lesson, removeClip, setKey, stopLesson } from "./api.js";
import { byId, make, refill } from "./dom.js";
import { Recorder } from "./recorder.js";
import { setMode } from "./stage.js";
import { clipCountWords, leftWords, lessonFigureWords, lessonStateWords } from "./words.js";

const LOOK_MS = 1000; // while something goes on
const IDLE_MS = 4000;
const SURE_MS = 4000; // for so long a second press discards it
const OTHERS = "none";

export const TEACH = "#teach";
export const TRIAL = "#trial";

export class Teach {
  #run = 0;
  #open = false;
  #timer = null;
  #lesson = null;
  #new = []; // labels of which there is no clip yet
  #queue = []; // [{label, file}] on its way to the server, the first one now
  #share = 0;
  #failed = new Map(); // label → why its last clip was not taken
  #shown = "";
  #pictures = null; // what the pictures that are shown were fetched for
  #wanted = false; // a trial was asked for, and is to be shown once it is ready
  #sure = null;
  #leave;
  #withKey;
  #recorder = new Recorder((label, file) => this.#send(label, [file]));

  /** `leave()` goes back to the choices; `withKey()` is called when a key was given. */
  constructor({ leave, withKey }) {
    this.#leave = leave;
    this.#withKey = withKey;
    byId("teach-back").addEventListener("click", () => {
      location.hash = "";
    });
    byId("teach-add").addEventListener("submit", (event) => this.#add(event));
    byId("teach-key-form").addEventListener("submit", (event) => this.#key(event));
    byId("teach-learn").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#do(() => beginLesson(byId("teach-name").value.trim()));
    });
    byId("teach-stop").addEventListener("click", () => this.#do(stopLesson));
    byId("teach-try").addEventListener("click", () => this.#try());
    byId("teach-keep").addEventListener("click", () => this.#do(keepLesson));
    byId("teach-discard").addEventListener("click", () => this.#discard());
    byId("trial-end").addEventListener("click", () => this.#endTrial());
  }

  /** Show it, until `close`. */
  open() {
    if (this.#open) return;
    this.#open = true;
    this.#run += 1;
    this.#shown = "";
    this.#pictures = null;
    this.#wanted = false;
    setMode("teach");
    this.#say(null);
    this.#look(this.#run);
  }

  close() {
    if (!this.#open) return;
    this.#open = false;
    this.#run += 1;
    clearTimeout(this.#timer);
    this.#recorder.close();
    this.#leave();
  }

  /** Files that were let go of somewhere on the page. */
  drop(event) {
    const card = event.target.closest?.(".lesson");
    if (card) this.#send(card.dataset.label, [...event.dataTransfer.files]);
    else this.#say({ title: "Which action is that?", detail: "Let go of a clip over the action that it shows." });
  }

  // -- how it stands

  async #look(run) {
    clearTimeout(this.#timer);
    try {
      const found = document.hidden && this.#lesson ? null : await lesson();
      if (run !== this.#run) return;
      if (found) this.#take(found);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (run === this.#run) this.#refused(error.plain);
    } finally {
      if (run === this.#run) {
        clearTimeout(this.#timer);
        const busy = this.#lesson && (this.#lesson.state === "learning" || this.#lesson.trial.state === "starting");
        this.#timer = setTimeout(() => this.#look(run), busy ? LOOK_MS : IDLE_MS);
      }
    }
  }

  #take(found) {
    if (!this.#lesson) byId("teach-name").value = found.name;
    this.#lesson = found;
    byId("teach-key-form").hidden = true;
    if (this.#wanted && found.trial.state === "ready") {
      location.hash = TRIAL;
      return;
    }
    if (this.#wanted && found.trial.state === "failed") {
      this.#wanted = false;
      this.#say({ title: "It cannot be tried", detail: found.trial.says });
    }
    this.#show();
    this.#showPictures(this.#run);
  }

  /** Whatever somebody asked for, then how it stands. */
  async #do(ask) {
    const run = this.#run;
    this.#say(null);
    try {
      await ask();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (run === this.#run) this.#refused(error.plain);
    }
    if (run === this.#run) await this.#look(run);
  }

  #refused(plain) {
    byId("teach-key-form").hidden = !plain.key;
    byId("teach-body").hidden = this.#lesson === null;
    this.#say(plain);
  }

  #say(plain) {
    byId("teach-said").textContent = plain ? `${plain.title}. ${plain.detail}` : "";
    byId("teach-said").hidden = !plain;
  }

  #key(event) {
    event.preventDefault();
    setKey(byId("teach-key").value.trim());
    event.target.reset();
    this.#withKey();
    this.#do(async () => {});
  }

  // -- what is shown

  #show() {
    const { state, clips, phases, notes, figures, kept, trial } = this.#lesson;
    const now = JSON.stringify([this.#lesson, this.#new, this.#queue.length, this.#share, [...this.#failed], this.#wanted]);
    if (now === this.#shown) return; // so that nothing moves under a hand
    this.#shown = now;
    const learning = state === "learning";
    byId("teach-body").hidden = false;
    byId("teach-count").textContent = lessonStateWords(this.#lesson);
    this.#new = this.#new.filter((label) => !clips.some((clip) => clip.label === label));
    const labels = [...new Set(clips.map(({ label }) => label))].filter((label) => label !== OTHERS);
    refill(byId("teach-labels"), ...[...labels, ...this.#new, OTHERS].map((label) => this.#card(label, clips.filter((clip) => clip.label === label), learning)));
    byId("teach-add-button").disabled = byId("teach-label").disabled = learning;
    byId("teach-learn").hidden = learning;
    byId("teach-learn-button").disabled = !clips.length || this.#queue.length > 0;
    byId("teach-stop").hidden = !learning;
    byId("teach-going").hidden = !phases.length && !notes.length;
    refill(byId("teach-phases"), ...phases.map(phaseLine));
    const others = notes.filter((text) => !text.includes("draft.html")); // its pictures are here
    byId("teach-notes").replaceChildren(...others.map((text) => make("li", { textContent: text })));
    byId("teach-result").hidden = state !== "done";
    byId("teach-figures").replaceChildren(...(figures ? lessonFigureWords(figures) : []).map((text) => make("li", { textContent: text })));
    byId("teach-try").disabled = this.#wanted;
    byId("teach-try").textContent = this.#wanted || trial.state === "starting" ? "Starting the trial" : "Try it";
    byId("teach-discard").hidden = !clips.length && state === "open";
    byId("teach-kept").hidden = !kept.length;
    byId("teach-kept-list").replaceChildren(...kept.map(({ name, serve }) => make("li", {}, make("b", { textContent: name }), make("code", { textContent: serve, tabIndex: 0 }))));
  }

  #card(label, clips, learning) {
    const others = label === OTHERS;
    const name = others ? "Something else" : label;
    const picker = make("input", { type: "file", accept: "video/*,.mkv,.avi,.mov,.ts,.webm,.mp4", multiple: true, hidden: true });
    picker.addEventListener("change", () => this.#send(label, [...picker.files]));
    const choose = this.#button(`choose ${label}`, "Choose clips", `Choose clips of ${name}`, () => picker.click());
    const record = this.#button(`record ${label}`, "Record", `Record clips of ${name}`, () => this.#recorder.open(label, name));
    choose.disabled = record.disabled = learning;
    const waiting = this.#queue.filter((one) => one.label === label).length;
    const sending = waiting ? make("p", { className: "hint", textContent: `${clipCountWords(waiting)} on the way${this.#queue[0].label === label ? `, ${Math.floor(this.#share * 100)} %` : ""}` }) : "";
    const why = this.#failed.get(label);
    const chips = clips.map(({ clip_id }) => {
      const remove = this.#button(`remove ${clip_id}`, "×", `Remove clip ${clip_id} of ${name}`, () => this.#do(() => removeClip(clip_id)));
      remove.className = "quiet";
      remove.disabled = learning;
      return make("li", {}, `clip ${clip_id}`, remove);
    });
    const card = make(
      "li",
      { className: "lesson" },
      make("h3", { textContent: name }),
      make("p", { className: "hint", textContent: others ? `People who do none of it, at the same places. ${clipCountWords(clips.length)}.` : `${clipCountWords(clips.length)}.` }),
      make("div", { className: "lesson-drop" }, make("p", { className: "hint", textContent: "Drop clips here, or" }), make("div", { className: "ways" }, choose, record, picker)),
      sending,
      why ? make("p", { className: "why", role: "alert", textContent: why }) : "",
      make("ul", { className: "clips" }, ...chips),
    );
    card.dataset.label = label;
    return card;
  }

  #button(key, text, label, run) {
    const button = make("button", { type: "button", textContent: text, ariaLabel: label, onclick: run });
    button.dataset.key = key;
    return button;
  }

  /** Who was taken for the actor, as the lesson's own page has it: a picture of each clip. */
  async #showPictures(run) {
    const { pictures, state, phases } = this.#lesson;
    const over = phases.filter(({ running }) => !running).map(({ phase }) => phase);
    const of = pictures ? `${state === "learning" ? over.includes("draft") : "all"} ${phases.length ? "" : state}` : null;
    if (of === this.#pictures || (state === "learning" && !over.includes("draft"))) return;
    this.#pictures = of;
    byId("teach-pictures").hidden = !pictures;
    if (!pictures) return;
    try {
      // without its own style, which this page may not have
      const page = new DOMParser().parseFromString((await draftPage()).replace(/<style>.*?<\/style>/s, ""), "text/html");
      if (run !== this.#run) return;
      const figures = [...page.querySelectorAll("figure")].filter((figure) => figure.querySelector("img")?.src.startsWith("data:image/jpeg"));
      byId("teach-actors").replaceChildren(
        ...figures.map((figure) => {
          const text = figure.querySelector("figcaption")?.textContent ?? "";
          return make("li", {}, make("img", { src: figure.querySelector("img").src, alt: text }), make("p", { className: "hint", textContent: text }));
        }),
      );
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.#pictures = null; // it comes with the next look
    }
  }

  // -- what one can do

  #add(event) {
    event.preventDefault();
    const label = byId("teach-label").value.trim().replace(/ +/g, " ");
    if (!label || !this.#lesson) return;
    if (label.toLowerCase() !== OTHERS && !this.#new.includes(label)) this.#new.push(label);
    event.target.reset();
    this.#show();
    byId("teach-labels").querySelector(`[data-key="${CSS.escape(`choose ${label}`)}"]`)?.focus();
  }

  /** One after the other, so that each is seen to come. */
  async #send(label, files) {
    const idle = !this.#queue.length;
    this.#queue.push(...files.map((file) => ({ label, file })));
    this.#failed.delete(label);
    if (this.#open && this.#lesson) this.#show();
    if (!idle) return;
    while (this.#queue.length) {
      const [one] = this.#queue;
      this.#share = 0;
      try {
        await addClip(one.label, one.file, (share) => {
          this.#share = share;
          if (this.#open && this.#lesson) this.#show();
        });
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        this.#failed.set(one.label, `${one.file.name ?? "The clip"}: ${error.plain.title}. ${error.plain.detail}`);
      } finally {
        this.#queue.shift();
      }
      if (this.#open) await this.#look(this.#run);
    }
  }

  #try() {
    this.#wanted = true;
    if (this.#lesson.trial.state === "ready") location.hash = TRIAL;
    else this.#do(beginTrial);
  }

  async #endTrial() {
    try {
      await endTrial();
    } catch (error) {
      if (!(error instanceof Refused)) throw error; // it ends with the lesson
    }
    location.hash = TEACH;
  }

  /** What is lost for good takes a second press. */
  #discard() {
    const button = byId("teach-discard");
    if (this.#sure) {
      this.#unsure();
      this.#new = [];
      this.#do(discardLesson);
      return;
    }
    button.textContent = "Really delete all clips and what was learned?";
    this.#sure = setTimeout(() => this.#unsure(), SURE_MS);
  }

  #unsure() {
    clearTimeout(this.#sure);
    this.#sure = null;
    byId("teach-discard").textContent = "Discard";
  }
}

function phaseLine({ phase, says, running, done, total, left_s, came }) {
  const line = make("li", { className: running ? "runs" : "" }, make("b", { textContent: phase }), make("span", { textContent: came || says }));
  if (running && total) line.append(make("progress", { max: total, value: done ?? 0, ariaLabel: `How far ${phase} has come` }));
  if (running && left_s !== null) line.append(make("span", { className: "hint", textContent: leftWords(left_s) }));
  return line;
}
