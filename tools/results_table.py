"""Print results of tests beside the published numbers."""
import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Results beside the published numbers, as Markdown and '
        'as a bar plot. Results of another protocol, data set or model stand '
        'in tables of their own.')
    parser.add_argument(
        'results', nargs='*', help='results.json that tools/test.py wrote, '
        'or folders with one; none for the published numbers alone')
    parser.add_argument(
        '--out', type=Path, help='file for the tables, such as table.md')
    parser.add_argument(
        '--plot', type=Path, help='file for the bar plot, such as table.png')
    args = parser.parse_args()  # --help does not wait for imports
    for path, *suffixes in ((args.out, '.md'),
                            (args.plot, '.png', '.svg', '.pdf')):
        if path and path.suffix not in suffixes:
            parser.error(f'{path} does not end in {" or ".join(suffixes)}; '
                         'give a name of what is written.')
    from relay_seg.evaluation.results import read_results
    from relay_seg.evaluation.table import Table
    from relay_seg.rasters.files import write_text

    try:
        table = Table({path: read_results(path) for path in args.results})
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    text = table.markdown()
    print(text, end='')
    for path in filter(None, (args.out, args.plot)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if args.out:
        write_text(args.out, text)
    if args.plot:
        table.plot(args.plot)


if __name__ == '__main__':
    main()
