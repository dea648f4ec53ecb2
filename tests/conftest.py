"Settings that make the tests fast and quiet: one thread a process, no hub, no hypothesis deadline, no window."
import os
import signal

os.environ.setdefault('OMP_NUM_THREADS', '2')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')
os.environ.setdefault('MPLBACKEND', 'agg')

signal.signal(signal.SIGINT, signal.default_int_handler)      # a job in the background is started with Ctrl-C ignored

from hypothesis import HealthCheck, settings

settings.register_profile('hierseg', deadline=None, max_examples=25, suppress_health_check=list(HealthCheck), derandomize=True)
settings.load_profile('hierseg')
