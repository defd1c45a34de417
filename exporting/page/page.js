// The controls. The network runs in worker.js, so that they respond while an image is computed.

const byId = (id) => document.getElementById(id);
const MAX_SEED = 4294967295;
const SMALL = 128; // images with fewer pixels per side are shown without smoothing

const worker = new Worker('worker.js', { type: 'module' });
let isBusy = false;
let isOutdated = false; // the controls have changed since the last request

function seedOf(id) {
  const value = Math.floor(Number(byId(id).value));
  return Number.isFinite(value) ? Math.min(Math.max(value, 0), MAX_SEED) : 0;
}

function request() {
  byId('trunc-value').textContent = Number(byId('trunc').value).toFixed(2);
  byId('first-value').textContent = byId('first').value;
  byId('mix-part').hidden = !byId('mix').checked;
  if (isBusy) {
    isOutdated = true;
    return;
  }
  isBusy = true;
  document.documentElement.dataset.state = 'busy';
  worker.postMessage({
    seed: seedOf('seed'),
    second: byId('mix').checked ? seedOf('second') : null,
    first: Number(byId('first').value),
    psi: Number(byId('trunc').value),
    index: Number(byId('class').value || 0),
  });
}

function show({ pixels, width, height, milliseconds }) {
  const canvas = byId('image');
  canvas.width = width;
  canvas.height = height;
  canvas.classList.toggle('small', Math.max(width, height) < SMALL);
  canvas.getContext('2d').putImageData(new ImageData(pixels, width, height), 0, 0);
  byId('status').textContent = `${width}×${height} pixels, ${Math.round(milliseconds)} ms`;
  document.documentElement.dataset.milliseconds = milliseconds;
  isBusy = false;
  if (isOutdated) {
    isOutdated = false;
    request();
  } else {
    document.documentElement.dataset.state = 'done';
  }
}

function start(network) {
  document.title = network.name;
  byId('first').max = network.num_ws - 1;
  byId('first').value = Math.floor(network.num_ws / 2);
  for (let index = 0; index < network.c_dim; index++) {
    byId('class').append(new Option(network.class_names[index] ?? String(index), String(index)));
  }
  byId('class-part').hidden = network.c_dim === 0;
  byId('inputs').disabled = false;
  request();
}

function fail(message) {
  byId('status').textContent = message;
  byId('status').className = 'error';
  document.documentElement.dataset.state = 'failed';
}

worker.onmessage = ({ data }) => {
  if (data.kind === 'ready') start(data.network);
  else if (data.kind === 'image') show(data);
  else fail(data.message);
};
worker.onerror = () => fail(
  location.protocol === 'file:'
    ? 'Browsers do not run this page from a file. Put the folder on a web server, such as: python -m http.server'
    : 'This browser cannot run the network: it needs WebAssembly and modules in workers.',
);

byId('controls').addEventListener('input', request);
byId('controls').addEventListener('submit', (event) => event.preventDefault());
for (const [button, field] of [['random', 'seed'], ['random-second', 'second']]) {
  byId(button).addEventListener('click', () => {
    byId(field).value = Math.floor(Math.random() * 1e6);
    request();
  });
}
byId('save').addEventListener('click', () => {
  const name = `seed${String(seedOf('seed')).padStart(4, '0')}`;
  byId('image').toBlob((blob) => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(blob);
    link.download = byId('mix').checked ? `${name}-${seedOf('second')}.png` : `${name}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }, 'image/png');
});
