// Long work: its progress, pause, stop, and what becomes of it.

import { act, on } from './connection.js';
import { button, draw, make, plot } from './dom.js';
import { change, model, watch } from './model.js';
import { attempt, rememberKept } from './shelf.js';

const cards = new Map();

function makeCard(list, number) {
  const canvas = make('canvas', { width: 16, height: 16, hidden: true });
  const title = make('strong'), text = make('p', { className: 'hint', role: 'status' }), bar = make('progress', { max: 1, value: 0 });
  const curve = make('div'), buttons = make('div', { className: 'row' });
  const card = make('article', { className: 'card', 'data-job': number }, title, canvas, bar, text, curve, buttons);
  list.prepend(card);
  return { card, canvas, title, text, bar, curve, buttons, state: '' };
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
  const now = `${job.state} ${job.has_result}`;
  if (now === card.state) return;
  card.state = now;
  const doing = (name) => attempt(() => act('job', { job: job.number, act: name }));
  const isOver = ['done', 'stopped', 'failed'].includes(job.state);
  const buttons = isOver ? [] : [
    job.state === 'paused' ? button('Go on', doing('resume')) : button('Pause', doing('pause')),
    button('Stop', doing('stop')),
  ];
  if (isOver && job.has_result && job.details.file) {
    card.card.append(make('video', { src: `files/${job.details.file}`, controls: true, loop: true, muted: true }),
      make('p', {}, make('a', { href: `files/${job.details.file}`, download: job.details.file.split('/').pop() }, 'Video')),
      make('p', { className: 'command' }, job.details.command));
  } else if (isOver && job.has_result && job.details.network !== undefined) {
    buttons.push(button('Show this network', () => change({ network: job.details.network, snapshot: null }), { className: 'main' }));
    if (job.details.command) card.card.append(make('p', { className: 'command' }, job.details.command));
  } else if (isOver && job.has_result) {
    if (job.kind === 'project') buttons.push(button('Tune the network to it', attempt(() => act('tune', { job: job.number }))));
    buttons.push(button('Keep as a latent', attempt(async () => {
      const entry = await act('keep-job', { job: job.number, name: job.title });
      rememberKept(entry.id);
      change({ kept: entry.id, x: 0, y: 0, mix: [], noise_mode: 'const', noise_strength: 1 });
    }), { className: 'main' }));
  }
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
