"""Look at a scene and its prediction in the browser."""
import argparse
import warnings
import webbrowser

from rasterio.errors import NotGeoreferencedWarning


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Look at a scene and its prediction in the browser.')
    parser.add_argument('scene', help='image, any raster that GDAL opens')
    parser.add_argument('prediction', help='raster of class ids')
    parser.add_argument('truth', nargs='?', help='raster of class ids')
    parser.add_argument(
        '--bands', type=int, nargs='+', metavar='BAND',
        help='one band of the scene to show in grey, or three for red, green '
        'and blue; by default the first three that the model read, or one')
    parser.add_argument(
        '--class-names', nargs='+', metavar='NAME',
        help='names from class 0 on; from the prediction by default')
    parser.add_argument(
        '--window', type=int, nargs='+', metavar='PIXELS',
        help="size of the model's window, or height and width; from the "
        'prediction by default, else 256')
    parser.add_argument(
        '--context-factors', type=int, nargs='*', metavar='K',
        help='of the global views, none for a plain model; from the '
        'prediction by default, else 4')
    parser.add_argument(
        '--stride', type=int, nargs='+', metavar='PIXELS',
        help='step between windows, or vertical and horizontal step: show '
        'the windows of inference instead of the one around the cursor')
    parser.add_argument(
        '--host', default='127.0.0.1',
        help='address to listen at; %(default)s, this machine only, by '
        'default. Whoever reaches another one sees the rasters')
    parser.add_argument(
        '--port', type=int, default=0, help='a free one by default')
    parser.add_argument(
        '--no-browser', action='store_true',
        help='only print the address of the page')
    args = parser.parse_args()
    for name in ('window', 'stride'):
        sides = getattr(args, name)
        if sides and len(sides) > 2:
            parser.error(f'--{name} takes one number, or two')

    warnings.simplefilter('ignore', NotGeoreferencedWarning)
    try:
        from relay_seg.viewing import ViewerServer, open_layers
        layers = open_layers(
            args.scene, args.prediction, args.truth, bands=args.bands,
            class_names=args.class_names, window=_pair(args.window),
            context_factors=args.context_factors, stride=_pair(args.stride))
        server = ViewerServer(layers, args.host, args.port)
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        parser.error(str(error))
    with server:
        print(f'{server.url}  (Ctrl-C ends)', flush=True)
        if not args.no_browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


def _pair(sides: list[int] | None) -> tuple[int, int] | None:
    return (sides[0], sides[-1]) if sides else None


if __name__ == '__main__':
    main()
