// How long to wait before a line that was lost is tried again. Each waits a little otherwise, at random: those who lost it together are not to come back all at once.

export const JITTER = 0.25;

/** Of the `attempt`-th try, from 0; `tableS` is seconds by attempt, the last for all that follow. Shorter by up to a quarter. */
export const backoffS = (tableS, attempt) => tableS[Math.min(attempt, tableS.length - 1)] * (1 - JITTER * Math.random());

/** At least what the server asked for, and up to a quarter more. */
export const askedS = (seconds) => seconds * (1 + JITTER * Math.random());
