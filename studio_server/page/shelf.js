// The shelf: what is kept, and videos through it.

import { act, on } from './connection.js';
import { button, check, choice, make, number } from './dom.js';
import { change, loadShelf, model, remember, rememberMade, watch } from './model.js';
import { startJob } from './results.js';
import { showProblem, stage } from './stage.js';

const KINDS = { kept: 'Latent', directions: 'Directions', networks: 'Network', videos: 'Video' };
const path = []; // ids of the keyframes
const video = { frames: 60, fps: 30, loop: true, kind: 'cubic', easing: 'none' };

/** Keep the picture that is shown. */
export async function keep(name) {
  const entry = await act('keep', { spec: model.spec, name });
  rememberMade('kept', entry.id);
  return entry;
}

async function remove(number) {
  await act('remove', { folder: 'kept', number });
  remember({ undo: () => act('restore', { folder: 'kept', number }), redo: () => act('remove', { folder: 'kept', number }) });
}

async function bringBack(what) {
  await act('restore', what);
  rememberMade(what.folder, what.number);
}

async function rename(entry, values) {
  const before = { name: entry.name, note: entry.note };
  const after = { ...before, ...values };
  await act('rename', { kept: entry.id, ...after });
  remember({ undo: () => act('rename', { kept: entry.id, ...before }), redo: () => act('rename', { kept: entry.id, ...after }) });
}

/** Run something that a button has asked for; say what went wrong. */
export const attempt = (work) => async () => {
  try {
    showProblem('');
    await work();
  } catch (error) {
    showProblem(error.message);
  }
};

function downloadPng() {
  const url = URL.createObjectURL(stage.blob);
  make('a', { href: url, download: `seed${String(model.spec.seed).padStart(4, '0')}.png` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

const picture = (kept, alt) => make('img', { src: `files/kept/${kept}.png`, alt, loading: 'lazy', onload: ({ target }) => target.classList.toggle('small-image', target.naturalWidth < 200) });

/** Fill the panel. */
export function buildShelf(panel) {
  const name = make('input', { type: 'text', id: 'keep-name', maxLength: 200, placeholder: 'Name', 'aria-label': 'Name of the picture' });
  const cards = make('div', { className: 'cards', id: 'shelf' });
  const keyframes = make('div', { className: 'strip', id: 'path' });
  const where = make('p', { className: 'hint' });
  const removed = make('details', { id: 'removed' });
  panel.append(
    make('div', { className: 'row' }, name,
      button('Keep this picture', attempt(async () => { await keep(name.value || `seed ${model.spec.seed}`); name.value = ''; }), { id: 'keep', className: 'main' }),
      button('Download as PNG', () => stage.blob && downloadPng())),
    where, cards,
    make('h2', {}, 'Video through the shelf'),
    make('p', { className: 'hint' }, 'Add two or more latents as keyframes.'), keyframes,
    make('div', { className: 'row' },
      number('Frames from one to the next', { min: 1, max: 10000, value: video.frames, id: 'video-frames' }, (value) => { video.frames = value; }),
      number('Frames per second', { min: 1, max: 240, value: video.fps, id: 'video-fps' }, (value) => { video.fps = value; })),
    make('div', { className: 'row' },
      choice('Path', [['cubic', 'a smooth curve'], ['linear', 'straight lines']], video.kind, (value) => { video.kind = value; }, 'video-kind'),
      choice('Pace', [['none', 'steady'], ['smooth', 'slow at the keyframes']], video.easing, (value) => { video.easing = value; }, 'video-easing'),
      check('Return to the first', video.loop, (value) => { video.loop = value; }, 'video-loop')),
    button('Make the video', attempt(() => startJob('video', { spec: { network: model.spec.network, snapshot: model.spec.snapshot }, kept: path, ...video })), { id: 'make-video', className: 'main' }),
    removed);

  const showPath = () => keyframes.replaceChildren(...path.map((kept, index) => button('', () => { path.splice(index, 1); showPath(); },
    { 'aria-label': `Remove keyframe ${index + 1}`, title: 'Remove' })));
  const fillPath = () => {
    showPath();
    [...keyframes.children].forEach((element, index) => element.append(picture(path[index], ''), make('span', {}, path[index])));
  };
  const card = (entry) => make('article', { className: 'card', 'data-kept': entry.id, 'aria-label': entry.name },
    picture(entry.id, `Picture ${entry.name}`),
    make('input', { type: 'text', value: entry.name, maxLength: 200, 'aria-label': 'Name', onchange: (event) => rename(entry, { name: event.target.value }) }),
    make('textarea', { value: entry.note, rows: 1, maxLength: 10000, placeholder: 'Note', 'aria-label': 'Note', onchange: (event) => rename(entry, { note: event.target.value }) }),
    ...(entry.problem ? [make('p', { className: 'problem' }, entry.problem)] : []),
    make('div', { className: 'row' },
      button('Show', () => change({ kept: entry.id, mix: [], noise_strength: 1 })),
      ...(entry.spec ? [button('As it was made', () => change({ ...entry.spec, network: model.spec.network, snapshot: model.spec.snapshot }))] : []),
      button('Keyframe', () => { path.push(entry.id); showPath(); fillPath(); }),
      button('Remove', attempt(() => remove(entry.id)))),
    make('details', {}, make('summary', {}, 'Files and command'),
      make('p', {}, make('a', { href: `files/kept/${entry.id}.npz`, download: `${entry.id}.npz` }, 'Latent (npz)'), ' · ',
        make('a', { href: `files/kept/${entry.id}.png`, download: `${entry.id}.png` }, 'PNG')),
      make('p', { className: 'command' }, entry.command)));

  const fillRemoved = () => {
    const all = model.state.removed;
    removed.hidden = all.length === 0;
    removed.replaceChildren(make('summary', {}, `Removed (${all.length})`),
      make('p', { className: 'hint' }, 'The files are in the folders named removed, and can come back.'),
      ...[...all].reverse().map((what) => make('div', { className: 'row' },
        button(`Bring back ${KINDS[what.folder].toLowerCase()} ${what.number}`, attempt(() => bringBack(what))))));
  };
  watch('shelf', () => {
    where.textContent = `Everything that is kept is a file in ${model.state.outdir}/kept.`;
    if (cards.contains(document.activeElement) && document.activeElement.tagName !== 'BUTTON') return;
    cards.replaceChildren(...model.state.shelf.map(card).reverse());
    const known = new Set(model.state.shelf.map((entry) => entry.id));
    for (let index = path.length - 1; index >= 0; index--) if (!known.has(path[index])) path.splice(index, 1);
    fillPath();
    fillRemoved();
  });
}

on('changed', (what) => what === 'shelf' && loadShelf());
