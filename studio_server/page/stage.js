// The picture: drawn from the newest frame, dragged to walk, shift or rotate.

import * as connection from './connection.js';
import { button, choice, draw, make, slider } from './dom.js';
import { change, model, watch } from './model.js';

const REST_MS = 140, MAX_REST_MS = 3000; // without a change, the picture is rendered in full
const WAITING_MS = 400; // after which the page shows that it waits
const WALK = 2; // seeds across the picture

const canvas = make('canvas', { id: 'picture', width: 16, height: 16, tabIndex: 0, role: 'img', 'aria-label': 'The picture. Arrow keys walk.' });
const other = make('canvas', { id: 'other-picture', width: 16, height: 16, role: 'img', 'aria-label': 'The other network' });
const facts = make('p', { id: 'facts', 'aria-live': 'off' });
const problem = make('p', { className: 'problem', role: 'alert', hidden: true });
const line = make('p', { className: 'command', id: 'command' });
const frame = make('figure', { className: 'frame', id: 'frame' }, canvas);
const otherFrame = make('figure', { className: 'frame', hidden: true }, other);
export const stage = { canvas, frame, mode: 'walk', compared: null, blob: null, handlers: {} };

let newest = 0, drawn = 0, waitingTimer = 0, lastMs = 0, restTimer = 0, sentAt = new Map(), finalId = 0;
export const latencies = []; // milliseconds from a change to the picture, and what they were needed for
window.studioLatencies = latencies;

/** Ask for the picture, as a preview while something moves. */
export function request(isFinal) {
  clearTimeout(restTimer);
  // A slow network is not kept busy with a full picture while previews are still being waited for.
  if (!isFinal) restTimer = setTimeout(() => request(true), Math.min(Math.max(REST_MS, 1.5 * lastMs), MAX_REST_MS));
  const isLarge = model.info && Math.max(model.info.width, model.info.height) >= 128;
  const options = isFinal ? { format: 'png' } : { format: isLarge ? 'jpeg' : 'png', preview: Boolean(model.info && model.info.has_preview) };
  canvas.dataset.state = 'waiting';
  newest = connection.picture('main', model.spec, options).id;
  sentAt.set(newest, performance.now());
  waitingTimer ||= setTimeout(() => frame.classList.add('waiting'), WAITING_MS);
  if (isFinal) finalId = newest;
  if (stage.compared) connection.picture('other', { ...model.spec, ...stage.compared }, options);
}

connection.on('picture', async (header, blob) => {
  const arrived = performance.now();
  if (header.view === 'other' && blob) return draw(other, blob);
  if (header.view !== 'main' || header.id < drawn) return;
  drawn = header.id;
  showProblem(header.error || '');
  clearTimeout(waitingTimer);
  waitingTimer = 0;
  frame.classList.remove('waiting'); // an animation would take time from the network
  if (!blob) return;
  const size = model.info && !model.info.problem ? model.info : null;
  if (!await draw(canvas, blob, header.id === finalId ? null : size, () => header.id === drawn)) return; // a newer one has come
  const sent = sentAt.get(header.id) || 0, time = performance.now() - sent;
  lastMs = time;
  const { waited_ms: waiting, latent_ms: latent, render_ms: network, encode_ms: encoding } = header;
  const transport = arrived - sent - waiting - latent - network - encoding;
  latencies.push({ ms: time, leftOut: header.left_out, waiting, latent, network, encoding, transport, drawing: time - (arrived - sent) });
  if (latencies.length > 500) latencies.shift();
  for (const id of sentAt.keys()) if (id <= header.id) sentAt.delete(id);
  facts.textContent = `${header.seed === null ? (model.spec.kept ? `kept ${model.spec.kept}` : 'between seeds') : `seed ${header.seed}`}`
    + ` · ${time.toFixed(0)} ms, of which the network ${header.render_ms.toFixed(0)} ms`;
  if (header.id === finalId) {
    stage.blob = blob;
    line.textContent = header.command.includes('{npz}') ? 'Keep the picture: its command line renders the file that is kept.' : header.command;
    Object.assign(canvas.dataset, { state: 'rest', id: header.id });
    if (stage.handlers.rest) stage.handlers.rest();
  }
  walkOn();
});

/** Show a sentence about what went wrong, or nothing. */
export function showProblem(text) {
  problem.textContent = text;
  problem.hidden = !text;
}

// ---------------------------------------------------------------------------------------------------------------------
// Dragging and keys

let drag = null;

canvas.addEventListener('pointerdown', (event) => {
  if (stage.handlers.down && stage.handlers.down(event)) return;
  canvas.setPointerCapture(event.pointerId);
  drag = { x: event.clientX, y: event.clientY, spec: structuredClone(model.spec), angle: angleOf(event) };
  stopWalk();
});

