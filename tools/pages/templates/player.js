// The cursor of a plot follows its video; a click on the plot goes there, and so do keys: arrows a
// second (with Shift ten), Home and End.
function follow(video, svg) {
  const cursor = svg.querySelector(".cursor"), left = Number(svg.dataset.left);
  const width = svg.viewBox.baseVal.width - left, seconds = Number(svg.dataset.seconds);
  const seek = (second) => { video.currentTime = Math.min(Math.max(0, second), seconds); };
  const move = () => {
    const now = video.currentTime;
    cursor.setAttribute("transform", `translate(${left + Math.min(1, now / seconds) * width})`);
    svg.setAttribute("aria-valuenow", now.toFixed(1));
    svg.setAttribute("aria-valuetext", `${now.toFixed(1)} of ${seconds.toFixed(1)} seconds`);
    if (!video.paused) requestAnimationFrame(move);
  };
  for (const event of ["play", "seeking", "seeked", "timeupdate"]) {
    video.addEventListener(event, move);
  }
  svg.addEventListener("click", (click) => {
    const box = svg.getBoundingClientRect();
    const x = (click.clientX - box.left) / box.width * (left + width);
    seek((x - left) / width * seconds);
  });
  svg.addEventListener("keydown", (key) => {
    const step = key.shiftKey ? 10 : 1, now = video.currentTime;
    const to = {
      ArrowLeft: now - step, ArrowDown: now - step, ArrowRight: now + step, ArrowUp: now + step,
      Home: 0, End: seconds,
    }[key.key];
    if (to === undefined) return;
    key.preventDefault();
    seek(to);
  });
  return seek;
}
