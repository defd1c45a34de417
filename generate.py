"""Makes images with a trained generator: one per seed, or one per projected latent.

A seed always gives the same image: its latent is drawn from its own random generator, whatever else is made beside it.
"""

import contextlib
import math
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
import tqdm

import dnnlib.cli
import legacy
from torch_utils import images

_SMALLEST_RUN_WITH_PROGRESS_BAR = 10
_LARGEST_SEED = 2**32 - 1  # of numpy.random.RandomState


@dataclass
class Item:
    """One image to make. `latent` is z [z_dim] of a seed, or w [num_ws, w_dim] of a projection."""

    file_name: str
    latent: np.ndarray
    noise_seed: int


# ------------------------------------------------------------------------------------------ making images


def items_from_seeds(seeds: Sequence[int], z_dim: int) -> Iterator[Item]:
    for seed in seeds:
        z = np.random.RandomState(seed).randn(1, z_dim)[0]
        yield Item(f'seed{seed:04d}.png', z, noise_seed=seed)


def items_from_projection(ws: np.ndarray) -> Iterator[Item]:
    for index, w in enumerate(ws):
        yield Item(f'proj{index:02d}.png', w, noise_seed=index)


@torch.no_grad()
def render(
    G: torch.nn.Module,
    items: Sequence[Item],
    label: torch.Tensor,
    truncation_psi: float,
    noise_mode: str,
    device: torch.device,
) -> np.ndarray:
    """Images of the items as uint8 [N, C, H, W]. `label` [1, c_dim] is for latents z; latents w have theirs inside."""
    latents = torch.from_numpy(np.stack([item.latent for item in items])).to(device, torch.float32)
    if latents.ndim == 2:                                       # z [N, z_dim]
        ws = G.mapping(latents, label.expand(len(items), -1), truncation_psi=truncation_psi)
    else:                                                       # w [N, num_ws, w_dim]
        ws = latents
    if noise_mode != 'random':
        return images.to_uint8(G.synthesis(ws, noise_mode=noise_mode)).cpu().numpy()
    # Drawn one image at a time, or the noise of a seed would depend on its neighbours in the batch.
    pictures = []
    for item, w in zip(items, ws):
        with _seeded(item.noise_seed, device):
            pictures.append(images.to_uint8(G.synthesis(w.unsqueeze(0), noise_mode=noise_mode)))
    return torch.cat(pictures).cpu().numpy()


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """PyTorch's global generators start at `seed` inside, and go on as if nothing had been outside."""
    devices = [device] if device.type == 'cuda' else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def write_images(
    G: torch.nn.Module,
    items: Sequence[Item],
    outdir: Path,
    grid_size: tuple[int, int] | None,
    batch_size: int,
    **render_kwargs,
) -> str:
    """Render the items, `batch_size` at a time, into files of their own or into one grid. Returns what was written."""
    grid_cells = []
    quiet = None if len(items) >= _SMALLEST_RUN_WITH_PROGRESS_BAR else True  # None: a bar on terminals only
    with tqdm.tqdm(total=len(items), unit='image', disable=quiet) as progress:
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            pictures = render(G, batch, **render_kwargs)
            if grid_size is None:
                for item, picture in zip(batch, pictures):
                    images.save_png(picture, outdir / item.file_name)
            else:
                grid_cells.append(pictures)
            progress.update(len(batch))
    if grid_size is not None:
        path = outdir / 'grid.png'
        images.save_image_grid(np.concatenate(grid_cells), path, grid_size)
        return f'{len(items)} images as {path}'
    return str(outdir / items[0].file_name) if len(items) == 1 else f'{len(items)} images to {outdir}'


# -------------------------------------------------------------------------------------- checking options


class GridSize(click.ParamType):
    """`WxH`: columns and rows."""

    name = 'WxH'

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r'([1-9]\d{0,3})[xX×]([1-9]\d{0,3})', value.strip())
        if match is None:
            self.fail(f'{value!r} is no grid: write columns x rows, such as 8x4.', param, ctx)
        return int(match[1]), int(match[2])


def check_seeds(seeds: list[int], grid_size: tuple[int, int] | None) -> None:
    if max(seeds) > _LARGEST_SEED:
        raise click.BadParameter(f'{max(seeds)} is too large: seeds go up to {_LARGEST_SEED}.', param_hint="'--seeds'")
    if grid_size is not None:
        check_room(len(seeds), 'seeds', grid_size)


def check_room(count: int, what: str, grid_size: tuple[int, int]) -> None:
    columns, rows = grid_size
    if count > columns * rows:
        raise click.BadParameter(
            f'{columns}x{rows} has {columns * rows} cells, but there are {count} {what}: give a larger grid.',
            param_hint="'--grid'",
        )


def read_projection(path: str, num_ws: int, w_dim: int) -> np.ndarray:
    """Latents w [N, num_ws, w_dim] from an npz, as `projector.py` writes it."""
    hint = "'--projected-w'"
    try:
        with np.load(path, allow_pickle=False) as content:
            names = getattr(content, 'files', [])
            ws = content['w'] if 'w' in names else None
    except OSError as error:
        raise click.BadParameter(f'{path}: {error.strerror or "not an npz file"}.', param_hint=hint) from error
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise click.BadParameter(f'{path} is not an npz file of plain arrays.', param_hint=hint) from error
    if ws is None:
        raise click.BadParameter(
            f"{path} has no array 'w' (it has: {', '.join(names) or 'nothing'}); projector.py writes one.",
            param_hint=hint,
        )
    if ws.ndim != 3 or ws.shape[1:] != (num_ws, w_dim) or len(ws) == 0 or ws.dtype.kind not in 'fiu':
        raise click.BadParameter(
            f"'w' in {path} has shape {list(ws.shape)} ({ws.dtype}); this network takes numbers of shape "
            f'[n, {num_ws}, {w_dim}]: project with the same network.',
            param_hint=hint,
        )
    return ws


