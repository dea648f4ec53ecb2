"`python -m hierseg`, and so `accelerate launch -m hierseg train …`."
import sys

from hierseg.cli import main

if __name__ == '__main__':
    sys.exit(main())
