"""Write the sample model: the weights of a training in half precision.

    python benchmarks/sample_model.py CONFIG CHECKPOINT
"""
import argparse
import json
from pathlib import Path

from mmengine.config import Config
from safetensors.torch import save_file

from relay_seg.checkpoints import model_weights, read_checkpoint
from relay_seg.rasters.files import replacing, write_text
from relay_seg.sample_model import sample_model


def write_sample_model(config: str | Path, checkpoint: str | Path,
                       out: tuple[Path, Path]) -> None:
    """Config as JSON, which runs no code, and weights as float16.

    Args:
        config: Config of the training.
        checkpoint: What it wrote.
        out: The two files to write.
    """
    weights = model_weights(read_checkpoint(checkpoint), checkpoint)
    halves = {
        name: (x.half() if x.is_floating_point() else x).contiguous()
        for name, x in weights.items()}
    write_text(out[0], json.dumps(Config.fromfile(config).to_dict(), indent=2))
    with replacing(out[1]) as unfinished:
        save_file(halves, unfinished)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='config file of the training')
    parser.add_argument('checkpoint', help='what it wrote')
    args = parser.parse_args()
    write_sample_model(args.config, args.checkpoint, sample_model())
    print(*sample_model(), sep='\n')


if __name__ == '__main__':
    main()
