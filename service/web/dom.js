// What the page does to its document often enough to deserve a name.

export const byId = (id) => document.getElementById(id);

/** An element with properties and children; strings become text, never markup. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Hands a blob to the user as a file. */
export function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  // The click only queues the download, so the address has to outlive this call.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** 75.2 → "1:15". */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