def class_index(text: str | None, c_dim: int, names: Sequence[str]) -> int | None:
    """Index that `--class` means for a network of `c_dim` classes; None for an unconditional one.

    Digits are a number; anything else is a name.
    """
    if c_dim == 0:
        if text is not None:
            click.echo(f'Warning: --class={text} is ignored, since the network knows no classes.', err=True)
        return None
    choices = f'a number from 0 to {c_dim - 1}' + (f' or one of: {", ".join(names)}' if names else '')
    hint = "'--class'"
    if text is None:
        raise click.UsageError(f'Missing option --class: the network is conditional; give {choices}.')
    text = text.strip()
    if re.fullmatch(r'[+-]?\d+', text):
        if not 0 <= int(text) < c_dim:
            raise click.BadParameter(f'there is no class {text}: give {choices}.', param_hint=hint)
        return int(text)
    if not names:
        raise click.BadParameter(
            f'{text!r} is a name, and this network has only numbers for its classes: give {choices}.', param_hint=hint
        )
    if text not in names:
        raise click.BadParameter(f'there is no class named {text!r}: give {choices}.', param_hint=hint)
    return names.index(text)


def class_names_of(data: dict, c_dim: int) -> list[str]:
    """Names of the classes where the pickle has one for each."""
    names = data.get('class_names')
    if not isinstance(names, (list, tuple)) or len(names) != c_dim:
        return []
    return [str(name) for name in names]


# --------------------------------------------------------------------------------------------- the script


@click.command(cls=dnnlib.cli.Command)
@click.option('--network', type=dnnlib.cli.PATH, required=True, metavar='PKL', help='Network pickle: file or URL')
@click.option('--seeds', type=dnnlib.cli.SeedRange(), help='One image for each, e.g. 0,1,4-6')
@click.option('--trunc', 'truncation_psi', type=float, default=1, show_default=True,
              help='Truncation: 1 keeps all variety, towards 0 images become more typical')
@click.option('--class', 'class_text', metavar='INDEX|NAME', help='Class to show, for conditional networks')
@click.option('--noise-mode', type=click.Choice(['const', 'random', 'none']), default='const', show_default=True,
              help='Fine detail: the stored noise, fresh noise for each seed, or no noise')
@click.option('--projected-w', type=dnnlib.cli.PATH, metavar='NPZ',
              help='Show these latents (from projector.py) instead of seeds')
@click.option('--outdir', type=dnnlib.cli.PATH, required=True, metavar='DIR', help='Folder for the images')
@click.option('--grid', 'grid_size', type=GridSize(), metavar='WxH',
              help='Write one picture grid.png, W images wide and H high, in place of single files')
@click.option('--batch', 'batch_size', type=click.IntRange(min=1), default=4, show_default=True,
              help='Images computed at once; changes the speed only')
@click.option('--trust-pickle', is_flag=True, help='Run the code inside the pickle (only if you trust its maker)')
@dnnlib.cli.device_option()
def main(
    network: str,
    seeds: list[int] | None,
    truncation_psi: float,
    class_text: str | None,
    noise_mode: str,
    projected_w: str | None,
    outdir: str,
    grid_size: tuple[int, int] | None,
    batch_size: int,
    trust_pickle: bool,
    device: str,
) -> None:
    """Make images with a trained network.

    \b
    Examples:
      python generate.py --network=network.pkl --seeds=0-31 --trunc=0.7 --outdir=out
      python generate.py --network=network.pkl --seeds=0-31 --grid=8x4 --outdir=out
      python generate.py --network=conditional.pkl --class=3 --seeds=0,5 --outdir=out
      python generate.py --network=network.pkl --projected-w=projected_w.npz --outdir=out
    """  # fmt: skip
    if seeds is None and projected_w is None:
        raise click.UsageError('Nothing to make: give --seeds (e.g. --seeds=0-9) or --projected-w.')
    if seeds is not None and projected_w is None:
        check_seeds(seeds, grid_size)
    if not math.isfinite(truncation_psi):
        raise click.BadParameter(f'{truncation_psi} is no finite number.', param_hint="'--trunc'")
    dnnlib.cli.check_outdir(outdir)
    torch_device = dnnlib.cli.resolve_device(device)

    data = legacy.open_network(network, trust=trust_pickle)
    G = data['G_ema'].to(torch_device)
    label = torch.zeros([1, G.c_dim], device=torch_device)
    if projected_w is None:
        index = class_index(class_text, G.c_dim, class_names_of(data, G.c_dim))
        if index is not None:
            label[:, index] = 1
        items = list(items_from_seeds(seeds, G.z_dim))
    else:
        for option, value in (('--seeds', seeds), ('--class', class_text)):
            if value is not None:
                click.echo(f'Warning: {option} is ignored beside --projected-w.', err=True)
        items = list(items_from_projection(read_projection(projected_w, G.num_ws, G.w_dim)))
        if grid_size is not None:
            check_room(len(items), 'latents', grid_size)

    written = write_images(
        G, items, Path(outdir), grid_size, batch_size,
        label=label, truncation_psi=truncation_psi, noise_mode=noise_mode, device=torch_device,
    )  # fmt: skip
    click.echo(f'Wrote {written}')


if __name__ == '__main__':
    main()
