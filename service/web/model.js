// What the model is and knows, one click away: its actions, its card, the API.
import { Refused, apiDocument, currentLabels, hasKey } from "./api.js";
import { byId, make } from "./dom.js";
import { Drawer } from "./drawer.js";
import { notice } from "./stage.js";

let shown = null;

/** Names the model in the header; its drawer is filled when it is opened. `model`: of GET /v1/models, or less. */
export function nameModel(model) {
  if (!model.name) return;
  shown = { ...(shown?.name === model.name ? shown : {}), ...model };
  byId("model").textContent = model.name;
  byId("model").hidden = false;
  byId("card-name").textContent = model.name;
}

export function attachModel() {
  new Drawer("card", "model", fill);
  // A key travels in a header, which a plain link does not have.
  byId("card-api").addEventListener("click", async (event) => {
    if (!hasKey()) return;
    event.preventDefault();
    const tab = open("", "_blank");
    try {
      tab.location = URL.createObjectURL(await apiDocument());
    } catch (error) {
      tab?.close();
      notice(error instanceof Refused ? error.plain.title : String(error));
    }
  });
}

async function fill() {
  byId("card-docs").hidden = hasKey(); // it has links and a style of its own, which an address without a header would not reach
  byId("card-facts").replaceChildren(...facts(shown).flatMap(([name, text]) => [make("dt", { textContent: name }), make("dd", { textContent: text })]));
  try {
    const labels = await currentLabels();
    const names = labels.map(({ name }) => name).sort((a, b) => a.localeCompare(b));
    byId("card-actions").replaceChildren(...names.map((name) => make("li", { textContent: name })));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    byId("card-actions").replaceChildren(make("li", { textContent: error.plain.title }));
  }
}

function facts(model) {
  const figures = Object.entries(model.metrics ?? {}).filter(([, value]) => typeof value === "number");
  return [
    ["Trained on", model.trained === false ? "not yet: what it says means nothing" : (model.trained_on ?? "yes")],
    ["Licence", model.licence],
    ["Source", model.source],
    ...figures.map(([name, value]) => [name.replaceAll("_", " "), String(Math.round(value * 1e4) / 1e4)]),
    ["Runs with", [model.runtime, model.precision, model.device].filter(Boolean).join(", ")],
    ["Sees", model.frames ? `${model.frames} pictures at a time, ${model.short_side} px on the short side` : ""],
  ].filter(([, text]) => text);
}
