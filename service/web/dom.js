// What the page does to its document often enough to deserve a name.

export const byId = (id) => document.getElementById(id);

/** An element with properties and children; strings become text, never markup. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Puts other children in; the focus stays on the one that has the same `data-key` as who had it. */
export function refill(parent, ...children) {
  const key = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...children);
  if (key !== undefined) parent.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

/** Whether nothing that can be seen has the focus: it was on something that went away. */
export function focusIsLost() {
  const holder = document.activeElement;
  return !holder || holder === document.body || !holder.getClientRects().length;
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
