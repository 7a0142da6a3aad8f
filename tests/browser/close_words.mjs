// What the page does after a socket was closed: node close_words.mjs CASES, [code, last error] each as JSON; says as JSON what comes next.
import "./stub_page.mjs";
const { closeWords } = await import("./words.js");
console.log(JSON.stringify(JSON.parse(process.argv[2]).map(([code, lastError]) => closeWords(code, lastError).next)));
