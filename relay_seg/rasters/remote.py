"""Files behind an address or in an archive: names, bytes, errors."""
import ctypes
import io
import json
import os
import posixpath
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote, urljoin

import rasterio
import rasterio._env
from rasterio.env import get_gdal_config

#: GDAL's file systems of clouds, by the scheme of their addresses.
CLOUDS = {'s3': 'vsis3', 'gs': 'vsigs', 'az': 'vsiaz'}
ARCHIVES = {'zip': 'vsizip', 'tar': 'vsitar', 'gzip': 'vsigzip'}
#: Settings of GDAL for what is far away, where users have no own.
PATIENT = dict(
    GDAL_HTTP_MAX_RETRY='5',  # at 429, 500, 502, 503, 504 and lost answers
    GDAL_HTTP_RETRY_DELAY='1',  # seconds, twice as many each time
    GDAL_HTTP_CONNECTTIMEOUT='30',
    # Seconds with less than a byte in each: no limit for slow networks.
    GDAL_HTTP_LOW_SPEED_TIME='60', GDAL_HTTP_LOW_SPEED_LIMIT='1')
#: Looked for one by one (masks, world files): a bucket may hold millions.
NO_LISTS = dict(GDAL_DISABLE_READDIR_ON_OPEN='TRUE')

# A path has swallowed a slash.
_ADDRESS = re.compile(r'(https?|ftp|s3|gs|az):/{1,2}(?=[^/])')
_ARCHIVED = re.compile(r'(zip|tar|gzip)(?:\+(\w+:)|:)/{1,2}(.+)')
_IN_ARCHIVE = re.compile(r'/(vsi(?:zip|tar|gzip|7z|rar))/(?!\{)/?(.+)')
_NETWORK = re.compile(
    r'/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)(_streaming)?[/?]')
_OUTER = re.compile(r'(?:/vsi\w+/\{?)*?(?=/vsi(?!zip|tar|gzip|7z|rar))')
_ENDS = re.compile(r'.+?\.(?:zip|kmz|tar|tgz|tar\.gz|gz|7z|rar)(?=[/}]|$)')


def gdal_name(path: str | Path) -> str:
    """The name under which GDAL opens a file.

    Args:
        path: Path, or address as ``https://``, ``s3://``, ``gs://``,
            ``az://``, ``zip://a.zip!b.tif``, ``zip+https://...`` or
            ``/vsi...``; also as :class:`Path` leaves it.
    """
    text = str(path)
    if os.path.lexists(text):
        return text
    if found := _ARCHIVED.match(text):
        kind, inner, rest = found.groups()
        archive, _, file = rest.partition('!')
        archive = gdal_name(f'{inner}//{archive}') if inner else archive
        return f'/{ARCHIVES[kind]}/{{{archive}}}/{file.lstrip("/")}'
    if found := _ADDRESS.match(text):
        scheme, rest = found[1], text[found.end():]
        if scheme in CLOUDS:
            return f'/{CLOUDS[scheme]}/{rest}'
        return f'/vsicurl/{scheme}://{rest}'
    if text.startswith('/vsi'):
        return re.sub(r'\b(https?|ftp):/(?=[^/])', r'\1://', text)
    return text


def located(text: str | Path) -> Path:
    """What a user names, as a path that keeps what is meant.

    An address, a file in an archive, or the asset of a STAC item.

    Raises:
        ValueError: It is a STAC item, and which asset is meant is not known.
    """
    text = str(text)
    if is_virtual(text):
        name, _, asset = text.partition('#')
    else:
        name, asset = text, ''
        if not os.path.lexists(text) and '.json#' in text:
            name, _, asset = text.rpartition('#')
    if asset or name.split('?')[0].lower().endswith('.json'):
        return located(asset_of(name, asset))
    if found := _IN_ARCHIVE.fullmatch(text):
        # A path would make /vsizip//a/b.zip of it, which lies elsewhere.
        kind, rest = found.groups()
        inner = rest
        if rest.startswith('vsi') or text.startswith(f'/{kind}//'):
            inner = '/' + rest
        if archive := _ENDS.match(gdal_name(inner)):
            return Path(f'/{kind}/{{{archive[0]}}}'
                        f'{gdal_name(inner)[archive.end():]}')
    if _ARCHIVED.match(text) and not os.path.lexists(text):
        return Path(gdal_name(text))
    if is_virtual(text) and gdal_name(Path(text)) != gdal_name(text):
        # It has // elsewhere, which a path would make another name of.
        if not gdal_name(text).startswith('/vsicurl/'):
            raise ValueError(f'{shown(text)} has two slashes in a row, which '
                             'are not understood; copy it to another name.')
        url = gdal_name(text).removeprefix('/vsicurl/')
        return Path(f'/vsicurl?url={quote(url, safe="")}')
    return Path(text)