canvas.addEventListener('pointermove', (event) => drag && change(moved(event), false));

for (const name of ['pointerup', 'pointercancel']) {
  canvas.addEventListener(name, (event) => {
    if (!drag) return;
    const values = moved(event);
    drag = null;
    change(values, true);
  });
}

function angleOf(event) {
  const box = canvas.getBoundingClientRect();
  return Math.atan2(event.clientY - box.top - box.height / 2, event.clientX - box.left - box.width / 2) * 180 / Math.PI;
}

function moved(event) {
  const box = canvas.getBoundingClientRect();
  const side = Math.min(box.width, box.height);
  const dx = (event.clientX - drag.x) / side, dy = (event.clientY - drag.y) / side;
  if (stage.mode === 'shift') return { shift: [round(drag.spec.shift[0] + dx), round(drag.spec.shift[1] + dy)] };
  if (stage.mode === 'rotate') {
    const turned = ((drag.angle - angleOf(event) + 540) % 360) - 180;
    return { rotation: round(drag.spec.rotation + turned, 1) };
  }
  return { kept: null, x: round(drag.spec.x - WALK * dx), y: round(drag.spec.y - WALK * dy) };
}

const round = (value, digits = 3) => Number(value.toFixed(digits));

canvas.addEventListener('keydown', (event) => {
  const step = event.shiftKey ? 1 : 0.1;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (!moves[event.key]) return;
  event.preventDefault();
  const [dx, dy] = moves[event.key];
  if (stage.mode === 'rotate') return change({ rotation: round(model.spec.rotation - 10 * (dx + dy), 1) });
  if (stage.mode === 'shift') return change({ shift: [round(model.spec.shift[0] + dx / 5), round(model.spec.shift[1] + dy / 5)] });
  change({ kept: null, x: round(model.spec.x + dx), y: round(model.spec.y + dy) });
});

// ---------------------------------------------------------------------------------------------------------------------
// Random walk

const walk = { isOn: false, speed: 0.5, heading: 0, last: 0 };
const walkButton = button('Walk', () => walk.isOn ? stopWalk() : startWalk(), { id: 'walk', 'aria-pressed': false });

function startWalk() {
  Object.assign(walk, { isOn: true, heading: Math.random() * 2 * Math.PI, last: performance.now() });
  walkButton.setAttribute('aria-pressed', true);
  walkOn(true);
}

function stopWalk() {
  if (!walk.isOn) return;
  walk.isOn = false;
  walkButton.setAttribute('aria-pressed', false);
  change({}, true);
}

/** Take the next step, when the picture of the last one is there. */
function walkOn(isFirst = false) {
  if (!walk.isOn || (!isFirst && drawn < newest)) return;
  requestAnimationFrame((now) => {
    if (!walk.isOn) return;
    const seconds = Math.min(Math.max((now - walk.last) / 1000, 0), 0.5); // a frame may begin before the click
    walk.last = now;
    walk.heading += (Math.random() - 0.5) * 2 * Math.sqrt(seconds);
    const distance = walk.speed * seconds;
    change({ kept: null, x: round(model.spec.x + Math.cos(walk.heading) * distance, 4), y: round(model.spec.y + Math.sin(walk.heading) * distance, 4) }, false);
    clearTimeout(restTimer);
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// What is around the picture

const mode = choice('Drag to', [['walk', 'walk between seeds'], ['shift', 'shift the image'], ['rotate', 'rotate the image']], 'walk', (value) => { stage.mode = value; }, 'drag-mode');

/** Show the other network beside the first, or hide it. */
export function compareWith(values) {
  stage.compared = values;
  otherFrame.hidden = values === null;
  if (values) connection.picture('other', { ...model.spec, ...values });
}

/** Fill the section of the picture. */
export function buildStage(section) {
  section.append(
    make('div', { className: 'pictures-pair' }, frame, otherFrame), facts, problem,
    make('div', { className: 'row' }, mode, walkButton),
    slider('Walking speed', { min: 0, max: 3, step: 0.1, value: walk.speed, id: 'walk-speed' }, (value) => { walk.speed = value; }),
    make('details', {}, make('summary', {}, 'The command line that makes this picture'), line,
      button('Copy', () => navigator.clipboard && navigator.clipboard.writeText(line.textContent))),
  );
}

watch('spec', (isFinal) => request(isFinal));
watch('info', () => {
  const info = model.info;
  if (info.problem) return showProblem(info.problem);
  for (const option of mode.select.options) option.disabled = option.value !== 'walk' && !info.has_transform;
  if (!info.has_transform && stage.mode !== 'walk' && stage.mode !== 'none') { stage.mode = 'walk'; mode.set('walk'); }
  canvas.style.aspectRatio = `${info.width} / ${info.height}`;
});
