"""The offline trainer: data sets, losses, loop, evaluators, query bank. Serving imports none of it."""
