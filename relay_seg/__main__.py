"""``python -m relay_seg`` is ``relay-seg``."""
from .cli import main

if __name__ == '__main__':
    main()
