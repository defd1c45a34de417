// Long work: its progress, pause, stop, and what becomes of it.

import { act, on } from './connection.js';
import { button, draw, make, plot } from './dom.js';
import { asOneStep, change, model, rememberMade, watch } from './model.js';
import { isOver, isRemoved, startJob } from './results.js';
import { attempt } from './shelf.js';

const cards = new Map();

function makeCard(list, number) {
  const canvas = make('canvas', { width: 16, height: 16, hidden: true });
  const title = make('strong'), text = make('p', { className: 'hint', role: 'status' }), bar = make('progress', { max: 1, value: 0 });
  const curve = make('div'), result = make('div'), buttons = make('div', { className: 'row' });
  const card = make('article', { className: 'card', 'data-job': number }, title, canvas, bar, text, curve, buttons, result);
  list.prepend(card);
  return { card, canvas, title, text, bar, curve, buttons, result, state: '' };
}

function show(list, job, blob) {
  if (!cards.has(job.number)) cards.set(job.number, makeCard(list, job.number));
  const card = cards.get(job.number);
  card.title.textContent = `${job.title} (${job.state})`;
  card.card.dataset.state = job.state;
  card.text.textContent = job.text;
  card.text.className = job.state === 'failed' ? 'problem' : 'hint';
  card.bar.value = job.progress;
  if (job.values.length > 1) card.curve.replaceChildren(plot(job.values, job.kind === 'tune' ? 'Loss' : 'Distance'));
  if (blob) { card.canvas.hidden = false; draw(card.canvas, blob); }
  const now = `${job.state} ${job.has_result} ${isRemoved(job)}`;
  if (now === card.state) return;
  card.state = now;
  const doing = (name) => attempt(() => act('job', { job: job.number, act: name }));
  const buttons = isOver(job) ? [] : [
    job.state === 'paused' ? button('Go on', doing('resume')) : button('Pause', doing('pause')),
    button('Stop', doing('stop')),
  ];
  const { made, network, command } = job.details, result = [];
  if (isOver(job) && isRemoved(job)) {
    result.push(make('p', { className: 'hint' }, `Removed: it is in ${made.folder}/removed now.`));
    buttons.push(button('Bring it back', attempt(async () => { await act('restore', made); rememberMade(made.folder, made.number); })));
  } else if (isOver(job) && made) {
    const file = `files/videos/${made.number}.mp4`;
    if (made.folder === 'videos') {
      result.push(make('video', { src: file, controls: true, loop: true, muted: true }), make('p', {}, make('a', { href: file, download: `${made.number}.mp4` }, 'Video')));
    } else {
      buttons.push(button('Show this network', () => change({ network, snapshot: null }), { className: 'main' }));
    }
    if (command) result.push(make('p', { className: 'command' }, command));
  } else if (isOver(job) && job.has_result) {
    if (job.kind === 'project') buttons.push(button('Tune the network to it', attempt(() => startJob('tune', { job: job.number }))));
    buttons.push(button('Keep as a latent', attempt(() => asOneStep(async () => {
      const entry = await act('keep-job', { job: job.number, name: job.title });
      rememberMade('kept', entry.id);
      change({ kept: entry.id, x: 0, y: 0, mix: [], edits: [], noise_mode: 'const', noise_strength: 1 });
    })), { className: 'main' }));
  }
  card.result.replaceChildren(...result);
  card.buttons.replaceChildren(...buttons);
}

/** Fill the section. */
export function buildJobs(section) {
  const list = make('div', { id: 'jobs' });
  section.append(list);
  on('job', (job, blob) => show(list, job, blob));
  watch('shelf', () => {
    const known = new Set(model.state.jobs.map((job) => job.number));
    for (const [number, { card }] of cards) if (!known.has(number)) { card.remove(); cards.delete(number); }
    for (const job of model.state.jobs) show(list, job, null);
  });
}
