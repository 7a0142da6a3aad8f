"""Where a stream's frames come from: one verb set, one small class per kind."""
