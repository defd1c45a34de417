// The connection to the server: pictures over a WebSocket, everything else as requests.

const RETRY_MS = 1000;
let socket = null;
let isOpen = false;
let nextId = 1;
const waiting = new Map(); // view → {id, resolve}
const listeners = { open: [], closed: [], picture: [], job: [], changed: [] };

/** Call a function on 'open', 'closed', 'picture', 'job' or 'changed'. */
export function on(event, listener) {
  listeners[event].push(listener);
}

function tell(event, ...args) {
  for (const listener of listeners[event]) listener(...args);
}

/** Connect, and connect again whenever the server has gone. */
export function connect() {
  socket = new WebSocket(new URL('pictures', location.href.replace(/^http/, 'ws').replace(/[?#].*/, '')));
  socket.binaryType = 'arraybuffer';
  socket.onopen = () => { isOpen = true; tell('open'); };
  socket.onmessage = (event) => receive(event.data);
  socket.onclose = (event) => {
    isOpen = false;
    for (const { resolve } of waiting.values()) resolve(null);
    waiting.clear();
    tell('closed', event.reason);
    setTimeout(connect, RETRY_MS);
  };
}

/** Close the connection as a lost network would, for tests. */
export const disconnect = () => socket.close();

function receive(data) {
  const size = new DataView(data).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
  const blob = data.byteLength > 4 + size ? new Blob([new Uint8Array(data, 4 + size)]) : null;
  if (header.job) return tell('job', header.job, blob);
  if (header.changed) return tell('changed', header.changed);
  tell('picture', header, blob);
  const request = waiting.get(header.view);
  if (request && request.id === header.id) {
    waiting.delete(header.view);
    request.resolve({ header, blob });
  }
}

/**
 * Ask for a picture. A newer request of the same view takes the place of an older one.
 * Returns {header, blob}, or null if a newer one has taken its place or the connection was lost; `id` is its number.
 */
export function picture(view, spec, options = {}) {
  if (waiting.has(view)) waiting.get(view).resolve(null);
  waiting.delete(view);
  if (!isOpen) return Object.assign(Promise.resolve(null), { id: 0 });
  const id = nextId++;
  const result = new Promise((resolve) => waiting.set(view, { id, resolve }));
  socket.send(JSON.stringify({ view, id, spec, ...options }));
  return Object.assign(result, { id });
}

/** What the server does not do, in one sentence. */
export class Refused extends Error {}

async function answer(response) {
  const content = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
  if (!response.ok) throw new Refused(content.error);
  return content;
}

/** Read something from the server. */
export const read = async (path) => answer(await fetch(path));

/** Ask the server to do something; an error is one sentence. */
export async function act(action, content) {
  return answer(await fetch(`do/${action}`, { method: 'POST', body: JSON.stringify(content) }));
}

/** Send a file. */
export const upload = async (file) => answer(await fetch('upload', { method: 'POST', body: file }));
