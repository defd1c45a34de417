// Dragging: handles and targets on the picture, a mask that is drawn, and the job that moves them.

import { on, upload } from './connection.js';
import { button, make, number, slider, svg } from './dom.js';
import { model, watch } from './model.js';
import { startJob } from './results.js';
import { attempt } from './shelf.js';
import { stage } from './stage.js';

const points = []; // {handle: [x, y], target: [x, y] or null}
const wanted = { steps: 200, brush: 0.08 };
let tool = ''; // '', 'points' or 'mask'
let isMasked = false;
let live = null; // where the handles of the running job are

const marks = svg('svg', { class: 'overlay', 'aria-hidden': 'true' });
const mask = make('canvas', { className: 'overlay', hidden: true, 'aria-hidden': 'true' });

/** The pixel of the picture under a pointer; (0, 0) is the center of the first one. */
function pixelAt(event) {
  const box = stage.canvas.getBoundingClientRect();
  const { width, height } = model.info;
  const scale = Math.min(box.width / width, box.height / height);
  const x = (event.clientX - box.left - (box.width - width * scale) / 2) / scale - 0.5;
  const y = (event.clientY - box.top - (box.height - height * scale) / 2) / scale - 0.5;
  return [Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1)];
}

function showMarks() {
  const { width, height } = model.info;
  marks.setAttribute('viewBox', `-0.5 -0.5 ${width} ${height}`);
  const radius = Math.max(width, height) / 60;
  const circle = ([cx, cy], kind) => svg('circle', { cx, cy, r: radius, class: kind });
  marks.replaceChildren(...points.flatMap(({ handle, target }, index) => {
    const from = live && live[index] ? live[index] : handle;
    if (!target) return [circle(from, 'handle')];
    return [svg('line', { x1: from[0], y1: from[1], x2: target[0], y2: target[1] }), circle(from, 'handle'), circle(target, 'target-point')];
  }));
}

function paint(event) {
  const [x, y] = pixelAt(event);
  const context = mask.getContext('2d');
  context.fillStyle = '#fff';
  context.beginPath();
  context.arc(x + 0.5, y + 0.5, Math.max(wanted.brush * Math.max(mask.width, mask.height), 0.7), 0, 2 * Math.PI);
  context.fill();
  isMasked = true;
}

async function uploadedMask() {
  if (!isMasked) return null;
  const whole = make('canvas', { width: mask.width, height: mask.height });
  const context = whole.getContext('2d');
  context.fillRect(0, 0, whole.width, whole.height);
  context.drawImage(mask, 0, 0);
  const blob = await new Promise((resolve) => whole.toBlob(resolve, 'image/png'));
  return (await upload(blob)).upload;
}

/** Fill its part of the panel. */
export function buildDrag(panel) {
  stage.frame.append(mask, marks);
  const list = make('p', { className: 'hint', id: 'drag-points', 'aria-live': 'polite' });
  const tools = [['points', 'Put points'], ['mask', 'Draw a mask']].map(([name, text]) => button(text, () => choose(tool === name ? '' : name), { 'aria-pressed': false, id: `tool-${name}` }));
  const choose = (name) => {
    tool = name;
    tools.forEach((element) => element.setAttribute('aria-pressed', element.id === `tool-${name}`));
    if (name === 'mask') fitMask();
  };
  const fitMask = () => {
    mask.hidden = false;
    if (mask.width !== model.info.width || mask.height !== model.info.height) Object.assign(mask, { width: model.info.width, height: model.info.height });
  };
  const clear = () => {
    points.length = 0;
    [live, isMasked] = [null, false];
    mask.getContext('2d').clearRect(0, 0, mask.width, mask.height);
    mask.hidden = true;
    choose('');
    show();
  };
  const typed = make('input', { type: 'text', id: 'typed-points', placeholder: '12,14 > 17,16; …', onchange: attempt(() => {
    const pairs = typed.value.split(';').filter((pair) => pair.trim());
    const numbers = pairs.map((pair) => pair.split(/[>→,]/).map((part) => (part.trim() === '' ? NaN : Number(part))));
    if (!numbers.every((four) => four.length === 4 && four.every(Number.isFinite))) throw new Error('Write points as x,y > x,y, several with semicolons between them.');
    points.splice(0, points.length, ...numbers.map(([x, y, toX, toY]) => ({ handle: [x, y], target: [toX, toY] })));
    live = null;
    show();
  }) });
  const show = () => {
    if (model.info && !model.info.problem) showMarks();
    list.textContent = points.length ? points.map(({ handle, target }) => `${handle.map(Math.round)} → ${target ? target.map(Math.round) : '…'}`).join('; ') : 'No points yet.';
  };
  panel.append(
    make('h2', {}, 'Drag points'),
    make('p', { className: 'hint' }, 'Put points: click where something is (red), then where it should be (blue). Outside of a mask, the picture stays as it is.'),
    make('div', { className: 'row' }, ...tools, button('Clear', clear)),
    slider('Brush', { min: 0.01, max: 0.3, step: 0.01, value: wanted.brush, id: 'brush' }, (value) => { wanted.brush = value; }),
    make('div', { className: 'row' }, make('label', { for: 'typed-points' }, 'Or as numbers'), typed), list,
    make('div', { className: 'row' }, number('Steps', { min: 1, max: 10000, value: wanted.steps, id: 'drag-steps' }, (value) => { wanted.steps = value; }),
      button('Drag', attempt(async () => {
        const complete = points.filter((pair) => pair.target);
        if (!complete.length) throw new Error('Put a handle and a target on the picture first.');
        live = null;
        choose('');
        await startJob('drag', { spec: model.spec, points: complete, mask: await uploadedMask(), steps: wanted.steps });
      }), { id: 'drag', className: 'main' })));

  stage.handlers.down = (event) => {
    if (!tool) return false;
    if (tool === 'mask') {
      stage.canvas.setPointerCapture(event.pointerId);
      paint(event);
      return true;
    }
    const last = points.at(-1);
    if (last && !last.target) last.target = pixelAt(event);
    else points.push({ handle: pixelAt(event), target: null });
    show();
    return true;
  };
  stage.canvas.addEventListener('pointermove', (event) => tool === 'mask' && event.buttons && paint(event));
  on('job', (job) => {
    if (job.kind !== 'drag' || !job.details.points) return;
    live = job.details.points;
    if (model.info && !model.info.problem) showMarks();
  });
  watch('info', show);
  show();
}
