// The events of a video: EventStream of gvvad_jax/events.py, to the last bit.
function findEvents(scores, starts, ends, rule) {
  const slack = 1e-9, leave = rule.threshold - rule.hysteresis * Math.abs(rule.threshold);
  const found = [];
  let inside = false, open = null, newest = -Infinity;
  const finish = () => {
    if (open && open.end - open.start >= rule.min_seconds - slack) found.push(open);
    open = null;
  };
  for (let t = 0; t < scores.length; t++) {
    const score = scores[t];
    // After a gap in the footage, too, a score must be above the threshold.
    if (score > rule.threshold) inside = true;
    else if (score < leave || starts[t] - newest > rule.cool_down + slack) inside = false;
    if (open && starts[t] - open.end > rule.cool_down + slack) finish();
    newest = ends[t];
    if (inside && !open) {
      open = {start: starts[t], end: ends[t], peak: score, at: t, mean: 0, total: 0, count: 0};
    }
    if (open) {
      open.total += score;
      open.count += 1;
      if (inside) {
        open.end = ends[t];
        open.mean = open.total / open.count;
        if (score > open.peak) [open.peak, open.at] = [score, t];
      }
    }
  }
  finish();
  return found.map(({start, end, peak, at, mean}) =>
    ({start, end, peak, at, peak_time: (starts[at] + ends[at]) / 2, mean}));
}
