// Scenes of clips by their files' names, as the page sends them: names as JSON, scenes as JSON.
import "./stub_page.mjs";
const { sceneOf } = await import("./api.js");
console.log(JSON.stringify(JSON.parse(process.argv[2]).map(sceneOf)));