def is_virtual(path: str | Path) -> bool:
    """Whether GDAL reads it through a file system of its own."""
    return gdal_name(path).startswith('/vsi')


def is_remote(path: str | Path) -> bool:
    """Whether it lies behind a network."""
    return bool(_NETWORK.search(gdal_name(path)))


def shown(path: str | Path) -> str:
    """A name for messages and files: without what may be secret.

    Signed addresses have their key behind the question mark.
    """
    if not is_virtual(path):
        return str(path)
    name = gdal_name(path)
    if name.startswith('/vsicurl?'):
        url = re.search(r'[?&]url=([^&]*)', name)
        name = unquote(url[1]) if url else '/vsicurl'
    return without_keys(name).removeprefix('/vsicurl/')


def without_keys(text: str) -> str:
    """A text without what stands behind ? or before @ in addresses."""
    return re.sub(r'//[^/@\s]*@', '//', re.sub(r'\?[^\s},\'"]*', '', text))


def file_name(path: str | Path) -> str:
    """Last part of a name, without what may be secret."""
    return posixpath.basename(shown(path))


def patience(path: str | Path) -> Mapping[str, str]:
    """Settings of GDAL to read a file with, where users have no own.

    A virtual raster may lie here and its files elsewhere.
    """
    if is_virtual(path):
        wanted = PATIENT | NO_LISTS
    elif str(path).lower().endswith('.vrt'):
        wanted = PATIENT
    else:
        return {}
    return {name: value for name, value in wanted.items()
            if get_gdal_config(name) is None}


@lru_cache(maxsize=1)
def _gdal() -> ctypes.CDLL:
    """Functions of GDAL for files, which rasterio does not pass on.

    Raises:
        OSError: This build of rasterio hides them.
    """
    library = ctypes.CDLL(rasterio._env.__file__)
    text, handle, size = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t
    kinds = dict(
        VSIFOpenL=(handle, text, text), VSIFCloseL=(ctypes.c_int, handle),
        VSIFReadL=(size, handle, size, size, handle),
        VSIFSeekL=(ctypes.c_int, handle, ctypes.c_uint64, ctypes.c_int),
        VSIFTellL=(ctypes.c_uint64, handle),
        VSIGetFileMetadata=(ctypes.POINTER(text), text, text, handle),
        CSLDestroy=(None, handle), VSIErrorReset=(None, ),
        VSICurlPartialClearCache=(None, text),
        VSIGetLastErrorMsg=(text, ))
    try:
        for name, (result, *arguments) in kinds.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise OSError(
            'this build of rasterio gives no access to files behind an '
            'address or in an archive; bring the file to this machine.'
        ) from error
    return library


class Bytes(io.RawIOBase):
    """Bytes of any file that GDAL reaches."""

    def __init__(self, path: str | Path) -> None:
        with rasterio.Env(**patience(path)):
            self._file = _gdal().VSIFOpenL(gdal_name(path).encode(), b'rb')
        if not self._file:
            raise trouble(path) or FileNotFoundError(
                f'{shown(path)} does not exist; check the name.')

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        memory = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        return _gdal().VSIFReadL(memory, 1, len(buffer), self._file)

    def seek(self, offset: int, whence: int = 0) -> int:
        _gdal().VSIFSeekL(self._file, offset % 2**64, whence)
        return _gdal().VSIFTellL(self._file)

    def close(self) -> None:
        if not self.closed and self._file:
            _gdal().VSIFCloseL(self._file)
        super().close()


