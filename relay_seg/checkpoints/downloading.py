"""Files behind URLs: where they lie, and how they come there."""
import hashlib
import os
from functools import cache
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, url2pathname, urlopen

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log
from torch.hub import tqdm

from relay_seg.rasters.files import replacing

from .errors import CheckpointError

URLS = 'http://', 'https://', 'file://'
#: Names a folder where files are looked for before they are downloaded.
VARIABLE = 'RELAY_SEG_WEIGHTS'
PATIENCE = 60  # seconds without an answer


def local_file(source: str | Path, otherwise: str = '') -> Path:
    """Path of a file; one behind a URL is downloaded, once.

    A file of the URL's name is taken from the folder that the environment
    variable ``RELAY_SEG_WEIGHTS`` names, if it is there. Downloads are kept
    by their whole URL: files of one name may be of different models.

    Args:
        source: Local path or URL.
        otherwise: What else to do where there is no download, for the error.

    Raises:
        CheckpointError: The file is not here and cannot be had.
    """
    text = str(source)
    if not text.startswith(URLS):
        return Path(source).expanduser()
    url = urlparse(text)
    if url.scheme == 'file':
        return Path(url2pathname(url.path))
    name, given = Path(url.path).name, os.environ.get(VARIABLE)
    kept = Path(hashlib.sha256(text.encode()).hexdigest()[:16], name)
    download = Path(torch.hub.get_dir(), 'relay_seg') / kept
    if given and not Path(given).expanduser().is_dir():
        raise CheckpointError(f'{VARIABLE}={given} is no folder; set it to '
                              'one that holds weight files, or to nothing.')
    if given and (Path(given).expanduser() / name).exists():
        _say(text, Path(given).expanduser() / name)
        return Path(given).expanduser() / name
    if download.exists():
        return download
    try:
        _download(text, download)
    except (OSError, HTTPException) as error:
        place = (f'into {given} ({VARIABLE})' if given else
                 'into a folder that the environment variable '
                 f'{VARIABLE} names')
        raise CheckpointError(
            f'{name} is not on this machine, and {text} was not downloaded '
            f'({error}). Check the address, or put {name} {place}'
            f'{otherwise}.') from None
    return download


@cache
def _say(url: str, path: Path) -> None:
    print_log(f'{path} is taken for {url}, by its name.', logger='current')


def fetch(source: str | Path, otherwise: str = '') -> Path:
    """As :func:`local_file`; of several processes, one downloads.

    All processes of a run must call it. The others find the file, or fail
    like the first.
    """
    if str(source).startswith(URLS):
        try:
            if is_main_process():
                local_file(source, otherwise)
        finally:
            barrier()
    return local_file(source, otherwise)


def _download(url: str, path: Path) -> None:
    """Download a file, which takes its name when it is whole.

    ``torch.hub`` takes a download that was cut for whole.
    """
    request = Request(url, headers={'User-Agent': 'relay_seg'})
    with (urlopen(request, timeout=PATIENCE) as answer,
          replacing(path) as unfinished):
        size = int(answer.headers.get('Content-Length') or 0)
        with (unfinished.open('wb') as file,
              tqdm(total=size or None, unit='B', unit_scale=True,
                   desc=path.name) as bar):
            while block := answer.read(2**20):
                file.write(block)
                bar.update(len(block))
        found = unfinished.stat().st_size
        if size and found != size:
            raise OSError(f'only {found:,} of its {size:,} bytes came')