def _ask(path: str | Path) -> tuple[dict[str, str], str]:
    """Ask for a remote file anew: what is said of it, or what is wrong.

    What GDAL knows of it is forgotten.
    """
    name = gdal_name(path)
    name = name[_OUTER.match(name).end():]  # type: ignore[union-attr]
    if name != gdal_name(path) and (archive := _ENDS.match(name)):
        name = archive[0]
    with rasterio.Env(**patience(path)):
        library = _gdal()
        # It may know answers that were cut short, or given by a dead server.
        library.VSICurlPartialClearCache(name.encode())
        library.VSIErrorReset()
        lines = library.VSIGetFileMetadata(name.encode(), b'HEADERS', None)
        said = library.VSIGetLastErrorMsg().decode(errors='replace')
        found, i = {}, 0
        while lines and lines[i]:
            key, _, value = lines[i].decode(errors='replace').partition('=')
            found[key.lower()] = value
            i += 1
        library.CSLDestroy(lines)
    return found, '' if found else said or 'no answer'


def trouble(path: str | Path) -> OSError | None:
    """What is wrong with a remote file; None where it can be reached."""
    return _named(path, _ask(path)[1]) if is_remote(path) else None


def _named(path: str | Path, said: str) -> OSError | None:
    if not said:
        return None
    if re.search(r'\b(404|410)\b', said):
        return FileNotFoundError(
            f'{shown(path)} does not exist ({said}); check the address.')
    if re.search(r'\b(401|403)\b', said):
        return PermissionError(
            f'{shown(path)} is refused ({said}); check the credentials that '
            'GDAL reads (such as AWS_PROFILE, or AWS_NO_SIGN_REQUEST=YES for '
            'what is public), and whether a signed address has run out.')
    return OSError(
        f'{shown(path)} cannot be reached ({said}); check the address and '
        'the network, and run the same command again.')


def version_of(path: str | Path) -> list:
    """Changes when a remote file does: name, bytes, and its own mark.

    Raises:
        OSError: It cannot be reached.
    """
    found, said = _ask(path)
    if error := _named(path, said):
        raise error
    mark = found.get('etag') or found.get('last-modified')
    # A new signature of an address makes no other file.
    return [shown(path) if mark else gdal_name(path),
            int(found.get('content-length', -1)), mark or -1]


def asset_of(item: str, asset: str = '') -> str:
    """Address of an asset of a STAC item.

    Args:
        item: Its file or address.
        asset: Name of the asset; by default the only image with the role
            ``data``.

    Raises:
        ValueError: It is no STAC item, or which asset is meant is not known.
    """
    try:
        with io.BufferedReader(Bytes(item)) as file:
            content = json.load(file)
        assets: dict[str, dict] = dict(content['assets'])
        if content['type'] != 'Feature':
            raise KeyError('type')
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f'{shown(item)} is no STAC item (a Feature with assets), and no '
            'raster; give a STAC item or a raster.') from error
    names = [asset] if asset else [
        name for name, facts in assets.items()
        if 'data' in facts.get('roles', ())
        and facts.get('type', '').startswith('image/')]
    if len(names) != 1 or names[0] not in assets:
        raise ValueError(
            f'{shown(item)} has the assets {", ".join(assets) or "(none)"}; '
            f'say which one is meant: {shown(item)}#NAME.')
    href = str(assets[names[0]].get('href'))
    if re.match(r'\w+:|/vsi', href):
        found = href.removeprefix('file://')
    elif is_virtual(item):
        start, rest = re.findall(  # urljoin knows no other scheme
            r'(/vsi\w+/(?:\w+://)?)(.*)', gdal_name(item))[0]
        found = start + urljoin(f'http://{rest}', href)[len('http://'):]
    else:
        found = str(Path(item).parent / href)
    if is_remote(item):
        refuse_local(item, [found])
    return found


def refuse_local(path: str | Path, files: list[str]) -> None:
    """A file from the network must not name files of this machine.

    Raises:
        ValueError: It does.
    """
    local = [file for file in files if not is_remote(file)]
    if local:
        raise ValueError(
            f'{shown(path)} comes from the network and refers to files of '
            f'this machine ({", ".join(local[:3])}); they are not read. '
            'Bring it here if it may.')
